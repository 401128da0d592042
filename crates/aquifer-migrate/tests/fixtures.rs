//! What the original programs wrote, restored: byte for byte what they restore from it, wherever what they restore is right.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aquifer_format::Timestamp;
use aquifer_log::Store;
use aquifer_migrate::{Format, MigrateError, Origin, Restored, Restorer, Target, find};
use serde_json::Value;

/// A copy of a bucket that an original wrote, its objects as old as they were there.
struct Bucket {
    dir: tempfile::TempDir,
    expected: Value,
}

impl Bucket {
    fn new(name: &str) -> Bucket {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join("bucket");
        if let Ok(objects) = fs::read_to_string(from.join("bucket.tsv")) {
            for line in objects.lines() {
                let (key, base64) = line.split_once('\t').unwrap();
                let path = bucket.join(key);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, decode(base64)).unwrap();
            }
        } else {
            copy(&from.join("bucket"), &bucket);
        }
        for line in fs::read_to_string(from.join("mtimes.tsv")).unwrap_or_default().lines() {
            let mut fields = line.split('\t');
            let (key, nanos) = (fields.next().unwrap(), fields.next().unwrap());
            let modified = UNIX_EPOCH + Duration::from_nanos(nanos.parse().unwrap());
            let file = File::options().write(true).open(bucket.join(key)).unwrap();
            file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        }
        let expected = serde_json::from_slice(&fs::read(from.join("expected.json")).unwrap()).unwrap();
        Bucket { dir, expected }
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("bucket").to_str().unwrap().parse().unwrap()).unwrap()
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("restored.db")
    }

    fn restorer(&self) -> Restorer {
        Restorer::new(self.store(), Origin::Auto, self.output()).integrity_check(true)
    }

    /// Restores, and takes the file away.
    async fn restore(&self, restorer: Restorer) -> Result<(Restored, Vec<u8>), MigrateError> {
        let restored = restorer.restore().await;
        let left: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        match restored {
            Ok(restored) => {
                assert_eq!(left.len(), 2, "{left:?}");
                let file = fs::read(self.output()).unwrap();
                fs::remove_file(self.output()).unwrap();
                Ok((restored.unwrap(), file))
            }
            Err(error) => {
                assert_eq!(left, ["bucket"], "after {error}");
                Err(error)
            }
        }
    }

    /// Restores, and compares with what the original restored.
    async fn compare(&self, restorer: Restorer, expected: &Value, what: &str) {
        let (restored, file) = self.restore(restorer).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(file.len() as u64, expected["bytes"].as_u64().unwrap(), "{what}: {restored:?}");
        assert_eq!(sha256(&file), expected["file_sha256"].as_str().unwrap(), "{what}: {restored:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn timestamp(text: &Value) -> Timestamp {
    serde_json::from_value(text.clone()).unwrap()
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

#[tokio::test(flavor = "multi_thread")]
async fn what_litestream_0_5_wrote_is_restored_at_every_transaction_and_moment() {
    for suffix in ["", "-64k", "-retained", "-s3", ".5"] {
        let bucket = Bucket::new(&format!("litestream-0.5{suffix}"));
        bucket.compare(bucket.restorer(), &bucket.expected["latest"], suffix).await;
        for point in bucket.expected["by_txid"].as_array().unwrap() {
            let txid = u64::from_str_radix(point["txid"].as_str().unwrap(), 16).unwrap();
            let restorer = bucket.restorer().target(Target::Position(txid));
            if point["restored"].is_object() {
                bucket.compare(restorer, &point["restored"], &format!("{suffix} at {txid}")).await;
            }
        }
        for point in bucket.expected["by_timestamp"].as_array().unwrap() {
            if point["restored"].is_object() {
                let restorer = bucket.restorer().target(Target::Timestamp(timestamp(&point["timestamp"])));
                bucket
                    .compare(restorer, &point["restored"], &format!("{suffix} at {}", point["timestamp"]))
                    .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_litestream_0_3_wrote_is_restored_at_every_index_and_moment() {
    for suffix in ["", "-64k"] {
        let bucket = Bucket::new(&format!("litestream-0.3{suffix}"));
        bucket.compare(bucket.restorer(), &bucket.expected["latest"], suffix).await;
        for point in bucket.expected["by_index"].as_array().unwrap() {
            let (generation, index) =
                (point["generation"].as_str().unwrap(), point["index"].as_str().unwrap());
            let restorer = bucket.restorer().generation(generation);
            let restorer = restorer.target(Target::Position(u64::from_str_radix(index, 16).unwrap()));
            bucket.compare(restorer, &point["restored"], &format!("{suffix} {generation} {index}")).await;
        }
        for point in bucket.expected["by_timestamp"].as_array().unwrap() {
            if point["restored"].is_object() {
                let restorer = bucket.restorer().target(Target::Timestamp(timestamp(&point["timestamp"])));
                bucket
                    .compare(restorer, &point["restored"], &format!("{suffix} at {}", point["timestamp"]))
                    .await;
            }
        }
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
