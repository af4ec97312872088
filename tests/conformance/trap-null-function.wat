;; entry: f
;; ends: trap: indirect call to null
(module (table 1 funcref)
  (func (export "f") (result i32) (call_indirect (result i32) (i32.const 0))))
