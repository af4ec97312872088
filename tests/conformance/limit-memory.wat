;; entry: f
;; memory: 1048576
;; error: memory beyond 1048576 bytes
(module (memory 1)
  (func (export "f") (result i32) (memory.grow (i32.const 100))))
