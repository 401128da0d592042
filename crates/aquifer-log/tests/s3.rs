//! The S3 protocol over a real connection: what its errors mean, and what requests cost.

#![allow(clippy::unwrap_used, reason = "tests")]

use aquifer_log::Store;
use aquifer_log::store::{Created, Key, Patience, Prefix, StoreError};
use aquifer_testkit::s3_server::{Conditions, HttpFault, HttpRequest, S3Server};
use bytes::Bytes;
use futures::TryStreamExt;

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

async fn server() -> (S3Server, Store) {
    let server = S3Server::start(Conditions::Honoured).await;
    let store = open(&server, &server.url("p"));
    (server, store)
}

fn open(server: &S3Server, url: &str) -> Store {
    let store = Store::open_with_environment(&url.parse().unwrap(), server.environment()).unwrap();
    store.with_patience(Patience::COMMIT)
}

/// Strikes the first requests of a method.
fn first(
    method: &'static str,
    mut times: usize,
    fault: HttpFault,
) -> impl FnMut(&HttpRequest) -> Option<HttpFault> {
    move |request| {
        let strikes = request.method == method && times > 0;
        times -= usize::from(strikes);
        strikes.then(|| fault.clone())
    }
}

#[tokio::test]
async fn a_create_carries_its_condition_and_a_put_does_not() {
    let (server, store) = server().await;
    store.create(&key("a"), "x").await.unwrap();
    store.put(&key("a"), "y").await.unwrap();
    let log = server.take_log();
    assert_eq!(log[0].header("if-none-match"), Some("*"));
    assert_eq!(log[1].header("if-none-match"), None);
    assert_eq!(log[0].target, "/bucket/p/a");
    assert_eq!(server.keys(), ["p/a"]);
}

#[tokio::test]
async fn a_create_over_a_connection_that_closes_before_the_answer_is_ours() {
    for fault in [
        HttpFault::CloseAfter,
        HttpFault::AnswerAfter(500, "InternalError"),
        HttpFault::AnswerAfter(503, "SlowDown"),
    ] {
        let (server, store) = server().await;
        server.set_faults(first("PUT", 1, fault.clone()));
        assert_eq!(store.create(&key("a"), "mine").await.unwrap(), Created::AlreadyOurs, "{fault:?}");
        let methods: Vec<_> = server.take_log().into_iter().map(|r| r.method).collect();
        assert_eq!(methods, ["PUT", "GET"], "{fault:?}");
    }
}

#[tokio::test]
async fn a_create_that_failed_before_its_effect_is_repeated() {
    for fault in [
        HttpFault::CloseBefore,
        HttpFault::Answer(500, "InternalError"),
        HttpFault::Answer(503, "SlowDown"),
        HttpFault::Answer(429, "TooManyRequests"),
        HttpFault::Answer(409, "ConditionalRequestConflict"),
    ] {
        let (server, store) = server().await;
        server.set_faults(first("PUT", 1, fault.clone()));
        assert_eq!(store.create(&key("a"), "mine").await.unwrap(), Created::New, "{fault:?}");
        assert_eq!(server.object("p/a").unwrap(), "mine");
    }
}

#[tokio::test]
async fn requests_that_would_fail_again_are_not_repeated() {
    for (status, code) in [(400, "InvalidRequest"), (405, "MethodNotAllowed"), (501, "NotImplemented")] {
        let (server, store) = server().await;
        server.set_faults(move |_| Some(HttpFault::Answer(status, code)));
        let error = store.put(&key("a"), "x").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(code), "{error}");
        assert_eq!(server.take_log().len(), 1);
    }
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_not_shown() {
    let (server, _) = server().await;
    let secret = "a secret that nobody should see";
    let environment = [("AWS_ACCESS_KEY_ID", "NOBODY"), ("AWS_SECRET_ACCESS_KEY", secret)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let store = Store::open_with_environment(&server.url("").parse().unwrap(), environment).unwrap();
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(!format!("{error} {error:?} {store:?}").contains(secret));

    server.set_faults(|_| Some(HttpFault::Answer(400, "ExpiredToken")));
    let error = open(&server, &server.url("")).get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_bucket_is_not_a_missing_object() {
    let (server, _) = server().await;
    let store = open(&server, &server.url("").replace("s3://bucket", "s3://other"));
    for error in [
        store.get(&key("a")).await.unwrap_err(),
        store.create(&key("a"), "x").await.unwrap_err(),
        store.list(&Prefix::ROOT, None).try_next().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("bucket does not exist"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_was_not_sent_anything() {
    let (server, _) = server().await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = open(&server, &format!("s3://bucket?endpoint=http://{unused}"));
    let error = store.create(&key("a"), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { outcome_unknown: false, .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_server_whose_certificate_nobody_trusts_is_not_talked_to() {
    let server = S3Server::start_tls(Conditions::Honoured).await;
    let error = open(&server, &server.url("")).create(&key("a"), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

const TLS_URL: &str = "AQUIFER_TEST_TLS_URL";

/// Not a test of its own: the client of [`a_server_with_a_trusted_certificate_is_talked_to`].
#[tokio::test]
async fn client_with_tls() {
    let Ok(url) = std::env::var(TLS_URL) else { return };
    let store = Store::open(&url.parse().unwrap()).unwrap().with_patience(Patience::COMMIT);
    assert_eq!(store.create(&key("a"), "over TLS").await.unwrap(), Created::New);
    assert_eq!(store.get(&key("a")).await.unwrap(), "over TLS");
}

/// Credentials and trusted certificates from the environment, as for every other client of S3: that takes a
/// process of its own.
#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_talked_to() {
    let server = S3Server::start_tls(Conditions::Honoured).await;
    let dir = tempfile::tempdir().unwrap();
    let certificate = dir.path().join("trusted.pem");
    std::fs::write(&certificate, server.certificate().unwrap()).unwrap();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "client_with_tls"])
        .env(TLS_URL, server.url("tls"))
        .env("SSL_CERT_FILE", certificate)
        .envs(server.environment())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.keys(), ["tls/a"]);
}

#[tokio::test]
async fn the_newest_generation_costs_one_list_of_one_key() {
    let (server, store) = server().await;
    for n in 0..30 {
        store.put(&key(&format!("db/{n:02}/0/1.seg")), "x").await.unwrap();
        store.put(&key(&format!("db/{n:02}/generation.json")), "x").await.unwrap();
    }
    server.take_log();
    let first = store.first_dir(&Prefix::ROOT.dir("db")).await.unwrap();
    assert_eq!(first.as_deref(), Some("00"));
    let log = server.take_log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].target.contains("max-keys=1") && log[0].target.contains("delimiter=%2F"), "{log:?}");
}

#[tokio::test]
async fn long_listings_come_page_by_page_and_stop_when_no_longer_read() {
    let (server, store) = server().await;
    for n in 0..2_500 {
        server.put_object(&format!("p/db/{n:04}"), Bytes::from_static(b"x"));
    }
    let listed: Vec<_> = store.list(&Prefix::ROOT.dir("db"), None).try_collect().await.unwrap();
    let keys: Vec<_> = listed.iter().map(|o| o.key.file_name().to_owned()).collect();
    assert_eq!(keys, (0..2_500).map(|n| format!("{n:04}")).collect::<Vec<_>>());
    assert_eq!(store.counts().list, 3);

    let after: Vec<_> =
        store.list(&Prefix::ROOT.dir("db"), Some(&key("db/0999"))).try_collect().await.unwrap();
    assert_eq!((after.len(), after[0].key.as_str()), (1_500, "db/1000"));

    let before = store.counts();
    store.list(&Prefix::ROOT, None).try_next().await.unwrap().unwrap();
    assert_eq!((store.counts() - before).list, 1);

    // A page that fails is fetched again, not the listing.
    let before = store.counts();
    let mut lists = 0;
    server.set_faults(move |request| {
        lists += usize::from(request.method == "GET");
        (lists == 2).then_some(HttpFault::Answer(503, "SlowDown"))
    });
    let listed: Vec<_> = store.list(&Prefix::ROOT, None).try_collect().await.unwrap();
    assert_eq!((listed.len(), (store.counts() - before).list), (2_500, 4));
}

#[tokio::test]
async fn a_thousand_objects_are_deleted_with_one_request() {
    let (server, store) = server().await;
    let keys: Vec<_> = (0..1_200).map(|n| key(&format!("db/{n}"))).collect();
    for key in &keys {
        server.put_object(&format!("p/{key}"), Bytes::from_static(b"x"));
    }
    server.take_log();
    store.delete_many(&keys).await.unwrap();
    assert!(server.keys().is_empty());
    assert_eq!((server.take_log().len(), store.counts().delete), (2, 2));
}

#[tokio::test]
async fn an_upload_rides_out_failures_of_its_parts_and_leaves_none_behind() {
    let (server, store) = server().await;
    let content: Vec<u8> = (0..(20 << 20) / 4).flat_map(|n: u32| n.to_le_bytes()).collect();
    let mut requests = 0;
    server.set_faults(move |request| {
        requests += 1;
        match requests {
            1 => Some(HttpFault::Answer(503, "SlowDown")),
            3 => Some(HttpFault::CloseAfter),
            4 => Some(HttpFault::CloseBefore),
            _ if request.method == "POST" && request.target.contains("uploadId") && requests < 9 => {
                Some(HttpFault::CloseAfter)
            }
            _ => None,
        }
    });
    let mut upload = store.upload(&key("big"), content.len() as u64);
    for piece in content.chunks(1 << 20) {
        upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    upload.complete().await.unwrap();
    assert!(server.object("p/big").unwrap() == content);
    assert_eq!(server.open_uploads(), 0);

    let mut upload = store.upload(&key("dropped"), 0);
    upload.write(Bytes::from(vec![0; 17 << 20])).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!((server.open_uploads(), server.object("p/dropped")), (0, None));
}

#[tokio::test]
async fn what_others_left_in_the_bucket_does_no_harm() {
    let (server, store) = server().await;
    let others = ["a b.txt", "ü", "%41", "x#1", "a\\b", ".hidden", "a/b/c"];
    for name in others {
        server.put_object(&format!("p/db/{name}"), Bytes::from_static(b"x"));
    }
    // Directories as consoles make them, and a neighbour of our prefix.
    for name in ["p/db/", "p/", "p/db/empty/", "pq/db/other"] {
        server.put_object(name, Bytes::new());
    }
    let listed: Vec<_> = store.list(&Prefix::ROOT.dir("db"), None).try_collect().await.unwrap();
    let mut expected: Vec<_> = others.iter().map(|name| format!("db/{name}")).collect();
    expected.push("db/empty".to_owned());
    expected.sort();
    assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), expected);
    for object in listed.iter().filter(|object| object.len > 0) {
        assert_eq!(store.get(&object.key).await.unwrap(), "x", "{}", object.key);
    }

    // What object_store cannot name is said, not skipped: it may hide what sorts after it.
    server.put_object("p/db/a//b", Bytes::from_static(b"x"));
    let error = store.list(&Prefix::ROOT, None).try_next().await.unwrap_err();
    assert!(error.to_string().contains("p/db/a//b"), "{error}");
}

#[tokio::test]
async fn missing_credentials_are_named_as_the_cause() {
    let server = S3Server::start(Conditions::Honoured).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let environment = [("AWS_METADATA_ENDPOINT".to_owned(), format!("http://{unused}"))];
    let store = Store::open_with_environment(&server.url("").parse().unwrap(), environment).unwrap();
    let error = store.with_patience(Patience::COMMIT).get(&key("a")).await.unwrap_err();
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    assert!(server.take_log().is_empty());
}
