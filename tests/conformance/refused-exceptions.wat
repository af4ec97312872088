;; entry: f
;; error: malformed module
(module (tag $t) (func (export "f") (throw $t)))
