;; entry: f
;; ends: trap: float has no integer
;; answer: cd33aae496dce0b290b0633025412bcacee283186b45574744d122cb1836a0ed
(module 
  (func (export "f") (result i32) (i32.trunc_f64_s (f64.const nan))))
