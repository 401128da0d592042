use std::time::Duration;

use aquifer_server::hrana::Settings;
use aquifer_server::sql::Observer;

use crate::stage::{Setup, Stage};

#[tokio::test]
async fn every_answer_has_an_id_and_it_is_the_clients_if_it_sent_one() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let answer = server.execute("", &["x-request-id: from-the-proxy-7"], "SELECT 1").await;
    assert_eq!(answer.header("x-request-id"), Some("from-the-proxy-7"), "{answer:?}");
    for path in ["/health", "/nowhere", "/db/%00/v2"] {
        let answer = server.get(path, &[]).await;
        assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "{answer:?}");
    }
}

#[tokio::test]
async fn metrics_tell_of_requests_rows_and_databases() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    server.values("/db/shop", "INSERT INTO t VALUES(1),(2),(3)").await;
    server.values("/db/shop", "SELECT printf('%d', k) FROM t").await;
    server.execute("/db/shop", &[], "SELECT nonsense").await;
    server.get("/nowhere", &[]).await;
    for (line, value) in [
        ("aquifer_http_requests_total{route=\"pipeline\",status=\"200\"}", 4.0),
        ("aquifer_http_requests_total{route=\"none\",status=\"404\"}", 1.0),
        ("aquifer_http_request_seconds_count{route=\"pipeline\"}", 4.0),
        ("aquifer_sql_statements_total", 4.0),
        ("aquifer_sql_failed_total", 1.0),
        ("aquifer_sql_rows_total{kind=\"written\"}", 3.0),
        ("aquifer_open_databases", 1.0),
        ("aquifer_lag_txids{database=\"shop\"}", 0.0),
    ] {
        let found = server.metric(line).await;
        assert!((found - value).abs() < f64::EPSILON, "{line}: {found}");
    }
    assert!(server.metric("aquifer_durable_txid{database=\"shop\"}").await >= 2.0);
    assert!(server.metric("aquifer_store_requests_total{kind=\"create\"}").await > 0.0);
    assert!(server.metric("aquifer_http_request_seconds_bucket{route=\"pipeline\",le=\"+Inf\"}").await > 3.0);
}

#[tokio::test]
async fn metrics_are_for_administrators() {
    let stage = Stage::new();
    let tokens = vec!["token-to-write rw", "token-to-administer admin"];
    let server = stage.server("a", Setup { tokens, ..Setup::default() }).await;
    assert_eq!(server.get("/metrics", &[]).await.status, 401);
    let refused = server.get("/metrics", &["authorization: Bearer token-to-write"]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("administrator"), "{refused:?}");
    let page = server.get("/metrics", &["authorization: Bearer token-to-administer"]).await;
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("aquifer_http_requests_total{route=\"metrics\",status=\"403\"} 1"),
        "{page:?}"
    );
}

#[tokio::test]
async fn statements_that_take_longer_than_told_are_counted_as_slow() {
    let stage = Stage::new();
    for (slow, expected) in [(Some(Duration::ZERO), 1.0), (None, 0.0), (Some(Duration::from_hours(1)), 0.0)] {
        let settings = Settings { observer: Observer { slow, ..Observer::default() }, ..Settings::default() };
        let server = stage.server(&format!("{slow:?}"), Setup { settings, ..Setup::default() }).await;
        server.values("", "SELECT 'x'").await;
        let found = server.metric("aquifer_sql_slow_total").await;
        assert!((found - expected).abs() < f64::EPSILON, "{slow:?}: {found}");
        server.service.shutdown().await.unwrap();
    }
}
