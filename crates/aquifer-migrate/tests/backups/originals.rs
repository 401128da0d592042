//! What the original programs wrote, restored: byte for byte what they restore from it, wherever what they restore is right.

use aquifer_format::Timestamp;
use aquifer_migrate::{Format, MigrateError, Origin, Target, auto_restore, find};
use serde_json::Value;

use crate::bucket::{Bucket, sha256};

fn timestamp(text: &Value) -> Target {
    Target::Timestamp(serde_json::from_value(text.clone()).unwrap())
}

/// Those of the libSQL crate, each generation by itself; `live` is what the database was.
#[tokio::test(flavor = "multi_thread")]
async fn what_bottomless_0_1_wrote_is_restored_as_it_restores_it() {
    for suffix in [
        "",
        "-64k",
        "-beyond-consistent",
        "-closed",
        "-empty",
        "-long",
        "-never-consistent",
        "-no-snapshot",
        "-reopened",
        "-spilled",
        "-two-databases",
        "-two-generations",
    ] {
        let bucket = Bucket::new(&format!("bottomless-frames{suffix}"));
        for generation in bucket.expected["generations"].as_array().unwrap() {
            let (database, id) =
                (generation["database"].as_str().unwrap(), generation["generation"].as_str().unwrap());
            let restorer = bucket.restorer().database(database).generation(id);
            bucket.compare(restorer, &generation["restored"], &format!("{suffix} {database} {id}")).await;
        }
    }
}

/// bottomless leaves the end of the file where it was before VACUUM made it shorter. SQLite does not look there.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_shrank_is_restored_without_what_it_had_before() {
    let bucket = Bucket::new("bottomless-frames-shrunk");
    bucket.compare(bucket.restorer(), &bucket.expected["live"]["app.db"], "shrunk").await;
    let theirs = &bucket.expected["generations"][0]["restored"];
    assert!(theirs["bytes"].as_u64() > bucket.expected["live"]["app.db"]["bytes"].as_u64());
}

/// A transaction that writes pages again which it has spilled before makes frames that bottomless counts wrongly: what is in
/// the bucket is no database. Its own restore warns, and makes a corrupt one.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_corrupt_when_it_was_made_is_an_error_and_no_file() {
    let bucket = Bucket::new("bottomless-frames-rewritten");
    let theirs = &bucket.expected["generations"][0]["restored"]["integrity_check"];
    assert_ne!(theirs, "ok");
    let error = bucket.restore(bucket.restorer()).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Damaged { key, .. } if key.as_str().contains("/0000000000")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bottomless_of_the_server_wrote_is_restored_at_every_batch() {
    let bucket = Bucket::new("bottomless-server-zstd");
    let generation = bucket.expected["generation"].as_str().unwrap();
    let generation = generation.strip_prefix("ns-db1:default-").unwrap();
    for point in bucket.expected["after_batch"].as_array().unwrap() {
        let batch = point["batch"].as_str().unwrap();
        let last: u64 = batch.split('-').nth(1).unwrap().parse().unwrap();
        let at_frame = bucket.restorer().generation(generation).target(Target::Position(last));
        bucket.compare(at_frame, &point["restored"], batch).await;
        let moment = Timestamp::from_millis(point["seconds"].as_i64().unwrap() * 1000);
        bucket.compare(bucket.restorer().target(Target::Timestamp(moment)), &point["restored"], batch).await;
    }
}

/// Wherever Litestream restores something: what it has not at a moment that it was asked for, it refuses.
async fn compare_points(bucket: &Bucket, name: &str, list: &str, target: impl Fn(&Value) -> Target) {
    for point in bucket.expected[list].as_array().unwrap() {
        let mut restorer = bucket.restorer().target(target(point));
        if let Some(generation) = point["generation"].as_str() {
            restorer = restorer.generation(generation);
        }
        if point["restored"].is_object() {
            bucket.compare(restorer, &point["restored"], &format!("{name}: {point}")).await;
        }
    }
}

fn position(point: &Value, key: &str) -> Target {
    Target::Position(u64::from_str_radix(point[key].as_str().unwrap(), 16).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_litestream_0_5_wrote_is_restored_at_every_transaction_and_moment() {
    for suffix in ["", "-64k", "-retained", "-s3", ".5"] {
        let bucket = Bucket::new(&format!("litestream-0.5{suffix}"));
        bucket.compare(bucket.restorer(), &bucket.expected["latest"], suffix).await;
        compare_points(&bucket, suffix, "by_txid", |point| position(point, "txid")).await;
        compare_points(&bucket, suffix, "by_timestamp", |point| timestamp(&point["timestamp"])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_litestream_0_3_wrote_is_restored_at_every_index_and_moment() {
    for suffix in ["", "-64k"] {
        let bucket = Bucket::new(&format!("litestream-0.3{suffix}"));
        bucket.compare(bucket.restorer(), &bucket.expected["latest"], suffix).await;
        compare_points(&bucket, suffix, "by_index", |point| position(point, "index")).await;
        compare_points(&bucket, suffix, "by_timestamp", |point| timestamp(&point["timestamp"])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_bucket_is_told_without_reading_it_all() {
    let bucket = Bucket::new("bottomless-server-zstd");
    let store = bucket.store();
    let [backup] = &find(&store, Origin::Auto).await.unwrap()[..] else { panic!("one generation") };
    assert_eq!((backup.format(), backup.database()), (Format::Bottomless, "ns-db1:default"));
    let survey = backup.survey().await.unwrap();
    assert_eq!((survey.objects, survey.positions, survey.snapshot), (9, Some((1, 2100)), None));
    assert_eq!(store.counts().get, 0);
}

/// zlayer's own restore loses rows in one of these, and makes a corrupt database in another.
#[tokio::test(flavor = "multi_thread")]
async fn what_zlayer_storage_wrote_is_restored_as_the_database_was() {
    for (suffix, theirs_is_right) in [
        ("", true),
        ("-64k", true),
        ("-wal-began-again", false),
        ("-snapshot-newest", false),
        ("-no-snapshot", false),
    ] {
        let bucket = Bucket::new(&format!("zlayer{suffix}"));
        let live = &bucket.expected["live"];
        bucket.compare(bucket.restorer(), live, suffix).await;
        let theirs = &bucket.expected["restored"];
        assert_eq!(theirs["file_sha256"] == live["file_sha256"], theirs_is_right, "{suffix}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_back_a_database_that_is_gone_and_keeps_one_that_is_there() {
    let bucket = Bucket::new("zlayer");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    assert!(auto_restore(bucket.store(), Origin::Zlayer, &path).await.unwrap());
    let restored = std::fs::read(&path).unwrap();
    assert_eq!(sha256(&restored), bucket.expected["live"]["file_sha256"].as_str().unwrap());
    std::fs::write(&path, "mine").unwrap();
    assert!(!auto_restore(bucket.store(), Origin::Zlayer, &path).await.unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    // Without any backup, and with one that is damaged.
    std::fs::remove_file(&path).unwrap();
    assert!(!auto_restore(bucket.store(), Origin::Bottomless, &path).await.unwrap());
    let snapshots = bucket.path().join("backups/app/snapshots");
    for snapshot in std::fs::read_dir(snapshots).unwrap() {
        std::fs::write(snapshot.unwrap().path(), "torn").unwrap();
    }
    auto_restore(bucket.store(), Origin::Zlayer, &path).await.unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
