;; entry: slot:filter
;; stdin: abc
;; ends: exit 0
;; stdout: 1\n
;; answer: de027c95b2c02954af34560bf7c32e960f04a0f254a960cf510056ef25c9215c
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "filter") (param i32 i32) (result i32) (i32.eq (local.get 1) (i32.const 3))))
