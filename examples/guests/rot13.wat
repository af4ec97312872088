;; A filter of the alloc/run ABI: rot13 of its input, in place.
(module
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 16))

  ;; Reserves len bytes by moving $top, and grows the memory as needed.
  (func (export "alloc") (param $len i32) (result i32)
    (local $at i32) (local $pages i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (local.get $at) (local.get $len)))
    (if (i32.lt_u (global.get $top) (local.get $at)) (then unreachable))
    (local.set $pages
      (i32.sub
        (i32.add (i32.shr_u (global.get $top) (i32.const 16)) (i32.const 1))
        (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))))
    (local.get $at))

  (func (export "run") (param $at i32) (param $len i32) (result i64)
    (local $i i32) (local $end i32) (local $letter i32)
    (local.set $i (local.get $at))
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $end)))
        ;; 0 to 25 for a letter of either case.
        (local.set $letter
          (i32.sub (i32.or (i32.load8_u (local.get $i)) (i32.const 32)) (i32.const 97)))
        (if (i32.lt_u (local.get $letter) (i32.const 26))
          (then
            (i32.store8 (local.get $i)
              (i32.add (i32.load8_u (local.get $i))
                (select (i32.const 13) (i32.const -13) (i32.lt_u (local.get $letter) (i32.const 13)))))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $len)))))
