//! The probe tells stores that keep their promise from those that only say so.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stores;

use std::sync::Arc;

use aquifer_log::Store;
use aquifer_log::store::{Created, Key, Patience, Prefix, Verdict};
use aquifer_testkit::fault_store::{FaultStore, Op};
use aquifer_testkit::s3_server::{Conditions, HttpFault, S3Server};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use stores::each_store;

fn open(server: &S3Server) -> Store {
    let url = server.url("").parse().unwrap();
    Store::open_with_environment(&url, server.environment()).unwrap().with_patience(Patience::COMMIT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_keep_the_promise_are_found_to_and_left_clean() {
    each_store(async |store| {
        assert_eq!(store.probe().await.unwrap().put_if_absent, Verdict::Honoured);
        assert_eq!(store.probe_race(16).await.unwrap().put_if_absent, Verdict::Honoured);
        assert!(store.list(&Prefix::ROOT, None).try_next().await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_store_that_overwrites_is_found_out_even_when_asked_not_to_rely_on_it() {
    let server = S3Server::start(Conditions::Ignored).await;
    let store = open(&server);
    for store in [store.clone(), store.unfenced()] {
        let found = store.probe().await.unwrap().put_if_absent;
        assert!(matches!(&found, Verdict::Broken(how) if how.contains("overwrote")), "{found:?}");
        assert_eq!(store.probe_race(16).await.unwrap().put_if_absent, found);
    }
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_store_that_lets_racing_creates_through_is_found_out_by_the_race() {
    let faults = FaultStore::in_memory();
    let store = Store::from_object_store(Arc::new(faults.clone()), "check-then-write");
    // One after the other it does well; of those that race, each finds the name free, as with a server that
    // checks first and writes later.
    let objects = Arc::clone(faults.inner());
    let mut creates = 0;
    faults.set_schedule(move |request| {
        creates += usize::from(request.op == Op::Create);
        if request.op == Op::Create && creates > 2 {
            let path = Path::from(request.key.as_str());
            // Absent before the first of them.
            let _ = futures::executor::block_on(objects.delete(&path));
        }
        None
    });
    let found = store.probe_race(16).await.unwrap().put_if_absent;
    assert!(matches!(&found, Verdict::Broken(how) if how.contains("of 16 writers")), "{found:?}");
}

#[tokio::test]
async fn a_store_that_refuses_conditions_is_unsupported_and_not_broken() {
    let server = S3Server::start(Conditions::Honoured).await;
    server.set_faults(|request| {
        request.header("if-none-match").is_some().then_some(HttpFault::Answer(501, "NotImplemented"))
    });
    let store = open(&server);
    let found = store.probe().await.unwrap().put_if_absent;
    assert!(matches!(&found, Verdict::Unsupported(answer) if answer.contains("NotImplemented")), "{found:?}");

    // It can be used all the same, without the fence: creates look first.
    let store = store.unfenced();
    let key = Key::parse("a").unwrap();
    assert_eq!(store.create(&key, "one").await.unwrap(), Created::New);
    assert_eq!(store.create(&key, "one").await.unwrap(), Created::AlreadyOurs);
    assert_eq!(store.create(&key, "two").await.unwrap(), Created::Taken("one".into()));
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_not_judged() {
    let server = S3Server::start(Conditions::Honoured).await;
    server.set_faults(|_| Some(HttpFault::Answer(503, "SlowDown")));
    assert!(open(&server).probe().await.unwrap_err().is_transient());
    server.set_faults(|_| Some(HttpFault::Answer(403, "AccessDenied")));
    let error = open(&server).probe().await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
}
