;; feature: component
;; arg: not looked at
;; ends: trap: unreachable executed
;; answer: 2faf574cccda6209e7ad19440f66759d0965b54128a1550a0eae2e1479b2497f
(component
  (import "evalmesh:guest/types@1.0.0" (instance $types
    (type $file' (record (field "path" string) (field "data" (list u8))))
    (export "file" (type $file (eq $file')))
    (type $variable' (record (field "name" string) (field "value" string)))
    (export "variable" (type $variable (eq $variable')))
    (type $question' (record
      (field "arguments" (list string)) (field "variables" (list $variable))
      (field "input" (option (list u8))) (field "files" (list $file))))
    (export "question" (type (eq $question')))
    (type $answer' (record (field "status" s32) (field "output" (list u8)) (field "files" (list $file))))
    (export "answer" (type (eq $answer')))))
  (alias export $types "question" (type $question'))
  (import "question" (type $question (eq $question')))
  (alias export $types "answer" (type $answer'))
  (import "answer" (type $answer (eq $answer')))

  (core module $program
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 4096))
    (data (i32.const 16) "hi") (data (i32.const 32) "made") (data (i32.const 48) "data")
    ;; The answer: status, output, and a list of one file: path and data.
    (data (i32.const 64) "\03\00\00\00" "\10\00\00\00" "\02\00\00\00" "\60\00\00\00" "\01\00\00\00")
    (data (i32.const 96) "\20\00\00\00" "\04\00\00\00" "\30\00\00\00" "\04\00\00\00")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $top)
      (global.set $top (i32.and (i32.const -8) (i32.add (i32.const 7) (i32.add (global.get $top) (local.get 3))))))
    (func (export "evaluate") (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable))
  (core instance $instance (instantiate $program))
  (func (export "evaluate") (param "question" $question) (result $answer)
    (canon lift (core func $instance "evaluate") (memory $instance "memory") (realloc (func $instance "realloc")))))
