;; env: B=2
;; env: A=1
;; ends: exit 0
;; answer: 96c1b06609158d4f21e16f7333aed43ef82da97222819296fdf0b8dbe8f8b0a7
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $environ_sizes_get (i32.const 100) (i32.const 104))) (drop (call $environ_get (i32.const 200) (i32.const 300)))
    (i32.store (i32.const 0) (i32.const 300)) (i32.store (i32.const 4) (i32.load (i32.const 104)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
