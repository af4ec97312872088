//! Guests that hand the host pointers, counts and sizes that lead nowhere good.

use super::{command, run, stderr};
use crate::reply::{Status, TrapCode};

fn status(body: &str) -> Status {
    run(command(body)).unwrap().status
}

/// Runs `body`, which leaves an errno, and gives that back as the exit code.
fn errno(body: &str) -> i32 {
    match status(&format!("(call $proc_exit {body})")) {
        Status::Exit(code) => code,
        trap @ Status::Trap(_) => panic!("{body}: {trap}"),
    }
}

#[test]
fn pointers_outside_the_memory_trap() {
    let outside = [
        "(call $random_get (i32.const 65536) (i32.const 1))",
        "(call $random_get (i32.const -1) (i32.const 2))",
        "(call $random_get (i32.const 1) (i32.const 65536))",
        "(call $args_get (i32.const 65533) (i32.const 0))",
        "(call $args_get (i32.const 0) (i32.const -1))",
        "(call $fd_write (i32.const 1) (i32.const 65530) (i32.const 1) (i32.const 0))",
        "(call $fd_write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const -4))",
        "(call $fd_read (i32.const 0) (i32.const -8) (i32.const 1) (i32.const 0))",
        "(call $poll_oneoff (i32.const 65500) (i32.const 0) (i32.const 1) (i32.const 0))",
        "(call $poll_oneoff (i32.const 0) (i32.const 65520) (i32.const 1) (i32.const 0))",
        "(call $fd_readdir (i32.const 3) (i32.const 65000) (i32.const 1000) (i64.const 0) (i32.const 0))",
        "(call $path_open (i32.const 3) (i32.const 0) (i32.const 65530) (i32.const 100) (i32.const 0)
            (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0))",
        "(call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 1)
            (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 65533))",
    ];
    for body in outside {
        let reply = run(command(&format!("(drop {body})"))).unwrap();
        assert_eq!(reply.status, Status::Trap(TrapCode::MemoryOutOfBounds), "{body}");
        assert!(stderr(&reply).contains("outside the memory"));
        assert!(reply.files.is_empty(), "nothing was made before the pointer was checked");
    }
    // A buffer that a list of buffers points to.
    let inner = "(i32.store (i32.const 0) (i32.const 65535)) (i32.store (i32.const 4) (i32.const 2))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    assert_eq!(status(inner), Status::Trap(TrapCode::MemoryOutOfBounds));
}

#[test]
fn counts_beyond_their_bounds_are_errnos() {
    assert_eq!(errno("(call $fd_write (i32.const 1) (i32.const 0) (i32.const 1025) (i32.const 0))"), 28);
    assert_eq!(errno("(call $fd_write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0))"), 28);
    assert_eq!(errno("(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"), 28);
    assert_eq!(errno("(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0))"), 28);
    assert_eq!(errno("(call $random_get (i32.const 0) (i32.const -1))"), 28);
    assert_eq!(errno("(call $fd_write (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 0))"), 8);
    assert_eq!(errno("(call $fd_write (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0))"), 8);
    assert_eq!(errno("(call $fd_write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"), 8);
    assert_eq!(errno("(call $fd_write (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0))"), 31);
    assert_eq!(errno("(call $set_size (i32.const 1) (i64.const 0))"), 70);
}

#[test]
fn descriptors_run_out_with_an_errno() {
    let body = "(local $errno i32) (local $n i32)
        (loop $more
          (local.set $errno (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 1)
            (i64.const -1) (i64.const 0) (i32.const 0) (i32.const 0)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.eqz (local.get $errno))))
        (call $proc_exit (i32.add (i32.mul (local.get $n) (i32.const 1000)) (local.get $errno)))";
    assert_eq!(status(body), Status::Exit((1_024 - 4 + 1) * 1_000 + 33));
}

#[test]
fn files_run_out_with_an_errno() {
    // Makes empty files whose four-letter names count up, and closes each.
    let body = "(local $errno i32) (local $n i32)
        (loop $more
          (i32.store8 (i32.const 1024) (i32.add (i32.const 97) (i32.and (local.get $n) (i32.const 15))))
          (i32.store8 (i32.const 1025) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $n) (i32.const 4)) (i32.const 15))))
          (i32.store8 (i32.const 1026) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $n) (i32.const 8)) (i32.const 15))))
          (i32.store8 (i32.const 1027) (i32.add (i32.const 97) (i32.shr_u (local.get $n) (i32.const 12))))
          (local.set $errno (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 1)
            (i64.const -1) (i64.const 0) (i32.const 0) (i32.const 0)))
          (if (i32.eqz (local.get $errno)) (then (drop (call $close (i32.load (i32.const 0))))))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.eqz (local.get $errno))))
        (call $proc_exit (i32.add (i32.mul (local.get $n) (i32.const 1000)) (local.get $errno)))";
    let reply = run(command(body)).unwrap();
    assert_eq!(reply.status, Status::Exit((4_096 + 1) * 1_000 + 51));
    assert_eq!(reply.files.len(), crate::limits::MAX_OUTPUT_FILES);
    assert!(reply.files.is_sorted_by(|a, b| a.path < b.path));
}

#[test]
fn a_command_must_export_its_memory() {
    let text = r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func $y (result i32)))
        (func (export "_start") (drop (call $y))))"#;
    assert_eq!(run(super::wat(text)).unwrap().status, Status::Trap(TrapCode::Contract));
}
