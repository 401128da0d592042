//! What can be wrong with a segment's bytes. None of these errors names the object: whoever fetched it knows.

use std::fmt;

use crate::Pgno;

/// Why bytes could not be read as (a part of) a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes were never a segment: another kind of object is in its place.
    #[error("not an Aquifer segment: the object starts with {}, expected {}", Hex(found), Hex(expected))]
    NotASegment {
        /// The magic of segments.
        expected: [u8; 8],
        /// The object's first 8 bytes.
        found: [u8; 8],
    },
    /// A newer program wrote it. Upgrade; nothing is lost.
    #[error("{part} is of format version {found}; this program reads version {supported}: use a newer one")]
    UnsupportedVersion {
        /// Where the version was found.
        part: Part,
        /// The segment's version.
        found: u8,
        /// The newest version that this program reads.
        supported: u8,
    },
    /// The bytes are not those that were written. Use another copy, or another path to the same revision.
    #[error("{part} is damaged: {damage}")]
    Damaged {
        /// Where.
        part: Part,
        /// What was expected and found there.
        damage: Damage,
    },
}

impl FormatError {
    /// The part of the segment that could not be read.
    pub fn part(&self) -> Part {
        match self {
            FormatError::NotASegment { .. } => Part::Header,
            FormatError::UnsupportedVersion { part, .. } | FormatError::Damaged { part, .. } => *part,
        }
    }
}

/// A part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object as a whole.
    Object,
    /// The object that holds the groups of an external segment.
    Companion,
    /// The first 16 bytes.
    Header,
    /// A group.
    Group {
        /// Its position in the index, from 0.
        number: usize,
        /// Where its frame starts, in the object that holds the groups.
        offset: u64,
    },
    /// An entry of a group.
    Entry {
        /// The group's position in the index, from 0.
        group: usize,
        /// The page whose entry it is.
        pgno: Pgno,
    },
    /// The index of groups.
    Index,
    /// The trailer.
    Trailer,
    /// Index and trailer, which share a checksum.
    IndexAndTrailer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Object => f.write_str("the object"),
            Part::Companion => f.write_str("the companion object"),
            Part::Header => f.write_str("the header"),
            Part::Group { number, offset } => write!(f, "group {number} at offset {offset}"),
            Part::Entry { group, pgno } => write!(f, "the entry of page {pgno} in group {group}"),
            Part::Index => f.write_str("the index"),
            Part::Trailer => f.write_str("the trailer"),
            Part::IndexAndTrailer => f.write_str("index and trailer"),
        }
    }
}

/// What was expected, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Fewer bytes than must be there.
    #[error("{found} bytes, expected {expected}")]
    Truncated {
        /// Bytes that must be there.
        expected: u64,
        /// Bytes that are.
        found: u64,
    },
    /// A magic is not there.
    #[error("{} where {} must be: truncated, or a companion object", Hex(found), Hex(expected))]
    Magic {
        /// What must be there.
        expected: [u8; 8],
        /// What is.
        found: [u8; 8],
    },
    /// The bytes do not have the checksum that they carry.
    #[error("checksum {found:016x}, expected {expected:016x}")]
    Checksum {
        /// The checksum stored in the segment.
        expected: u64,
        /// The checksum of the bytes.
        found: u64,
    },
    /// A number that cannot be.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// What the number says.
        field: &'static str,
        /// What it must be.
        expected: Expected,
        /// What it is.
        found: u64,
    },
    /// zstd rejects the payload.
    #[error("zstd: {0}")]
    Zstd(String),
}

/// What a number must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This.
    Exactly(u64),
    /// This or more.
    AtLeast(u64),
    /// This or less.
    AtMost(u64),
    /// Something that a word describes better than a number.
    Word(&'static str),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Exactly(n) => write!(f, "{n}"),
            Expected::AtLeast(n) => write!(f, "at least {n}"),
            Expected::AtMost(n) => write!(f, "at most {n}"),
            Expected::Word(word) => f.write_str(word),
        }
    }
}

struct Hex<'a>(&'a [u8; 8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// `Ok` if `found` is what it must be.
pub(super) fn check(
    part: Part,
    field: &'static str,
    expected: Expected,
    found: u64,
) -> Result<(), FormatError> {
    let holds = match expected {
        Expected::Exactly(n) => found == n,
        Expected::AtLeast(n) => found >= n,
        Expected::AtMost(n) => found <= n,
        Expected::Word(_) => false,
    };
    if holds {
        Ok(())
    } else {
        Err(FormatError::Damaged { part, damage: Damage::Field { field, expected, found } })
    }
}

/// A number is not what `word` describes.
pub(super) fn wrong(part: Part, field: &'static str, word: &'static str, found: u64) -> FormatError {
    FormatError::Damaged { part, damage: Damage::Field { field, expected: Expected::Word(word), found } }
}
