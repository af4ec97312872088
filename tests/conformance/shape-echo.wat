;; stdin: bytes in, bytes out
;; ends: exit 0
;; stdout: bytes in, bytes out
;; answer: 47b47d1f55df0009b7561f33234df2182383851f3f9d5653e5f2cf468c0af1ad
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))
