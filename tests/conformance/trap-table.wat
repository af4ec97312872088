;; entry: f
;; ends: trap: out-of-bounds table access
;; answer: 8c5c20381d0da68bc83ac808f265bf2dd325bcb64f7fd6077d4b85bc9140e6dd
(module (table 1 funcref)
  (func (export "f") (result i32) (call_indirect (result i32) (i32.const 9))))
