//! Clients that pull pages of a hosted database, while others write to it through SQL.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aquifer_log::{Store, StoreUrl};
use aquifer_protocol::pull_updates::{ApplyMode, PageData, PullHeader, PullRequest};
use aquifer_server::hosted::{HostOptions, Hosted, Hosts};
use aquifer_server::turso::pull::{Pull, PullError};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use prost::Message;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::stage::{Stage, TABLE, open, write};

/// What `sql` gives on the server.
fn ask(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

const DIGEST: &str =
    "SELECT count(*) || ' ' || coalesce(sum(length(v)), 0) || ' ' || coalesce(group_concat(k), '') FROM t";

/// A database file made of pulled pages.
#[derive(Default, Clone)]
struct Client {
    revision: String,
    pages: Vec<Option<Vec<u8>>>,
}

impl Client {
    async fn request(
        hosted: &Hosted,
        request: &PullRequest,
    ) -> Result<(PullHeader, Vec<PageData>), PullError> {
        let pull = Pull::parse(request.encode_to_vec().into())?;
        pull.wait(hosted.pages().as_ref(), Duration::from_mins(1)).await;
        let answer = pull.answer(Arc::clone(hosted.pages())).await?;
        let mut stream = pin!(answer.into_stream());
        let mut body = Vec::new();
        while let Some(part) = stream.next().await {
            body.extend(part?);
        }
        let mut body = Bytes::from(body);
        let header = PullHeader::decode_length_delimited(&mut body).unwrap();
        let mut pages = Vec::new();
        while body.has_remaining() {
            pages.push(PageData::decode_length_delimited(&mut body).unwrap());
        }
        Ok((header, pages))
    }

    /// Pulls the latest; how many pages came.
    async fn pull(&mut self, hosted: &Hosted) -> usize {
        let request = PullRequest { client_revision: self.revision.clone(), ..PullRequest::default() };
        let (header, pages) = Client::request(hosted, &request).await.unwrap();
        self.apply(&header, pages)
    }

    fn apply(&mut self, header: &PullHeader, pages: Vec<PageData>) -> usize {
        if header.apply_mode() == ApplyMode::ReplaceBase {
            self.pages.clear();
        }
        let count = pages.len();
        if header.server_revision != self.revision {
            self.pages.resize(header.db_size as usize, None);
        }
        for page in pages {
            self.pages[page.page_id as usize] = Some(page.encoded_page.to_vec());
        }
        self.revision.clone_from(&header.server_revision);
        count
    }

    fn file(&self) -> (TempDir, Connection) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("client.db");
        let bytes: Vec<u8> =
            self.pages.iter().flat_map(|page| page.clone().expect("all pages are there")).collect();
        std::fs::write(&path, bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        assert_eq!(ask(&connection, "PRAGMA integrity_check"), "ok");
        (dir, connection)
    }

    fn digest(&self) -> String {
        ask(&self.file().1, DIGEST)
    }
}

const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) \
                    INSERT INTO t SELECT i, randomblob(3000) FROM n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pulls_has_what_the_server_has_and_gets_only_what_changed() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE, ROWS]).await;
    let mut client = Client::default();
    let all = client.pull(&hosted).await;
    let server = hosted.connect(true).unwrap();
    assert_eq!(client.digest(), ask(&server, DIGEST));
    assert_eq!(client.pull(&hosted).await, 0, "there is nothing new");
    for round in 0..5 {
        write(&hosted, &format!("UPDATE t SET v = randomblob(3000) WHERE k = {}", 100 + round)).await;
        let pages = client.pull(&hosted).await;
        assert!((1..=4).contains(&pages), "{pages} of {all}");
        assert_eq!(client.digest(), ask(&server, DIGEST));
    }
    // It shrinks, and grows again.
    write(&hosted, "DELETE FROM t WHERE k > 20; VACUUM").await;
    hosted.durable().await.unwrap();
    client.pull(&hosted).await;
    assert_eq!(client.digest(), ask(&server, DIGEST));
    write(&hosted, "DELETE FROM t").await;
    write(&hosted, ROWS).await;
    client.pull(&hosted).await;
    assert_eq!(client.digest(), ask(&server, DIGEST));
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_from_before_the_server_was_started_gets_only_what_changed_since() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE, ROWS]).await;
    let mut client = Client::default();
    let all = client.pull(&hosted).await;
    for k in 0..30 {
        write(&hosted, &format!("UPDATE t SET v = randomblob(3000) WHERE k = {}", k % 3 + 1)).await;
    }
    hosts.shutdown().await.unwrap();

    // Another machine, with nothing on its disk.
    let hosts = stage.hosts("two");
    let hosted = open(&hosts).await;
    write(&hosted, "DELETE FROM t WHERE k = 200").await;
    let pages = client.pull(&hosted).await;
    assert!((1..40).contains(&pages), "{pages} of {all}");
    assert_eq!(client.digest(), ask(&hosted.connect(true).unwrap(), DIGEST));
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_revision_can_be_read_to_its_end_while_others_write() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE, ROWS]).await;
    let expected = ask(&hosted.connect(true).unwrap(), DIGEST);
    let selector = |ids: std::ops::Range<u32>| {
        let mut bytes = Vec::new();
        ids.collect::<roaring::RoaringBitmap>().serialize_into(&mut bytes).unwrap();
        Bytes::from(bytes)
    };
    let mut client = Client::default();
    let first = PullRequest { server_pages_selector: selector(0..50), ..PullRequest::default() };
    let (header, pages) = Client::request(&hosted, &first).await.unwrap();
    let (size, revision) = (header.db_size as u32, header.server_revision.clone());
    client.apply(&header, pages);
    for part in (50..size).step_by(50) {
        // Every page may be another one by now.
        write(&hosted, "UPDATE t SET v = randomblob(3000) WHERE k % 7 = 0; DELETE FROM t WHERE k = 5").await;
        write(&hosted, "INSERT OR REPLACE INTO t VALUES(5, randomblob(40000))").await;
        let request = PullRequest {
            server_revision: revision.clone(),
            server_pages_selector: selector(part..part + 50),
            ..PullRequest::default()
        };
        let (header, pages) = Client::request(&hosted, &request).await.unwrap();
        assert_eq!((header.db_size as u32, &header.server_revision), (size, &revision));
        client.apply(&header, pages);
    }
    assert_eq!(client.digest(), expected);
    // And goes on from there.
    client.pull(&hosted).await;
    assert_eq!(client.digest(), ask(&hosted.connect(true).unwrap(), DIGEST));

    let gone = revision.rsplit_once('.').unwrap().0.to_owned() + ".999999";
    let request = PullRequest { server_revision: gone, ..PullRequest::default() };
    assert_eq!(Client::request(&hosted, &request).await.unwrap_err().status(), 410);
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_brings_the_pages_that_it_reads() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE, ROWS]).await;
    let sql = "SELECT count(*) || '' FROM t WHERE k BETWEEN 100 AND 120";
    let request = PullRequest { server_query_selector: sql.into(), ..PullRequest::default() };
    let (header, pages) = Client::request(&hosted, &request).await.unwrap();
    assert!(pages.len() < header.db_size as usize / 4, "{} of {}", pages.len(), header.db_size);
    let mut client = Client::default();
    client.apply(&header, pages);
    for page in &mut client.pages {
        page.get_or_insert_with(|| vec![0; 4096]);
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("part.db");
    std::fs::write(&path, client.pages.into_iter().flatten().flatten().collect::<Vec<u8>>()).unwrap();
    assert_eq!(ask(&Connection::open(&path).unwrap(), sql), "21");
    for bad in ["SELECT nothing FROM nowhere", "DELETE FROM t", "ATTACH '/tmp/x' AS x", "not SQL"] {
        let request = PullRequest { server_query_selector: bad.into(), ..PullRequest::default() };
        assert_eq!(Client::request(&hosted, &request).await.unwrap_err().status(), 400, "{bad}");
    }
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_are_woken_by_a_commit_that_is_durable() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut client = Client::default();
    client.pull(&hosted).await;
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let (hosted, mut client) = (Arc::clone(&hosted), client.clone());
            tokio::spawn(async move {
                let request = PullRequest {
                    client_revision: client.revision.clone(),
                    long_poll_timeout_ms: 60_000,
                    ..PullRequest::default()
                };
                let (header, pages) = Client::request(&hosted, &request).await.unwrap();
                client.apply(&header, pages);
                client.digest()
            })
        })
        .collect();
    write(&hosted, "INSERT INTO t VALUES(1, x'00')").await;
    let revision = hosted.durable().await.unwrap().unwrap();
    for woken in waiting {
        assert_eq!(woken.await.unwrap(), "1 1 1", "{revision}");
    }
    hosts.shutdown().await.unwrap();
}

#[test]
fn more_clients_than_threads_pull_the_same_commit_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let dir = TempDir::new().unwrap();
    // Its requests run on the same threads as whatever blocks.
    let store = Store::open(&StoreUrl::directory(dir.path().join("store"))).unwrap();
    let pulled = runtime.block_on(async {
        let hosts = Hosts::new(store, dir.path().join("one"), HostOptions::default()).unwrap();
        let hosted = open(&hosts).await;
        write(&hosted, TABLE).await;
        let mut client = Client::default();
        client.pull(&hosted).await;
        write(&hosted, "INSERT INTO t VALUES(1, x'01')").await;
        let pulls = (0..64).map(|_| {
            let (hosted, mut client) = (Arc::clone(&hosted), client.clone());
            tokio::spawn(async move { client.pull(&hosted).await })
        });
        let pulls = futures::future::join_all(pulls.collect::<Vec<_>>());
        let pulled = tokio::time::timeout(Duration::from_mins(1), pulls).await.ok()?;
        pulled.into_iter().collect::<Result<Vec<_>, _>>().ok()
    });
    // Threads that wait for each other would keep the test from ending.
    runtime.shutdown_background();
    let pulled = pulled.expect("all are answered");
    assert!(pulled.iter().all(|pages| *pages >= 1), "{pulled:?}");
}
