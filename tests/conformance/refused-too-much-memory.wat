;; entry: f
;; error: initial memory in bytes is 4294967296, the bound is
(module (memory 65536) (func (export "f")))
