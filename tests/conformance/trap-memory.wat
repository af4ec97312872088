;; entry: f
;; ends: trap: out-of-bounds memory access
(module (memory 1)
  (func (export "f") (result i32) (i32.load (i32.const 65533))))
