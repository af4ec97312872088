;; ends: exit -7
;; answer: 3b040c54b006b8f15d270043f6bc8748061f08e52313961e28b31833ded84ee6
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (call $proc_exit (i32.const -7)) unreachable))
