//! Preview 1 as a C library sees it, and its functions one by one.

use bytes::Bytes;

use super::super::wasi;
use super::guests::{WORLD, guest};
use super::{command, run, stderr, stdout};
use crate::reply::{Reply, Status, TrapCode};

fn world() -> Reply {
    let request = guest(WORLD, &["one", "", "drei ä"]).env("B", "2=3").env("A", "1").stdin("some input");
    let request = request.file("in/b.txt", "b").unwrap().file("in/a/x", "").unwrap().file("top", "t").unwrap();
    run(request).unwrap()
}

#[test]
fn a_c_program_sees_its_request_and_nothing_else() {
    let reply = world();
    assert_eq!(reply.status, Status::Exit(4), "{}", stderr(&reply));
    assert_eq!(stderr(&reply), "seen\n");
    let text = stdout(&reply);
    let head = "arg program\narg one\narg \narg drei ä\nenv A=1\nenv B=2=3\nstdin 10\nterminal 0\n/: ./ ../ in/ top\n\
        realtime 1767225600000001000\nmonotonic 2000\nsleep 0\nmonotonic 3600000003000\nentropy 0\nrandom ";
    assert!(text.starts_with(head), "{text}");
}

#[test]
fn a_c_program_uses_files_as_anywhere() {
    let reply = world();
    let text = stdout(&reply);
    let (_, files) = text.split_once("mkdir 0\n").unwrap();
    assert_eq!(
        files,
        "mkdir again 1\nmade: ./ ../ a.txt b.txt gone.txt\nexclusive 1\nno such file 1\nnot a directory 1\noutside 1\n\
         rmdir full 1\nunlink directory 1\nunlink 0\nread unlinked 4\nwrite unlinked 1\nrename 0\nrename over 0\n\
         seek 6\nread 5\nseek beyond 20\nwrite 1\npread 4\ntruncate 0\nseek before 1\nstat 0\nsize 13\nregular 1\n\
         modified 1767225600\nread closed 1\nreadlink 1\nsymlink 1\nmoved: ./ ../ a.txt c.txt\n/: ./ ../ in/ moved/ top\n"
    );
    let files: Vec<_> =
        reply.files.iter().map(|file| (file.path.as_str(), file.data.bytes().unwrap().clone())).collect();
    let expected = [("moved/a.txt", Bytes::from("hello world\0\0")), ("moved/c.txt", Bytes::from("b"))];
    assert_eq!(files, expected, "sorted, without unchanged inputs and without what was removed");
}

#[test]
fn randomness_follows_the_question() {
    let random = |arg: &str| {
        let text = stdout(&run(guest(WORLD, &[arg])).unwrap());
        text.lines().find(|line| line.starts_with("random ")).unwrap().to_owned()
    };
    assert_eq!(random("a"), random("a"));
    assert_ne!(random("a"), random("b"));
}

#[test]
fn exit_codes_are_kept_whole() {
    for code in [0, 1, 255, 256, -1, i32::MAX] {
        let reply = run(command(&format!("(call $proc_exit (i32.const {code}))"))).unwrap();
        assert_eq!(reply.status, Status::Exit(code));
    }
}

#[test]
fn a_trapped_command_keeps_what_it_wrote() {
    let body = "(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
        unreachable";
    let reply = run(command(body)).unwrap();
    assert_eq!(reply.status, Status::Trap(TrapCode::Unreachable));
    assert_eq!(stdout(&reply), "some");
    assert!(stderr(&reply).starts_with("sometrap: unreachable executed"), "{}", stderr(&reply));
}

#[test]
fn facts_say_where_it_ran() {
    let facts = run(command("")).unwrap().facts;
    assert_eq!(facts.host, format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
    assert!(facts.evaluator.starts_with("wasmtime 48."));
}

/// The names that the witx of preview 1 has.
#[test]
fn all_of_preview_1_is_offered() {
    let names = "args_get args_sizes_get environ_get environ_sizes_get clock_res_get clock_time_get fd_advise fd_allocate fd_close
        fd_datasync fd_fdstat_get fd_fdstat_set_flags fd_fdstat_set_rights fd_filestat_get fd_filestat_set_size
        fd_filestat_set_times fd_pread fd_prestat_get fd_prestat_dir_name fd_pwrite fd_read fd_readdir fd_renumber fd_seek
        fd_sync fd_tell fd_write path_create_directory path_filestat_get path_filestat_set_times path_link path_open
        path_readlink path_remove_directory path_rename path_symlink path_unlink_file poll_oneoff proc_exit proc_raise
        sched_yield random_get sock_accept sock_recv sock_send sock_shutdown";
    for name in names.split_whitespace() {
        assert!(wasi::is_offered(name), "{name}");
    }
}
