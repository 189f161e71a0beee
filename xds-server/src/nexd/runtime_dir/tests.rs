#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

#[test]
fn a_new_one_is_for_the_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/run");
    let directory = RuntimeDir::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    directory.write_bootstrap(b"{}").unwrap();
    assert_eq!(fs::metadata(directory.bootstrap()).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn leftovers_go_and_other_files_stay() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    drop(RuntimeDir::open(&path).unwrap());
    for name in ["ads.sock", "admin.sock", "ingress-tcp-1.sock", "bootstrap.json", "notes", "nexd.sock"] {
        fs::write(path.join(name), "").unwrap();
    }
    let directory = RuntimeDir::open(&path).unwrap();
    directory.clear().unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["lock", "nexd.sock", "notes"]);
    directory.write_bootstrap(b"{}").unwrap();
    drop(directory);
    assert_eq!(names(), ["lock", "nexd.sock", "notes"]);
}

#[test]
fn one_node_at_a_time() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    let first = RuntimeDir::open(&path).unwrap();
    let error = RuntimeDir::open(&path).unwrap_err();
    assert!(matches!(&error, RuntimeDirError::InUse { holder: Some(_), .. }), "{error:?}");
    drop(first);
    RuntimeDir::open(&path).unwrap();
}

#[test]
fn links_files_and_open_modes_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let real = parent.path().join("real");
    drop(RuntimeDir::open(&real).unwrap());
    let link = parent.path().join("link");
    symlink(&real, &link).unwrap();
    assert!(matches!(RuntimeDir::open(&link), Err(RuntimeDirError::NotADirectory { .. })));
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(RuntimeDir::open(&file), Err(RuntimeDirError::NotADirectory { .. })));
    fs::set_permissions(&real, fs::Permissions::from_mode(0o750)).unwrap();
    let error = RuntimeDir::open(&real).unwrap_err().to_string();
    assert!(error.contains("mode 0750") && error.contains("chmod 700"), "{error}");
}

#[test]
fn the_limit_of_socket_paths() {
    let at_limit = format!("/{}", "x".repeat(max_length() - 1));
    assert_eq!(Path::new(&at_limit).join(LONGEST_NAME).as_os_str().len(), MAX_SOCKET_PATH_BYTES);
    check_length(Path::new(&at_limit)).unwrap();
    let error = check_length(Path::new(&(at_limit + "x"))).unwrap_err().to_string();
    assert!(error.contains("--runtime-dir"), "{error}");
}
