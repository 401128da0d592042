//! A small segment with several groups, deltas and images, to be damaged.

use aquifer_format::segment::{
    CompressionLevel, Group, GroupScratch, SegmentBytes, SegmentEncoder, SegmentInfo,
};
use aquifer_format::{PageHash, Pgno};
use xxhash_rust::xxh3::xxh3_64;

use crate::history::{Image, SIZE, finish, meta};

/// Pages that compress well, so that many groups take few bytes.
fn page(seed: usize) -> Vec<u8> {
    (0..SIZE.bytes()).map(|i| (seed + i / 100) as u8 | 1).collect()
}

/// A segment that changes half of `pages` pages, and adds as many.
pub(crate) fn segment(pages: usize, level: CompressionLevel) -> Vec<u8> {
    let before: Image = (0..pages).map(page).collect();
    let mut after: Image = (0..2 * pages).map(page).collect();
    let mut encoder = SegmentEncoder::new(SIZE, level);
    for (i, (pgno, new)) in Pgno::up_to(2 * pages as u32).zip(&mut after).enumerate() {
        if i >= pages {
            encoder.push_image(pgno, new, PageHash::of(pgno, new));
        } else if i % 2 == 0 {
            new[i % 500..i % 500 + 10].fill(0xc3);
            encoder.push_delta(pgno, &before[i], new, PageHash::of(pgno, new));
        }
    }
    finish(encoder, &meta(1, &before, &after))
}

pub(crate) fn info(object: &[u8]) -> SegmentInfo {
    SegmentInfo::open(object, object.len() as u64).expect("valid")
}

/// Makes all checksums right again that a change of bytes made wrong: what only malice or a bug of a writer can
/// do. `layout` tells where the groups were.
pub(crate) fn reseal(object: &mut [u8], layout: &SegmentInfo) {
    for group in layout.groups() {
        let frame = &mut object[group.offset as usize..group.end() as usize];
        let checksum = xxh3_64(&frame[8..]);
        frame[..8].copy_from_slice(&checksum.to_le_bytes());
    }
    let (start, end) = (layout.trailer().index_offset() as usize, object.len() - 8);
    let checksum = xxh3_64(&object[start..end]);
    object[end..].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads everything that can be read, and applies it.
pub(crate) fn read_all(object: &[u8]) -> Result<usize, aquifer_format::segment::FormatError> {
    let segment = SegmentBytes::parse(object)?;
    let mut scratch = GroupScratch::new();
    let mut page = vec![0; segment.info().meta().page_size.bytes()];
    let mut applied = 0;
    for number in 0..segment.info().groups().len() {
        let group: Group = segment.group(number, &mut scratch)?;
        for entry in group.entries() {
            entry.apply(&mut page);
            applied += 1;
        }
        scratch.recycle(group);
    }
    segment.verify()?;
    Ok(applied)
}
