//! Bytes per second and core of what every page goes through.
//!
//! `cargo bench -p aquifer-format`. Throughput counts the bytes of one content of each page.

use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder, SegmentMeta};
use aquifer_format::segment::{encode_delta, encode_image};
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const SIZE: PageSize = PageSize::DEFAULT;
/// 4 MiB of pages: more than the caches next to a core hold, as in capture.
const PAGES: usize = 1024;

/// A small generator of its own, so that every run measures the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
}

/// Pages of text-like bytes, a third of each unused.
fn pages() -> Vec<Vec<u8>> {
    let mut random = Random(1);
    let page = |random: &mut Random| {
        let mut page: Vec<u8> = (0..SIZE.bytes()).map(|_| b'a' + random.below(16) as u8).collect();
        page[100..1400].fill(0);
        page
    };
    (0..PAGES).map(|_| page(&mut random)).collect()
}

/// `stretches` changes of 1 to 40 bytes in each page.
fn changed(pages: &[Vec<u8>], stretches: usize) -> Vec<Vec<u8>> {
    let mut random = Random(2);
    let mut change = |page: &Vec<u8>| {
        let mut page = page.clone();
        for _ in 0..stretches {
            let at = random.below(SIZE.bytes() - 40);
            let len = 1 + random.below(40);
            page[at..at + len].iter_mut().for_each(|byte| *byte = random.next() as u8);
        }
        page
    };
    pages.iter().map(&mut change).collect()
}

fn hashes(pages: &[Vec<u8>]) -> Vec<PageHash> {
    Pgno::up_to(PAGES as u32).zip(pages).map(|(pgno, page)| PageHash::of(pgno, page)).collect()
}

fn counter() -> BytesCount {
    BytesCount::new(PAGES * SIZE.bytes())
}

#[divan::bench]
fn hash(bencher: Bencher) {
    let pages = pages();
    bencher.counter(counter()).bench_local(|| {
        let mut sum = DbChecksum::EMPTY;
        for (pgno, page) in Pgno::up_to(PAGES as u32).zip(black_box(&pages)) {
            sum.toggle(PageHash::of(pgno, page));
        }
        sum
    });
}

/// The runs of pages with so many changes of 1 to 40 bytes each.
#[divan::bench(args = [0, 1, 3, 10, 40, 200])]
fn delta(bencher: Bencher, stretches: usize) {
    let old = pages();
    let new = changed(&old, stretches);
    let mut out = Vec::with_capacity(PAGES * SIZE.bytes() * 2);
    bencher.counter(counter()).bench_local(|| {
        out.clear();
        for (old, new) in black_box(&old).iter().zip(black_box(&new)) {
            encode_delta(old, new, &mut out);
        }
        out.len()
    });
}

#[divan::bench]
fn image(bencher: Bencher) {
    let pages = pages();
    let mut out = Vec::with_capacity(PAGES * SIZE.bytes() * 2);
    bencher.counter(counter()).bench_local(|| {
        out.clear();
        for page in black_box(&pages) {
            encode_image(page, &mut out);
        }
        out.len()
    });
}

fn meta() -> SegmentMeta {
    SegmentMeta {
        page_size: SIZE,
        range: TxidRange::one(Txid::FIRST),
        size_before: PAGES as u32,
        size_after: PAGES as u32,
        checksum_before: DbChecksum::EMPTY,
        checksum_after: DbChecksum::EMPTY,
        commits: 1,
        frames: 0,
        first_commit: Timestamp::from_millis(0),
        last_commit: Timestamp::from_millis(0),
        writer: WriterNonce::from_bytes([0; 16]),
    }
}

fn delta_segment(level: CompressionLevel, old: &[Vec<u8>], new: &[Vec<u8>], hashes: &[PageHash]) -> Vec<u8> {
    let mut encoder = SegmentEncoder::new(SIZE, level);
    for (pgno, ((old, new), hash)) in Pgno::up_to(PAGES as u32).zip(old.iter().zip(new).zip(hashes)) {
        encoder.push_delta(pgno, old, new, *hash);
    }
    let mut object = std::mem::take(encoder.output());
    object.extend(encoder.finish(&meta()).expect("complete").tail);
    object
}

fn image_segment(level: CompressionLevel, pages: &[Vec<u8>], hashes: &[PageHash]) -> Vec<u8> {
    let mut encoder = SegmentEncoder::new(SIZE, level);
    for (pgno, (page, hash)) in Pgno::up_to(PAGES as u32).zip(pages.iter().zip(hashes)) {
        encoder.push_image(pgno, page, *hash);
    }
    let mut object = std::mem::take(encoder.output());
    object.extend(encoder.finish(&meta()).expect("complete").tail);
    object
}

/// A whole segment of pages with 3 changes each, compressed, hashes not counted.
#[divan::bench(args = [0, 1])]
fn segment_of_deltas(bencher: Bencher, level: i32) {
    let level = CompressionLevel::new(level).expect("a level");
    let old = pages();
    let new = changed(&old, 3);
    let hashes = hashes(&new);
    bencher
        .counter(counter())
        .bench_local(|| delta_segment(level, black_box(&old), black_box(&new), &hashes));
}

#[divan::bench(args = [0, 1, 3])]
fn segment_of_images(bencher: Bencher, level: i32) {
    let level = CompressionLevel::new(level).expect("a level");
    let pages = pages();
    let hashes = hashes(&pages);
    bencher.counter(counter()).bench_local(|| image_segment(level, black_box(&pages), &hashes));
}

fn apply_all(object: &[u8], pages: &mut [Vec<u8>]) {
    let segment = SegmentBytes::parse(object).expect("valid");
    let mut cursor = segment.entries();
    while let Some(entry) = cursor.next().expect("valid") {
        let page = &mut pages[entry.pgno.index()];
        entry.apply(page);
    }
}

/// Verifying, decompressing and applying.
#[divan::bench(args = [0, 1])]
fn read_deltas(bencher: Bencher, level: i32) {
    let mut old = pages();
    let new = changed(&old, 3);
    let object = delta_segment(CompressionLevel::new(level).expect("a level"), &old, &new, &hashes(&new));
    bencher.counter(counter()).bench_local(|| apply_all(black_box(&object), &mut old));
}

/// Verifying, decompressing and copying.
#[divan::bench(args = [0, 1, 3])]
fn read_images(bencher: Bencher, level: i32) {
    let mut pages = pages();
    let object = image_segment(CompressionLevel::new(level).expect("a level"), &pages, &hashes(&pages));
    bencher.counter(counter()).bench_local(|| apply_all(black_box(&object), &mut pages));
}

/// One page per segment: what a small transaction costs besides its bytes.
#[divan::bench]
fn segment_of_one_delta() -> Vec<u8> {
    static PAGE: [u8; 4096] = [7; 4096];
    let mut new = PAGE;
    new[1000..1040].copy_from_slice(&[9; 40]);
    let mut encoder = SegmentEncoder::new(SIZE, CompressionLevel::SHIP);
    encoder.push_delta(Pgno::ONE, &PAGE, black_box(&new), PageHash::of(Pgno::ONE, &new));
    encoder.finish(&meta()).expect("complete").tail
}
