;; error: capability `eval` is not granted here
(module (import "evalmesh" "ask" (func (param i32) (result i32))) (memory (export "memory") 1) (func (export "_start")))
