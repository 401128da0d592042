use aquifer_protocol::pull_updates::{PullHeader, RawEncoding, ZstdEncoding, put_page};
use proptest::prelude::*;

use super::*;

fn header(pages: u64, zstd: bool) -> PullHeader {
    PullHeader {
        server_revision: "r1".into(),
        db_size: pages,
        raw_encoding: (!zstd).then_some(RawEncoding {}),
        zstd_encoding: zstd.then(|| ZstdEncoding { level: 1, pages_dict: Vec::new() }),
        ..PullHeader::default()
    }
}

/// A page of this size, which looks like a database's first one if it is the first.
fn page(size: PageSize, id: u32, seed: u8) -> Vec<u8> {
    let mut page: Vec<u8> = (0..size.bytes()).map(|i| (i / 7) as u8 ^ seed).collect();
    if id == 0 {
        page[..16].copy_from_slice(b"SQLite format 3\0");
        page[16..18].copy_from_slice(&((size.get() % 65_535) as u16).to_be_bytes());
    }
    page
}

fn body(header: &PullHeader, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    header.encode_length_delimited(&mut out).unwrap();
    for (id, page) in pages {
        let compressed = header.zstd_encoding.is_some().then(|| zstd::bulk::compress(page, 1).unwrap());
        put_page(&mut out, *id, compressed.as_ref().unwrap_or(page));
    }
    out.to_vec()
}

type Pages = Vec<(u32, Vec<u8>)>;

/// All of an answer that arrives in parts of these lengths (cycled).
fn read(body: &[u8], parts: &[usize], expected: Expected) -> Result<(Head, Pages), Malformed> {
    let mut decoder = Decoder::new(expected);
    let (mut at, mut head, mut pages) = (0, None, Vec::new());
    for part in parts.iter().cycle() {
        if head.is_none() {
            head = decoder.head()?;
        }
        if head.is_some() {
            while let Some((pgno, page)) = decoder.page()? {
                pages.push((pgno.get() - 1, page.to_vec()));
            }
        }
        if at == body.len() {
            break;
        }
        let end = (at + part).min(body.len());
        decoder.feed(&body[at..end]);
        at = end;
    }
    decoder.end()?;
    Ok((head.expect("an answer that may end has a head"), pages))
}

fn refused(body: &[u8], expected: Expected) -> String {
    read(body, &[usize::MAX / 2], expected).expect_err("an answer that means nothing").to_string()
}

#[test]
fn an_answer_that_means_nothing_is_refused_with_the_reason() {
    const SIZE: PageSize = PageSize::DEFAULT;
    let one = |id| (id, page(SIZE, id, 1));
    let all = |header: &PullHeader, pages: &[(u32, Vec<u8>)]| refused(&body(header, pages), Expected::All);
    let changed = |change: &dyn Fn(&mut PullHeader)| {
        let mut header = header(2, false);
        change(&mut header);
        refused(&body(&header, &[one(0), one(1)]), Expected::Changed)
    };
    let raw = header(2, false);
    for (message, reason) in [
        (all(&raw, &[one(0), one(0)]), "twice"),
        (all(&raw, &[one(0), one(2)]), "page with id 2, of 2 pages"),
        (all(&raw, &[one(0)]), "lacks 1 pages that were asked for, the first with id 1"),
        (all(&raw, &[one(1)]), "the first with id 0"),
        (all(&raw, &[one(0), (1, vec![0; 4095])]), "4095 bytes"),
        (all(&raw, &[one(0), (1, vec![0; 8192])]), "another size"),
        (all(&raw, &[(0, vec![1; 4096]), one(1)]), "first page"),
        (changed(&|h| h.raw_encoding = None), "how its pages are encoded"),
        (changed(&|h| h.zstd_encoding = Some(ZstdEncoding::default())), "how its pages are encoded"),
        (changed(&|h| h.server_revision.clear()), "no revision"),
        (changed(&|h| h.db_size = 1 << 32), "4294967296 pages"),
        (changed(&|h| h.set_protocol(Protocol::MvccLogical)), "MVCC"),
        (changed(&|h| h.set_stream_kind(StreamKind::MvccLogicalLog)), "MVCC"),
        (
            changed(&|h| {
                h.raw_encoding = None;
                h.zstd_encoding = Some(ZstdEncoding { level: 1, pages_dict: vec![1] });
            }),
            "dictionary",
        ),
        (refused(b"", Expected::Changed), "before its header"),
        (refused(&[0xff; 20], Expected::Changed), "length cannot be"),
    ] {
        assert!(message.contains(reason), "{message} ({reason})");
    }
}

#[test]
fn an_answer_whose_pages_nobody_counts_ends_between_two_pages() {
    let pages: Pages = (0..2).map(|id| (id, page(PageSize::DEFAULT, id, 3))).collect();
    let (one, two) = (body(&header(2, false), &pages[..1]), body(&header(2, false), &pages));
    for len in 0..two.len() {
        let whole = len == one.len() || len == header(2, false).encode_length_delimited_to_vec().len();
        assert_eq!(read(&two[..len], &[1 << 20], Expected::Changed).is_ok(), whole, "{len} bytes");
    }
}

#[test]
fn an_answer_that_replaces_the_base_must_have_all_of_it() {
    let mut replaces = header(3, false);
    replaces.set_apply_mode(ApplyMode::ReplaceBase);
    let some = [(0, page(PageSize::DEFAULT, 0, 1)), (2, page(PageSize::DEFAULT, 2, 1))];
    assert!(refused(&body(&replaces, &some), Expected::Changed).contains("lacks 1 pages"));
    assert!(read(&body(&header(3, false), &some), &[100], Expected::Changed).is_ok());
}

#[test]
fn the_page_that_sqlite_locks_may_be_missing_and_no_other() {
    let lock = PageSize::MAX.lock_page().get() - 1;
    let these = |ids: &[u32]| Expected::These(ids.iter().copied().collect());
    let first = [(0, page(PageSize::MAX, 0, 1))];
    let body = body(&header(u64::from(lock) + 10, false), &first);
    assert!(read(&body, &[1 << 20], these(&[0, lock])).is_ok());
    assert!(refused(&body, these(&[0, lock + 1])).contains(&format!("id {}", lock + 1)));
    // Beyond the database there is nothing to be had.
    assert!(read(&body, &[1 << 20], these(&[0, lock + 10, u32::MAX])).is_ok());
}

#[test]
fn a_length_is_not_believed_before_memory_is_taken_for_it() {
    // One byte more than may be, and the most that a length of five bytes can say.
    for len in [PAGE_MAX as u64 + 1, (1 << 35) - 1] {
        let mut decoder = Decoder::new(Expected::Changed);
        decoder.feed(&header(2, false).encode_length_delimited_to_vec());
        assert!(decoder.head().unwrap().is_some());
        let mut wire = BytesMut::new();
        prost::encoding::encode_varint(len, &mut wire);
        decoder.feed(&wire);
        let error = decoder.page().unwrap_err().to_string();
        assert!(error.contains("are the most"), "{error}");
        assert!(decoder.buffer.capacity() < 4096);
    }
}

#[test]
fn a_page_that_decompresses_to_more_than_a_page_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 1).unwrap();
    assert!(bomb.len() < PAGE_MAX);
    let mut out = BytesMut::from(&header(2, true).encode_length_delimited_to_vec()[..]);
    put_page(&mut out, 1, &bomb);
    assert!(refused(&out, Expected::Changed).contains("cannot be decompressed"));
}

/// Up to 12 pages, each once, in any order: servers send them as they lie in a WAL.
fn answers() -> impl Strategy<Value = (bool, Pages)> {
    let ids = prop::sample::subsequence((0..12_u32).collect::<Vec<_>>(), 0..=12).prop_shuffle();
    (9..=16_u8, any::<bool>(), ids, any::<u8>()).prop_map(|(log2, zstd, ids, seed)| {
        let size = PageSize::from_log2(log2).unwrap();
        (zstd, ids.into_iter().map(|id| (id, page(size, id, seed))).collect())
    })
}

proptest! {
    #[test]
    fn pages_arrive_as_they_were_sent_however_the_bytes_are_cut(
        (zstd, pages) in answers(),
        parts in prop::collection::vec(1..20_000_usize, 1..20),
    ) {
        let expected = Expected::These(pages.iter().map(|(id, _)| *id).collect());
        let (head, received) = read(&body(&header(12, zstd), &pages), &parts, expected).unwrap();
        prop_assert_eq!(head, Head { revision: "r1".into(), pages: 12, replace_base: false });
        prop_assert_eq!(received, pages);
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_refused(
        zstd in any::<bool>(), cut in any::<prop::sample::Index>(),
    ) {
        let pages: Pages = (0..5).map(|id| (id, page(PageSize::DEFAULT, id, 3))).collect();
        let body = body(&header(5, zstd), &pages);
        let cut = &body[..cut.index(body.len())];
        prop_assert!(read(cut, &[1000], Expected::All).is_err());
    }

    #[test]
    fn damage_is_an_error_or_pages_of_one_size_within_the_database(
        (zstd, pages) in answers(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut body = body(&header(12, zstd), &pages);
        for (at, byte) in damage {
            let at = at.index(body.len().min(200));
            body[at] = byte;
        }
        if let Ok((head, pages)) = read(&body, &[5000], Expected::Changed) {
            let size = pages.first().map(|(_, page)| page.len());
            for (id, page) in &pages {
                prop_assert!(*id < head.pages && Some(page.len()) == size);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes, &[7], Expected::All);
    }
}
