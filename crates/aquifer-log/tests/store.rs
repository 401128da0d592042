//! What every kind of store promises, on each of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stores;

use std::collections::BTreeSet;

use aquifer_log::store::{Created, Key, Prefix, StoreError};
use bytes::Bytes;
use futures::TryStreamExt;

use stores::each_store;

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

#[tokio::test]
async fn what_is_put_is_read_back_whole_and_in_parts() {
    each_store(async |store| {
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        store.put(&key("db/x/0/a.seg"), content.clone()).await.unwrap();
        assert_eq!(store.get(&key("db/x/0/a.seg")).await.unwrap(), content);
        assert_eq!(store.get_range(&key("db/x/0/a.seg"), 10..20).await.unwrap(), content[10..20]);
        assert_eq!(
            store.get_range(&key("db/x/0/a.seg"), 399_990..500_000).await.unwrap(),
            content[399_990..]
        );
        assert!(store.get_range(&key("db/x/0/a.seg"), 400_000..400_001).await.unwrap().is_empty());
        assert!(store.get_range(&key("db/x/0/a.seg"), 7..7).await.unwrap().is_empty());
        let (suffix, len) = store.get_suffix(&key("db/x/0/a.seg"), 100).await.unwrap();
        assert_eq!((suffix, len), (Bytes::from(content[399_900..].to_vec()), 400_000));
        let (all, len) = store.get_suffix(&key("db/x/0/a.seg"), 1 << 20).await.unwrap();
        assert_eq!((all.len(), len), (400_000, 400_000));
        assert_eq!(store.head(&key("db/x/0/a.seg")).await.unwrap().len, 400_000);

        store.put(&key("db/x/0/a.seg"), "shorter").await.unwrap();
        assert_eq!(store.get(&key("db/x/0/a.seg")).await.unwrap(), "shorter");
        store.put(&key("empty"), "").await.unwrap();
        assert_eq!(store.get(&key("empty")).await.unwrap(), "");
        assert_eq!(store.get_suffix(&key("empty"), 10).await.unwrap(), (Bytes::new(), 0));
        assert_eq!(store.counts().retries, 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_absent_is_not_found_by_name() {
    each_store(async |store| {
        store.put(&key("db/a"), "x").await.unwrap();
        for absent in [key("db/b"), key("nothing/here"), key("db"), key("db/a/b")] {
            let read = store.get(&absent).await.unwrap_err();
            assert!(matches!(&read, StoreError::NotFound { key, .. } if *key == absent), "{read:?}");
            assert!(read.to_string().contains(absent.as_str()), "{read}");
            assert!(store.head(&absent).await.unwrap_err().is_not_found());
            assert!(store.get_suffix(&absent, 10).await.unwrap_err().is_not_found());
            store.delete(&absent).await.unwrap();
        }
        assert_eq!(store.counts().retries, 0);
    })
    .await;
}

#[tokio::test]
async fn a_taken_name_is_never_overwritten_and_its_content_is_told() {
    each_store(async |store| {
        assert_eq!(store.create(&key("d/1"), "ours").await.unwrap(), Created::New);
        assert_eq!(store.create(&key("d/1"), "ours").await.unwrap(), Created::AlreadyOurs);
        let taken = store.create(&key("d/1"), "theirs").await.unwrap();
        assert_eq!(taken, Created::Taken(Bytes::from_static(b"ours")));
        assert_eq!(store.get(&key("d/1")).await.unwrap(), "ours");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_32_racing_creates_exactly_one_wins() {
    each_store(async |store| {
        for round in 0..4 {
            let name = key(&format!("race/{round}"));
            let racers = (0..32).map(|n| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move { store.create(&name, format!("racer {n}")).await.unwrap() })
            });
            let outcomes = futures::future::try_join_all(racers).await.unwrap();
            let winners = outcomes.iter().filter(|o| **o == Created::New).count();
            assert_eq!(winners, 1, "{outcomes:?}");
            let content = store.get(&name).await.unwrap();
            assert!(outcomes.iter().all(|o| o.is_ours() || *o == Created::Taken(content.clone())));
        }
    })
    .await;
}

#[tokio::test]
async fn listings_come_in_key_order_from_where_they_are_asked() {
    each_store(async |store| {
        let mut names: BTreeSet<String> =
            (0..40).rev().map(|n| format!("db/g/{}/{:04x}.seg", n % 3, n * 7919 % 65_536)).collect();
        // A file and a directory that share a beginning: '-' and '.' sort before '/'.
        names.extend(["db/g-1", "db/g.json", "db/g/record", "db2/x", "dc"].map(str::to_owned));
        for name in &names {
            store.put(&key(name), name.clone()).await.unwrap();
        }
        let listed = async |prefix: &Prefix, after: Option<&Key>| -> Vec<String> {
            let objects: Vec<_> = store.list(prefix, after).try_collect().await.unwrap();
            assert!(objects.iter().all(|o| o.len == o.key.as_str().len() as u64));
            objects.into_iter().map(|o| o.key.as_str().to_owned()).collect()
        };
        let all: Vec<String> = names.iter().cloned().collect();
        assert_eq!(listed(&Prefix::ROOT, None).await, all);
        let level = Prefix::ROOT.dir("db").dir("g").dir("1");
        let expected: Vec<_> = all.iter().filter(|n| n.starts_with("db/g/1/")).cloned().collect();
        assert_eq!(listed(&level, None).await, expected);
        for after in ["db/g/1/8000.seg", "db/g/1/~", "db/g/1/0", "a", "z"] {
            let expected: Vec<_> = expected.iter().filter(|n| n.as_str() > after).cloned().collect();
            assert_eq!(listed(&level, Some(&key(after))).await, expected, "after {after}");
        }
        for after in ["db/g", "db/g.json", "db/g/1", "db/g/1/8000.seg", "db2"] {
            let expected: Vec<_> = all.iter().filter(|n| n.as_str() > after).cloned().collect();
            assert_eq!(listed(&Prefix::ROOT, Some(&key(after))).await, expected, "after {after}");
        }
        assert!(listed(&Prefix::ROOT.dir("none"), None).await.is_empty());

        let dirs: Vec<_> = store.list_dirs(&Prefix::ROOT).try_collect().await.unwrap();
        assert_eq!(dirs, ["db", "db2"]);
        let dirs: Vec<_> = store.list_dirs(&Prefix::ROOT.dir("db").dir("g")).try_collect().await.unwrap();
        assert_eq!(dirs, ["0", "1", "2"]);
        assert_eq!(store.first_dir(&Prefix::ROOT).await.unwrap().as_deref(), Some("db"));
        assert_eq!(store.first_dir(&level).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn deleted_objects_are_gone_and_leave_no_directories() {
    each_store(async |store| {
        let names: Vec<Key> = (0..25).map(|n| key(&format!("db/g/0/{n:04}"))).collect();
        for name in &names {
            store.put(name, "x").await.unwrap();
        }
        store.delete(&names[0]).await.unwrap();
        assert!(store.get(&names[0]).await.unwrap_err().is_not_found());
        // One of them is gone already, and that is fine.
        store.delete_many(&names).await.unwrap();
        assert!(store.list(&Prefix::ROOT, None).try_next().await.unwrap().is_none());
        assert_eq!(store.first_dir(&Prefix::ROOT).await.unwrap(), None);
        store.put(&names[0], "again").await.unwrap();
        assert_eq!(store.get(&names[0]).await.unwrap(), "again");
    })
    .await;
}

#[tokio::test]
async fn requests_are_counted_by_kind_with_their_bytes() {
    each_store(async |store| {
        let before = store.counts();
        assert_eq!(before.total(), 0, "opening a store sends nothing");
        store.create(&key("a/1"), "0123456789").await.unwrap();
        store.put(&key("a/2"), "01234").await.unwrap();
        store.get(&key("a/1")).await.unwrap();
        store.get_range(&key("a/1"), 1..4).await.unwrap();
        store.head(&key("a/1")).await.unwrap();
        let _: Vec<_> = store.list(&Prefix::ROOT, None).try_collect().await.unwrap();
        store.delete(&key("a/1")).await.unwrap();
        let counts = store.counts() - before;
        assert_eq!(counts.by_kind().map(|(_, n)| n), [1, 1, 2, 1, 1, 1, 0]);
        assert_eq!((counts.bytes_up, counts.bytes_down, counts.retries), (15, 13, 0));
    })
    .await;
}

#[tokio::test]
async fn an_upload_appears_whole_at_its_end_and_not_before() {
    each_store(async |store| {
        // Two full parts and a rest, written in pieces that straddle them.
        let content: Vec<u8> = (0..(17 << 20) / 4).flat_map(|n: u32| n.to_le_bytes()).collect();
        let mut upload = store.upload(&key("db/g/snapshot/1.seg"), content.len() as u64);
        for piece in content.chunks(3_000_000) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert!(store.list(&Prefix::ROOT, None).try_next().await.unwrap().is_none());
        assert_eq!(upload.complete().await.unwrap(), content.len() as u64);
        assert!(store.get(&key("db/g/snapshot/1.seg")).await.unwrap() == content);

        // A short one costs one request.
        let before = store.counts();
        let mut upload = store.upload(&key("short"), 0);
        upload.write(Bytes::from_static(b"ab")).await.unwrap();
        upload.write(Bytes::from_static(b"c")).await.unwrap();
        assert_eq!(upload.len(), 3);
        upload.complete().await.unwrap();
        assert_eq!((store.counts() - before).total(), 1);
        assert_eq!(store.get(&key("short")).await.unwrap(), "abc");

        let mut upload = store.upload(&key("given up"), 0);
        upload.write(Bytes::from(vec![1; 9 << 20])).await.unwrap();
        upload.abort().await.unwrap();
        assert!(store.get(&key("given up")).await.unwrap_err().is_not_found());
    })
    .await;
}
