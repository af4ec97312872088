;; entry: f
;; arg: x
;; error: arguments: `x` is not i32
(module (func (export "f") (param i32)))
