;; entry: f
;; timeout: 50
;; error: no answer within 50 ms
(module 
  (func (export "f") (result i32) (loop (br 0)) (i32.const 0)))
