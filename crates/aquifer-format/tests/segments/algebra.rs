//! However a history is cut and compacted, it gives the same pages.

use aquifer_format::segment::{
    CompressionLevel, EntryKind, GroupScratch, MergeError, PageFold, SegmentBytes, SegmentInfo, SegmentMeta,
    merge,
};
use aquifer_format::{PageHash, Pgno, Txid, TxidRange};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::history::{History, Image, SIZE, checksum, restore_onto, transactions};

fn merged(parts: &[SegmentBytes<'_>]) -> Vec<u8> {
    merge(parts, CompressionLevel::KEEP).expect("adjacent and valid").tail
}

/// Merges neighbours as `choices` say, until none is left.
fn compact(mut objects: Vec<Vec<u8>>, choices: &[(prop::sample::Index, usize)]) -> Vec<Vec<u8>> {
    for (at, len) in choices {
        let first = at.index(objects.len());
        let range = first..(first + len).min(objects.len());
        let parts: Vec<_> =
            objects[range.clone()].iter().map(|o| SegmentBytes::parse(o).expect("valid")).collect();
        let together = merged(&parts);
        objects.splice(range, [together]);
    }
    objects
}

type Said = (Pgno, EntryKind, PageHash, Vec<u8>);

/// All that a segment says, whatever its groups.
fn content(object: &[u8]) -> (SegmentMeta, Vec<Said>) {
    let segment = SegmentBytes::parse(object).expect("valid");
    let mut cursor = segment.entries();
    let mut entries = Vec::new();
    while let Some(entry) = cursor.next().expect("valid") {
        let mut page = vec![0; SIZE.bytes()];
        entry.apply(&mut page);
        entries.push((entry.pgno, entry.kind, entry.hash, page));
    }
    (segment.info().meta().clone(), entries)
}

/// A page by the rule for random readers: newest to oldest until an image, XOR them all.
fn read_page(segments: &[SegmentBytes<'_>], pgno: Pgno) -> Option<Vec<u8>> {
    let mut fold = PageFold::new(SIZE);
    let mut scratch = GroupScratch::new();
    for segment in segments.iter().rev() {
        let Some((number, _)) = segment.info().index().find(pgno) else { continue };
        let group = segment.group(number, &mut scratch).expect("valid");
        let done = group.find(pgno).is_some_and(|entry| fold.push_older(&entry));
        scratch.recycle(group);
        if done {
            break;
        }
    }
    let folded = fold.folded()?;
    assert!(folded.is_verified_image(pgno), "{pgno:?}");
    Some(folded.page.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_way_of_compacting_restores_every_boundary(
        transactions in transactions(12),
        choices in vec((any::<prop::sample::Index>(), 1..5usize), 0..8),
    ) {
        let history = History::of(&transactions, CompressionLevel::SHIP);
        let objects = compact(history.segments.clone(), &choices);
        let mut pages = Image::new();
        for object in &objects {
            let segment = SegmentBytes::parse(object).expect("valid");
            restore_onto(&mut pages, &segment);
            let last = segment.info().meta().range.last;
            prop_assert_eq!(&pages, &history.images[last.get() as usize]);
        }
        prop_assert_eq!(&pages, history.images.last().expect("not empty"));
    }

    #[test]
    fn merging_in_steps_says_the_same_as_merging_at_once(
        transactions in transactions(10),
        choices in vec((any::<prop::sample::Index>(), 1..4usize), 0..8),
    ) {
        let history = History::of(&transactions, CompressionLevel::NONE);
        let mut steps = compact(history.segments.clone(), &choices);
        steps = vec![merged(&steps.iter().map(|o| SegmentBytes::parse(o).expect("valid")).collect::<Vec<_>>())];
        let (mut stepped, mut direct) = (content(&steps[0]), content(&merged(&history.parsed())));
        // An intermediate merge leaves out deltas that cancel out, and a page that needs no entry has none.
        for said in [&mut stepped, &mut direct] {
            said.1.retain(|(_, kind, _, page)| *kind == EntryKind::Image || page != SIZE.zero_page());
        }
        prop_assert_eq!(stepped, direct);
    }

    #[test]
    fn reading_one_page_newest_first_equals_restoring_oldest_first(
        transactions in transactions(12),
        choices in vec((any::<prop::sample::Index>(), 1..5usize), 0..6),
    ) {
        let history = History::of(&transactions, CompressionLevel::SHIP);
        let objects = compact(history.segments.clone(), &choices);
        let segments: Vec<_> = objects.iter().map(|o| SegmentBytes::parse(o).expect("valid")).collect();
        for upto in 1..=segments.len() {
            let last = segments[upto - 1].info().meta().range.last;
            let image = &history.images[last.get() as usize];
            for pgno in Pgno::up_to(image.len() as u32) {
                let page = read_page(&segments[..upto], pgno);
                prop_assert_eq!(page.as_ref(), Some(&image[pgno.index()]));
            }
        }
    }

    #[test]
    fn folding_from_either_end_gives_the_same(transactions in transactions(8)) {
        let history = History::of(&transactions, CompressionLevel::NONE);
        let mut scratch = GroupScratch::new();
        let (mut newer, mut older) = (PageFold::new(SIZE), PageFold::new(SIZE));
        for pgno in Pgno::up_to(9) {
            newer.clear();
            older.clear();
            let groups: Vec<_> = history.parsed().iter().filter_map(|segment| {
                let (number, _) = segment.info().index().find(pgno)?;
                Some(segment.group(number, &mut scratch).expect("valid"))
            }).collect();
            let entries: Vec<_> = groups.iter().filter_map(|group| group.find(pgno)).collect();
            for (first, last) in entries.iter().zip(entries.iter().rev()) {
                newer.push_newer(first);
                older.push_older(last);
            }
            let say = |fold: &PageFold| fold.folded().map(|f| (f.kind, f.hash, f.page.to_vec()));
            prop_assert_eq!(say(&newer), say(&older));
        }
    }

    #[test]
    fn all_of_a_history_is_a_snapshot(transactions in transactions(8)) {
        let history = History::of(&transactions, CompressionLevel::NONE);
        let object = merged(&history.parsed());
        let segment = SegmentBytes::parse(&object).expect("valid");
        let meta = segment.info().meta();
        prop_assert!(segment.info().is_snapshot() && meta.starts_empty());
        let last = Txid::new(history.segments.len() as u64);
        prop_assert_eq!(meta.range, TxidRange { first: Txid::FIRST, last });
        prop_assert_eq!(meta.checksum_after, checksum(history.images.last().expect("not empty")));
    }

    #[test]
    fn a_segment_moves_between_its_two_forms_unchanged(transactions in transactions(4)) {
        let history = History::of(&transactions, CompressionLevel::SHIP);
        for object in &history.segments {
            let segment = SegmentBytes::parse(object).expect("valid");
            let (external, published) = segment.info().to_external();
            let companion = &object[..segment.info().trailer().groups_end as usize];
            prop_assert_eq!(external.stored_len(), (published.len() + companion.len()) as u64);
            let apart = SegmentBytes::parse_external(&published, companion).expect("valid");
            prop_assert_eq!(apart.info(), &external);
            prop_assert_eq!(apart.verify(), Ok(()));
            let (again, end) = external.to_in_object();
            prop_assert_eq!(&again, segment.info());
            prop_assert_eq!(&[companion, &end].concat(), object);
        }
    }
}

#[test]
fn segments_that_are_not_adjacent_do_not_merge() {
    let edit =
        |page| (vec![crate::history::Op::Resize(3), crate::history::Op::Rewrite { page, seed: 5 }], true);
    let history = History::of(&[edit(0), edit(1), edit(2)], CompressionLevel::NONE);
    let [a, b, c]: [_; 3] = history.parsed().try_into().expect("three");
    let adjacent = |parts: &[SegmentBytes<'_>]| match merge(parts, CompressionLevel::NONE) {
        Ok(_) => true,
        Err(MergeError::NotAdjacent { .. }) => false,
        Err(other) => panic!("{other}"),
    };
    assert!(adjacent(&[a.clone(), b.clone(), c.clone()]));
    assert!(!adjacent(&[a.clone(), c.clone()]), "a txid is missing");
    assert!(!adjacent(&[b.clone(), a.clone()]), "in the wrong order");
    // A database that went another way: same txids and sizes, other content.
    let other = History::of(&[edit(2), edit(1)], CompressionLevel::NONE);
    assert!(!adjacent(&[a, other.parsed().swap_remove(1)]), "the checksums differ");
    assert!(matches!(merge(&[], CompressionLevel::NONE), Err(MergeError::Nothing)));
}

#[test]
fn a_change_that_was_undone_leaves_no_entry() {
    let flip = |page| crate::history::Op::Edit { page, at: 9, flips: vec![1, 2, 3] };
    let history = History::of(
        &[(vec![crate::history::Op::Resize(2)], true), (vec![flip(0), flip(1)], true), (vec![flip(1)], true)],
        CompressionLevel::NONE,
    );
    let segments = history.parsed();
    let object = merged(&segments[1..]);
    let info = SegmentInfo::open(&object, object.len() as u64).expect("valid");
    assert_eq!((info.trailer().entries, info.index().find(Pgno::ONE.next())), (1, None));
}
