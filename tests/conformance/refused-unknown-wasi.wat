;; error: it imports `wasi_snapshot_preview1::sock_open`
(module (import "wasi_snapshot_preview1" "sock_open" (func)) (func (export "_start")))
