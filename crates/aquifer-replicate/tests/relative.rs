//! Paths may be bare file names: what is beside a file is then in the working directory.
//!
//! A test binary of its own: the working directory is the process's.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use aquifer_log::Store;
use aquifer_replicate::Replicator;
use aquifer_replicate::follow::FollowBuilder;
use aquifer_replicate::restore::Restorer;
use rusqlite::Connection;

#[tokio::test]
async fn a_bare_file_name_is_replicated_restored_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    let application = support::connect("app.db".as_ref());
    application.execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    let store = Store::open(&"store".parse().unwrap()).unwrap();
    let replicator = Replicator::builder(store.clone()).start();
    let name = replicator.add("app.db", None).unwrap();
    replicator.sync().await.unwrap();
    let mut follower = FollowBuilder::new(store.clone(), name.clone(), "standby.db").start().await.unwrap();
    application.execute("INSERT INTO t VALUES(1, x'00')", []).unwrap();
    replicator.sync().await.unwrap();
    // The file is the one that was named at the start, wherever the process is now.
    std::fs::create_dir("elsewhere").unwrap();
    std::env::set_current_dir(dir.path().join("elsewhere")).unwrap();
    follower.catch_up().await.unwrap().unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    Restorer::new(store, name, "copy.db").restore().await.unwrap();
    for file in ["standby.db", "copy.db"] {
        assert_eq!(support::dump(&Connection::open(file).unwrap()), support::dump(&application), "{file}");
    }
    replicator.shutdown().await.unwrap();
}
