;; entry: f
;; error: malformed module
(module (type (struct)) (func (export "f")))
