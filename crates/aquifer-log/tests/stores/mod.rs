//! Each kind of store that runs on one machine.

use aquifer_log::store::{Store, StoreUrl};

/// Runs the same test on every kind of store, each fresh.
pub(crate) async fn each_store(test: impl AsyncFn(Store)) {
    let memory = Store::open(&"memory://".parse().unwrap()).unwrap();
    test(memory).await;

    let parent = tempfile::tempdir().unwrap();
    let directory = Store::open(&StoreUrl::directory(parent.path().join("a store"))).unwrap();
    test(directory).await;
}
