;; entry: f
;; error: entry `f`: it is (
(module (func (export "f") (param funcref)))
