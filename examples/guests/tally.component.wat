;; A component of the world `evalmesh:guest/program` (wit/evalmesh.wit): the lines and bytes of standard input and of each file, one line each.
;; Written by hand, to show all that a component consists of; language toolchains generate everything but the function `$line`.
(component
  ;; The world's types. Records are bound to names by the interface that they come from, so the interface is imported, types alone.
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
    (global $top (mut i32) (i32.const 1024))
    (data (i32.const 0) "stdin")

    ;; Where the host puts what it hands over, and this program what it answers: room is never given back, since an instance answers once.
    (func $room (param $align i32) (param $len i32) (result i32)
      (local $at i32) (local $pages i32)
      (local.set $at
        (i32.and (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
                 (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $len)))
      (if (i32.lt_u (global.get $top) (local.get $at)) (then unreachable))
      (local.set $pages
        (i32.sub (i32.add (i32.shr_u (global.get $top) (i32.const 16)) (i32.const 1)) (memory.size)))
      (if (i32.gt_s (local.get $pages) (i32.const 0))
        (then (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))))
      (local.get $at))
    (func (export "realloc") (param $old i32) (param $had i32) (param $align i32) (param $len i32) (result i32)
      (local $at i32)
      (local.set $at (call $room (local.get $align) (local.get $len)))
      (memory.copy (local.get $at) (local.get $old)
        (select (local.get $had) (local.get $len) (i32.lt_u (local.get $had) (local.get $len))))
      (local.get $at))

    ;; The line that is being written.
    (global $out (mut i32) (i32.const 0))
    (func $byte (param $byte i32)
      (i32.store8 (global.get $out) (local.get $byte))
      (global.set $out (i32.add (global.get $out) (i32.const 1))))
    (func $number (param $n i32)
      (if (i32.ge_u (local.get $n) (i32.const 10))
        (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
      (call $byte (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
    (func $line (param $name i32) (param $name_len i32) (param $at i32) (param $len i32)
      (local $i i32) (local $lines i32)
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $i) (local.get $len)))
          (local.set $lines
            (i32.add (local.get $lines)
              (i32.eq (i32.load8_u (i32.add (local.get $at) (local.get $i))) (i32.const 10))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))
      (call $number (local.get $lines)) (call $byte (i32.const 32))
      (call $number (local.get $len)) (call $byte (i32.const 32))
      (memory.copy (global.get $out) (local.get $name) (local.get $name_len))
      (global.set $out (i32.add (global.get $out) (local.get $name_len)))
      (call $byte (i32.const 10)))

    ;; The question comes flat: arguments, variables, input (whether, where, how long), files. The answer lies in memory: status, output, files.
    (func (export "evaluate")
      (param $args i32) (param $args_len i32) (param $vars i32) (param $vars_len i32)
      (param $has_input i32) (param $input i32) (param $input_len i32) (param $files i32) (param $files_len i32) (result i32)
      (local $answer i32) (local $i i32) (local $file i32) (local $size i32)
      ;; Room for all lines: two numbers of ten digits, three separators, and the name.
      (local.set $size (i32.const 64))
      (local.set $file (local.get $files))
      (block $counted
        (loop $count
          (br_if $counted (i32.ge_u (local.get $i) (local.get $files_len)))
          (local.set $size (i32.add (local.get $size) (i32.add (i32.const 32) (i32.load offset=4 (local.get $file)))))
          (local.set $file (i32.add (local.get $file) (i32.const 16)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $count)))
      (local.set $answer (call $room (i32.const 4) (i32.const 20)))
      (global.set $out (call $room (i32.const 1) (local.get $size)))
      (i32.store offset=4 (local.get $answer) (global.get $out))
      (if (local.get $has_input)
        (then (call $line (i32.const 0) (i32.const 5) (local.get $input) (local.get $input_len))))
      (local.set $file (local.get $files))
      (local.set $i (i32.const 0))
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $i) (local.get $files_len)))
          (call $line (i32.load (local.get $file)) (i32.load offset=4 (local.get $file))
            (i32.load offset=8 (local.get $file)) (i32.load offset=12 (local.get $file)))
          (local.set $file (i32.add (local.get $file) (i32.const 16)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))
      (i32.store offset=8 (local.get $answer)
        (i32.sub (global.get $out) (i32.load offset=4 (local.get $answer))))
      (local.get $answer)))

  (core instance $instance (instantiate $program))
  (func (export "evaluate") (param "question" $question) (result $answer)
    (canon lift (core func $instance "evaluate") (memory $instance "memory") (realloc (func $instance "realloc")))))
