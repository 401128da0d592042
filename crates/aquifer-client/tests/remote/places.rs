//! Redirects, proxies, tokens, certificates: whom a request reaches, and with what.

use std::net::SocketAddr;

use aquifer_client::remote::{Batch, Proxy, Remote, RemoteError, RemoteOptions};
use aquifer_server::http::Tls;
use aquifer_sqlite::btree::Value;
use rcgen::generate_simple_self_signed;
use tokio::net::TcpListener;

use crate::scripted::{Scripted, answer};
use crate::stage::{Setup, Stage, everything, options, remote, remote_with, rest, run};

fn with_secrets() -> RemoteOptions {
    RemoteOptions {
        auth_token: Some("token-of-tests".into()),
        encryption_key: Some("a2V5".into()),
        ..options()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_the_server_that_has_the_database_is_followed_and_streams_stay_there() {
    let stage = Stage::new();
    let token = Some("token-of-tests");
    let a = stage.server("a", Setup { token, ..Setup::default() }).await;
    let b = stage.server("b", Setup { token, redirect: true, ..Setup::default() }).await;
    run(&remote_with(a.address, with_secrets()), "CREATE TABLE t(k)").await;
    let through_b = remote_with(b.address, with_secrets());
    run(&through_b, "INSERT INTO t VALUES(1)").await;
    let mut pull = through_b.pull(&everything()).await.unwrap();
    assert_eq!(rest(&mut pull).await.unwrap().len(), pull.pages as usize);

    let requests = through_b.traffic().requests();
    let mut stream = through_b.sql_stream();
    for sql in ["BEGIN IMMEDIATE", "INSERT INTO t VALUES(2)", "COMMIT"] {
        let mut batch = Batch::new();
        batch.step(None, sql, [], false).unwrap();
        let answer = stream.batch(&batch).await.unwrap();
        assert!(answer.steps[0].done().is_some(), "{answer:?}");
    }
    // Only the first was sent elsewhere.
    assert_eq!(through_b.traffic().requests() - requests, 4);
    assert_eq!(run(&through_b, "SELECT count(*) FROM t").await, Some(Value::Integer(2)));
}

#[tokio::test]
async fn three_redirects_are_followed_and_no_more() {
    let mut left = 3;
    let script = move |head: &str, _: &[u8]| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        if left > 0 {
            left -= 1;
            return answer("307 Temporary Redirect", &[&format!("location: {path}")], b"");
        }
        answer("418 I'm a teapot", &[], b"arrived")
    };
    let server = Scripted::start(script).await;
    let error = remote(server.address).execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(&error, RemoteError::Refused { status: 418, .. }), "{error}");

    let server =
        Scripted::start(|_, _| answer("308 Permanent Redirect", &["location: /db/shop/v2/pipeline"], b""))
            .await;
    let error = remote(server.address).execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(&error, RemoteError::Refused { status: 308, .. }), "{error}");
    assert_eq!(server.heads().len(), 4);
    assert!(!error.may_have_happened());
}

#[tokio::test]
async fn a_redirect_that_would_change_the_request_or_leave_http_is_not_followed() {
    for lines in [
        ("302 Found", "location: http://127.0.0.1:1/login"),
        ("307 Temporary Redirect", "location: file:///etc/passwd"),
        ("307 Temporary Redirect", "x: y"),
    ] {
        let server = Scripted::start(move |_, _| answer(lines.0, &[lines.1], b"")).await;
        let error = remote(server.address).execute("SELECT 1", &[]).await.unwrap_err();
        assert!(matches!(&error, RemoteError::Refused { .. }), "{error}");
        assert_eq!(server.heads().len(), 1);
    }
}

#[tokio::test]
async fn every_request_says_who_asks_and_with_what_right() {
    let server =
        Scripted::start(|_, _| answer("404 Not Found", &[], b"{\"error\":\"no database 'shop'\"}")).await;
    let remote = remote_with(server.address, with_secrets());
    let error = remote.pull(&everything()).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, RemoteError::NotFound { message, .. } if message == "no database 'shop'"),
        "{error}"
    );
    remote.execute("SELECT 1", &[]).await.unwrap_err();
    for (head, begin) in server
        .heads()
        .iter()
        .zip(["post /db/shop/pull-updates http/1.1", "post /db/shop/v2/pipeline http/1.1"])
    {
        assert!(head.starts_with(begin), "{head}");
        for line in [
            "authorization: bearer token-of-tests\r\n",
            "x-turso-encryption-key: a2v5\r\n",
            concat!("user-agent: aquifer/", env!("CARGO_PKG_VERSION"), "\r\n"),
        ] {
            assert!(head.contains(line), "{head}");
        }
    }
    assert!(!format!("{:?} {remote:?}", with_secrets()).contains("token-of-tests"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_told_from_a_missing_right() {
    let stage = Stage::new();
    let server = stage.server("a", Setup { token: Some("token-of-tests"), ..Setup::default() }).await;
    let wrong = RemoteOptions { auth_token: Some("another-token".into()), ..options() };
    for options in [options(), wrong] {
        let error = remote_with(server.address, options).execute("SELECT 1", &[]).await.unwrap_err();
        assert!(matches!(error, RemoteError::Unauthorized { .. }), "{error}");
        assert!(!error.is_offline() && !error.may_have_happened());
    }
    let broken = RemoteOptions { auth_token: Some("two\nlines".into()), ..options() };
    let error = Remote::new("http://example.com", broken).unwrap_err().to_string();
    assert!(error.contains("the token") && !error.contains("two"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_is_named_gets_the_request_and_its_own_password() {
    let proxy = Scripted::start(|_, _| answer("403 Forbidden", &[], b"not from here")).await;
    let options = RemoteOptions {
        proxy: Proxy::Url(format!("http://me:secret@{}", proxy.address).as_str().into()),
        ..options()
    };
    let remote = Remote::new("http://nowhere.invalid/db/shop", options.clone()).unwrap();
    let error = remote.execute("SELECT 1", &[]).await.unwrap_err();
    assert!(
        matches!(&error, RemoteError::Forbidden { message, .. } if message == "not from here"),
        "{error}"
    );
    let head = &proxy.heads()[0];
    assert!(head.starts_with("post http://nowhere.invalid/db/shop/v2/pipeline http/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: basic bwu6c2vjcmv0\r\n"), "{head}");
    assert!(!format!("{options:?}").contains("secret"));
}

/// Where this test, run in a process of its own, finds the server.
const SERVER: &str = "AQUIFER_TEST_SERVER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_the_environment_are_asked_unless_there_is_to_be_none() {
    if let Ok(server) = std::env::var(SERVER) {
        let through = |proxy| {
            Remote::new(&format!("http://{server}/db/shop"), RemoteOptions { proxy, ..options() }).unwrap()
        };
        assert!(run(&through(Proxy::None), "SELECT 1").await.is_some());
        let error = through(Proxy::Environment).execute("SELECT 1", &[]).await.unwrap_err();
        assert!(matches!(error, RemoteError::Forbidden { .. }), "{error}");
        return;
    }
    let proxy = Scripted::start(|_, _| answer("403 Forbidden", &[], b"not from here")).await;
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    // A process has one environment.
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "places::proxies_of_the_environment_are_asked_unless_there_is_to_be_none"])
        .env(SERVER, server.address.to_string())
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    for name in ["http_proxy", "HTTP_PROXY"] {
        child.env(name, format!("http://{}", proxy.address));
    }
    let ran = child.output().await.unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(proxy.heads().len(), 1);
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn nobody_there_is_offline_and_nothing_was_sent() {
    let gone = remote(closed_port().await);
    let nowhere = Remote::new("http://nowhere.invalid/db/shop", options()).unwrap();
    let proxy = Proxy::Url(format!("http://{}", closed_port().await).as_str().into());
    let behind = Remote::new("http://nowhere.invalid", RemoteOptions { proxy, ..options() }).unwrap();
    for remote in [gone, nowhere, behind] {
        for error in [
            remote.execute("SELECT 1", &[]).await.unwrap_err(),
            remote.pull(&everything()).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(error.is_offline() && !error.may_have_happened(), "{error}");
            assert!(error.to_string().contains(remote.url()), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_no_server_and_one_that_is_named_is() {
    let stage = Stage::new();
    let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (stage.dir.path().join("cert.pem"), stage.dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = Some(Tls::open(&certificate, &key).unwrap());
    let server = stage.server("a", Setup { tls, ..Setup::default() }).await;
    let url = format!("libsql://localhost:{}/db/shop", server.address.port());

    let error = Remote::new(&url, options()).unwrap().execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(error, RemoteError::Untrusted { .. }), "{error:?}");
    assert!(!error.is_offline() && !error.may_have_happened());

    let plain = stage.server("b", Setup::default()).await;
    let wrong = Remote::new(&format!("https://{}/db/shop", plain.address), options()).unwrap();
    let error = wrong.execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(error, RemoteError::Untrusted { .. }), "{error:?}");

    let trusting = RemoteOptions { certificates: vec![made.cert.pem().into_bytes()], ..options() };
    assert_eq!(run(&Remote::new(&url, trusting).unwrap(), "SELECT 1").await, Some(Value::Integer(1)));
}
