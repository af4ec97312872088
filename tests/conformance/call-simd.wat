;; entry: f
;; ends: exit 0
;; stdout: 10\n
;; answer: a4c7cf53945aa574e46e1b399f41c9b7490120ec8dd4128b5d3353471bac76de
(module (func (export "f") (result i32) (local $v v128)
  (local.set $v (i32x4.add (v128.const i32x4 1 2 3 4) (v128.const i32x4 0 0 0 0)))
  (i32.add (i32.add (i32x4.extract_lane 0 (local.get $v)) (i32x4.extract_lane 1 (local.get $v)))
    (i32.add (i32x4.extract_lane 2 (local.get $v)) (i32x4.extract_lane 3 (local.get $v))))))
