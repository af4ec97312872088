;; entry: f
;; error: malformed module
(module (memory 1) (memory 1) (func (export "f")))
