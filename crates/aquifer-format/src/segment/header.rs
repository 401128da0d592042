//! The first 16 bytes of a segment, and of a companion.

use super::error::Expected::Exactly;
use super::error::{Damage, FormatError, Part, check, wrong};
use crate::PageSize;

/// Bytes of the header.
pub const HEADER_LEN: usize = 16;

/// The format version that this crate writes, and the only one that it reads.
pub const VERSION: u8 = 1;

pub(super) const MAGIC: [u8; 8] = *b"AQSEGMNT";
pub(super) const FLAG_EXTERNAL: u8 = 1;

/// Where a segment's groups are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// In the same object, between header and index.
    InObject,
    /// In a companion object, which is what an in-object segment has before its index.
    External,
}

impl Form {
    pub(super) fn flags(self) -> u8 {
        match self {
            Form::InObject => 0,
            Form::External => FLAG_EXTERNAL,
        }
    }

    pub(super) fn from_flags(flags: u8, part: Part) -> Result<Form, FormatError> {
        match flags {
            0 => Ok(Form::InObject),
            FLAG_EXTERNAL => Ok(Form::External),
            other => Err(wrong(part, "flags", "0 or 1 (external)", u64::from(other))),
        }
    }
}

/// The header's bytes: wholly determined by page size and form.
pub(super) fn header(page_size: PageSize, form: Form) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = VERSION;
    bytes[9] = page_size.log2();
    bytes[10] = form.flags();
    bytes
}

/// Checks magic and version alone: what a reader wants to know first of an object that it has whole.
pub(super) fn check_kind(object: &[u8]) -> Result<(), FormatError> {
    if let Some((magic, rest)) = object.split_first_chunk::<8>() {
        if *magic != MAGIC {
            return Err(FormatError::NotASegment { expected: MAGIC, found: *magic });
        }
        if let Some(&found) = rest.first()
            && found != VERSION
        {
            return Err(FormatError::UnsupportedVersion { part: Part::Header, found, supported: VERSION });
        }
    }
    Ok(())
}

/// Checks every byte of the header against what the trailer says.
pub(super) fn check_header(bytes: &[u8], page_size: PageSize, form: Form) -> Result<(), FormatError> {
    let Some(found) = bytes.first_chunk::<HEADER_LEN>() else {
        let damage = Damage::Truncated { expected: HEADER_LEN as u64, found: bytes.len() as u64 };
        return Err(FormatError::Damaged { part: Part::Header, damage });
    };
    check_kind(found)?;
    let expected = header(page_size, form);
    check(Part::Header, "page size (log2)", Exactly(u64::from(expected[9])), u64::from(found[9]))?;
    check(Part::Header, "flags", Exactly(u64::from(expected[10])), u64::from(found[10]))?;
    for &byte in &found[11..] {
        check(Part::Header, "reserved byte", Exactly(0), u64::from(byte))?;
    }
    Ok(())
}
