;; entry: f
;; error: malformed module
(module (memory i64 1) (func (export "f")))
