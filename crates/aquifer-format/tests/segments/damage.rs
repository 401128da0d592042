//! Every byte of a segment is covered: damage is found before anything is made of it, and named precisely.

use aquifer_format::segment::{
    CompressionLevel, Damage, Expected, FormatError, Group, GroupScratch, HEADER_LEN, OpenError, Part,
    SegmentBytes, SegmentInfo, SegmentTally, Trailer,
};

use crate::sample::{info, read_all, segment};

fn samples() -> [Vec<u8>; 2] {
    // Three groups compressed; one that is not.
    [segment(130, CompressionLevel::SHIP), segment(4, CompressionLevel::NONE)]
}

/// Where an error about a damaged byte may point.
fn parts_of(offset: usize, info: &SegmentInfo, len: usize) -> Vec<Part> {
    if offset < HEADER_LEN {
        return vec![Part::Header];
    }
    for (number, group) in info.groups().iter().enumerate() {
        if (group.offset..group.end()).contains(&(offset as u64)) {
            return vec![Part::Group { number, offset: group.offset }];
        }
    }
    // Magic, version and length of the index are looked at before the checksum can be.
    if offset < len - Trailer::LEN {
        vec![Part::IndexAndTrailer]
    } else {
        vec![Part::IndexAndTrailer, Part::Trailer]
    }
}

#[test]
fn every_damaged_byte_is_found_and_its_part_named() {
    for object in samples() {
        let info = info(&object);
        assert_eq!(read_all(&object), Ok(info.trailer().entries as usize));
        for offset in 0..object.len() {
            for flip in [0xff, 0x01, 0x80] {
                let mut damaged = object.clone();
                damaged[offset] ^= flip;
                let error = read_all(&damaged).expect_err("damage must be found");
                let parts = parts_of(offset, &info, object.len());
                assert!(parts.contains(&error.part()), "byte {offset} ^ {flip:#x}: {error}");
            }
        }
    }
}

#[test]
fn every_truncation_is_found() {
    for object in samples() {
        for len in 0..object.len() {
            let error = read_all(&object[..len]).expect_err("truncation must be found");
            assert!(matches!(error, FormatError::Damaged { .. }), "{len} bytes: {error}");
            // Also when the length that the store reports is believed, and when it is the length written.
            for object_len in [len as u64, object.len() as u64] {
                let suffix = &object[..len];
                assert!(SegmentInfo::open(suffix, object_len).is_err(), "{len} of {object_len}");
            }
        }
    }
}

#[test]
fn bytes_added_anywhere_are_found() {
    for object in samples() {
        for at in 0..=object.len() {
            let longer = [&object[..at], &[0], &object[at..]].concat();
            read_all(&longer).expect_err("an added byte must be found");
        }
    }
}

#[test]
fn a_truncated_group_is_named_with_what_was_expected() {
    let object = segment(130, CompressionLevel::SHIP);
    let segment = SegmentBytes::parse(&object).expect("valid");
    let info = segment.info();
    let group = &info.groups()[1];
    let frame = &object[group.offset as usize..group.end() as usize];
    let mut scratch = GroupScratch::new();
    let mut decode =
        |frame| Group::decode(frame, info.meta().page_size, 1, group, &mut scratch).map(|g| g.len());
    for len in 0..frame.len() {
        let damage = Damage::Truncated { expected: u64::from(group.len), found: len as u64 };
        let part = Part::Group { number: 1, offset: group.offset };
        assert_eq!(decode(&frame[..len]), Err(FormatError::Damaged { part, damage }));
    }
    assert!(decode(frame).is_ok());
}

#[test]
fn a_suffix_that_is_too_short_says_how_much_is_needed() {
    let object = segment(130, CompressionLevel::SHIP);
    let len = object.len() as u64;
    let info = info(&object);
    let needed = Trailer::LEN as u64 + info.trailer().index_len;
    for suffix_len in 0..=object.len() {
        let opened = SegmentInfo::open(&object[object.len() - suffix_len..], len);
        if suffix_len < Trailer::LEN {
            assert_eq!(opened, Err(OpenError::NeedMore { suffix_len: len.min(SegmentInfo::SUFFIX_LEN) }));
        } else if (suffix_len as u64) < needed {
            assert_eq!(opened, Err(OpenError::NeedMore { suffix_len: needed }));
        } else {
            assert_eq!(opened.as_ref(), Ok(&info), "{suffix_len}");
        }
    }
}

#[test]
fn another_kind_of_object_is_told_from_a_damaged_segment() {
    let sqlite = [b"SQLite format 3\0".as_slice(), &[0; 4080]].concat();
    let error = read_all(&sqlite).expect_err("not a segment");
    assert!(matches!(error, FormatError::NotASegment { .. }));
    assert_eq!(
        error.to_string(),
        r#"not an Aquifer segment: the object starts with "SQLite f", expected "AQSEGMNT""#
    );
}

#[test]
fn a_newer_version_is_named_even_though_nothing_else_is_understood() {
    for mut object in samples() {
        object[8] = 2;
        object[200..].fill(0xee);
        let error = read_all(&object).expect_err("a version this program does not know");
        let part = Part::Header;
        assert_eq!(error, FormatError::UnsupportedVersion { part, found: 2, supported: 1 });
        assert_eq!(
            error.to_string(),
            "the header is of format version 2; this program reads version 1: use a newer one"
        );
    }
}

#[test]
fn a_newer_version_is_named_when_only_the_end_was_read() {
    let mut object = segment(4, CompressionLevel::NONE);
    let len = object.len();
    object[len - Trailer::LEN + 108] = 3;
    let opened = SegmentInfo::open(&object[len - Trailer::LEN..], len as u64);
    let expected = FormatError::UnsupportedVersion { part: Part::Trailer, found: 3, supported: 1 };
    assert_eq!(opened, Err(OpenError::Format(expected)));
}

#[test]
fn a_companion_is_not_taken_for_a_segment_nor_any_object_for_a_companion() {
    let object = segment(4, CompressionLevel::NONE);
    let info = info(&object);
    let (_, published) = info.to_external();
    let companion = &object[..info.trailer().groups_end as usize];
    let error = read_all(companion).expect_err("it has no trailer");
    assert!(error.to_string().ends_with("must be: truncated, or a companion object"), "{error}");
    // The published object alone is not a whole segment.
    let error = read_all(&published).expect_err("its groups are elsewhere");
    assert_eq!(error.part(), Part::Header);

    let parse = |companion: &[u8]| SegmentBytes::parse_external(&published, companion).map(|_| ());
    assert_eq!(parse(companion), Ok(()));
    let (expected, found) = (companion.len() as u64, companion.len() as u64 - 1);
    let short = FormatError::Damaged { part: Part::Companion, damage: Damage::Truncated { expected, found } };
    assert_eq!(parse(&companion[..companion.len() - 1]), Err(short));
    let (field, expected, found) = ("length", Expected::Exactly(expected), object.len() as u64);
    let long =
        FormatError::Damaged { part: Part::Companion, damage: Damage::Field { field, expected, found } };
    assert_eq!(parse(&object), Err(long));
    assert!(parse(&published).is_err());
    assert!(SegmentBytes::parse_external(&object, companion).is_err());
}

#[test]
fn a_damaged_companion_is_found() {
    let object = segment(4, CompressionLevel::NONE);
    let info = info(&object);
    let (_, published) = info.to_external();
    let companion = &object[..info.trailer().groups_end as usize];
    for offset in 0..companion.len() {
        let mut damaged = companion.to_vec();
        damaged[offset] ^= 0x10;
        let read = SegmentBytes::parse_external(&published, &damaged).and_then(|segment| segment.verify());
        assert!(read.is_err(), "byte {offset}");
    }
}

#[test]
fn a_group_that_was_not_read_does_not_pass_as_verified() {
    let object = segment(130, CompressionLevel::SHIP);
    let segment = SegmentBytes::parse(&object).expect("valid");
    let mut scratch = GroupScratch::new();
    let mut tally = SegmentTally::new();
    for number in 0..segment.info().groups().len() - 1 {
        tally.add(&segment.group(number, &mut scratch).expect("valid"), segment.info());
    }
    assert!(tally.check(segment.info()).is_err());
}

#[test]
fn messages_say_where_and_what_was_expected() {
    let mut object = segment(4, CompressionLevel::NONE);
    let stored = u64::from_le_bytes(object[16..24].try_into().expect("8 bytes"));
    object[100] ^= 1;
    let message = read_all(&object).expect_err("damaged").to_string();
    assert!(message.starts_with("group 0 at offset 16 is damaged: checksum "), "{message}");
    assert!(message.ends_with(&format!("expected {stored:016x}")), "{message}");
    let message = read_all(&object[..100]).expect_err("truncated").to_string();
    assert_eq!(message, "the object is damaged: 100 bytes, expected 144");
}
