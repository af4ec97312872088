;; error: malformed module
(module (import "wasi_snapshot_preview1" "random_get" (func (param f64))) (memory (export "memory") 1) (func (export "_start")))
