//! Random histories of small databases, and the segments that a writer makes of them.

use std::collections::BTreeSet;

use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder, SegmentMeta};
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) const SIZE: PageSize = PageSize::MIN;
pub(crate) const WRITER: WriterNonce = WriterNonce::from_bytes(*b"sixteen bytes ok");

/// Something that a transaction does. Pages are chosen modulo the database's size.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// XORs bytes at a place of a page.
    Edit { page: usize, at: usize, flips: Vec<u8> },
    /// Fills a page with unrelated bytes.
    Rewrite { page: usize, seed: u8 },
    /// Makes a page zeros.
    Clear { page: usize },
    /// Truncates the database, or grows it by pages of zeros.
    Resize(usize),
}

/// The operations of one txid, and whether its writer knows the old contents: without, it ships images.
pub(crate) type Transaction = (Vec<Op>, bool);

/// The pages of a database.
pub(crate) type Image = Vec<Vec<u8>>;

pub(crate) fn transactions(most: usize) -> impl Strategy<Value = Vec<Transaction>> {
    let op = prop_oneof![
        6 => (any::<usize>(), 0..SIZE.bytes(), vec(any::<u8>(), 1..60))
            .prop_map(|(page, at, flips)| Op::Edit { page, at, flips }),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(page, seed)| Op::Rewrite { page, seed }),
        1 => any::<usize>().prop_map(|page| Op::Clear { page }),
        3 => (0..9usize).prop_map(Op::Resize),
    ];
    vec((vec(op, 0..5), prop::bool::weighted(0.8)), 1..=most)
}

/// A history: the database after each txid, and each txid's segment of level 0.
pub(crate) struct History {
    /// `images[n]` is the database after txid n; `images[0]` is empty.
    pub(crate) images: Vec<Image>,
    /// `segments[n]` takes `images[n]` to `images[n + 1]`.
    pub(crate) segments: Vec<Vec<u8>>,
}

impl History {
    pub(crate) fn of(transactions: &[Transaction], level: CompressionLevel) -> History {
        let mut history = History { images: vec![Image::new()], segments: Vec::new() };
        for (n, (ops, knows_old)) in transactions.iter().enumerate() {
            let before = &history.images[n];
            let mut after = before.clone();
            // Pages that came to exist in this transaction, even if others were there before it.
            let mut born = BTreeSet::new();
            for op in ops {
                apply(op, &mut after, &mut born);
            }
            let mut encoder = SegmentEncoder::new(SIZE, level);
            for (i, new) in after.iter().enumerate() {
                let pgno = Pgno::from_index(i as u32);
                let hash = PageHash::of(pgno, new);
                match before.get(i).filter(|_| !born.contains(&i)) {
                    Some(old) if old == new => {}
                    Some(old) if *knows_old => encoder.push_delta(pgno, old, new, hash),
                    _ if new == SIZE.zero_page() => encoder.push_zeros(pgno),
                    _ => encoder.push_image(pgno, new, hash),
                }
            }
            history.segments.push(finish(encoder, &meta(n as u64 + 1, before, &after)));
            history.images.push(after);
        }
        history
    }

    pub(crate) fn parsed(&self) -> Vec<SegmentBytes<'_>> {
        self.segments.iter().map(|object| SegmentBytes::parse(object).expect("valid")).collect()
    }
}

fn apply(op: &Op, pages: &mut Image, born: &mut BTreeSet<usize>) {
    let size = pages.len();
    match op {
        Op::Resize(new_size) => {
            born.extend(size..*new_size);
            pages.resize(*new_size, SIZE.zero_page().to_vec());
        }
        _ if size == 0 => {}
        Op::Edit { page, at, flips } => {
            pages[page % size][*at..].iter_mut().zip(flips).for_each(|(byte, flip)| *byte ^= flip);
        }
        Op::Rewrite { page, seed } => {
            let bytes = (0..SIZE.bytes()).map(|i| (i as u8).wrapping_mul(*seed | 1).wrapping_add(*seed));
            pages[page % size] = bytes.collect();
        }
        Op::Clear { page } => pages[page % size].fill(0),
    }
}

pub(crate) fn finish(mut encoder: SegmentEncoder, meta: &SegmentMeta) -> Vec<u8> {
    let mut object = std::mem::take(encoder.output());
    object.extend(encoder.finish(meta).expect("all pages that came to exist were pushed").tail);
    object
}

pub(crate) fn checksum(pages: &Image) -> DbChecksum {
    let mut sum = DbChecksum::EMPTY;
    for (pgno, page) in Pgno::up_to(pages.len() as u32).zip(pages) {
        sum.toggle(PageHash::of(pgno, page));
    }
    sum
}

pub(crate) fn meta(txid: u64, before: &Image, after: &Image) -> SegmentMeta {
    SegmentMeta {
        page_size: SIZE,
        range: TxidRange::one(Txid::new(txid)),
        size_before: before.len() as u32,
        size_after: after.len() as u32,
        checksum_before: checksum(before),
        checksum_after: checksum(after),
        commits: 2,
        frames: 0,
        first_commit: Timestamp::from_millis(1_000 * txid as i64),
        last_commit: Timestamp::from_millis(1_000 * txid as i64 + 500),
        writer: WRITER,
    }
}

/// Applies a segment to a database image, checking the hash of each page that it touches.
pub(crate) fn restore_onto(pages: &mut Image, segment: &SegmentBytes<'_>) {
    let meta = segment.info().meta();
    assert_eq!((pages.len() as u32, checksum(pages)), (meta.size_before, meta.checksum_before));
    pages.resize(meta.size_after as usize, vec![0xdd; SIZE.bytes()]);
    let mut cursor = segment.entries();
    while let Some(entry) = cursor.next().expect("valid") {
        let page = &mut pages[entry.pgno.index()];
        entry.apply(page);
        assert_eq!(PageHash::of(entry.pgno, page), entry.hash, "{:?}", entry.pgno);
    }
    assert_eq!(checksum(pages), meta.checksum_after);
}
