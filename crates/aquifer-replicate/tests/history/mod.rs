//! Histories to restore: images of a database, made into segments the simplest way there is.
#![allow(dead_code, reason = "each test uses its part")]

use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder, SegmentMeta, merge};
use aquifer_format::{
    DbChecksum, GenerationId, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce,
};
use aquifer_log::store::Store;
use aquifer_log::{DatabaseName, DatabaseStore, GenerationRecord, SegmentKey};

/// A generation in a store, and the images that it must restore to.
pub(crate) struct History {
    pub(crate) database: DatabaseStore,
    pub(crate) generation: GenerationId,
    pub(crate) page_size: PageSize,
    /// Of txid 0 (empty), 1, 2, …
    pub(crate) images: Vec<Vec<u8>>,
    writer: WriterNonce,
}

impl History {
    pub(crate) async fn begin(store: &Store, page_size: PageSize) -> History {
        let database = DatabaseStore::new(store.clone(), History::name());
        let writer = WriterNonce::random();
        let record = GenerationRecord::new(page_size, writer);
        let generation = database.create_generation(record).await.unwrap().id;
        History { database, generation, page_size, images: vec![Vec::new()], writer }
    }

    pub(crate) fn name() -> DatabaseName {
        "app.db".parse().unwrap()
    }

    pub(crate) fn head(&self) -> Txid {
        Txid::new(self.images.len() as u64 - 1)
    }

    pub(crate) fn image(&self, txid: Txid) -> &[u8] {
        &self.images[txid.get() as usize]
    }

    /// Ships the image as the next txid.
    pub(crate) async fn commit(&mut self, image: Vec<u8>) {
        self.images.push(image);
        let txid = self.head();
        let object = self.segment(TxidRange::one(txid), CompressionLevel::SHIP);
        self.put(SegmentKey::shipped(txid), object).await;
    }

    /// Ships a database file as the next txid; it must hold everything.
    pub(crate) async fn commit_file(&mut self, path: &Path) {
        self.commit(std::fs::read(path).unwrap()).await;
    }

    pub(crate) async fn snapshot(&self, txid: Txid) {
        let range = TxidRange::new(Txid::FIRST, txid).unwrap();
        let object = self.segment(range, CompressionLevel::KEEP);
        self.put(SegmentKey::snapshot(txid).unwrap(), object).await;
    }

    pub(crate) async fn compact(&self, first: Txid, last: Txid) {
        let objects: Vec<_> = (first.get()..=last.get())
            .map(|txid| self.segment(TxidRange::one(Txid::new(txid)), CompressionLevel::SHIP))
            .collect();
        let segments: Vec<_> = objects.iter().map(|object| SegmentBytes::parse(object).unwrap()).collect();
        let range = TxidRange::new(first, last).unwrap();
        let merged = merge(&segments, CompressionLevel::KEEP).unwrap().tail;
        self.put(SegmentKey::compacted(NonZeroU8::MIN, range), merged).await;
    }

    async fn put(&self, key: SegmentKey, object: Vec<u8>) {
        let key = self.database.layout().segment(self.generation, key);
        self.database.store().put(&key, object).await.unwrap();
    }

    /// The difference of two images, in one object.
    fn segment(&self, range: TxidRange, level: CompressionLevel) -> Vec<u8> {
        let (old, new) = (self.image(range.first.previous()), self.image(range.last));
        let size = self.page_size.bytes();
        let mut encoder = SegmentEncoder::new(self.page_size, level);
        for (pgno, page) in pages(self.page_size, new) {
            let hash = PageHash::of(pgno, page);
            match old.chunks_exact(size).nth(pgno.index()) {
                Some(before) if before == page => {}
                Some(before) => encoder.push_delta(pgno, before, page, hash),
                None => encoder.push_image(pgno, page, hash),
            }
        }
        let meta = SegmentMeta {
            page_size: self.page_size,
            range,
            size_before: (old.len() / size) as u32,
            size_after: (new.len() / size) as u32,
            checksum_before: checksum(self.page_size, old),
            checksum_after: checksum(self.page_size, new),
            commits: range.count() as u32,
            frames: 0,
            first_commit: commit_time(range.first),
            last_commit: commit_time(range.last),
            writer: self.writer,
        };
        encoder.finish(&meta).unwrap().tail
    }
}

/// An example program of this crate, which a process of its own can be killed in.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is not built: `cargo build --examples` makes it, as does `cargo test` without --test",
        program.display()
    );
    program
}

/// When a txid was committed: a second after the one before.
pub(crate) fn commit_time(txid: Txid) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + 1000 * txid.get() as i64)
}

fn pages(page_size: PageSize, image: &[u8]) -> impl Iterator<Item = (Pgno, &[u8])> {
    let pages = image.chunks_exact(page_size.bytes());
    pages.enumerate().map(|(index, page)| (Pgno::from_index(index as u32), page))
}

fn checksum(page_size: PageSize, image: &[u8]) -> DbChecksum {
    let mut sum = DbChecksum::EMPTY;
    for (pgno, page) in pages(page_size, image) {
        sum.toggle(PageHash::of(pgno, page));
    }
    sum
}
