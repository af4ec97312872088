;; entry: f
;; error: memory beyond 8388608 bytes
(module (table 1 funcref)
  (func (export "f") (result i32) (table.grow (ref.null func) (i32.const 2000000))))
