use std::time::Duration;

use aquifer_format::Txid;
use aquifer_log::{ControlRecord, DatabaseStore, Target, purge_deleted};
use aquifer_server::http::Options;
use futures::TryStreamExt;
use serde_json::{Value, json};

use crate::stage::{Answer, Server, Setup, Stage, eventually};

impl Server {
    async fn admin(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/admin/v1/databases{path}"), &[], &body).await
    }

    async fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.admin(method, path, body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.json()
    }

    /// The error of a statement, and its code.
    async fn failure(&self, base: &str, sql: &str) -> (String, String) {
        let answer = self.execute(base, &[], sql).await.json();
        let error = &answer["results"][0]["error"];
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        (text(&error["code"]), text(&error["message"]))
    }
}

#[tokio::test]
async fn the_admin_api_is_for_administrators() {
    let stage = Stage::new();
    let tokens = vec!["token-to-write rw", "token-to-administer admin"];
    let server = stage.server("a", Setup { tokens, ..Setup::default() }).await;
    for (head, status) in [
        (vec![], 401),
        (vec!["authorization: Bearer token-to-write"], 403),
        (vec!["authorization: Bearer token-to-administer"], 201),
    ] {
        let answer = server.send("PUT", "/admin/v1/databases/shop", &head, "").await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn databases_are_made_listed_by_the_page_and_described() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    assert_eq!(server.done("GET", "", &Value::Null).await, json!({"databases": [], "next": null}));
    for name in ["a", "b", "team%2Fc"] {
        server.done("PUT", &format!("/{name}"), &Value::Null).await;
    }
    assert_eq!(server.admin("PUT", "/a", &Value::Null).await.status, 409);
    let page = server.done("GET", "?limit=2", &Value::Null).await;
    assert_eq!((&page["databases"][1]["name"], &page["next"]), (&json!("b"), &json!("b")), "{page}");
    let page = server.done("GET", "?limit=2&after=b", &Value::Null).await;
    let last = json!([{"name": "team/c", "open": true, "deleted": false}]);
    assert_eq!((&page["databases"], &page["next"]), (&last, &Value::Null), "{page}");
    server
        .values(
            "/db/a",
            "CREATE TABLE turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen, change_id)",
        )
        .await;
    let upsert = "INSERT INTO turso_sync_last_change_id (client_id, pull_gen, change_id) VALUES (?, ?, ?)";
    let arguments = [
        json!({"type": "text", "value": "phone-1"}),
        json!({"type": "integer", "value": "2"}),
        json!({"type": "integer", "value": "7"}),
    ];
    let push = json!({"steps": [{"stmt": {"sql": upsert, "args": arguments}}]});
    let push = json!({"requests": [{"type": "batch", "batch": push}]}).to_string();
    assert_eq!(server.send("POST", "/db/a/v2/pipeline", &[], &push).await.status, 200);
    let stats = server.done("GET", "/a", &Value::Null).await;
    assert_eq!(stats["bytes"], json!(stats["pages"].as_u64().unwrap() * 4096), "{stats}");
    assert_eq!(stats["revision"], stats["open"]["durable"], "{stats}");
    let client = &stats["open"]["clients"][0];
    assert_eq!((&client["client_id"], &client["change_id"]), (&json!("phone-1"), &json!(7)), "{stats}");
    assert!(client["last_push"].is_string(), "{stats}");
    assert_eq!((&stats["open"]["pulls"], &stats["open"]["last_pull"]), (&json!(0), &Value::Null), "{stats}");
    assert_eq!(server.admin("GET", "/nothing", &Value::Null).await.status, 404);
    assert_eq!(server.admin("GET", "?limit=many", &Value::Null).await.status, 400);
}

#[tokio::test]
async fn a_frozen_database_is_read_and_not_written_by_any_server_until_it_is_unfrozen() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    stage.hosts().freeze(&"shop".parse().unwrap()).await.unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    // The server that has it open was not told, and learns it at its first commit, which nobody is told of.
    let refused = a.execute("/db/shop", &[], insert).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    for server in [&a, &b] {
        let (code, message) = server.failure("/db/shop", insert).await;
        assert_eq!(code, "SQLITE_READONLY");
        assert!(message.contains("frozen"), "{message}");
    }
    for server in [&a, &b] {
        assert_eq!(server.values("/db/shop", "SELECT printf('%d', count(*)) FROM t").await, ["0"]);
    }
    assert!(a.done("GET", "/shop", &Value::Null).await["frozen"].is_string());
    b.done("POST", "/shop/unfreeze", &Value::Null).await;
    eventually("it is written to again", async || {
        a.execute("/db/shop", &[], insert).await.json()["results"][0]["type"] == "ok"
    })
    .await;
    assert_eq!(b.values("/db/shop", "SELECT printf('%d', count(*)) FROM t").await, ["1"]);
}

#[tokio::test]
async fn a_deleted_database_can_be_had_back_and_is_gone_after_its_grace_time() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    stage.hosts().delete(&"shop".parse().unwrap(), Duration::from_hours(1)).await.unwrap();
    // The one that has it open must not go on with it.
    assert_eq!(a.execute("/db/shop", &[], "CREATE TABLE u(k)").await.status, 503);
    for server in [&a, &b] {
        let gone = server.execute("/db/shop", &[], "SELECT 1").await;
        assert_eq!(gone.status, 410, "{gone:?}");
        assert!(gone.body.contains("undelete"), "{gone:?}");
    }
    assert_eq!(a.admin("PUT", "/shop", &Value::Null).await.status, 410, "its name is not free");
    assert_eq!(a.done("GET", "", &Value::Null).await["databases"][0]["deleted"], true);
    assert!(purge_deleted(&stage.store).await.unwrap().is_empty());
    b.done("POST", "/shop/undelete", &Value::Null).await;
    assert_eq!(a.values("/db/shop", "SELECT name FROM sqlite_schema").await, ["t"]);
    assert_eq!(a.admin("POST", "/shop/undelete", &Value::Null).await.status, 409);

    let log = DatabaseStore::new(stage.store.clone(), "shop".parse().unwrap());
    a.done("DELETE", "/shop?grace_seconds=3600", &Value::Null).await;
    // An hour has passed.
    log.mark_deleted(Duration::ZERO).await.unwrap();
    assert_eq!(purge_deleted(&stage.store).await.unwrap(), ["shop".parse().unwrap()]);
    let left: Vec<_> = stage.store.list(log.layout().database(), None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(purge_deleted(&stage.store).await.unwrap().is_empty());
    assert_eq!(a.admin("GET", "/shop", &Value::Null).await.status, 404);
    a.done("PUT", "/shop", &Value::Null).await;
    assert!(a.values("/db/shop", "SELECT name FROM sqlite_schema").await.is_empty());
    a.done("DELETE", "/shop?grace_seconds=0", &Value::Null).await;
    assert_eq!(a.admin("GET", "/shop", &Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_database_is_set_back_on_every_server_and_can_be_set_forward_again() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let before = a.done("GET", "/shop", &Value::Null).await["revision"].clone();
    a.values("/db/shop", "INSERT INTO t VALUES ('too much')").await;
    let after = a.done("GET", "/shop", &Value::Null).await["revision"].clone();
    assert_eq!(b.values("/db/shop", "SELECT k FROM t").await, ["too much"]);
    let target = Target::Txid(Txid::new(before["txid"].as_u64().unwrap()));
    let done = stage.hosts().restore_in_place(&"shop".parse().unwrap(), None, target).await.unwrap();
    assert_eq!(json!(done), before);
    // What the server that has it open writes to the history that was left is not acknowledged.
    assert_eq!(a.execute("/db/shop", &[], "INSERT INTO t VALUES ('lost')").await.status, 503);
    assert!(a.values("/db/shop", "SELECT k FROM t").await.is_empty());
    a.values("/db/shop", "INSERT INTO t VALUES ('kept')").await;
    assert_eq!(b.values("/db/shop", "SELECT k FROM t").await, ["kept"]);
    let body = json!({"generation": after["generation"], "txid": after["txid"]});
    a.done("POST", "/shop/restore", &body).await;
    assert_eq!(a.values("/db/shop", "SELECT k FROM t").await, ["too much"]);
    let missing = a.admin("POST", "/shop/restore", &json!({"txid": 1000})).await;
    assert_eq!(missing.status, 404, "{missing:?}");
    assert_eq!(a.admin("POST", "/shop/restore", &json!({"when": "now"})).await.status, 400);
}

#[tokio::test]
async fn what_administrators_want_of_a_database_is_done_by_the_server_that_has_it() {
    let stage = Stage::new();
    let tokens = || vec!["token-to-administer admin", "token-to-write rw"];
    let setup = || Setup { tokens: tokens(), ..Setup::default() };
    let (a, b) = (stage.server("a", setup()).await, stage.server("b", setup()).await);
    let token = "authorization: Bearer token-to-administer";
    let sql = async |server: &Server, sql: &str| {
        let answer = server.execute("/db/shop", &["authorization: Bearer token-to-write"], sql).await;
        assert_eq!(answer.status, 200, "{sql}: {answer:?}");
        answer.json()["results"][0].clone()
    };
    let admin = async |method: &str, path: &str, body: &str| {
        let answer = b.send(method, &format!("/admin/v1/databases/shop{path}"), &[token], body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        answer.json()
    };
    sql(&a, "CREATE TABLE t(k)").await;
    sql(&a, "INSERT INTO t VALUES (1)").await;
    let stats = admin("GET", "", "").await;
    assert!(stats["open"]["durable"].is_object() || stats["open"]["durable"].is_string(), "{stats}");
    let before = stats["revision"]["txid"].clone();
    // Had it been done under its server, that one's next commit would be lost.
    admin("POST", "/freeze", "").await;
    assert_eq!(sql(&a, "INSERT INTO t VALUES (2)").await["error"]["code"], "SQLITE_READONLY");
    admin("POST", "/unfreeze", "").await;
    assert_eq!(sql(&a, "INSERT INTO t VALUES (3)").await["type"], "ok");
    admin("POST", "/restore", &json!({"txid": before}).to_string()).await;
    assert_eq!(sql(&a, "INSERT INTO t VALUES (4)").await["type"], "ok");
    let rows = sql(&b, "SELECT group_concat(k) FROM t").await;
    assert_eq!(rows["response"]["result"]["rows"][0][0]["value"], "1,4");
    admin("DELETE", "", "").await;
    assert_eq!(a.execute("/db/shop", &[token], "SELECT 1").await.status, 410);
    admin("POST", "/undelete", "").await;
    // Strangers learn nothing, and are passed on to nobody.
    for head in [&[][..], &["authorization: Bearer token-to-write"]] {
        let status = b.send("GET", "/admin/v1/databases/shop", head, "").await.status;
        assert!(matches!(status, 401 | 403), "{status}");
    }
}

#[tokio::test]
async fn administrators_are_sent_to_the_server_that_has_the_database_where_clients_are() {
    let stage = Stage::new();
    let options = Options { redirect: true, ..Options::default() };
    let a = stage.server("a", Setup::default()).await;
    let b = stage.server("b", Setup { options, ..Setup::default() }).await;
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let answer = b.admin("POST", "/shop/freeze", &Value::Null).await;
    let place = format!("http://{}/admin/v1/databases/shop/freeze", a.address);
    assert_eq!((answer.status, answer.header("location")), (307, Some(&place[..])));
    a.values("/db/shop", "INSERT INTO t VALUES (1)").await;
}

#[tokio::test]
async fn a_database_whose_setting_back_was_interrupted_is_served_by_nobody_until_it_is_done() {
    let stage = Stage::new();
    let before = stage.server("a", Setup::default()).await;
    before.values("/db/shop", "CREATE TABLE t(k)").await;
    before.service.shutdown().await.unwrap();
    let log = DatabaseStore::new(stage.store.clone(), "shop".parse().unwrap());
    let newest = log.latest_generation().await.unwrap().unwrap();
    let left = ControlRecord { left: Some(newest.id), ..ControlRecord::default() };
    log.set_control(&left).await.unwrap();
    let server = stage.server("b", Setup::default()).await;
    let refused = server.execute("/db/shop", &[], "INSERT INTO t VALUES (1)").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("set it back again"), "{refused:?}");
    server.done("POST", "/shop/restore", &json!({})).await;
    assert_eq!(server.values("/db/shop", "SELECT name FROM sqlite_schema").await, ["t"]);
}

#[tokio::test]
async fn a_fork_has_what_the_database_had_and_a_history_of_its_own() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    server.values("/db/shop", "INSERT INTO t VALUES ('old')").await;
    let then = server.done("GET", "/shop", &Value::Null).await["revision"].clone();
    server.values("/db/shop", "UPDATE t SET k = 'new'").await;
    let body = json!({"to": "test/shop", "txid": then["txid"]});
    server.done("POST", "/shop/fork", &body).await;
    assert_eq!(server.values("/db/test%2Fshop", "SELECT k FROM t").await, ["old"]);
    server.values("/db/test%2Fshop", "INSERT INTO t VALUES ('more')").await;
    assert_eq!(server.values("/db/shop", "SELECT k FROM t").await, ["new"]);
    assert_eq!(server.admin("POST", "/shop/fork", &body).await.status, 409);
    let stats = server.done("GET", "/test%2Fshop", &Value::Null).await;
    assert_eq!(stats["forked_from"], "shop", "{stats}");
    assert_eq!(server.done("GET", "/shop", &Value::Null).await["forks"], json!(["test/shop"]));
    let missing = json!({"to": "later", "txid": 1000});
    assert_eq!(server.admin("POST", "/shop/fork", &missing).await.status, 404);
    assert_eq!(server.admin("GET", "/later", &Value::Null).await.status, 404, "nothing is left of it");
}

#[tokio::test]
async fn forks_outlive_the_database_that_they_were_made_of() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    server.values("/db/shop", "INSERT INTO t VALUES ('old')").await;
    server.done("POST", "/shop/fork", &json!({"to": "b"})).await;
    server.values("/db/b", "INSERT INTO t VALUES ('b')").await;
    server.values("/db/shop", "INSERT INTO t VALUES ('shop')").await;
    server.done("POST", "/b/fork", &json!({"to": "c"})).await;
    server.service.shutdown().await.unwrap();
    // Opened by nobody until the others are gone.
    for (name, forks) in [("shop", json!(["b"])), ("b", json!(["c"]))] {
        // On an empty disk: what there is comes from the store.
        let other = stage.server(&format!("without {name}"), Setup::default()).await;
        let expected = if name == "shop" { "shop" } else { "b" };
        assert_eq!(other.values(&format!("/db/{name}"), "SELECT k FROM t").await, ["old", expected]);
        let told = other.done("DELETE", &format!("/{name}?grace_seconds=0"), &Value::Null).await;
        assert_eq!(told["forks"], forks);
        for (method, path) in [("POST", "undelete"), ("POST", "fork"), ("PUT", "")] {
            let path = format!("/{name}/{path}");
            let refused = other.admin(method, path.trim_end_matches('/'), &json!({"to": "d"})).await;
            assert_eq!(refused.status, 410, "{method} {path}: {refused:?}");
            assert!(refused.body.contains("forks need"), "{refused:?}");
        }
        let to_it = other.admin("POST", "/c/fork", &json!({"to": name})).await;
        assert_eq!(to_it.status, 410, "{to_it:?}");
    }
    let last = stage.server("last", Setup::default()).await;
    assert_eq!(last.values("/db/c", "SELECT k FROM t").await, ["old", "b"]);
    last.values("/db/c", "INSERT INTO t VALUES ('c')").await;
    last.service.shutdown().await.unwrap();
    let again = stage.server("again", Setup::default()).await;
    assert_eq!(again.values("/db/c", "SELECT k FROM t").await, ["old", "b", "c"]);
    again.done("DELETE", "/c?grace_seconds=0", &Value::Null).await;
    let purged = purge_deleted(&stage.store).await.unwrap();
    assert_eq!(purged, ["b", "shop"].map(|name| name.parse().unwrap()), "nobody needs them any more");
    for name in ["shop", "b", "c"] {
        again.done("PUT", &format!("/{name}"), &Value::Null).await;
    }
}

#[tokio::test]
async fn a_snapshot_is_made_once() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    assert_eq!(server.done("POST", "/shop/snapshot", &Value::Null).await["created"], true);
    assert_eq!(server.done("POST", "/shop/snapshot", &Value::Null).await["created"], false);
}

#[tokio::test]
async fn a_file_that_is_sent_becomes_a_database_and_never_takes_the_place_of_one() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let file = |name: &str, page_size: u32| {
        let path = stage.dir.path().join(name);
        let db = rusqlite::Connection::open(&path).unwrap();
        let setup =
            format!("PRAGMA page_size={page_size}; CREATE TABLE t(k); INSERT INTO t VALUES ('imported')");
        db.execute_batch(&setup).unwrap();
        drop(db);
        std::fs::read(path).unwrap()
    };
    let send = async |name: &str, file: &[u8]| {
        server.send_bytes("PUT", &format!("/admin/v1/databases/{name}"), file).await
    };
    let good = file("good.db", 4096);
    let answer = send("shop/import", &good).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(server.values("/db/shop", "SELECT k FROM t").await, ["imported"]);
    server.values("/db/shop", "UPDATE t SET k = 'changed'").await;
    assert_eq!(send("shop/import", &good).await.status, 409);
    assert_eq!(server.values("/db/shop", "SELECT k FROM t").await, ["changed"]);

    let small = file("small.db", 512);
    let answer = send("small/import", &small).await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("4096") && answer.body.contains("VACUUM"), "{answer:?}");
    assert_eq!(send("small/import?any_page_size=true", &small).await.status, 201);
    let mut damaged = good.clone();
    damaged[4096..].fill(0xaa);
    for (bad, told) in [
        (&b"hello"[..], "5 bytes"),
        (&[0; 5000], "begin"),
        (&damaged, "damaged"),
        (&good[..good.len() - 4096], "damaged"),
    ] {
        let answer = send("bad/import", bad).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(answer.body.contains(told), "{answer:?}");
    }
    assert_eq!(server.admin("GET", "/bad", &Value::Null).await.status, 404);
    let incoming = std::fs::read_dir(stage.dir.path().join("a")).unwrap();
    let left =
        incoming.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".incoming"));
    assert_eq!(left.count(), 0, "what is done is removed");
}

#[tokio::test]
async fn every_route_is_in_the_openapi_document_and_every_route_there_exists() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let document = server.get("/openapi.json", &[]).await.json();
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let answer = server.send(&method.to_uppercase(), &path.replace("{name}", "none"), &[], "").await;
            // Without a body, and about no database: but known.
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(
                !answer.body.contains(&format!("no {} ", method.to_uppercase())),
                "{method} {path}: {answer:?}"
            );
        }
        // What others than these would be is not there.
        let answer = server.send("PATCH", &path.replace("{name}", "none"), &[], "").await;
        assert_eq!(answer.status, 405, "{path}");
    }
    let source =
        [include_str!("../../src/http/admin/mod.rs"), include_str!("../../src/http/mod.rs")].concat();
    let routes = source.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1));
    let missing: Vec<&str> = routes
        .filter(|path| path.starts_with('/') && !paths.contains_key(*path) && *path != "/healthz")
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // And each of its references leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}
