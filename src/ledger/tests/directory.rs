//! Real directories: locks, permissions, and the same behaviour as in memory.

use std::fs;

use super::*;

fn open_dir(path: &std::path::Path, epoch: u8) -> Result<(Ledger, Recovery), OpenError> {
    Ledger::open(Arc::new(FileStorage::open(path)?), &opening(epoch))
}

#[test]
fn a_directory_keeps_what_was_committed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("deep/er");
    let (mut ledger, _) = open_dir(&path, 1).expect("opens");
    for n in 0..20 {
        append(&mut ledger, n, if n % 5 == 0 { 40_000 } else { 50 });
    }
    ledger.commit().expect("commits");
    drop(ledger);
    let (ledger, recovery) = open_dir(&path, 2).expect("opens");
    assert!(recovery.is_clean());
    assert!((0..20).all(|n| is_record(&ledger.reader(), n + 1, n, if n % 5 == 0 { 40_000 } else { 50 })));
    let shards = fs::read_dir(path.join("blobs")).expect("there").count();
    assert!((1..=4).contains(&shards));
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = open_dir(dir.path(), 1).expect("opens");
    let refused = open_dir(dir.path(), 2).expect_err("locked");
    let OpenError::Locked { pid, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(refused.to_string().contains(&std::process::id().to_string()) && !refused.hint().is_empty());
    drop(first);
    open_dir(dir.path(), 3).expect("free again");
}

#[test]
fn what_is_no_directory_or_may_not_be_used_is_typed() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, b"text").expect("writes");
    assert!(matches!(open_dir(&file, 1), Err(OpenError::NotADirectory { .. })));
    assert!(matches!(open_dir(&file.join("below"), 1), Err(OpenError::NotADirectory { .. })));
    let io = |kind: std::io::ErrorKind| OpenError::io("p".into(), kind.into());
    assert!(matches!(io(std::io::ErrorKind::PermissionDenied), OpenError::Permission { .. }));
    assert!(matches!(io(std::io::ErrorKind::Other), OpenError::Io { .. }));
}

#[cfg(unix)]
#[test]
fn a_directory_without_permission_is_typed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("closed");
    fs::create_dir(&path).expect("new");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).expect("closes");
    let outcome = open_dir(&path, 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("opens");
    match outcome {
        Err(OpenError::Permission { .. }) => {}
        // The superuser may do everything.
        Ok(_) => assert!(fs::read_dir("/root").is_ok()),
        Err(other) => panic!("{other:?}"),
    }
}
