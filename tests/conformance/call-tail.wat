;; entry: f
;; arg: 1000000
;; ends: exit 0
;; stdout: 0\n
;; answer: b063c5908c2943c1671e7a275d8f7865560725fa7d8efe5948cb7cc5fe7d702c
(module (func $f (export "f") (param i32) (result i32)
  (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
  (return_call $f (i32.sub (local.get 0) (i32.const 1)))))
