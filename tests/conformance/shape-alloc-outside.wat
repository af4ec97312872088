;; stdin: x
;; ends: trap: host contract broken
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const -1))
  (func (export "run") (param i32 i32) (result i64) (i64.const 0)))
