;; entry: f
;; ends: trap: float has no integer
(module 
  (func (export "f") (result i32) (i32.trunc_f64_s (f64.const nan))))
