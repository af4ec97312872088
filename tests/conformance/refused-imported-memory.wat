;; error: it imports `wasi_snapshot_preview1::random_get`
(module (import "wasi_snapshot_preview1" "random_get" (memory 1)) (func (export "_start")))
