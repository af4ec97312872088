;; entry: f
;; error: not a function of numbers
(module (func (export "f") (param externref)))
