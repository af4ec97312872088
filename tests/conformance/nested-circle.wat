;; capability: eval
;; error: nested evaluations deeper than 32, or in a circle
(module
  (import "evalmesh" "program_self" (func $self (result i32)))
  (import "evalmesh" "capability" (func $capability (param i32 i32) (result i32)))
  (import "evalmesh" "ask" (func $ask (param i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "eval")
  (func (export "_start")
    (drop (call $self)) (drop (call $capability (i32.const 16) (i32.const 4))) (drop (call $ask (i32.const 0)))))
