;; entry: f
;; ends: trap: indirect call with another signature
;; answer: 7cd39d35c9df78a9d691e3877cd197588d3590dd5b8fdcc3691de0446a679d1b
(module (table 1 funcref) (elem (i32.const 0) $g) (func $g)
  (func (export "f") (result i32) (call_indirect (result i32) (i32.const 0))))
