;; entry: f
;; error: malformed module
(module (func (export "f") (result v128)
  (f32x4.relaxed_madd (v128.const i64x2 0 0) (v128.const i64x2 0 0) (v128.const i64x2 0 0))))
