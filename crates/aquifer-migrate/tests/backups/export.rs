//! Exports for Litestream: restored by the reader that restores what Litestream itself wrote.
//!
//! That Litestream 0.5.5 and 0.5.17 restore them was tried by hand: no registry has binaries of its makers.

use std::path::Path;

use aquifer_log::{DatabaseStore, Store};
use aquifer_migrate::{Exporter, Importer, MigrateError, Origin, Restorer};

use crate::bucket::{Bucket, sha256};

fn store(path: &Path) -> Store {
    Store::open(&path.to_str().unwrap().parse().unwrap()).unwrap()
}

async fn imported(bucket: &Bucket, dir: &Path) -> DatabaseStore {
    let to = DatabaseStore::new(store(&dir.join("store")), "app.db".parse().unwrap());
    Importer::new(bucket.store(), Origin::Auto, to.clone()).import().await.unwrap();
    to
}

async fn restored(from: Store, dir: &Path) -> Vec<u8> {
    let output = dir.join("restored.db");
    Restorer::new(from, Origin::Litestream, &output).integrity_check(true).restore().await.unwrap();
    let file = std::fs::read(&output).unwrap();
    std::fs::remove_file(output).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_a_replica_of_the_same_database() {
    for (name, expected) in [
        ("litestream-0.5", "/latest"),
        ("litestream-0.3-64k", "/latest"),
        ("bottomless-server-zstd", "/after_batch/7/restored"),
    ] {
        let (bucket, dir) = (Bucket::new(name), tempfile::tempdir().unwrap());
        let database = imported(&bucket, dir.path()).await;
        let to = store(&dir.path().join("replica"));
        let exported = Exporter::new(database, to.clone()).temp_dir(dir.path()).export().await.unwrap();
        let last = exported.revision.txid.get();
        assert_eq!(exported.key.as_str(), format!("ltx/9/0000000000000001-{last:016x}.ltx"));
        let expected = bucket.expected.pointer(expected).unwrap()["file_sha256"].as_str().unwrap();
        assert_eq!(sha256(&restored(to, dir.path()).await), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_may_follow_an_older_one_and_replaces_nothing_else() {
    let (bucket, dir) = (Bucket::new("litestream-0.5"), tempfile::tempdir().unwrap());
    let database = imported(&bucket, dir.path()).await;
    let to = store(&dir.path().join("replica"));
    let export = |txid: u64| {
        let target = aquifer_log::Target::Txid(aquifer_format::Txid::new(txid));
        Exporter::new(database.clone(), to.clone()).target(target).export()
    };
    export(3).await.unwrap();
    let older = restored(to.clone(), dir.path()).await;
    for again in [3, 2] {
        let refused = export(again).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Occupied { .. }), "{refused}");
    }
    assert!(older == restored(to.clone(), dir.path()).await);
    export(9).await.unwrap();
    assert!(older != restored(to, dir.path()).await);
    // Where Litestream itself ships to.
    let theirs = bucket.store();
    let refused = Exporter::new(database, theirs).export().await.unwrap_err();
    assert!(matches!(refused, MigrateError::Occupied { .. }), "{refused}");
}
