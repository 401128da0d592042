//! What was pushed is what is read, in segments of any size, and only what belongs into a segment gets there.

use aquifer_format::segment::{
    CompressionLevel, EncodeError, EntryKind, Finished, GroupScratch, MAX_FRAME, SegmentBytes,
    SegmentEncoder, SegmentMeta,
};
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};
use proptest::prelude::*;

const SIZE: PageSize = PageSize::MIN;

fn meta(page_size: PageSize, size_before: u32, size_after: u32) -> SegmentMeta {
    SegmentMeta {
        page_size,
        range: TxidRange { first: Txid::new(7), last: Txid::new(1 << 40) },
        size_before,
        size_after,
        checksum_before: DbChecksum::from_u64(u64::MAX),
        checksum_after: DbChecksum::from_u64(22),
        commits: u32::MAX - 1,
        frames: 77,
        first_commit: Timestamp::from_millis(-1),
        last_commit: Timestamp::from_millis(i64::MAX),
        writer: WriterNonce::from_bytes([9; 16]),
    }
}

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).expect("1-based")
}

fn hash(n: u32, page: &[u8]) -> PageHash {
    PageHash::of(pgno(n), page)
}

fn encoder() -> SegmentEncoder {
    SegmentEncoder::new(SIZE, CompressionLevel::SHIP)
}

/// Number, kind and encoded length of all entries.
fn entries(object: &[u8]) -> Vec<(u32, EntryKind, usize)> {
    let segment = SegmentBytes::parse(object).expect("valid");
    let mut cursor = segment.entries();
    let mut found = Vec::new();
    while let Some(entry) = cursor.next().expect("valid") {
        found.push((entry.pgno.get(), entry.kind, entry.encoded_len()));
    }
    found
}

#[test]
fn a_segment_gives_back_what_was_pushed() {
    let old = [1u8; 512];
    let mut new = old;
    new[100..104].copy_from_slice(b"abcd");
    new[511] = 0;
    let image: [u8; 512] = std::array::from_fn(|i| i as u8);

    let mut encoder = encoder();
    encoder.push_delta(pgno(2), &old, &new, hash(2, &new));
    encoder.push_image(pgno(5), &image, hash(5, &image));
    encoder.push_zeros(pgno(6));
    let Finished { tail, info } = encoder.finish(&meta(SIZE, 4, 6)).expect("complete");
    assert_eq!(info.stored_len(), tail.len() as u64);

    let segment = SegmentBytes::parse(&tail).expect("valid");
    assert_eq!(segment.info(), &info);
    assert_eq!(info.meta(), &meta(SIZE, 4, 6));
    assert!(!info.is_snapshot());
    let mut cursor = segment.entries();
    let mut page = old;
    for (n, content, kind) in
        [(2, new, EntryKind::Delta), (5, image, EntryKind::Image), (6, [0; 512], EntryKind::Image)]
    {
        let entry = cursor.next().expect("valid").expect("one more");
        assert_eq!((entry.pgno, entry.kind), (pgno(n), kind));
        entry.apply(&mut page);
        assert_eq!(page, content);
        assert_eq!(entry.hash, hash(n, &page));
    }
    assert!(cursor.next().expect("valid").is_none());
}

#[test]
fn a_segment_without_pages_is_a_segment() {
    // A truncation may change no page that stays.
    let Finished { tail, info } = encoder().finish(&meta(SIZE, 9, 3)).expect("complete");
    assert_eq!((tail.len(), info.groups().len()), (144, 0));
    assert_eq!(entries(&tail), []);
    let Finished { tail, info } = encoder().finish(&meta(SIZE, 3, 0)).expect("complete");
    assert!(info.is_snapshot(), "the empty database needs no page");
    SegmentBytes::parse(&tail).expect("valid").verify().expect("valid");
}

#[test]
fn an_unchanged_page_is_left_out_and_a_rewritten_one_becomes_an_image() {
    let page = |seed: u8| [0u8; 512].map(|_| seed);
    let noise: [u8; 512] = std::array::from_fn(|i| (i * i + 7) as u8 | 1);
    let mut encoder = encoder();
    encoder.push_delta(pgno(1), &noise, &noise, hash(1, &noise));
    encoder.push_delta(pgno(2), &noise, &page(0), hash(2, &page(0)));
    encoder.push_delta(pgno(3), &page(3), &noise, hash(3, &noise));
    let mut slightly = noise;
    slightly[17] ^= 1;
    encoder.push_delta(pgno(4), &noise, &slightly, hash(4, &slightly));
    let Finished { tail, .. } = encoder.finish(&meta(SIZE, 4, 4)).expect("complete");
    let expected = [(2, EntryKind::Image, 0), (3, EntryKind::Image, 512 + 3), (4, EntryKind::Delta, 3)];
    assert_eq!(entries(&tail), expected);
}

#[test]
fn the_lock_byte_page_is_never_stored_and_never_missed() {
    let lock = SIZE.lock_page().get();
    let page = [3; 512];
    for last in [lock - 1, lock, lock + 1] {
        let mut encoder = encoder();
        for n in lock - 1..=last {
            encoder.push_image(pgno(n), &page, hash(n, &page));
        }
        let Finished { tail, info } = encoder.finish(&meta(SIZE, lock - 2, last)).expect("complete");
        let stored: Vec<u32> = entries(&tail).iter().map(|entry| entry.0).collect();
        let expected: Vec<u32> = (lock - 1..=last).filter(|n| *n != lock).collect();
        assert_eq!(stored, expected);
        assert_eq!(info.meta().stored_pages_after(), if last < lock { last } else { last - 1 });
    }
    // A database that grows by nothing but the lock-byte page needs no entry at all.
    assert!(encoder().finish(&meta(SIZE, lock - 1, lock)).is_ok());
    assert!(encoder().finish(&meta(SIZE, lock, lock + 1)).is_err());
}

#[test]
fn pages_that_came_to_exist_cannot_be_forgotten() {
    let page = [3; 512];
    let finish = |pushed: &[u32], before, after| {
        let mut encoder = encoder();
        for n in pushed {
            encoder.push_image(pgno(*n), &page, hash(*n, &page));
        }
        encoder.finish(&meta(SIZE, before, after)).map(|_| ())
    };
    let missing = |first, last| Err(EncodeError::MissingImages { first: pgno(first), last: pgno(last) });
    assert_eq!(finish(&[1, 5, 6], 4, 6), Ok(()));
    assert_eq!(finish(&[5], 4, 6), missing(5, 6));
    assert_eq!(finish(&[6], 4, 6), missing(5, 6));
    assert_eq!(finish(&[], 4, 6), missing(5, 6));
    assert_eq!(finish(&[1, 2], 0, 2), Ok(()));
    assert_eq!(finish(&[2], 0, 2), missing(1, 2));
    assert_eq!(finish(&[7], 4, 6), Err(EncodeError::BeyondEnd { pgno: pgno(7), size_after: 6 }));

    // A delta is no image.
    let mut with_delta = encoder();
    with_delta.push_image(pgno(5), &page, hash(5, &page));
    with_delta.push_delta(pgno(6), &[2; 512], &[2; 512].map(|b| b + 1), hash(6, &page));
    with_delta.push_delta(
        pgno(7),
        &[2; 512],
        &std::array::from_fn::<u8, 512, _>(|i| 2 + u8::from(i == 9)),
        hash(7, &page),
    );
    assert_eq!(with_delta.finish(&meta(SIZE, 4, 7)).map(|_| ()), missing(5, 7));
}

#[test]
fn metadata_about_another_page_size_is_refused() {
    let error = encoder().finish(&meta(PageSize::DEFAULT, 0, 0)).expect_err("another page size");
    assert_eq!(error, EncodeError::PageSize { pushed: SIZE, meta: PageSize::DEFAULT });
}

#[test]
#[should_panic(expected = "pages are pushed in ascending order: 3 after Some(page 3)")]
fn a_page_pushed_twice_panics() {
    let mut encoder = encoder();
    encoder.push_zeros(pgno(3));
    encoder.push_zeros(pgno(3));
}

/// Pages from nothing but zeros to nothing but noise.
fn content(page_size: PageSize, n: u32, density: u64) -> Vec<u8> {
    let mut state = u64::from(n) << 20 | 0x3039;
    let mut page = vec![0; page_size.bytes()];
    for byte in &mut page {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (state >> 33) % 100 < density {
            *byte = (state >> 50) as u8;
        }
    }
    page
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn segments_of_any_size_are_read_as_written(
        log2 in 9..=16u8,
        numbers in prop::collection::btree_map(1..4000u32, (0..=100u64, any::<bool>()), 0..200),
        level in -2..4i32,
        drain_every in 1..50usize,
        external in any::<bool>(),
    ) {
        let page_size = PageSize::from_log2(log2).expect("9 to 16");
        // Not more than 2 MB, or the test takes long.
        let most = (2 << 20) / page_size.bytes();
        let mut encoder = SegmentEncoder::new(page_size, CompressionLevel::new(level).expect("a level"));
        let mut drained = Vec::new();
        let pages: Vec<_> = numbers.into_iter().take(most).map(|(n, (density, image))| {
            (n, content(page_size, n, density), image)
        }).collect();
        for (i, (n, page, image)) in pages.iter().enumerate() {
            let hash = hash(*n, page);
            if *image {
                encoder.push_image(pgno(*n), page, hash);
            } else {
                encoder.push_delta(pgno(*n), page_size.zero_page(), page, hash);
            }
            prop_assert!(encoder.output().len() <= 16 + drain_every * MAX_FRAME);
            if i % drain_every == 0 {
                drained.append(encoder.output());
            }
        }
        let meta = meta(page_size, 4000, 4000);
        let (object, published, info) = if external {
            let finished = encoder.finish_external(&meta).expect("complete");
            drained.extend(finished.companion_tail);
            (drained, Some(finished.segment), finished.info)
        } else {
            let finished = encoder.finish(&meta).expect("complete");
            drained.extend(finished.tail);
            (drained, None, finished.info)
        };
        let segment = match &published {
            Some(published) => SegmentBytes::parse_external(published, &object),
            None => SegmentBytes::parse(&object),
        }.expect("valid");
        prop_assert_eq!(segment.verify(), Ok(()));
        prop_assert_eq!(segment.info(), &info);
        prop_assert_eq!(info.meta(), &meta);
        let len = object.len() as u64 + published.as_ref().map_or(0, |p| p.len() as u64);
        prop_assert_eq!(info.stored_len(), len);

        // Any page is found by the index and one group.
        let mut scratch = GroupScratch::new();
        let mut found = 0;
        for (n, page, _) in &pages {
            let group = info.index().find(pgno(*n));
            let group = group.map(|(number, _)| segment.group(number, &mut scratch).expect("valid"));
            let entry = group.as_ref().and_then(|group| group.find(pgno(*n)));
            // A delta from zeros to zeros is no change.
            let mut restored = page_size.zero_page().to_vec();
            if let Some(entry) = entry {
                found += 1;
                prop_assert_eq!(entry.hash, hash(*n, page));
                entry.apply(&mut restored);
            }
            prop_assert_eq!(&restored, page);
        }
        prop_assert_eq!(found, info.trailer().entries);
    }
}
