//! Bytes with right checksums that no writer of ours makes: readers neither panic, nor allocate what a header
//! merely claims, nor write outside a page.

use aquifer_format::segment::{
    CompressionLevel, Damage, Expected, FormatError, Group, GroupRef, GroupScratch, Part, SegmentEncoder,
    SegmentInfo, Trailer,
};
use aquifer_format::{PageHash, Pgno};
use proptest::prelude::*;

use crate::history::{Image, SIZE, finish, meta};
use crate::sample::{info, read_all, reseal, segment};

/// A segment with one raw group, and where things are in it.
struct Victim {
    object: Vec<u8>,
    info: SegmentInfo,
}

impl Victim {
    fn new() -> Victim {
        let object = segment(4, CompressionLevel::NONE);
        let info = info(&object);
        Victim { object, info }
    }

    fn group(&self) -> GroupRef {
        self.info.groups()[0]
    }

    fn hashes_end(&self) -> usize {
        self.group().offset as usize + 32 + 8 * self.info.trailer().entries as usize
    }

    /// What reading says after bytes at an offset of the object were replaced, and the checksums made right.
    fn read_with(&self, at: usize, bytes: &[u8]) -> Result<usize, FormatError> {
        let mut object = self.object.clone();
        object[at..at + bytes.len()].copy_from_slice(bytes);
        reseal(&mut object, &self.info);
        read_all(&object)
    }

    fn frame_with(&self, at: usize, bytes: &[u8]) -> Result<usize, FormatError> {
        self.read_with(self.group().offset as usize + at, bytes)
    }

    fn trailer_with(&self, at: usize, bytes: &[u8]) -> Result<usize, FormatError> {
        self.read_with(self.object.len() - Trailer::LEN + at, bytes)
    }
}

fn field(part: Part, field: &'static str, expected: Expected, found: u64) -> Result<usize, FormatError> {
    Err(FormatError::Damaged { part, damage: Damage::Field { field, expected, found } })
}

#[test]
fn what_a_frame_claims_is_checked_before_it_is_believed() {
    let victim = Victim::new();
    let group = victim.group();
    let part = Part::Group { number: 0, offset: group.offset };
    let huge = u32::MAX.to_le_bytes();
    let entries = victim.info.trailer().entries;
    assert_eq!(
        victim.frame_with(12, &huge),
        field(
            part,
            "uncompressed length",
            Expected::AtMost(131_072),
            u64::from(u32::MAX) + 8 * u64::from(entries)
        )
    );
    assert_eq!(
        victim.frame_with(16, &huge[..3]),
        field(part, "uncompressed length", Expected::AtMost(131_072), {
            let raw_len = &victim.object[group.offset as usize + 12..][..4];
            8 * 0xff_ffff + u64::from(u32::from_le_bytes(raw_len.try_into().expect("4 bytes")))
        })
    );
    assert_eq!(victim.frame_with(16, &[0; 4]), field(part, "number of entries", Expected::AtLeast(1), 0));
    assert_eq!(
        victim.frame_with(8, &huge),
        field(part, "length by its header", Expected::Exactly(u64::from(group.len)), {
            32 + 8 * u64::from(entries) + u64::from(u32::MAX)
        })
    );
    assert_eq!(victim.frame_with(20, &[2]), field(part, "first page", Expected::Exactly(1), 2));
    assert_eq!(victim.frame_with(24, &[9]), field(part, "last page", Expected::Exactly(8), 9));
    assert_eq!(victim.frame_with(28, &[7]), field(part, "codec", Expected::Word("0 (raw) or 1 (zstd)"), 7));
    assert_eq!(victim.frame_with(31, &[1]), field(part, "reserved byte", Expected::Exactly(0), 1));
    assert!(matches!(victim.frame_with(28, &[1]), Err(FormatError::Damaged { damage: Damage::Zstd(_), .. })));
}

#[test]
fn what_a_table_claims_is_checked_before_it_is_believed() {
    let victim = Victim::new();
    let part = Part::Group { number: 0, offset: victim.group().offset };
    let table = victim.hashes_end();
    // The first entry is a delta of page 1: number 1, kind 0.
    assert_eq!(victim.object[table], 1 << 1);
    assert_eq!(
        victim.read_with(table, &[0]),
        field(part, "pages from one entry to the next", Expected::AtLeast(1), 0)
    );
    let beyond = Expected::Word("at most the group's last, not the lock-byte page");
    assert_eq!(victim.read_with(table, &[100 << 1 & 0x7f]), {
        field(part, "page of an entry", beyond, u64::from(100u8 << 1 & 0x7f) >> 1)
    });
    let Err(FormatError::Damaged { damage: Damage::Field { field: name, .. }, .. }) =
        victim.read_with(table + 1, &[0xff, 0xff, 0xff, 0x7f])
    else {
        panic!("a length beyond the group must be refused");
    };
    assert_eq!(name, "bytes of an entry");
    assert_eq!(
        victim.read_with(table, &[0xff; 8]),
        field(part, "number in the table", Expected::Word("one of at most 5 bytes"), 0)
    );
}

#[test]
fn the_lock_byte_page_is_refused_wherever_it_is_named() {
    let lock = SIZE.lock_page();
    let page = vec![7; SIZE.bytes()];
    let pgnos: Vec<Pgno> = Pgno::up_to(lock.get() + 1).rev().take(3).collect();
    let encode = |from: usize| {
        let mut encoder = SegmentEncoder::new(SIZE, CompressionLevel::NONE);
        for pgno in pgnos[..from].iter().rev() {
            encoder.push_image(*pgno, &page, PageHash::of(*pgno, &page));
        }
        let mut meta = meta(1, &Image::new(), &Image::new());
        (meta.size_before, meta.size_after) = (lock.get() + 1, lock.get() + 1);
        let object = finish(encoder, &meta);
        Victim { info: info(&object), object }
    };
    // In the middle: the table's second entry, two pages above the first, is moved down by one.
    let victim = encode(3);
    let part = Part::Group { number: 0, offset: 16 };
    let [first_len, entry_len] = [4 + 2, 1 + 2];
    let second = victim.hashes_end() + first_len;
    assert_eq!(victim.object[second..second + entry_len][0], 2 << 1 | 1);
    let word = Expected::Word("at most the group's last, not the lock-byte page");
    let found = victim.read_with(second, &[1 << 1 | 1]);
    assert_eq!(found, field(part, "page of an entry", word, u64::from(lock.get())));

    // As a group's only page: index, frame header and table agree on it.
    let mut victim = encode(1);
    let index = victim.info.trailer().index_offset() as usize;
    assert_eq!(victim.object[index] & 0x7f, 2);
    victim.object[index] -= 1;
    let table = victim.hashes_end();
    victim.object[table] -= 2;
    let bytes = lock.get().to_le_bytes();
    victim.object[36..40].copy_from_slice(&bytes);
    victim.object[40..44].copy_from_slice(&bytes);
    let word = Expected::Word("any but the lock-byte page");
    assert_eq!(victim.read_with(0, b"AQ"), field(part, "a page", word, u64::from(lock.get())));
}

#[test]
fn runs_that_leave_the_page_are_named_with_their_page() {
    let victim = Victim::new();
    // The data area begins with the runs of page 1: skip, length, bytes.
    let frame = &victim.object[victim.group().offset as usize..];
    let entries = victim.info.trailer().entries as usize;
    let mut data = victim.hashes_end();
    for _ in 0..2 * entries {
        while victim.object[data] >= 0x80 {
            data += 1;
        }
        data += 1;
    }
    assert!(data < victim.group().offset as usize + frame.len());
    let part = Part::Entry { group: 0, pgno: Pgno::ONE };
    let expected = Expected::AtMost(512);
    // 5 bytes at most are a number: 127 << 28 and the bits below it.
    let found = victim.read_with(data, &[0x80, 0x80, 0x80, 0x80, 0x01, 0x01]);
    assert_eq!(found, field(part, "end of a run in the page", expected, (1 << 28) + 1));
    assert_eq!(victim.read_with(data + 1, &[0]), field(part, "length of a run", Expected::AtLeast(1), 0));
    let Err(FormatError::Damaged { part: found, damage: Damage::Truncated { .. } }) =
        victim.read_with(data + 1, &[0x7f])
    else {
        panic!("a run longer than its entry must be refused");
    };
    assert_eq!(found, part);
}

#[test]
fn a_payload_that_decompresses_to_more_than_it_says_is_refused() {
    // A megabyte of zeros in a few bytes, in a frame that claims to be an ordinary group.
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).expect("compresses");
    let mut frame = vec![0; 8];
    frame.extend((bomb.len() as u32).to_le_bytes());
    frame.extend(1_000u32.to_le_bytes());
    frame.extend(1u32.to_le_bytes());
    frame.extend(1u32.to_le_bytes());
    frame.extend(1u32.to_le_bytes());
    frame.extend([1, 0, 0, 0]);
    frame.extend([0; 8]);
    frame.extend(&bomb);
    let checksum = xxhash_rust::xxh3::xxh3_64(&frame[8..]);
    frame[..8].copy_from_slice(&checksum.to_le_bytes());
    let expected = GroupRef { first: Pgno::ONE, last: Pgno::ONE, offset: 16, len: frame.len() as u32 };
    let decoded = Group::decode(&frame, SIZE, 0, &expected, &mut GroupScratch::new()).map(|g| g.len());
    let Err(FormatError::Damaged { part: Part::Group { number: 0, offset: 16 }, damage: Damage::Zstd(_) }) =
        decoded
    else {
        panic!("{decoded:?}");
    };
}

#[test]
fn what_a_trailer_claims_is_checked_before_it_is_believed() {
    let victim = Victim::new();
    let part = Part::Trailer;
    let len = victim.object.len() as u64;
    let huge = [0xff; 8];
    let entries = u64::from(victim.info.trailer().entries);
    assert_eq!(
        victim.trailer_with(88, &huge),
        field(part, "length of the index", Expected::AtMost(len - 144), u64::MAX)
    );
    assert_eq!(
        victim.trailer_with(80, &huge),
        field(part, "length of the object by its trailer", Expected::Exactly(len), u64::MAX)
    );
    assert_eq!(victim.trailer_with(109, &[8]), field(part, "page size (log2)", Expected::Word("9 to 16"), 8));
    assert_eq!(
        victim.trailer_with(109, &[17]),
        field(part, "page size (log2)", Expected::Word("9 to 16"), 17)
    );
    assert_eq!(victim.trailer_with(110, &[2]), field(part, "flags", Expected::Word("0 or 1 (external)"), 2));
    assert_eq!(victim.trailer_with(111, &[2]), field(part, "reserved byte", Expected::Exactly(0), 2));
    let range = Expected::Word("the first, which is at least 1, or more");
    assert_eq!(victim.trailer_with(0, &[0]), field(part, "last txid", range, 1));
    assert_eq!(victim.trailer_with(0, &[2]), field(part, "last txid", range, 1));
    assert_eq!(victim.trailer_with(76, &[3]), field(part, "number of entries", Expected::AtMost(3), entries));
    assert_eq!(victim.trailer_with(104, &[9]), field(part, "number of images", Expected::AtMost(entries), 9));
    assert_eq!(victim.trailer_with(96, &[0]), field(part, "number of groups", Expected::AtLeast(1), 0));
    assert_eq!(victim.trailer_with(96, &[9]), field(part, "number of groups", Expected::AtMost(entries), 9));
    assert_eq!(
        victim.trailer_with(96, &[4]),
        field(Part::Index, "number of groups", Expected::AtMost(victim.info.trailer().index_len / 3), 4)
    );
    // What only a reader of all groups can know.
    assert_eq!(
        victim.trailer_with(100, &[5]),
        field(part, "number of entries", Expected::Exactly(entries), 5)
    );
    assert_eq!(
        victim.trailer_with(72, &[1]),
        field(part, "pages that came to exist", Expected::AtMost(4), 7)
    );
}

#[test]
fn what_an_index_claims_is_checked_before_it_is_believed() {
    let victim = Victim::new();
    let index = victim.info.trailer().index_offset() as usize;
    let part = Part::Index;
    let gap = "pages from one group to the next";
    assert_eq!(victim.read_with(index, &[0]), field(part, gap, Expected::AtLeast(1), 0));
    assert_eq!(victim.read_with(index, &[2]), field(part, "last page of a group", Expected::AtMost(8), 9));
    let len = u64::from(victim.group().len);
    let end = Expected::Exactly(16 + len);
    let [low, high] = [len as u8 | 0x80, (len >> 7) as u8];
    assert_eq!(victim.object[index + 2..index + 4], [low, high]);
    assert_eq!(victim.read_with(index + 2, &[low ^ 1]), {
        field(part, "end of the last group", end, 16 + (len ^ 1))
    });
    assert_eq!(victim.read_with(index + 2, &[41]), {
        field(part, "length of a group", Expected::AtLeast(42), 41)
    });
    assert_eq!(victim.read_with(index + 2, &[42, 0]), {
        field(part, "bytes after the last group's entry", Expected::Exactly(0), 1)
    });
    let Err(FormatError::Damaged { part: found, damage: Damage::Truncated { .. } }) =
        victim.read_with(index + 3, &[high | 0x80])
    else {
        panic!("an index that ends within a number must be refused");
    };
    assert_eq!(found, part);
}

#[test]
fn any_byte_may_be_anything_without_a_panic() {
    for object in [segment(4, CompressionLevel::NONE), segment(40, CompressionLevel::SHIP)] {
        let layout = info(&object);
        for at in 0..object.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut changed = object.clone();
                changed[at] = value;
                reseal(&mut changed, &layout);
                // Whether it is refused depends; that it returns is the promise.
                let _ = read_all(&changed);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_may_be_anything_without_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        pages in 1..12usize,
        level in 0..2i32,
    ) {
        let mut object = segment(pages, CompressionLevel::new(level).expect("a level"));
        let layout = info(&object);
        for (at, value) in changes {
            let at = at.index(object.len());
            object[at] = value;
        }
        reseal(&mut object, &layout);
        let _ = read_all(&object);
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read_all(&bytes).is_err());
        let mut object = [b"AQSEGMNT\x01\x09\0\0\0\0\0\0".as_slice(), &bytes, b"AQSEGEND"].concat();
        object.extend(xxhash_rust::xxh3::xxh3_64(&object[16..]).to_le_bytes());
        prop_assert!(read_all(&object).is_err());
    }
}
