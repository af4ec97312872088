;; output: 100
;; error: output beyond 100 bytes
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "run") (param i32 i32) (result i64) (i64.const 101)))
