;; entry: f
;; error: the call stack is used up
(module (func $f (export "f") (result i32) (i32.add (call $f) (i32.const 1))))
