;; ends: trap: out-of-bounds memory access
;; answer: 728afcf1ffaa3103da58d2e87eaf116830794b8093387d5e899f920701df90cc
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $random_get (i32.const 65536) (i32.const 1)))))
