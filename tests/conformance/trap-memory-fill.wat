;; entry: f
;; ends: trap: out-of-bounds memory access
;; answer: 728afcf1ffaa3103da58d2e87eaf116830794b8093387d5e899f920701df90cc
(module (memory 1)
  (func (export "f") (result i32) (memory.fill (i32.const 0) (i32.const 0) (i32.const -1)) (i32.const 0)))
