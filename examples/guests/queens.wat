;; queens(n) counts the ways to place n queens on an n x n board, row by row with one bit per column and diagonal.
(module
  (func (export "queens") (param $n i32) (result i64)
    (if (i32.gt_u (local.get $n) (i32.const 31)) (then unreachable))
    (call $place
      (i32.sub (i32.shl (i32.const 1) (local.get $n)) (i32.const 1))
      (i32.const 0) (i32.const 0) (i32.const 0)))

  ;; Solutions for the rows that are left: $all columns, those $taken, and those attacked along either diagonal.
  (func $place (param $all i32) (param $taken i32) (param $left i32) (param $right i32) (result i64)
    (local $free i32) (local $bit i32) (local $count i64)
    (if (i32.eq (local.get $taken) (local.get $all)) (then (return (i64.const 1))))
    (local.set $free
      (i32.and (local.get $all)
        (i32.xor (i32.const -1)
          (i32.or (local.get $taken) (i32.or (local.get $left) (local.get $right))))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $free)))
        (local.set $bit (i32.and (local.get $free) (i32.sub (i32.const 0) (local.get $free))))
        (local.set $free (i32.xor (local.get $free) (local.get $bit)))
        (local.set $count
          (i64.add (local.get $count)
            (call $place
              (local.get $all)
              (i32.or (local.get $taken) (local.get $bit))
              (i32.shl (i32.or (local.get $left) (local.get $bit)) (i32.const 1))
              (i32.shr_u (i32.or (local.get $right) (local.get $bit)) (i32.const 1)))))
        (br $next)))
    (local.get $count)))
