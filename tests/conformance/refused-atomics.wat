;; entry: f
;; error: malformed module
(module (memory 1) (func (export "f") (result i32) (i32.atomic.load (i32.const 0))))
