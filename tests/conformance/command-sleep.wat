;; ends: exit 0
;; answer: 589e4687d2ff2a5479f95b4f0ad4dcde56a202c9073a8b4dd5935040980ed76e
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    ;; An hour of the monotonic clock goes by at once.
    (i32.store (i32.const 116) (i32.const 1)) (i64.store (i32.const 124) (i64.const 3600000000000))
    (drop (call $poll_oneoff (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)))
    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 400)))
    (i32.store (i32.const 0) (i32.const 400)) (i32.store (i32.const 4) (i32.const 8))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
