;; error: it imports `env::socket`, which no host offers
(module (import "env" "socket" (func)) (func (export "_start")))
