//! What was encoded is what is decoded.

use aquifer_format::segment::{
    CompressionLevel, EntryKind, Finished, SegmentBytes, SegmentEncoder, SegmentMeta,
};
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};

const SIZE: PageSize = PageSize::MIN;

fn meta(size_before: u32, size_after: u32) -> SegmentMeta {
    SegmentMeta {
        page_size: SIZE,
        range: TxidRange::one(Txid::new(7)),
        size_before,
        size_after,
        checksum_before: DbChecksum::from_u64(11),
        checksum_after: DbChecksum::from_u64(22),
        commits: 3,
        first_commit: Timestamp::from_millis(1_000),
        last_commit: Timestamp::from_millis(2_000),
        writer: WriterNonce::from_bytes([9; 16]),
    }
}

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).expect("1-based")
}

#[test]
fn a_segment_gives_back_what_was_pushed() {
    let old = [1u8; 512];
    let mut new = old;
    new[100..104].copy_from_slice(b"abcd");
    new[511] = 0;
    let image: [u8; 512] = std::array::from_fn(|i| i as u8);

    let mut encoder = SegmentEncoder::new(SIZE, CompressionLevel::SHIP);
    encoder.push_delta(pgno(2), &old, &new, PageHash::of(pgno(2), &new));
    encoder.push_image(pgno(5), &image, PageHash::of(pgno(5), &image));
    encoder.push_zeros(pgno(6));
    let mut object = std::mem::take(encoder.output());
    let Finished { tail, info } = encoder.finish(&meta(4, 6)).expect("complete");
    object.extend(tail);
    assert_eq!(info.stored_len(), object.len() as u64);

    let segment = SegmentBytes::parse(&object).expect("valid");
    assert_eq!(segment.info(), &info);
    assert_eq!(info.meta(), &meta(4, 6));
    let mut cursor = segment.entries();
    let mut page = old;
    for (n, content, kind) in
        [(2, new, EntryKind::Delta), (5, image, EntryKind::Image), (6, [0; 512], EntryKind::Image)]
    {
        let entry = cursor.next().expect("valid").expect("one more");
        assert_eq!((entry.pgno, entry.kind), (pgno(n), kind));
        entry.apply(&mut page);
        assert_eq!(page, content);
        assert_eq!(entry.hash, PageHash::of(entry.pgno, &page));
    }
    assert!(cursor.next().expect("valid").is_none());
}
