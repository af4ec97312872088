;; entry: f
;; ends: trap: out-of-bounds memory access
;; answer: 728afcf1ffaa3103da58d2e87eaf116830794b8093387d5e899f920701df90cc
(module (memory 1)
  (func (export "f") (result i32) (i32.load (i32.const 65533))))
