use std::time::Duration;

use aquifer_protocol::pull_updates::{ApplyMode, PageData, PullHeader, PullRequest};
use bytes::Buf;
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Server, Setup, Stage};

impl Server {
    /// What a pull is answered, and how many pages come with it.
    async fn pull(&self, request: PullRequest) -> (PullHeader, usize) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let body = request.encode_to_vec();
        let head = format!(
            "POST /db/shop/pull-updates HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let mut body = &answer[end + 4..];
        let header = PullHeader::decode_length_delimited(&mut body).unwrap();
        let mut pages = 0;
        while body.has_remaining() {
            PageData::decode_length_delimited(&mut body).unwrap();
            pages += 1;
        }
        (header, pages)
    }

    /// A pull that waits for something newer than what there is.
    async fn waiting_pull(&self) -> (PullHeader, usize) {
        let (header, _) = self.pull(PullRequest::default()).await;
        let request = PullRequest {
            client_revision: header.server_revision,
            long_poll_timeout_ms: 240_000,
            ..PullRequest::default()
        };
        self.pull(request).await
    }
}

/// Long enough for what does not wait to be done, most of the time.
const A_MOMENT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn those_who_wait_for_changes_are_answered_when_the_server_ends() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    let mut waiting = std::pin::pin!(server.waiting_pull());
    let early = tokio::time::timeout(A_MOMENT, &mut waiting).await;
    assert!(early.is_err(), "there is nothing new: {early:?}");
    server.service.end_waits();
    let (_, pages) = waiting.await;
    assert_eq!(pages, 0);
}

#[tokio::test]
async fn those_who_wait_for_changes_get_the_whole_of_a_database_that_is_set_back() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    let mut waiting = std::pin::pin!(server.waiting_pull());
    let early = tokio::time::timeout(A_MOMENT, &mut waiting).await;
    assert!(early.is_err(), "there is nothing new: {early:?}");
    let body = json!({"txid": 1}).to_string();
    let restored = server.send("POST", "/admin/v1/databases/shop/restore", &[], &body).await;
    assert_eq!(restored.status, 200, "{restored:?}");
    let (header, pages) = waiting.await;
    assert_eq!((header.apply_mode(), pages), (ApplyMode::ReplaceBase, header.db_size as usize));
    let stats = server.get("/admin/v1/databases/shop", &[]).await.json();
    assert_eq!(stats["open"]["pulls"], 1, "since it was set back: {stats}");
    assert!(stats["open"]["last_pull"].is_string(), "{stats}");
}

#[tokio::test]
async fn administrators_see_who_has_pulled_and_what() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    a.pull(PullRequest::default()).await;
    a.values("/db/shop", "INSERT INTO t VALUES (1)").await;
    b.pull(PullRequest::default()).await;
    let stats = a.get("/admin/v1/databases/shop", &[]).await.json();
    let told = stats["open"]["pullers"].as_array().unwrap();
    assert_eq!(told.len(), 1, "{stats}");
    assert_eq!((&told[0]["address"], &told[0]["subject"]), (&json!("127.0.0.1"), &json!(null)), "{stats}");
    assert_eq!((&told[0]["pulls"], &told[0]["revision"]), (&json!(2), &stats["revision"]), "{stats}");
    assert!(told[0]["last_pull"].is_string(), "{stats}");
    // libSQL's clients pull, too.
    let generation = a.get("/db/shop/info", &[]).await.json()["current_generation"].clone();
    assert_eq!(a.get(&format!("/db/shop/sync/{generation}/1000/1001"), &[]).await.status, 400);
    let stats = b.get("/admin/v1/databases/shop", &[]).await.json();
    assert_eq!(stats["open"]["pullers"][0]["pulls"], 3, "{stats}");
}
