;; entry: f
;; ends: trap: indirect call with another signature
(module (table 1 funcref) (elem (i32.const 0) $g) (func $g)
  (func (export "f") (result i32) (call_indirect (result i32) (i32.const 0))))
