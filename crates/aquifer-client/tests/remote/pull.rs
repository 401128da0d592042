//! Pages.

use aquifer_client::remote::{Pull, PullQuery, RemoteError};
use aquifer_format::{PageSize, Pgno};
use aquifer_protocol::pull_updates::{PageData, PageEncoding, PullHeader, PullRequest, RawEncoding};
use bytes::Bytes;
use prost::Message;
use roaring::RoaringBitmap;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::scripted::{Scripted, answer};
use crate::stage::{Setup, Stage, everything, remote, rest, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)";
const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) \
                    INSERT INTO t SELECT i, randomblob(3000) FROM n";
const DIGEST: &str =
    "SELECT count(*) || ' ' || coalesce(sum(length(v)), 0) || ' ' || coalesce(hex(max(v)), '') FROM t";

/// A database file made of pulled pages.
#[derive(Default)]
struct Image {
    revision: String,
    pages: Vec<Option<Bytes>>,
}

impl Image {
    fn begin(&mut self, pull: &Pull) {
        if pull.replace_base {
            self.pages.clear();
        }
        self.pages.resize(pull.pages as usize, None);
        self.revision.clone_from(&pull.revision);
    }

    /// Takes an answer; how many pages came.
    async fn take(&mut self, mut pull: Pull) -> usize {
        self.begin(&pull);
        let pages = rest(&mut pull).await.unwrap();
        let count = pages.len();
        for (pgno, page) in pages {
            self.pages[pgno.index()] = Some(page);
        }
        count
    }

    fn digest(&self) -> String {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("image.db");
        let bytes: Vec<u8> =
            self.pages.iter().flat_map(|page| page.clone().expect("all pages are there")).collect();
        std::fs::write(&path, bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        let ask = |sql| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(ask("PRAGMA integrity_check"), "ok");
        ask(DIGEST)
    }
}

async fn served_digest(remote: &aquifer_client::remote::Remote) -> String {
    match run(remote, DIGEST).await {
        Some(aquifer_sqlite::btree::Value::Text(text)) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pulls_has_what_the_server_has_and_gets_only_what_changed() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, TABLE).await;
    run(&remote, ROWS).await;
    let mut image = Image::default();
    let pull = remote.pull(&everything()).await.unwrap();
    assert!(!pull.replace_base);
    let all = image.take(pull).await;
    assert_eq!(all, image.pages.len());
    assert_eq!(image.digest(), served_digest(&remote).await);

    run(&remote, "UPDATE t SET v = randomblob(2999) WHERE k = 7").await;
    let since = |image: &Image| PullQuery { client_revision: Some(image.revision.clone()), ..everything() };
    let few = image.take(remote.pull(&since(&image)).await.unwrap()).await;
    assert!((1..=5).contains(&few), "{few}");
    assert_eq!(image.digest(), served_digest(&remote).await);

    let before = image.revision.clone();
    assert_eq!(image.take(remote.pull(&since(&image)).await.unwrap()).await, 0);
    assert_eq!(image.revision, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_an_older_revision_are_those_that_were_asked_for() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, TABLE).await;
    run(&remote, ROWS).await;
    let first = PullQuery { pages: Some((1..=100).collect()), ..everything() };
    let mut image = Image::default();
    assert_eq!(image.take(remote.pull(&first).await.unwrap()).await, 100);
    let expected = served_digest(&remote).await;
    run(&remote, "UPDATE t SET v = zeroblob(3000)").await;

    let pages = image.pages.len() as u32;
    let missing: RoaringBitmap = (101..=pages + 50).collect();
    let query =
        PullQuery { server_revision: Some(image.revision.clone()), pages: Some(missing), ..everything() };
    assert_eq!(image.take(remote.pull(&query).await.unwrap()).await, pages as usize - 100);
    assert_eq!(image.digest(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_history_is_told_to_replace_what_it_has() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, TABLE).await;
    let query = PullQuery { client_revision: Some("161".into()), ..everything() };
    let mut pull = remote.pull(&query).await.unwrap();
    assert!(pull.replace_base);
    assert_eq!(rest(&mut pull).await.unwrap().len(), pull.pages as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_ends_with_the_next_change() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, TABLE).await;
    let revision = remote.pull(&everything()).await.unwrap().revision;
    let (begun, waits) = oneshot::channel();
    let polling = {
        let remote = remote.clone();
        let revision = revision.clone();
        tokio::spawn(async move {
            let query = PullQuery {
                client_revision: Some(revision),
                long_poll: Some(std::time::Duration::from_mins(4)),
                ..everything()
            };
            begun.send(()).unwrap();
            remote.pull(&query).await.unwrap()
        })
    };
    waits.await.unwrap();
    run(&remote, "INSERT INTO t VALUES(1, 'news')").await;
    let mut pull = polling.await.unwrap();
    assert_ne!(pull.revision, revision);
    assert!(!rest(&mut pull).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_come_compressed_and_what_came_is_counted() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, TABLE).await;
    run(&remote, &ROWS.replace("randomblob", "zeroblob")).await;
    let before = remote.traffic().received();
    let mut image = Image::default();
    let pages = image.take(remote.pull(&everything()).await.unwrap()).await;
    let received = remote.traffic().received() - before;
    assert!(received > 0 && received < pages as u64 * 4096 / 10, "{received} bytes, {pages} pages");
    assert_eq!(image.digest(), served_digest(&remote).await);
    assert!(remote.traffic().sent() > 0 && remote.traffic().requests() >= 3);
}

/// A page 1 of this size.
fn first_page(size: PageSize) -> Vec<u8> {
    let mut page = vec![0; size.bytes()];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&((size.get() % 65_535) as u16).to_be_bytes());
    page
}

fn raw_body(revision: &str, pages: &[Vec<u8>]) -> Vec<u8> {
    let header = PullHeader {
        server_revision: revision.into(),
        db_size: pages.len() as u64,
        raw_encoding: Some(RawEncoding {}),
        ..PullHeader::default()
    };
    let mut body = header.encode_length_delimited_to_vec();
    for (id, page) in pages.iter().enumerate() {
        let page = PageData { page_id: id as u64, encoded_page: page.clone().into() };
        page.encode_length_delimited(&mut body).unwrap();
    }
    body
}

#[tokio::test]
async fn a_server_that_answers_raw_where_zstd_was_asked_for_is_understood_at_any_page_size() {
    for size in [512, 4096, 65_536].map(|size| PageSize::new(size).unwrap()) {
        let pages = [first_page(size), vec![7; size.bytes()]];
        let body = raw_body("161", &pages);
        let server = Scripted::start(move |_, _| answer("200 OK", &[], &body)).await;
        let mut pull = remote(server.address).pull(&everything()).await.unwrap();
        assert_eq!((pull.revision.as_str(), pull.pages, pull.page_size()), ("161", 2, None));
        let received = rest(&mut pull).await.unwrap();
        assert_eq!(pull.page_size(), Some(size));
        let expected: Vec<_> = Pgno::up_to(2).zip(pages.map(Bytes::from)).collect();
        assert_eq!(received, expected);
    }
}

/// As `tursodb --sync-server` 0.6.0 does.
#[tokio::test]
async fn a_server_that_refuses_zstd_is_asked_for_raw_pages_and_once_only() {
    let body = raw_body("161", &[first_page(PageSize::DEFAULT)]);
    let script = move |_: &str, asked: &[u8]| {
        if PullRequest::decode(asked).unwrap().encoding() == PageEncoding::Raw {
            return answer("200 OK", &[], &body);
        }
        let refusal = b"Internal Server Error: Zstd encoding is not supported";
        answer("500 Internal Server Error", &["content-type: text/plain"], refusal)
    };
    let server = Scripted::start(script).await;
    let remote = remote(server.address);
    for requests in [2, 3] {
        let mut pull = remote.pull(&everything()).await.unwrap();
        assert_eq!(rest(&mut pull).await.unwrap().len(), 1);
        assert_eq!(server.heads().len(), requests);
    }
}

#[tokio::test]
async fn an_answer_whose_end_nobody_can_tell_is_refused() {
    let body = raw_body("1", &[first_page(PageSize::DEFAULT)]);
    let until_closed = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &body].concat();
    let server = Scripted::start(move |_, _| until_closed.clone()).await;
    let error = remote(server.address).pull(&everything()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, RemoteError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn a_page_for_browsers_is_no_answer_and_the_message_says_what_it_was() {
    let server =
        Scripted::start(|_, _| answer("200 OK", &["content-type: text/html"], b"<html>Please log in</html>"))
            .await;
    let error = remote(server.address).pull(&everything()).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("text/html") && error.contains("login"), "{error}");
}
