;; capability: eval
;; ends: exit 0
;; stdout: .:::
;; answer: f09f998b7a69cbfcc9ad93fb05e1da907ae8e3d5f91b11d7071f0846cfb07a1b
;; Writes a colon for each argument that it lacks of three, by asking itself with one argument more, and a point at the end of the row.
(module
  (import "evalmesh" "program_self" (func $self (result i32)))
  (import "evalmesh" "argument" (func $argument (param i32 i32) (result i32)))
  (import "evalmesh" "capability" (func $capability (param i32 i32) (result i32)))
  (import "evalmesh" "ask" (func $ask (param i32) (result i32)))
  (import "evalmesh" "output_read" (func $read (param i32 i32 i32 i64 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "eval") (data (i32.const 32) ".") (data (i32.const 33) ":")
  (func (export "_start")
    (local $n i32) (local $len i32)
    (drop (call $args_sizes_get (i32.const 100) (i32.const 104)))
    (local.set $n (i32.load (i32.const 100)))
    (if (i32.lt_u (local.get $n) (i32.const 4))
      (then
        (drop (call $self))
        (drop (call $capability (i32.const 16) (i32.const 4)))
        (loop $more
          (drop (call $argument (i32.const 16) (i32.const 1)))
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br_if $more (local.get $n)))
        (drop (call $ask (i32.const 108)))
        (drop (call $read (i32.load (i32.const 108)) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 200) (i32.const 100) (i32.const 112)))
        (local.set $len (i32.load (i32.const 112)))
        (i32.store8 (i32.add (i32.const 200) (local.get $len)) (i32.const 58))
        (local.set $len (i32.add (local.get $len) (i32.const 1))))
      (else (i32.store8 (i32.const 200) (i32.const 46)) (local.set $len (i32.const 1))))
    (i32.store (i32.const 0) (i32.const 200)) (i32.store (i32.const 4) (local.get $len))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
