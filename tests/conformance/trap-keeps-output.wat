;; ends: trap: unreachable executed
;; stdout: so far
;; answer: 5d5ef866967806cb48b7cab1c45c502415bf991b97b7d08c6804ace244215506
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "so far")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) unreachable))
