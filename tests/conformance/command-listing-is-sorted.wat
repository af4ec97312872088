;; file: b=1
;; file: a=2
;; ends: exit 0
;; answer: d5707f4ecf4c85aef6e20815acb18a7e2ec271aa27bee13fd6f5cd7f50da5f0a
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $fd_readdir (i32.const 3) (i32.const 100) (i32.const 4096) (i64.const 0) (i32.const 80)))
    (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.load (i32.const 80)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
