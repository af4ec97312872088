;; entry: f
;; ends: exit 0
;; stdout: -1\n
(module (memory 1 2) (func (export "f") (result i32) (memory.grow (i32.const 2))))
