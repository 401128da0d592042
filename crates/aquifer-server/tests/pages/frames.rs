//! Clients of libSQL's offline sync, played by SQLite files whose WAL frames travel, beside writers through SQL.

use std::collections::BTreeMap;

use aquifer_server::hosted::Hosted;
use aquifer_server::libsql::{Pulled, PushAnswer, SyncError};
use bytes::{BufMut, Bytes, BytesMut};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::stage::{Stage, TABLE, bytes_of, open, write};

const PAGE: usize = 4096;
const FRAME: usize = 24 + PAGE;

fn dump(connection: &Connection) -> String {
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let rows: String = connection
        .query_row("SELECT coalesce(group_concat(k || '=' || hex(v)), '') FROM t", [], |row| row.get(0))
        .unwrap();
    format!("{check} {rows}")
}

/// What a client has: pages, and its place.
#[derive(Clone, Default)]
struct Client {
    span: u32,
    frame: u32,
    pages: BTreeMap<u32, Vec<u8>>,
    size: u32,
}

impl Client {
    async fn new(hosted: &Hosted) -> Client {
        let frames = hosted.frames();
        let span = frames.current().await.unwrap();
        let (len, parts) = frames.export(span).await.unwrap();
        let file = bytes_of(parts).await;
        assert_eq!(len as usize, file.len());
        let pages = (1..).zip(file.chunks_exact(PAGE).map(<[u8]>::to_vec)).collect();
        Client { span, frame: 0, pages, size: (len as usize / PAGE) as u32 }
    }

    /// As libSQL's client does: what has no mark after it is not taken over. How many frames came.
    async fn pull(&mut self, hosted: &Hosted) -> u32 {
        let mut next = self.frame + 1;
        let mut reading = BTreeMap::new();
        let mut came = 0;
        loop {
            match hosted.frames().pull(self.span, next, next + 128).await.unwrap() {
                Pulled::Frames(answer) => {
                    let len = answer.len() as usize;
                    let bytes = bytes_of(answer.into_stream()).await;
                    assert!(!bytes.is_empty() && bytes.len().is_multiple_of(FRAME) && bytes.len() == len);
                    for frame in bytes.chunks_exact(FRAME) {
                        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                        let twice = reading.insert(word(0), frame[24..].to_vec());
                        assert!(twice.is_none(), "SQLite keeps one frame of a page in a transaction");
                        if word(4) > 0 {
                            self.pages.append(&mut reading);
                            self.size = word(4);
                            self.frame = next;
                        }
                        next += 1;
                        came += 1;
                    }
                }
                Pulled::End { current, frames } => {
                    assert_eq!((frames, reading.len()), (self.frame, 0), "the last frame is marked");
                    if current == self.span {
                        return came;
                    }
                    (self.span, self.frame, next) = (self.span + 1, 0, 1);
                }
            }
        }
    }

    fn file(&self) -> (TempDir, Connection) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("client.db");
        let none = vec![0; PAGE];
        let bytes: Vec<u8> =
            (1..=self.size).flat_map(|page| self.pages.get(&page).unwrap_or(&none).clone()).collect();
        std::fs::write(&path, bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
        (dir, connection)
    }

    fn dump(&self) -> String {
        dump(&self.file().1)
    }

    /// The frames that these transactions make on what the client has.
    fn frames_of(&self, sql: &[&str]) -> Bytes {
        let (dir, connection) = self.file();
        for sql in sql {
            connection.execute_batch(sql).unwrap();
        }
        let wal = std::fs::read(dir.path().join("client.db-wal")).unwrap();
        Bytes::from(wal).slice(32..)
    }

    /// Takes over what it pushed itself.
    fn commit(&mut self, frames: &Bytes) {
        for frame in frames.chunks_exact(FRAME) {
            let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            self.pages.insert(word(0), frame[24..].to_vec());
            if word(4) > 0 {
                self.size = word(4);
            }
        }
        self.frame += (frames.len() / FRAME) as u32;
    }

    async fn push(&mut self, hosted: &Hosted, frames: &Bytes) -> PushAnswer {
        let answer = self.send(hosted, frames).await.unwrap();
        if !answer.is_conflict {
            assert_eq!((answer.span, answer.frames), (self.span, self.frame + (frames.len() / FRAME) as u32));
            self.commit(frames);
        }
        answer
    }

    /// In requests of 7 frames.
    async fn send(&self, hosted: &Hosted, frames: &Bytes) -> Result<PushAnswer, SyncError> {
        let mut next = self.frame + 1;
        let mut answer = PushAnswer { is_conflict: false, span: 0, frames: 0, baton: None };
        for part in frames.chunks(7 * FRAME) {
            let end = next + (part.len() / FRAME) as u32;
            let body = Bytes::copy_from_slice(part);
            answer = hosted.frames().push(self.span, next, end, answer.baton, body).await?;
            if answer.is_conflict {
                break;
            }
            assert_eq!(answer.frames, end - 1);
            next = end;
        }
        Ok(answer)
    }
}

fn put(k: u32, bytes: u32) -> String {
    format!("INSERT OR REPLACE INTO t VALUES({k}, randomblob({bytes}))")
}

fn on_server(hosted: &Hosted) -> String {
    dump(&hosted.connect(true).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_and_what_is_written_comes_to_all() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let (mut a, mut b) = (Client::new(&hosted).await, Client::new(&hosted).await);
    for round in 0..6 {
        let sql = [put(round, 100), put(round, 9000), put(100 + round, 30_000)];
        let frames = a.frames_of(&sql.each_ref().map(String::as_str));
        let count = (frames.len() / FRAME) as u32;
        let answer = a.push(&hosted, &frames).await;
        assert!(!answer.is_conflict && answer.baton.is_none(), "{answer:?}");
        assert_eq!(a.dump(), on_server(&hosted));
        assert_eq!(b.pull(&hosted).await, count, "what was pushed as so many frames has as many numbers");
        assert_eq!(b.dump(), on_server(&hosted));
        write(&hosted, &put(50 + round, 5000)).await;
        for client in [&mut a, &mut b] {
            assert!(client.pull(&hosted).await > 0);
            assert_eq!(client.dump(), on_server(&hosted));
            assert_eq!(client.pull(&hosted).await, 0, "there is nothing new");
        }
        assert_eq!(a.frame, b.frame);
    }
    // A database that shrinks.
    write(&hosted, "DELETE FROM t WHERE k > 3; VACUUM").await;
    a.pull(&hosted).await;
    assert_eq!(a.dump(), on_server(&hosted));
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_others_were_faster_than_is_told_and_nothing_is_written() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut a = Client::new(&hosted).await;
    let b = a.clone();
    let frames = b.frames_of(&[&put(1, 10)]);
    let others = a.frames_of(&[&put(2, 10)]);
    assert!(!a.push(&hosted, &others).await.is_conflict);
    let before = on_server(&hosted);
    assert!(b.send(&hosted, &frames).await.unwrap().is_conflict);
    assert_eq!(on_server(&hosted), before);
    // The same after somebody wrote SQL, large transactions too.
    a.pull(&hosted).await;
    let large = a.frames_of(&[&put(3, 200_000)]);
    write(&hosted, &put(4, 10)).await;
    let before = on_server(&hosted);
    assert!(a.send(&hosted, &large).await.unwrap().is_conflict);
    assert_eq!(on_server(&hosted), before);
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_answer_was_lost_is_not_a_conflict_and_is_not_done_twice() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut a = Client::new(&hosted).await;
    let frames = a.frames_of(&[&put(1, 20_000), &put(2, 10), "UPDATE t SET k = 7 WHERE k = 2"]);
    let first = a.send(&hosted, &frames).await.unwrap();
    let revision = hosted.durable().await.unwrap();
    assert_eq!(a.send(&hosted, &frames).await.unwrap(), first);
    assert_eq!(hosted.durable().await.unwrap(), revision);
    hosts.shutdown().await.unwrap();
    // By another server as well, which has only the log.
    let hosts = stage.hosts("two");
    let hosted = open(&hosts).await;
    assert_eq!(a.push(&hosted, &frames).await, first);
    assert_eq!(a.dump(), on_server(&hosted));
    // Others by the same numbers are others.
    let other = Client { frame: 0, ..a.clone() };
    let mut frames = BytesMut::from(&frames[..]);
    let last = frames.len() - 1;
    frames[last] ^= 1;
    assert!(other.send(&hosted, &frames.freeze()).await.unwrap().is_conflict);
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_in_parts_is_seen_whole_or_not_at_all() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut a = Client::new(&hosted).await;
    let frames = a.frames_of(&[&put(1, 100_000)]);
    let before = (on_server(&hosted), hosted.durable().await.unwrap());
    let part = frames.slice(..10 * FRAME);
    let answer = hosted.frames().push(a.span, 1, 11, None, part.clone()).await.unwrap();
    assert!(answer.baton.is_some() && answer.frames == 10, "{answer:?}");
    assert_eq!((on_server(&hosted), hosted.durable().await.unwrap()), before);
    // The rest with a baton that is none: the client is told where the server is, and begins again.
    let rest = frames.slice(10 * FRAME..);
    let end = 11 + (rest.len() / FRAME) as u32;
    for baton in [Some(1), None] {
        let answer = hosted.frames().push(a.span, 11, end, baton, rest.clone()).await.unwrap();
        assert_eq!((answer.is_conflict, answer.frames, answer.baton), (false, 0, None));
    }
    assert_eq!((on_server(&hosted), hosted.durable().await.unwrap()), before);
    let answer = hosted.frames().push(a.span, 11, end, answer.baton, rest).await.unwrap();
    assert_eq!((answer.is_conflict, answer.frames), (false, end - 1));
    a.commit(&frames);
    assert_eq!(a.dump(), on_server(&hosted));
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cannot_be_and_generations_that_are_not_are_refused() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let a = Client::new(&hosted).await;
    let frames = hosted.frames();
    let good = a.frames_of(&[&put(1, 10)]);
    let count = (good.len() / FRAME) as u32;
    let before = on_server(&hosted);
    let mut page_zero = BytesMut::from(&good[..]);
    page_zero[..4].fill(0);
    let mut garbage = BytesMut::new();
    garbage.put_u32(1);
    garbage.put_u32(5);
    garbage.put_bytes(7, 16 + PAGE);
    let refused = [
        (a.span, 1, 1 + count, page_zero.freeze(), 422),
        (a.span, 1, 2, garbage.freeze(), 422),
        (a.span, 1, 2 + count, good.clone(), 422),
        (a.span, 0, count, good.clone(), 422),
        (a.span, 5, 2, good.clone(), 422),
        (a.span + 9, 1, 1 + count, good.clone(), 410),
        // A database that began elsewhere is not laid over this one.
        (1, 1, 1 + count, good.clone(), 410),
    ];
    for (span, first, end, body, status) in refused {
        let answer = frames.push(span, first, end, None, body).await;
        assert_eq!(answer.unwrap_err().status(), status, "{span} {first} {end}");
    }
    assert_eq!(on_server(&hosted), before);
    assert_eq!(frames.pull(a.span + 1, 1, 129).await.unwrap_err().status(), 410);
    assert_eq!(frames.pull(a.span, 9, 9).await.unwrap_err().status(), 422);
    assert!(frames.export(a.span + 1).await.is_err());
    hosts.shutdown().await.unwrap();
}

/// A transaction of somebody else that is open is waited for, and others are answered meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_waits_for_an_open_transaction() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut a = Client::new(&hosted).await;
    let frames = a.frames_of(&[&put(1, 10)]);
    let other = hosted.connect(false).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut pushed = Box::pin(a.push(&hosted, &frames));
    tokio::select! {
        biased;
        early = &mut pushed => panic!("it did not wait: {early:?}"),
        // Several times.
        durable = async { for _ in 0..20 { hosted.durable().await.unwrap(); } } => durable,
    }
    other.execute_batch("ROLLBACK").unwrap();
    assert!(!pushed.await.is_conflict);
    assert_eq!(a.dump(), on_server(&hosted));
    hosts.shutdown().await.unwrap();
}

/// Numbers follow from the log: another server, on an empty disk, gives the same ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_with_another_server() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let (mut a, mut b) = (Client::new(&hosted).await, Client::new(&hosted).await);
    for k in 0..10 {
        let frames = a.frames_of(&[&put(k, 3000), &put(k, 200)]);
        assert!(!a.push(&hosted, &frames).await.is_conflict);
        write(&hosted, &put(90 + k, 700)).await;
        a.pull(&hosted).await;
        if k == 4 {
            b.pull(&hosted).await;
        }
    }
    hosts.shutdown().await.unwrap();
    let hosts = stage.hosts("two");
    let hosted = open(&hosts).await;
    assert_eq!(a.pull(&hosted).await, 0);
    let frames = a.frames_of(&[&put(1000, 50_000)]);
    assert!(!a.push(&hosted, &frames).await.is_conflict);
    b.pull(&hosted).await;
    assert_eq!((b.frame, b.dump()), (a.frame, on_server(&hosted)));
    let mut c = Client::new(&hosted).await;
    c.pull(&hosted).await;
    assert_eq!((c.frame, c.dump()), (a.frame, on_server(&hosted)));
    hosts.shutdown().await.unwrap();
}

/// Between two marks of a long answer no batch ends. Whoever was interrupted there gets numbers to go on with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stands_where_no_batch_ends_goes_on() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let (mut a, mut b) = (Client::new(&hosted).await, Client::new(&hosted).await);
    let frames = a.frames_of(&[&put(1, 50_000)]);
    assert!(!a.push(&hosted, &frames).await.is_conflict);
    b.frame = a.frame - 2;
    let error = hosted.frames().pull(b.span, b.frame + 1, b.frame + 129).await.unwrap_err();
    assert_eq!(error.status(), 503, "{error}: clients try again");
    b.pull(&hosted).await;
    assert_eq!(b.dump(), on_server(&hosted));
    a.pull(&hosted).await;
    assert_eq!((a.frame, a.dump()), (b.frame, on_server(&hosted)));
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_span_ends_and_its_clients_finish_it() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let (mut a, mut b) = (Client::new(&hosted).await, Client::new(&hosted).await);
    let first = a.span;
    while a.span == first {
        write(&hosted, &put(1, 12_000_000)).await;
        write(&hosted, "DELETE FROM t WHERE k = 1").await;
        a.pull(&hosted).await;
        assert!(a.frame < 30_000, "it never ends");
    }
    assert_eq!(a.dump(), on_server(&hosted));
    write(&hosted, &put(2, 7000)).await;
    // Pages that have changed since the end of the span are given as they were then.
    b.pull(&hosted).await;
    a.pull(&hosted).await;
    assert_eq!((b.span, b.frame, b.dump()), (a.span, a.frame, on_server(&hosted)));
    let frames = b.frames_of(&[&put(3, 10)]);
    assert!(!b.push(&hosted, &frames).await.is_conflict);
    let mut c = Client::new(&hosted).await;
    assert_eq!(c.span, first + 1);
    c.pull(&hosted).await;
    assert_eq!(c.dump(), on_server(&hosted));
    hosts.shutdown().await.unwrap();
}

/// A client whose own copy of older pages is gone asks for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_up_to_the_end_of_a_batch_gets_the_database_as_it_was_then() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut early = Client::new(&hosted).await;
    write(&hosted, &put(1, 100)).await;
    early.pull(&hosted).await;
    let (then, end) = (early.dump(), early.frame + 1);
    write(&hosted, &put(1, 200)).await;
    let mut fresh = Client::new(&hosted).await;
    let Pulled::Frames(answer) = hosted.frames().pull(fresh.span, 1, end).await.unwrap() else {
        panic!("there are frames")
    };
    fresh.commit(&bytes_of(answer.into_stream()).await.into());
    assert_eq!((fresh.frame + 1, fresh.dump()), (end, then));
    fresh.pull(&hosted).await;
    assert_eq!(fresh.dump(), on_server(&hosted));
    hosts.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_answer_was_lost_is_known_when_its_generation_has_ended() {
    let stage = Stage::new();
    let (hosts, hosted) = stage.served(&[TABLE]).await;
    let mut client = Client::new(&hosted).await;
    client.pull(&hosted).await;
    let frames = client.frames_of(&[&put(1, 1)]);
    assert!(!client.send(&hosted, &frames).await.unwrap().is_conflict);
    let others = client.frames_of(&[&put(2, 1)]);
    // So many frames that the generation ends.
    write(&hosted, &put(3, 45_000_000)).await;
    assert_ne!(hosted.frames().current().await.unwrap(), client.span);
    let answer = client.send(&hosted, &frames).await.unwrap();
    let count = (frames.len() / FRAME) as u32;
    assert_eq!((answer.is_conflict, answer.span, answer.frames), (false, client.span, client.frame + count));
    assert!(client.send(&hosted, &others).await.unwrap().is_conflict);
    hosts.shutdown().await.unwrap();
}
