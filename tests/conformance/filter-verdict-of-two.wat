;; entry: slot:filter
;; ends: trap: host contract broken
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "filter") (param i32 i32) (result i32) (i32.const 2)))
