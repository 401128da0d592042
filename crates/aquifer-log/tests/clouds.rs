//! What the clients of the clouds that cannot run here send: their requests, recorded by a server that refuses
//! them all. What the clouds make of them is theirs to promise.

#![allow(clippy::unwrap_used, reason = "tests")]

use aquifer_log::Store;
use aquifer_log::store::{Key, Patience, Prefix, StoreError};
use aquifer_testkit::s3_server::{Conditions, HttpFault, HttpRequest, S3Server};
use futures::TryStreamExt;

async fn refusing_server() -> S3Server {
    let server = S3Server::start(Conditions::Honoured).await;
    server.set_faults(|_| Some(HttpFault::Answer(403, "AccessDenied")));
    server
}

fn open(url: &str, environment: &[(&str, &str)]) -> Store {
    let environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let store = Store::open_with_environment(&url.parse().unwrap(), environment).unwrap();
    store.with_patience(Patience::COMMIT)
}

/// The requests of a create, a look at the newest generation, and a read from the end.
async fn requests(server: &S3Server, store: &Store) -> Vec<HttpRequest> {
    let key = Key::parse("db/0/1.seg").unwrap();
    let denied = |error: StoreError| assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    denied(store.create(&key, "x").await.unwrap_err());
    denied(store.first_dir(&Prefix::ROOT.dir("db")).await.unwrap_err());
    denied(store.list(&Prefix::ROOT.dir("db"), Some(&key)).try_next().await.unwrap_err());
    denied(store.get_suffix(&key, 100).await.unwrap_err());
    server.take_log()
}

#[tokio::test]
async fn google_is_asked_to_create_only_if_absent_and_to_list_one() {
    let server = refusing_server().await;
    let url = format!("gs://bucket/pre/fix?endpoint={}", server.endpoint());
    let account = r#"{"private_key":"-","private_key_id":"-","client_email":"-","disable_oauth":true}"#;
    let store = open(&url, &[("GOOGLE_SERVICE_ACCOUNT_KEY", account)]);
    let log = requests(&server, &store).await;
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(log[0].header("x-goog-if-generation-match"), Some("0"));
    assert_eq!(log[0].target, "/bucket/pre%2Ffix%2Fdb%2F0%2F1%2Eseg");
    assert!(log[1].target.contains("max-keys=1"), "{}", log[1].target);
    assert!(log[2].target.contains("pre%2Ffix%2Fdb%2F0%2F1.seg"), "{}", log[2].target);
    assert_eq!(log[3].header("range"), Some("bytes=-100"));
}

#[tokio::test]
async fn azure_is_asked_to_create_only_if_absent_and_to_list_one() {
    let server = refusing_server().await;
    let url = format!("az://container/pre/fix?account=someone&endpoint={}", server.endpoint());
    let store = open(&url, &[("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")]);
    let log = requests(&server, &store).await;
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(log[0].header("if-none-match"), Some("*"));
    assert!(log[0].target.contains("/container/pre/fix/db/0/1.seg"), "{}", log[0].target);
    assert!(log[1].target.contains("maxresults=1"), "{}", log[1].target);
    // Azure has no suffix ranges: the length is asked for first.
    assert_eq!(log[3].method, "HEAD");
}

#[tokio::test]
async fn s3_is_asked_by_host_name_where_the_url_says_so() {
    let url = "s3://bucket/p?endpoint=http://localhost:1/&path-style=false";
    let store = open(url, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
    let error = store.get(&Key::parse("a").unwrap()).await.unwrap_err();
    assert!(format!("{error:?}").contains("bucket.localhost"), "{error:?}");
}

#[test]
fn a_cloud_without_settings_opens_and_says_what_is_missing_when_it_is_used() {
    // No I/O, no panic, whatever is missing: credentials may come from the machine.
    for url in ["s3://bucket", "gs://bucket/p", "az://container?account=someone"] {
        Store::open_with_environment(&url.parse().unwrap(), []).unwrap();
    }
    let error = Store::open_with_environment(&"az://container".parse().unwrap(), []).unwrap_err();
    assert!(matches!(error, StoreError::Config { .. }), "{error:?}");
    assert!(error.to_string().contains("?account="), "{error}");
}
