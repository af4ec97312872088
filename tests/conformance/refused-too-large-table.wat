;; entry: f
;; error: initial table elements is 4294967295, the bound is
(module (table 0xffffffff funcref) (func (export "f")))
