;; entry: g
;; error: entry `g`: the module exports `f`
(module (func (export "f")))
