;; entry: f
;; ends: exit 0
;; stdout: -1\n
;; answer: 89d4652297a986638ba1559290118b6e95f3b0730344ead00a260e3b6c457f41
(module (memory 1 2) (func (export "f") (result i32) (memory.grow (i32.const 2))))
