//! Imported backups: every moment that the original restores is one of the database that was made.

use std::collections::BTreeSet;
use std::path::Path;

use aquifer_format::{GenerationId, Timestamp};
use aquifer_log::{DatabaseStore, PlanError, Store};
use aquifer_migrate::{Imported, Importer, MigrateError, Origin};
use aquifer_replicate::restore::{RestoreError, Restorer};
use serde_json::Value;

use crate::bucket::{Bucket, sha256};

/// A store, and a database of it that was imported.
pub(crate) struct Import {
    dir: tempfile::TempDir,
    pub(crate) to: DatabaseStore,
    pub(crate) imported: Imported,
}

impl Import {
    pub(crate) async fn new(bucket: &Bucket, change: impl FnOnce(Importer) -> Importer) -> Import {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store").to_str().unwrap().parse().unwrap()).unwrap();
        let to = DatabaseStore::new(store, "app.db".parse().unwrap());
        let importer = Importer::new(bucket.store(), Origin::Auto, to.clone());
        let imported = change(importer).temp_dir(dir.path()).import().await.unwrap();
        Import { dir, to, imported }
    }

    pub(crate) async fn at(&self, target: aquifer_log::Target) -> Vec<u8> {
        self.try_at(target).await.unwrap_or_else(|| panic!("{target:?} is before everything"))
    }

    /// `None` where nothing is from so long ago.
    pub(crate) async fn try_at(&self, target: aquifer_log::Target) -> Option<Vec<u8>> {
        restored(&self.to, self.dir.path(), None, target).await
    }

    /// The newest of a generation.
    pub(crate) async fn of(&self, generation: GenerationId) -> Vec<u8> {
        let latest = aquifer_log::Target::Latest;
        restored(&self.to, self.dir.path(), Some(generation), latest).await.unwrap()
    }

    /// The checksums of all revisions.
    async fn revisions(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for txid in 1..=self.imported.newest.batches {
            found.insert(sha256(&self.at(aquifer_log::Target::Txid(aquifer_format::Txid::new(txid))).await));
        }
        found
    }
}

/// What is restored of a database, in a directory for it; `None` where nothing is from so long ago.
pub(crate) async fn restored(
    of: &DatabaseStore,
    dir: &Path,
    generation: Option<GenerationId>,
    target: aquifer_log::Target,
) -> Option<Vec<u8>> {
    let output = dir.join("restored.db");
    let mut restorer = Restorer::new(of.store().clone(), of.name().clone(), &output);
    if let Some(generation) = generation {
        restorer = restorer.generation(generation);
    }
    match restorer.target(target).integrity_check(true).restore().await {
        Ok(_) => {}
        Err(RestoreError::Plan(PlanError::BeforeFirst { .. })) => return None,
        Err(error) => panic!("{target:?}: {error}"),
    }
    let file = std::fs::read(&output).unwrap();
    std::fs::remove_file(output).unwrap();
    Some(file)
}

pub(crate) fn checksum(restored: &Value) -> String {
    restored["file_sha256"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_state_is_the_origins() {
    for (name, expected) in [
        ("bottomless-frames", "/generations/0/restored"),
        ("bottomless-frames-64k", "/generations/0/restored"),
        ("bottomless-frames-no-snapshot", "/generations/0/restored"),
        ("bottomless-frames-shrunk", "/live/app.db"),
        ("bottomless-server-zstd", "/after_batch/7/restored"),
        ("litestream-0.3", "/latest"),
        ("litestream-0.3-64k", "/latest"),
        ("litestream-0.5", "/latest"),
        ("litestream-0.5-retained", "/latest"),
        ("litestream-0.5.5", "/latest"),
        ("zlayer-wal-began-again", "/live"),
    ] {
        let bucket = Bucket::new(name);
        let import = Import::new(&bucket, |importer| importer).await;
        let file = import.at(aquifer_log::Target::Latest).await;
        assert_eq!(sha256(&file), checksum(bucket.expected.pointer(expected).unwrap()), "{name}");
        let left: Vec<_> =
            std::fs::read_dir(import.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["store"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_the_origin_is_one_of_the_import() {
    for (name, points) in [
        ("bottomless-server-zstd", "after_batch"),
        ("litestream-0.5", "by_txid"),
        ("litestream-0.3", "by_timestamp"),
    ] {
        let bucket = Bucket::new(name);
        let import = Import::new(&bucket, |importer| match name {
            // The one that has a history.
            "litestream-0.3" => importer.generation("5041788a71a5218c"),
            _ => importer,
        })
        .await;
        let revisions = import.revisions().await;
        for point in bucket.expected[points].as_array().unwrap() {
            // What the other generation has.
            let elsewhere = ["b1", "b3"].contains(&point["point"].as_str().unwrap_or_default());
            if point["restored"].is_object() && !elsewhere {
                assert!(revisions.contains(&checksum(&point["restored"])), "{name}: {point}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_keep_their_times() {
    let bucket = Bucket::new("bottomless-server-zstd");
    let import = Import::new(&bucket, |importer| importer).await;
    for point in bucket.expected["after_batch"].as_array().unwrap() {
        let at = Timestamp::from_millis(point["seconds"].as_i64().unwrap() * 1000);
        let file = import.at(aquifer_log::Target::Timestamp(at)).await;
        assert_eq!(sha256(&file), checksum(&point["restored"]), "at {at}");
    }
    let bucket = Bucket::new("litestream-0.5");
    let import = Import::new(&bucket, |importer| importer).await;
    for point in bucket.expected["by_timestamp"].as_array().unwrap() {
        let at: Timestamp = serde_json::from_value(point["timestamp"].clone()).unwrap();
        let file = import.at(aquifer_log::Target::Timestamp(at)).await;
        if point["restored"].is_object() {
            assert_eq!(sha256(&file), checksum(&point["restored"]), "at {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_not_overwritten_and_a_damaged_backup_makes_none() {
    let bucket = Bucket::new("litestream-0.5");
    let import = Import::new(&bucket, |importer| importer).await;
    let again = Importer::new(bucket.store(), Origin::Auto, import.to.clone()).import().await.unwrap_err();
    assert!(matches!(again, MigrateError::Exists { .. }), "{again}");

    let damaged = Bucket::new("bottomless-frames-rewritten");
    let other = DatabaseStore::new(import.to.store().clone(), "other.db".parse().unwrap());
    let error = Importer::new(damaged.store(), Origin::Auto, other.clone()).import().await.unwrap_err();
    assert!(matches!(error, MigrateError::Damaged { .. }), "{error}");
    assert!(other.latest_generation().await.unwrap().is_none());
    // What was written of it is in nobody's way.
    let mended = Importer::new(bucket.store(), Origin::Auto, other).import().await.unwrap();
    assert_eq!(mended.newest.batches, import.imported.newest.batches);
}
