;; entry: f
;; cpu: 40
;; error: no answer within 40 ms of processor time
(module 
  (func (export "f") (result i32) (loop (br 0)) (i32.const 0)))
