;; entry: f
;; ends: trap: integer overflow
;; answer: f60ad9bcbb02a508e2ae002fa3eb486289c560448ad4c15624ac2515b5e3c7bf
(module 
  (func (export "f") (result i32) (i32.div_s (i32.const 0x80000000) (i32.const -1))))
