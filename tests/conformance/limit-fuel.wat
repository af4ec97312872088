;; entry: f
;; fuel: 10000
;; error: fuel of 10000 is used up
(module 
  (func (export "f") (result i32) (loop (br 0)) (i32.const 0)))
