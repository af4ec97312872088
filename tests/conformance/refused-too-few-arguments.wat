;; entry: f
;; error: arguments: it takes 1 and got 0
(module (func (export "f") (param i32)))
