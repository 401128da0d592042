//! What a store in a local directory promises besides.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aquifer_log::store::{Key, Prefix, StoreError};
use aquifer_log::{Store, StoreUrl};
use bytes::Bytes;
use futures::TryStreamExt;

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

fn open(path: &Path) -> Store {
    Store::open(&StoreUrl::directory(path)).unwrap()
}

#[tokio::test]
async fn a_directory_that_does_not_exist_is_no_empty_store() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("mistyped");
    let store = open(&path);
    for error in [
        store.get(&key("a")).await.unwrap_err(),
        store.head(&key("a")).await.unwrap_err(),
        store.list(&Prefix::ROOT, None).try_next().await.unwrap_err(),
        store.list_dirs(&Prefix::ROOT).try_next().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NoStore { .. }), "{error:?}");
        assert!(error.to_string().contains("mistyped"), "{error}");
    }
    assert!(!path.exists(), "reading makes nothing");
    store.create(&key("a"), "x").await.unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_being_written_shows_in_no_listing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut upload = store.upload(&key("db/big"), 0);
    upload.write(Bytes::from(vec![1; 9 << 20])).await.unwrap();
    let staged = || std::fs::read_dir(dir.path().join(".aquifer/tmp")).unwrap().count();
    assert_eq!(staged(), 1);
    assert!(store.list(&Prefix::ROOT, None).try_next().await.unwrap().is_none());
    assert_eq!(store.first_dir(&Prefix::ROOT).await.unwrap(), None);
    upload.complete().await.unwrap();
    store.create(&key("db/small"), "x").await.unwrap();
    store.create(&key("db/small"), "y").await.unwrap();
    assert_eq!(staged(), 0);
}

/// As many as are looked up by several threads, in two runs with directories before, between and after them.
#[tokio::test]
async fn a_directory_of_many_files_is_listed_in_order_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let many = (0..5001).map(|n| format!("db/{:06}", n * 7919 % 1_000_003));
    let mut names: Vec<String> =
        many.chain(["db/!/a", "db/5/a", "db/5/b", "db/~/a"].map(str::to_owned)).collect();
    names.sort_unstable();
    for (n, name) in names.iter().enumerate() {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &[0; 100][..n % 100]).unwrap();
    }
    let store = open(dir.path());
    for first in [0, 1, 1700, 4999, names.len() - 1, names.len()] {
        let after = first.checked_sub(1).map(|last| key(&names[last]));
        let listed = store.list(&Prefix::ROOT.dir("db"), after.as_ref());
        let listed: Vec<(String, u64)> =
            listed.map_ok(|object| (object.key.to_string(), object.len)).try_collect().await.unwrap();
        let expected = names.iter().enumerate().skip(first);
        let expected: Vec<(String, u64)> = expected.map(|(n, name)| (name.clone(), n as u64 % 100)).collect();
        assert!(listed == expected, "from {first}: {} of {}", listed.len(), expected.len());
    }
}

#[tokio::test]
async fn a_file_in_the_way_is_refused_and_said() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let store = open(&dir.path().join("file"));
    let error = store.list(&Prefix::ROOT, None).try_next().await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    let error = store.create(&key("a"), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    // An object where a database's directory would be.
    let store = open(dir.path());
    let error = store.create(&key("file/a"), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_database_may_be_a_link_to_another_place() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(other.path(), dir.path().join("db")).unwrap();
    let store = open(dir.path());
    store.create(&key("db/0/1"), "x").await.unwrap();
    let listed: Vec<_> = store.list(&Prefix::ROOT, None).try_collect().await.unwrap();
    assert_eq!(listed[0].key, key("db/0/1"));
    assert_eq!(store.first_dir(&Prefix::ROOT).await.unwrap().as_deref(), Some("db"));
}

/// Deletion removes empty directories while others make objects in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_and_deleting_side_by_side_never_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tasks = (0..8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let name = key(&format!("db/gen/0/{task}-{n}"));
                assert!(store.create(&name, "x").await.unwrap().is_ours());
                store.delete(&name).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(tasks).await.unwrap();
    assert_eq!(store.first_dir(&Prefix::ROOT).await.unwrap(), None);
    assert_eq!(store.counts().retries, 0);
}

const DIRECTORY: &str = "AQUIFER_TEST_WRITER_DIRECTORY";

/// Not a test of its own: the writer that [`a_writer_killed_at_any_instant_leaves_no_torn_object`] kills.
#[tokio::test]
async fn writer_to_be_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let store = open(&PathBuf::from(directory));
    println!("begun");
    for n in 0u64.. {
        let content = content(n);
        store.create(&key(&format!("db/0/{n:016x}")), content.clone()).await.unwrap();
        let mut upload = store.upload(&key(&format!("db/snapshot/{n:016x}")), 0);
        upload.write(content).await.unwrap();
        upload.complete().await.unwrap();
        println!("done {n}");
    }
}

/// 200 kB that nothing but `n` determines.
fn content(n: u64) -> Bytes {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(25_000).flat_map(u64::to_le_bytes).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn a_writer_killed_at_any_instant_leaves_no_torn_object() {
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed somewhere after the `round`-th line: where exactly is up to the scheduler.
        let mut acknowledged = None;
        for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(n) = line.strip_prefix("done ") {
                let n: u64 = n.parse().unwrap();
                acknowledged = Some(n);
                if n == round {
                    writer.kill().unwrap();
                }
            }
        }
        writer.wait().unwrap();
        let acknowledged = acknowledged.unwrap();
        let store = open(dir.path());
        let listed: Vec<_> = store.list(&Prefix::ROOT, None).try_collect().await.unwrap();
        assert!(listed.len() as u64 >= 2 * (acknowledged + 1), "{listed:?}");
        for object in listed {
            let n = u64::from_str_radix(object.key.file_name(), 16).unwrap();
            assert!(store.get(&object.key).await.unwrap() == content(n), "{} is torn", object.key);
        }
    }
}
