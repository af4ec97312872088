;; entry: f
;; error: malformed module
(module (memory 1 1 shared) (func (export "f")))
