//! Random histories of small databases in a store, and the simplest possible restore.

use aquifer_format::segment::{
    CompressionLevel, GroupScratch, SegmentBytes, SegmentEncoder, SegmentInfo, SegmentMeta, merge,
};
use aquifer_format::{
    DbChecksum, GenerationId, PageHash, PageSize, Pgno, Revision, Timestamp, Txid, TxidRange, WriterNonce,
};
use aquifer_log::{
    DatabaseStore, GenerationRecord, Level, Parent, Plan, PlanError, SegmentKey, Shipped, Store, Target,
};
use bytes::Bytes;

pub(crate) const SIZE: PageSize = PageSize::MIN;
pub(crate) const WRITER: WriterNonce = WriterNonce::from_bytes(*b"sixteen bytes ok");

/// The pages of a database.
pub(crate) type Image = Vec<Vec<u8>>;

/// Numbers that look random, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `n`, by `SplitMix64`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// One generation: in a store, and as images.
pub(crate) struct History {
    pub(crate) db: DatabaseStore,
    pub(crate) generation: GenerationId,
    /// `images[n]` is the database after txid n; `images[0]` is where the generation starts from.
    pub(crate) images: Vec<Image>,
    /// The segments of level 0; `segments[n]` takes `images[n]` to `images[n + 1]`.
    pub(crate) segments: Vec<(SegmentInfo, Bytes)>,
    dice: Dice,
    /// What txids are timed from.
    epoch: Timestamp,
}

pub(crate) fn database(store: &Store) -> DatabaseStore {
    DatabaseStore::new(store.clone(), "app.db".parse().unwrap())
}

/// When txid `n`'s last commit was: one each ten seconds.
pub(crate) fn commit_time(n: u64) -> Timestamp {
    Timestamp::from_millis(10_000 * n as i64)
}

impl History {
    /// A generation without segments.
    pub(crate) async fn begin(store: &Store, seed: u64) -> History {
        History::begin_from(store, seed, None, Image::new()).await
    }

    pub(crate) async fn begin_from(
        store: &Store,
        seed: u64,
        parent: Option<Revision>,
        start: Image,
    ) -> History {
        let db = database(store);
        let mut record = GenerationRecord::new(SIZE, WRITER);
        record.parent = parent.map(Parent::own);
        let generation = db.create_generation(record).await.unwrap().id;
        let (segments, epoch) = (Vec::new(), commit_time(0));
        History { db, generation, images: vec![start], segments, dice: Dice::new(seed), epoch }
    }

    /// That of a generation that continues an image, and has its first batch, which changes nothing.
    pub(crate) async fn continuing(
        db: &DatabaseStore,
        generation: GenerationId,
        seed: u64,
        image: &Image,
    ) -> History {
        let key = db.layout().segment(generation, SegmentKey::shipped(Txid::FIRST));
        let object = db.store().get(&key).await.unwrap();
        let info = SegmentInfo::open(&object, object.len() as u64).unwrap();
        let epoch = Timestamp::from_millis(info.meta().last_commit.as_millis() - commit_time(1).as_millis());
        let images = vec![image.clone(), image.clone()];
        let segments = vec![(info, object)];
        History { db: db.clone(), generation, images, segments, dice: Dice::new(seed), epoch }
    }

    /// When a txid's last commit was.
    pub(crate) fn time(&self, txid: u64) -> Timestamp {
        Timestamp::from_millis(self.epoch.as_millis() + commit_time(txid).as_millis())
    }

    /// A history of `txids` txids.
    pub(crate) async fn of(store: &Store, seed: u64, txids: u64) -> History {
        let mut history = History::begin(store, seed).await;
        history.grow(txids).await;
        history
    }

    pub(crate) fn head(&self) -> u64 {
        self.segments.len() as u64
    }

    pub(crate) fn image(&self, txid: u64) -> &Image {
        &self.images[txid as usize]
    }

    /// Ships more txids.
    pub(crate) async fn grow(&mut self, txids: u64) {
        for _ in 0..txids {
            assert!(self.extend().await.is_committed());
        }
    }

    /// Ships one more txid, if nobody else has it.
    pub(crate) async fn extend(&mut self) -> Shipped {
        let txid = self.head() + 1;
        let (after, object, info) = self.next(txid);
        let shipped = self.db.put_level0(self.generation, &info, object.clone()).await.unwrap();
        if shipped.is_committed() {
            self.images.push(after);
            self.segments.push((info, object));
        }
        shipped
    }

    fn next(&mut self, txid: u64) -> (Image, Bytes, SegmentInfo) {
        let before = self.images.last().unwrap().clone();
        let mut after = before.clone();
        // Below it, pages are those that were there before, not others that came after a truncation.
        let mut unbroken = before.len();
        for _ in 0..=self.dice.below(4) {
            if after.is_empty() || self.dice.below(5) == 0 {
                let size = 1 + self.dice.below(40) as usize;
                after.resize(size, SIZE.zero_page().to_vec());
                unbroken = unbroken.min(size);
            }
            let page = self.dice.below(after.len() as u64) as usize;
            match self.dice.below(6) {
                0 => after[page].fill(0),
                1 => after[page] = (0..SIZE.bytes()).map(|_| self.dice.below(256) as u8).collect(),
                _ => {
                    let at = self.dice.below(SIZE.bytes() as u64) as usize;
                    after[page][at] ^= 1 + self.dice.below(255) as u8;
                }
            }
        }
        let knows_old = self.dice.below(5) > 0;
        let mut encoder = SegmentEncoder::new(SIZE, CompressionLevel::SHIP);
        for (i, new) in after.iter().enumerate() {
            let pgno = Pgno::from_index(i as u32);
            let hash = PageHash::of(pgno, new);
            match before.get(i).filter(|_| i < unbroken) {
                Some(old) if old == new => {}
                Some(old) if knows_old => encoder.push_delta(pgno, old, new, hash),
                _ => encoder.push_image(pgno, new, hash),
            }
        }
        let meta = SegmentMeta {
            page_size: SIZE,
            range: TxidRange::one(Txid::new(txid)),
            size_before: before.len() as u32,
            size_after: after.len() as u32,
            checksum_before: checksum(&before),
            checksum_after: checksum(&after),
            commits: 2,
            frames: 0,
            first_commit: Timestamp::from_millis(self.time(txid).as_millis() - 500),
            last_commit: self.time(txid),
            writer: WRITER,
        };
        let mut object = std::mem::take(encoder.output());
        let finished = encoder.finish(&meta).unwrap();
        object.extend(finished.tail);
        (after, Bytes::from(object), finished.info)
    }

    /// What txids `first` to `last` are as one segment, made in memory.
    pub(crate) fn merged(&self, first: u64, last: u64) -> Bytes {
        let parts = &self.segments[first as usize - 1..last as usize];
        let parts: Vec<_> = parts.iter().map(|(_, object)| SegmentBytes::parse(object).unwrap()).collect();
        merge(&parts, CompressionLevel::KEEP).unwrap().tail.into()
    }

    /// Puts a segment made of txids `first` to `last`; of level `None` as a snapshot.
    pub(crate) async fn put_merged(&self, level: Option<u8>, first: u64, last: u64) -> SegmentKey {
        let range = TxidRange::new(Txid::new(first), Txid::new(last)).unwrap();
        let segment = SegmentKey { level: level.map_or(Level::Snapshot, Level::number), range };
        self.put(segment, self.merged(first, last)).await;
        segment
    }

    pub(crate) async fn put(&self, segment: SegmentKey, object: Bytes) {
        self.db.store().put(&self.db.layout().segment(self.generation, segment), object).await.unwrap();
    }

    pub(crate) async fn delete(&self, segment: SegmentKey) {
        self.db.store().delete(&self.db.layout().segment(self.generation, segment)).await.unwrap();
    }

    pub(crate) async fn plan(&self, target: Target) -> Result<Plan, PlanError> {
        Plan::make(&self.db, Some(self.generation), target).await
    }

    pub(crate) async fn plan_txid(&self, txid: u64) -> Result<Plan, PlanError> {
        self.plan(Target::Txid(Txid::new(txid))).await
    }

    /// Asserts that a txid restores to what it was.
    pub(crate) async fn assert_restores(&self, txid: u64) {
        let plan = self.plan_txid(txid).await.unwrap_or_else(|e| panic!("txid {txid}: {e}"));
        assert_eq!(plan.revision, Revision { generation: self.generation, txid: Txid::new(txid) });
        assert_eq!(plan.last_commit, self.time(txid));
        assert!(restore(&plan).await == *self.image(txid), "txid {txid}, by {}", steps(&plan));
    }
}

/// The names of a plan's segments.
pub(crate) fn steps(plan: &Plan) -> String {
    let names: Vec<_> = plan.steps.iter().map(|step| step.handle.segment().to_string()).collect();
    names.join(" ")
}

pub(crate) fn checksum(pages: &Image) -> DbChecksum {
    let mut sum = DbChecksum::EMPTY;
    for (pgno, page) in Pgno::up_to(pages.len() as u32).zip(pages) {
        sum.toggle(PageHash::of(pgno, page));
    }
    sum
}

/// Applies a plan's segments in order, checking each page's hash after each.
pub(crate) async fn restore(plan: &Plan) -> Image {
    restore_onto(plan, Image::new()).await
}

pub(crate) async fn restore_onto(plan: &Plan, mut pages: Image) -> Image {
    let mut scratch = GroupScratch::new();
    for step in &plan.steps {
        let handle = &step.handle;
        let meta = handle.info().meta();
        assert!(handle.segment().level == Level::Snapshot || pages.len() as u32 == meta.size_before);
        pages.resize(meta.size_after as usize, vec![0xdd; SIZE.bytes()]);
        for number in 0..handle.info().groups().len() {
            let fetched = handle.fetch(number..number + 1).await.unwrap();
            let group = fetched.decode(number, &mut scratch).unwrap();
            for entry in group.entries() {
                let page = &mut pages[entry.pgno.index()];
                entry.apply(page);
                assert_eq!(PageHash::of(entry.pgno, page), entry.hash, "{:?}", entry.pgno);
            }
        }
        assert_eq!(checksum(&pages), meta.checksum_after);
    }
    assert_eq!(checksum(&pages), plan.checksum_after);
    assert_eq!(pages.len() as u32, plan.size_after);
    pages
}
