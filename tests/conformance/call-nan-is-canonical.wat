;; entry: f
;; ends: exit 0
;; stdout: 2143289344\n9221120237041090560\n
;; answer: 29fb262ada8c4a1da84c6ea2a9387e66fa32b75c1b8ea3dc186a61b1dc4ae8ec
;; What an instruction makes of a NaN with a payload and a sign: the canonical NaN, on every machine.
(module (func (export "f") (result i32 i64)
  (i32.reinterpret_f32 (f32.add (f32.reinterpret_i32 (i32.const 0xffc12345)) (f32.const 1)))
  (i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const 0)))))
