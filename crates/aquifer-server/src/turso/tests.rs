//! Clients that apply answers, against a database in memory that keeps all its revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aquifer_format::{GenerationId, PageSize, Pgno, Revision, Timestamp, Txid};
use aquifer_protocol::WireRevision;
use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use parking_lot::Mutex;
use proptest::prelude::*;
use prost::Message as _;
use roaring::RoaringBitmap;
use tokio::sync::watch;

use super::pull::{Pull, PullError};
use super::shared::Answers;
use super::source::{PageHost, PageSource, SourceError};
use aquifer_protocol::pull_updates::{ApplyMode, PageData, PageEncoding, PullHeader, PullRequest};

/// A page is told by one number, which fills it.
type Image = Vec<u64>;

/// What a client has: the numbers of its pages, `None` where it has none.
type ClientImage = Vec<Option<u64>>;

struct Memory {
    history: Mutex<History>,
    latest: watch::Sender<Option<Revision>>,
    page_size: PageSize,
    /// Pages read, by all sources.
    read: Arc<AtomicUsize>,
    /// Searches for changed pages, by all sources.
    searches: Arc<AtomicUsize>,
    /// Reading this page fails.
    broken: Option<Pgno>,
    touched: Option<Vec<Pgno>>,
    answers: Answers,
}

#[derive(Clone)]
struct History {
    generation: GenerationId,
    /// By txid.
    images: Vec<Arc<Image>>,
}

struct Pinned {
    history: History,
    txid: Txid,
    page_size: PageSize,
    read: Arc<AtomicUsize>,
    searches: Arc<AtomicUsize>,
    broken: Option<Pgno>,
    touched: Option<Vec<Pgno>>,
}

impl Memory {
    fn new() -> Memory {
        let generation = GenerationId::new(Timestamp::from_millis(1));
        Memory {
            history: Mutex::new(History { generation, images: vec![Arc::default()] }),
            latest: watch::Sender::new(Some(Revision { generation, txid: Txid::ZERO })),
            page_size: PageSize::DEFAULT,
            read: Arc::default(),
            searches: Arc::default(),
            broken: None,
            touched: None,
            answers: Answers::default(),
        }
    }

    fn of_pages(pages: u32) -> Memory {
        let memory = Memory::new();
        memory.commit(pages, 0..pages);
        memory
    }

    /// A transaction that leaves `pages` pages, of which these (0-based) have new content.
    fn commit(&self, pages: u32, changed: impl IntoIterator<Item = u32>) {
        let mut history = self.history.lock();
        let txid = history.images.len() as u64;
        let mut image = Image::clone(history.images.last().unwrap());
        let grown = image.len()..pages as usize;
        image.resize(pages as usize, 0);
        for i in grown.chain(changed.into_iter().map(|i| i as usize)) {
            if let Some(page) = image.get_mut(i) {
                *page = txid << 32 | i as u64;
            }
        }
        history.images.push(Arc::new(image));
        self.latest.send_replace(Some(Revision { generation: history.generation, txid: Txid::new(txid) }));
    }

    /// The same content goes on as another history.
    fn new_generation(&self) {
        let mut history = self.history.lock();
        let generation = GenerationId::new(Timestamp::from_millis(2));
        *history = History { generation, images: vec![Arc::clone(history.images.last().unwrap())] };
        self.latest.send_replace(Some(Revision { generation, txid: Txid::ZERO }));
    }

    async fn has_waiters(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.latest.receiver_count() < count {
            assert!(Instant::now() < deadline, "{} of {count} wait", self.latest.receiver_count());
            tokio::task::yield_now().await;
        }
    }

    fn latest(&self) -> Revision {
        self.latest.borrow().unwrap()
    }

    fn image(&self, revision: Revision) -> Arc<Image> {
        let history = self.history.lock();
        assert_eq!(history.generation, revision.generation);
        Arc::clone(&history.images[revision.txid.get() as usize])
    }
}

impl PageHost for Memory {
    type Source = Pinned;

    async fn pin(&self, at: Option<Revision>, _: Option<Revision>) -> Result<Option<Pinned>, SourceError> {
        let history = self.history.lock().clone();
        let at = at.unwrap_or_else(|| self.latest());
        let known = at.generation == history.generation && (at.txid.get() as usize) < history.images.len();
        Ok(known.then(|| Pinned {
            history,
            txid: at.txid,
            page_size: self.page_size,
            read: Arc::clone(&self.read),
            searches: Arc::clone(&self.searches),
            broken: self.broken,
            touched: self.touched.clone(),
        }))
    }

    fn revisions(&self) -> watch::Receiver<Option<Revision>> {
        self.latest.subscribe()
    }

    fn answers(&self) -> &Answers {
        &self.answers
    }
}

impl Pinned {
    fn image(&self, txid: Txid) -> &Image {
        &self.history.images[txid.get() as usize]
    }
}

impl PageSource for Pinned {
    fn revision(&self) -> Revision {
        Revision { generation: self.history.generation, txid: self.txid }
    }

    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn pages(&self) -> u32 {
        self.image(self.txid).len() as u32
    }

    fn changed_since(&self, since: Txid, from: Pgno) -> impl Iterator<Item = Pgno> {
        self.searches.fetch_add(1, Ordering::Relaxed);
        let (old, new) = (self.image(since), self.image(self.txid));
        (from.index()..new.len())
            .filter(|i| old.get(*i) != Some(&new[*i]))
            .map(|i| Pgno::from_index(i as u32))
    }

    fn touched_by(&mut self, _sql: &str) -> Result<Option<Vec<Pgno>>, SourceError> {
        Ok(self.touched.clone())
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<(), SourceError> {
        if self.broken == Some(pgno) {
            return Err("a broken disk".into());
        }
        self.read.fetch_add(1, Ordering::Relaxed);
        let number = self.image(self.txid)[pgno.index()];
        page.chunks_exact_mut(8).for_each(|bytes| bytes.copy_from_slice(&number.to_le_bytes()));
        Ok(())
    }
}

/// An answer, taken apart as a client does.
struct Received {
    header: PullHeader,
    /// 0-based.
    pages: BTreeMap<u32, u64>,
}

async fn pull(memory: &Arc<Memory>, request: &PullRequest) -> Result<Received, PullError> {
    let pull = Pull::parse(request.encode_to_vec().into())?;
    pull.wait(&**memory, Duration::from_mins(1)).await;
    receive(pull.answer(Arc::clone(memory)).await?).await
}

async fn receive(answer: super::pull::Answer<Pinned>) -> Result<Received, PullError> {
    let complete = answer.len_if_complete();
    let mut stream = pin!(answer.into_stream());
    let mut body = Vec::new();
    while let Some(part) = stream.next().await {
        let part = part?;
        assert!(part.len() < 300 * 1024, "a part of {} bytes", part.len());
        body.extend(part);
    }
    assert!(complete.is_none_or(|len| len == body.len()));
    let mut body = Bytes::from(body);
    let header = PullHeader::decode_length_delimited(&mut body).unwrap();
    assert_ne!(header.raw_encoding.is_some(), header.zstd_encoding.is_some());
    let mut pages = BTreeMap::new();
    while body.has_remaining() {
        let page = PageData::decode_length_delimited(&mut body).unwrap();
        assert!(page.page_id < header.db_size);
        let content = match header.raw_encoding {
            Some(_) => page.encoded_page.to_vec(),
            None => zstd::bulk::decompress(&page.encoded_page, 4096).unwrap(),
        };
        assert_eq!(content.len(), 4096);
        let number = u64::from_le_bytes(content[..8].try_into().unwrap());
        assert!(content.chunks_exact(8).all(|bytes| bytes == number.to_le_bytes()));
        assert!(pages.insert(page.page_id as u32, number).is_none(), "page {} twice", page.page_id);
    }
    Ok(Received { header, pages })
}

impl Received {
    fn apply(&self, client: &mut ClientImage) {
        if self.header.apply_mode() == ApplyMode::ReplaceBase {
            client.clear();
        }
        client.resize(self.header.db_size as usize, None);
        for (id, number) in &self.pages {
            client[*id as usize] = Some(*number);
        }
    }

    fn revision(&self) -> Revision {
        WireRevision::parse(&self.header.server_revision).unwrap().0
    }

    fn ids(&self) -> Vec<u32> {
        self.pages.keys().copied().collect()
    }
}

fn selector(ids: impl IntoIterator<Item = u32>) -> Bytes {
    let mut bytes = Vec::new();
    let mut bitmap: RoaringBitmap = ids.into_iter().collect();
    bitmap.optimize();
    bitmap.serialize_into(&mut bytes).unwrap();
    bytes.into()
}

fn request(change: impl FnOnce(&mut PullRequest)) -> PullRequest {
    let mut request = PullRequest::default();
    change(&mut request);
    request
}

fn since(revision: Revision) -> PullRequest {
    request(|r| r.client_revision = WireRevision(revision).to_string())
}

fn whole(image: &Image) -> ClientImage {
    image.iter().copied().map(Some).collect()
}

#[tokio::test]
async fn an_empty_body_bootstraps_the_whole_database() {
    let memory = Arc::new(Memory::of_pages(300));
    let received = pull(&memory, &PullRequest::default()).await.unwrap();
    let mut client = ClientImage::new();
    received.apply(&mut client);
    assert_eq!(client, whole(&memory.image(memory.latest())));
    assert_eq!(received.header.apply_mode(), ApplyMode::Incremental);
}

#[tokio::test]
async fn an_empty_database_is_a_header_that_names_an_encoding() {
    let received = pull(&Arc::new(Memory::new()), &PullRequest::default()).await.unwrap();
    assert_eq!((received.header.db_size, received.ids()), (0, vec![]));
    assert!(received.header.raw_encoding.is_some());
}

#[tokio::test]
async fn a_client_that_is_up_to_date_costs_no_read_and_no_search() {
    let memory = Arc::new(Memory::of_pages(300));
    let received = pull(&memory, &since(memory.latest())).await.unwrap();
    assert_eq!(
        (received.ids(), received.header.db_size, received.revision()),
        (vec![], 300, memory.latest())
    );
    assert_eq!(memory.searches.load(Ordering::Relaxed), 0);
    assert_eq!(memory.read.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn only_what_changed_is_read_and_sent() {
    let memory = Arc::new(Memory::of_pages(300));
    let old = memory.latest();
    memory.commit(300, [7, 200, 201, 202]);
    memory.commit(302, [7]);
    let received = pull(&memory, &since(old)).await.unwrap();
    assert_eq!(received.ids(), [7, 200, 201, 202, 300, 301]);
    assert_eq!(memory.read.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn a_selector_narrows_what_changed() {
    let memory = Arc::new(Memory::of_pages(300));
    let mut ask = since(memory.latest());
    memory.commit(300, [0, 7, 200, 201]);
    ask.server_pages_selector = selector(5..201);
    assert_eq!(pull(&memory, &ask).await.unwrap().ids(), [7, 200]);
}

#[tokio::test]
async fn a_client_of_another_history_gets_everything_to_replace_what_it_has() {
    let memory = Arc::new(Memory::of_pages(300));
    let ahead = Revision { txid: Txid::new(99), ..memory.latest() };
    let old = memory.latest();
    memory.commit(20, []);
    for foreign in ["41".to_owned(), "nonsense".to_owned(), WireRevision(ahead).to_string()] {
        let received = pull(&memory, &request(|r| r.client_revision = foreign)).await.unwrap();
        assert_eq!(received.header.apply_mode(), ApplyMode::ReplaceBase);
        assert_eq!(received.ids(), (0..20).collect::<Vec<_>>());
    }
    memory.new_generation();
    let received = pull(&memory, &since(old)).await.unwrap();
    assert_eq!(received.header.apply_mode(), ApplyMode::ReplaceBase);
    assert_eq!(received.ids().len(), 20);
}

#[tokio::test]
async fn a_bootstrap_in_parts_is_of_one_revision_though_writes_go_on() {
    let memory = Arc::new(Memory::of_pages(110));
    let mut client = ClientImage::new();
    let first = pull(&memory, &request(|r| r.server_pages_selector = selector(0..16))).await.unwrap();
    assert_eq!(first.ids(), (0..16).collect::<Vec<_>>());
    first.apply(&mut client);
    for start in (16..112).step_by(16) {
        memory.commit(300 - start, 0..300);
        let next = request(|r| {
            r.server_revision = first.header.server_revision.clone();
            r.server_pages_selector = selector(start..start + 16);
        });
        let received = pull(&memory, &next).await.unwrap();
        assert_eq!(received.revision(), first.revision());
        assert_eq!(received.ids(), (start..(start + 16).min(110)).collect::<Vec<_>>());
        received.apply(&mut client);
    }
    assert_eq!(client, whole(&memory.image(first.revision())));
    pull(&memory, &since(first.revision())).await.unwrap().apply(&mut client);
    assert_eq!(client, whole(&memory.image(memory.latest())));
}

#[tokio::test]
async fn a_bootstrap_without_page_1_gets_page_1_all_the_same() {
    let memory = Arc::new(Memory::of_pages(110));
    let received = pull(&memory, &request(|r| r.server_pages_selector = selector(8..12))).await.unwrap();
    assert_eq!(received.ids(), [0, 8, 9, 10, 11]);
}

#[tokio::test]
async fn pages_beyond_the_database_are_left_out() {
    let memory = Arc::new(Memory::of_pages(110));
    let request = request(|r| {
        r.server_revision = WireRevision(memory.latest()).to_string();
        r.server_pages_selector = selector((108..112).chain([70_000, u32::MAX]));
    });
    assert_eq!(pull(&memory, &request).await.unwrap().ids(), [108, 109]);
}

#[tokio::test]
async fn a_query_selects_the_pages_that_it_reads_and_page_1() {
    let mut memory = Memory::of_pages(110);
    memory.touched = Some([40, 3].map(|n| Pgno::new(n).unwrap()).to_vec());
    let sql = request(|r| r.server_query_selector = "SELECT 1".into());
    assert_eq!(pull(&Arc::new(memory), &sql).await.unwrap().ids(), [0, 2, 39]);
    let all = pull(&Arc::new(Memory::of_pages(110)), &sql).await.unwrap();
    assert_eq!(all.ids().len(), 110);
}

#[tokio::test]
async fn those_that_ask_for_zstd_get_it() {
    let memory = Arc::new(Memory::of_pages(300));
    let received = pull(&memory, &request(|r| r.set_encoding(PageEncoding::Zstd))).await.unwrap();
    assert!(received.header.zstd_encoding.is_some());
    let mut client = ClientImage::new();
    received.apply(&mut client);
    assert_eq!(client, whole(&memory.image(memory.latest())));
}

#[tokio::test]
async fn what_cannot_be_answered_is_an_error_that_says_why() {
    let memory = Arc::new(Memory::of_pages(3));
    let gone = Revision { txid: Txid::new(9), ..memory.latest() };
    let foreign = Revision { generation: GenerationId::new(Timestamp::from_millis(7)), ..memory.latest() };
    for (request, status) in [
        (request(|r| r.server_revision = "161".into()), 400),
        (request(|r| r.server_pages_selector = Bytes::from_static(b"?")), 400),
        (request(|r| r.server_revision = WireRevision(gone).to_string()), 410),
        (request(|r| r.server_revision = WireRevision(foreign).to_string()), 410),
    ] {
        assert_eq!(pull(&memory, &request).await.err().map(|error| error.status()), Some(status));
    }
    assert_eq!(Pull::parse(Bytes::from_static(b"\xff\xff")).err().map(|error| error.status()), Some(400));
    let mut other_size = Memory::of_pages(3);
    other_size.page_size = PageSize::new(8192).unwrap();
    let error = pull(&Arc::new(other_size), &PullRequest::default()).await.err().unwrap();
    assert!(error.status() == 422 && error.to_string().contains("8192 bytes"), "{error}");
}

#[tokio::test]
async fn a_page_that_cannot_be_read_cuts_the_answer_off() {
    let mut memory = Memory::of_pages(300);
    memory.broken = Pgno::new(250);
    let memory = Arc::new(memory);
    let pull = Pull::parse(Bytes::new()).unwrap();
    let answer = pull.answer(Arc::clone(&memory)).await.unwrap();
    let parts: Vec<_> = answer.into_stream().collect().await;
    let (last, before) = parts.split_last().unwrap();
    assert!(matches!(last, Err(PullError::Source(_))));
    assert!(!before.is_empty() && before.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_more_than_two_parts() {
    let memory = Arc::new(Memory::of_pages(10_000));
    let answer = Pull::parse(Bytes::new()).unwrap().answer(Arc::clone(&memory)).await.unwrap();
    let mut stream = pin!(answer.into_stream());
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    // Three parts of 64 pages are out, and one is being read ahead.
    assert!(memory.read.load(Ordering::Relaxed) <= 4 * 64);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_something_newer_is_there() {
    let memory = Arc::new(Memory::of_pages(3));
    let mut waiting = since(memory.latest());
    waiting.long_poll_timeout_ms = 60_000;
    let waiter = tokio::spawn({
        let memory = Arc::clone(&memory);
        async move { pull(&memory, &waiting).await }
    });
    memory.has_waiters(1).await;
    assert!(!waiter.is_finished());
    memory.commit(3, [1]);
    let received = tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
    assert_eq!((received.ids(), received.revision()), (vec![1], memory.latest()));
}

#[tokio::test]
async fn a_long_poll_ends_without_pages_when_its_time_is_over() {
    let memory = Arc::new(Memory::of_pages(3));
    let mut waiting = since(memory.latest());
    waiting.long_poll_timeout_ms = 20;
    let began = Instant::now();
    assert!(pull(&memory, &waiting).await.unwrap().ids().is_empty());
    assert!(began.elapsed() >= Duration::from_millis(20));
    // The server's own bound counts, too.
    waiting.long_poll_timeout_ms = u32::MAX;
    let pull = Pull::parse(waiting.encode_to_vec().into()).unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(30), pull.wait(&*memory, Duration::from_millis(1)));
    waited.await.unwrap();
    let answer = pull.answer(memory).await.unwrap();
    assert!(receive(answer).await.unwrap().ids().is_empty());
}

#[tokio::test]
async fn a_long_poll_does_not_keep_those_waiting_that_have_something_to_fetch() {
    let memory = Arc::new(Memory::of_pages(3));
    let old = memory.latest();
    memory.commit(3, [1]);
    let ahead = Revision { txid: Txid::new(99), ..old };
    for mut waiting in [
        since(old),
        since(ahead),
        PullRequest::default(),
        request(|r| r.client_revision = "41".into()),
        request(|r| {
            r.client_revision = WireRevision(memory.latest()).to_string();
            r.server_revision = WireRevision(memory.latest()).to_string();
        }),
    ] {
        waiting.long_poll_timeout_ms = 60_000;
        tokio::time::timeout(Duration::from_secs(30), pull(&memory, &waiting)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_thousand_long_polls_wait_without_a_thread_each() {
    let memory = Arc::new(Memory::of_pages(3));
    let mut waiting = since(memory.latest());
    waiting.long_poll_timeout_ms = 60_000;
    let waiters: Vec<_> = (0..1000)
        .map(|_| {
            let (memory, waiting) = (Arc::clone(&memory), waiting.clone());
            tokio::spawn(async move { pull(&memory, &waiting).await.unwrap().ids() })
        })
        .collect();
    memory.has_waiters(1000).await;
    // A waiter on a blocking thread would show here.
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    assert!(threads < 200, "{threads} threads");
    memory.commit(3, [2]);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), [2]);
    }
}

#[tokio::test]
async fn what_many_wait_for_is_read_once_and_everybody_gets_all_of_it() {
    // One answer goes out whole; the other is so large that everybody reads it for themselves.
    for (changed, times) in [(3, 1), (400, 100)] {
        let memory = Arc::new(Memory::of_pages(500));
        let old = memory.latest();
        memory.commit(500, 0..changed);
        let before = memory.read.load(Ordering::Relaxed);
        let request = since(old);
        let pulls = (0..100).map(|_| pull(&memory, &request));
        for received in futures::future::try_join_all(pulls).await.unwrap() {
            assert_eq!(received.header.server_revision, WireRevision(memory.latest()).to_string());
            assert_eq!(received.ids(), (0..changed).collect::<Vec<_>>());
        }
        let read = memory.read.load(Ordering::Relaxed) - before;
        assert_eq!(read, changed as usize * times);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Commit {
        pages: u32,
        changed: Vec<Range<u32>>,
    },
    NewGeneration,
    Pull {
        client: usize,
    },
    Bootstrap {
        client: usize,
        first: BTreeSet<u32>,
    },
    Fetch {
        client: usize,
        ids: Vec<Range<u32>>,
    },
    /// The client forgets that it was ever further than this.
    Rewind {
        client: usize,
        to: prop::sample::Index,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = (0..280_u32, 1..40_u32).prop_map(|(start, len)| start..start + len);
    let ranges = prop::collection::vec(range, 0..4);
    let step = prop_oneof![
        5 => (prop_oneof![0..3_u32, 0..300_u32], ranges.clone())
            .prop_map(|(pages, changed)| Step::Commit { pages, changed }),
        1 => Just(Step::NewGeneration),
        5 => (0..3_usize).prop_map(|client| Step::Pull { client }),
        1 => (0..3_usize, prop::collection::btree_set(0..300_u32, 1..20))
            .prop_map(|(client, first)| Step::Bootstrap { client, first }),
        2 => (0..3_usize, ranges).prop_map(|(client, ids)| Step::Fetch { client, ids }),
        1 => (0..3_usize, any::<prop::sample::Index>()).prop_map(|(client, to)| Step::Rewind { client, to }),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Default, Clone)]
struct ModelClient {
    image: ClientImage,
    revision: Option<Revision>,
    earlier: Vec<(ClientImage, Revision)>,
}

impl ModelClient {
    /// Applies an answer; what the client has must then be a part of the server's image of that revision.
    fn take(&mut self, memory: &Memory, received: &Received) {
        received.apply(&mut self.image);
        self.revision = Some(received.revision());
        let server = memory.image(received.revision());
        assert_eq!(self.image.len(), server.len());
        for (i, page) in self.image.iter().enumerate() {
            assert!(page.is_none_or(|page| page == server[i]), "page id {i} is not that of the revision");
        }
        self.earlier.push((self.image.clone(), received.revision()));
    }
}

/// `zstd` alternates, so that both encodings see every kind of request.
async fn run(steps: Vec<Step>) {
    let memory = Arc::new(Memory::new());
    let mut clients = vec![ModelClient::default(); 3];
    for (i, step) in steps.into_iter().enumerate() {
        let mut ask = request(|r| {
            if i % 2 == 1 {
                r.set_encoding(PageEncoding::Zstd);
            }
        });
        match step {
            Step::Commit { pages, changed } => memory.commit(pages, changed.into_iter().flatten()),
            Step::NewGeneration => memory.new_generation(),
            Step::Pull { client } => {
                let client = &mut clients[client];
                let was_whole = client.image.iter().all(Option::is_some);
                ask.client_revision = client.revision.map_or(String::new(), |r| WireRevision(r).to_string());
                let received = pull(&memory, &ask).await.unwrap();
                assert_eq!(received.revision(), memory.latest());
                client.take(&memory, &received);
                if was_whole {
                    assert_eq!(client.image, whole(&memory.image(memory.latest())));
                }
            }
            Step::Bootstrap { client, first } => {
                ask.server_pages_selector = selector(first.clone());
                let received = pull(&memory, &ask).await.unwrap();
                let expected = first.into_iter().chain([0]).collect::<BTreeSet<_>>();
                let size = received.header.db_size as u32;
                assert!(received.ids().into_iter().eq(expected.into_iter().filter(|id| *id < size)));
                clients[client] = ModelClient::default();
                clients[client].take(&memory, &received);
            }
            Step::Fetch { client, ids } => {
                let client = &mut clients[client];
                let Some(revision) = client.revision else { continue };
                ask.server_revision = WireRevision(revision).to_string();
                let ids: BTreeSet<u32> = ids.into_iter().flatten().collect();
                ask.server_pages_selector = selector(ids.clone());
                match pull(&memory, &ask).await {
                    Ok(received) => {
                        let size = received.header.db_size as u32;
                        assert!(received.ids().into_iter().eq(ids.into_iter().filter(|id| *id < size)));
                        client.take(&memory, &received);
                    }
                    Err(error) => {
                        assert!(matches!(error, PullError::Gone(_)), "{error}");
                        assert_ne!(revision.generation, memory.latest().generation);
                    }
                }
            }
            Step::Rewind { client, to } => {
                let client = &mut clients[client];
                if !client.earlier.is_empty() {
                    let (image, revision) = to.get(&client.earlier).clone();
                    (client.image, client.revision) = (image, Some(revision));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn clients_have_the_servers_image_whatever_they_had_and_asked_for(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
