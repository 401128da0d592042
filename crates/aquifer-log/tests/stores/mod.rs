//! Each kind of store that runs on one machine.

use aquifer_log::store::{Store, StoreUrl};
use aquifer_testkit::s3_server::{Conditions, S3Server};

/// Runs the same test on every kind of store, each fresh.
pub(crate) async fn each_store(test: impl AsyncFn(Store)) {
    let memory = Store::open(&"memory://".parse().unwrap()).unwrap();
    test(memory).await;

    let parent = tempfile::tempdir().unwrap();
    let directory = Store::open(&StoreUrl::directory(parent.path().join("a store"))).unwrap();
    test(directory).await;

    for prefix in ["", "some/prefix"] {
        let server = S3Server::start(Conditions::Honoured).await;
        let url = server.url(prefix).parse().unwrap();
        test(Store::open_with_environment(&url, server.environment()).unwrap()).await;
    }
}
