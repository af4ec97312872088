;; entry: f
;; ends: trap: out-of-bounds table access
(module (table 1 funcref)
  (func (export "f") (result i32) (call_indirect (result i32) (i32.const 9))))
