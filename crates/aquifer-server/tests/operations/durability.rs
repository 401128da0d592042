use std::time::Duration;

use aquifer_format::{Revision, Txid};
use aquifer_log::{DatabaseStore, Target};
use aquifer_server::hosted::Durability;
use aquifer_server::http::Options;
use serde_json::json;

use crate::stage::{Server, Setup, Stage, eventually};

impl Server {
    /// What a statement's answer says about up to where it has seen the database.
    async fn revision(&self, base: &str, sql: &str) -> Revision {
        let answer = self.execute(base, &[], sql).await;
        answer.header("aquifer-revision").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
    }

    async fn count(&self, head: &[&str]) -> (u16, String) {
        let answer = self.execute("/db/shop", head, "SELECT printf('%d', count(*)) FROM t").await;
        let rows = serde_json::from_str(&answer.body).unwrap_or(json!(null));
        let value = &rows["results"][0]["response"]["result"]["rows"][0][0]["value"];
        (answer.status, value.as_str().unwrap_or(&answer.body).to_owned())
    }
}

fn local() -> Setup {
    Setup { durability: Durability::Local, ..Setup::default() }
}

#[tokio::test]
async fn a_server_that_is_behind_reads_what_another_one_wrote_when_asked_to_wait_for_it() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    assert_eq!(b.count(&[]).await, (200, "0".into()));
    let written = a.revision("/db/shop", "INSERT INTO t VALUES (1)").await;
    assert_eq!(b.count(&[&format!("aquifer-wait: {written}")]).await, (200, "1".into()));
    let written = a.revision("/db/shop", "INSERT INTO t VALUES (2)").await;
    let path = format!("/db/shop/v3?aquifer-wait={}", written.to_string().replace(':', "%3A"));
    assert_eq!(b.get(&path, &[]).await.status, 200);
    assert_eq!(b.count(&[]).await, (200, "2".into()));
    // Its own writes are there at once.
    assert_eq!(a.count(&[&format!("aquifer-wait: {written}")]).await, (200, "2".into()));
}

#[tokio::test]
async fn a_server_that_has_a_history_that_was_left_opens_the_one_that_it_is_asked_to_wait_for() {
    let stage = Stage::new();
    let a = stage.server("a", Setup::default()).await;
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let seen = a.revision("/db/shop", "INSERT INTO t VALUES (1)").await;
    let before = Target::Txid(seen.txid.previous());
    // It is not the one that has the database open.
    stage.hosts().restore_in_place(&"shop".parse().unwrap(), None, before).await.unwrap();
    let log = DatabaseStore::new(stage.store.clone(), "shop".parse().unwrap());
    let newest = log.latest_generation().await.unwrap().unwrap().id;
    let begun = Revision { generation: newest, txid: Txid::FIRST };
    assert_eq!(a.count(&[&format!("aquifer-wait: {begun}")]).await, (200, "0".into()));
}

#[tokio::test]
async fn a_revision_that_does_not_come_is_told_and_one_of_a_history_that_was_left_as_well() {
    let stage = Stage::new();
    let options = Options { wait: Duration::from_millis(100), ..Options::default() };
    let server = stage.server("a", Setup { options, ..Setup::default() }).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    let seen = server.revision("/db/shop", "SELECT 1").await;
    let later = Revision { txid: seen.txid.next(), ..seen };
    let (status, told) = server.count(&[&format!("aquifer-wait: {later}")]).await;
    assert_eq!(status, 504);
    assert!(told.contains(&seen.to_string()) && told.contains(&later.to_string()), "{told}");
    assert_eq!(server.count(&["aquifer-wait: soon"]).await.0, 400);
    let body = json!({"txid": seen.txid}).to_string();
    let restored = server.send("POST", "/admin/v1/databases/shop/restore", &[], &body).await;
    assert_eq!(restored.status, 200, "{restored:?}");
    assert_eq!(server.count(&[&format!("aquifer-wait: {seen}")]).await.0, 409);
}

#[tokio::test]
async fn what_is_durable_locally_is_acknowledged_without_the_store_and_shipped_after_a_restart() {
    let stage = Stage::new();
    let server = stage.server("a", local()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    assert_eq!(server.values("/db/shop", "PRAGMA synchronous").await, ["2"]);
    stage.faults.set_offline(true);
    server.values("/db/shop", "INSERT INTO t VALUES (1)").await;
    assert_eq!(server.count(&[]).await, (200, "1".into()));
    server.vanish().await;
    stage.faults.set_offline(false);
    let again = stage.server("a", local()).await;
    assert_eq!(again.count(&[]).await, (200, "1".into()));
    again.service.shutdown().await.unwrap();
    let other = stage.server("b", Setup::default()).await;
    assert_eq!(other.count(&[]).await, (200, "1".into()));
    assert_eq!(
        other.values("/db/shop", "PRAGMA synchronous").await,
        ["1"],
        "the store is what must not lose it"
    );
}

#[tokio::test]
async fn what_was_acknowledged_locally_and_not_shipped_before_a_takeover_is_kept_aside() {
    let stage = Stage::new();
    let before = stage.server("a", Setup::default()).await;
    before.values("/db/shop", "CREATE TABLE t(k)").await;
    before.values("/db/shop", "INSERT INTO t VALUES ('before')").await;
    before.service.shutdown().await.unwrap();
    before.vanish().await;
    let a = stage.server("a", Setup { lease: Duration::from_millis(300), ..local() }).await;
    assert_eq!(a.values("/db/shop", "SELECT k FROM t").await, ["before"]);
    stage.faults.set_offline(true);
    a.values("/db/shop", "INSERT INTO t VALUES ('here only')").await;
    a.vanish().await;
    stage.faults.set_offline(false);
    let b = stage.server("b", Setup::default()).await;
    eventually("another server takes over", async || {
        b.execute("/db/shop", &[], "INSERT INTO t VALUES ('there')").await.status == 200
    })
    .await;
    b.service.shutdown().await.unwrap();
    let a = stage.server("a", local()).await;
    assert_eq!(a.values("/db/shop", "SELECT k FROM t").await, ["before", "there"]);
    let is_aside =
        |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".aside-shop-");
    let found = std::fs::read_dir(stage.dir.path().join("a")).unwrap().filter_map(Result::ok);
    let kept: Vec<_> = found.filter(is_aside).map(|entry| entry.path().join("db.sqlite")).collect();
    let has_it = kept.iter().any(|path| {
        let db = rusqlite::Connection::open(path).unwrap();
        db.query_row("SELECT count(*) FROM t WHERE k = 'here only'", [], |row| row.get::<_, i64>(0)).unwrap()
            == 1
    });
    assert!(has_it, "{kept:?}");
}

#[tokio::test]
async fn a_host_below_the_base_domain_is_a_database() {
    let stage = Stage::new();
    let options = Options { base_domain: Some("example.com".to_owned()), ..Options::default() };
    let server = stage.server("a", Setup { options, ..Setup::default() }).await;
    let table = async |host: &str, path: &str| {
        let body =
            json!({"requests": [{"type": "execute", "stmt": {"sql": "SELECT name FROM sqlite_schema"}}]});
        let answer = server.send_to(host, "POST", path, &body.to_string()).await;
        let name = &answer.json()["results"][0]["response"]["result"]["rows"][0][0]["value"];
        name.as_str().map(str::to_owned)
    };
    server.values("/db/shop", "CREATE TABLE of_shop(k)").await;
    server.values("", "CREATE TABLE of_main(k)").await;
    assert_eq!(table("shop.example.com:8080", "/v2/pipeline").await.as_deref(), Some("of_shop"));
    assert_eq!(table("main.example.com", "/db/shop/v2/pipeline").await.as_deref(), Some("of_shop"));
    assert_eq!(table("localhost", "/v2/pipeline").await.as_deref(), Some("of_main"));
    assert_eq!(table("new.example.com", "/v2/pipeline").await, None);
}

#[tokio::test]
async fn a_cursor_tells_at_its_end_up_to_where_it_has_seen_the_database() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let steps = ["INSERT INTO t VALUES (1)", "SELECT k FROM t"].map(|sql| json!({"stmt": {"sql": sql}}));
    let body = json!({"batch": {"steps": steps}}).to_string();
    // The one that has the database, and one that passes on what that one answers.
    for server in [&a, &b] {
        let answer = server.send("POST", "/db/shop/v3/cursor", &["te: trailers"], &body).await;
        assert_eq!((answer.status, answer.header("trailer")), (200, Some("aquifer-revision")), "{answer:?}");
        let (_, end) = answer.body.rsplit_once("\r\n0\r\n").unwrap();
        let told = end.strip_prefix("aquifer-revision: ").unwrap().trim_end();
        assert_eq!(told, server.revision("/db/shop", "SELECT 1").await.to_string());
    }
    let unasked = a.send("POST", "/db/shop/v3/cursor", &[], &body).await;
    assert!(unasked.body.ends_with("\r\n0\r\n\r\n"), "{unasked:?}");
}
