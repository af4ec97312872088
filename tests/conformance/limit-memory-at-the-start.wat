;; entry: f
;; memory: 65536
;; error: memory beyond 65536 bytes
(module (memory 9)
  (func (export "f") (result i32) (i32.const 0)))
