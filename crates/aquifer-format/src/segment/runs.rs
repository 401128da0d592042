//! Runs: a page of mostly zeros as (zeros skipped, length, bytes)*.

use super::error::{Damage, Expected};
use super::varint;
use crate::PageSize;

/// The encoded runs of one entry, known to be well formed and to stay inside a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs<'a> {
    encoded: &'a [u8],
    page_size: PageSize,
}

impl<'a> Runs<'a> {
    /// Checks that `encoded` is a sequence of whole, non-empty runs inside a page.
    pub(super) fn check(encoded: &'a [u8], page_size: PageSize) -> Result<Runs<'a>, Damage> {
        let mut rest = encoded;
        let mut end = 0;
        while !rest.is_empty() {
            let (skip, after) = varint::take(rest).ok_or(UNFINISHED)?;
            let (len, after) = varint::take(after).ok_or(UNFINISHED)?;
            if len == 0 {
                return Err(Damage::Field {
                    field: "length of a run",
                    expected: Expected::AtLeast(1),
                    found: 0,
                });
            }
            end += skip + len;
            if end > page_size.bytes() as u64 {
                let expected = Expected::AtMost(page_size.bytes() as u64);
                return Err(Damage::Field { field: "end of a run in the page", expected, found: end });
            }
            if len > after.len() as u64 {
                return Err(Damage::Truncated { expected: len, found: after.len() as u64 });
            }
            rest = &after[len as usize..];
        }
        Ok(Runs { encoded, page_size })
    }

    /// Runs that were checked before, or that an encoder has just made.
    pub(super) fn trusted(encoded: &'a [u8], page_size: PageSize) -> Runs<'a> {
        Runs { encoded, page_size }
    }

    pub(super) fn encoded(&self) -> &'a [u8] {
        self.encoded
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Position in the page and bytes of each run, ascending.
    fn iter(self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut rest = self.encoded;
        let mut end = 0;
        std::iter::from_fn(move || {
            let (skip, after) = varint::take(rest)?;
            let (len, after) = varint::take(after)?;
            let (run, after) = after.split_at_checked(len as usize)?;
            let start = end + skip as usize;
            end = start + run.len();
            rest = after;
            Some((start, run))
        })
    }

    /// Makes `page` the runs' bytes, zeros between them.
    pub(super) fn copy_into(self, page: &mut [u8]) {
        assert_eq!(
            page.len(),
            self.page_size.bytes(),
            "an entry is applied to a page of its segment's page size"
        );
        let mut end = 0;
        for (start, run) in self.iter() {
            page[end..start].fill(0);
            end = start + run.len();
            page[start..end].copy_from_slice(run);
        }
        page[end..].fill(0);
    }

    /// XORs the runs' bytes onto `page`.
    pub(super) fn xor_into(self, page: &mut [u8]) {
        assert_eq!(
            page.len(),
            self.page_size.bytes(),
            "an entry is applied to a page of its segment's page size"
        );
        for (start, run) in self.iter() {
            for (byte, change) in page[start..start + run.len()].iter_mut().zip(run) {
                *byte ^= change;
            }
        }
    }
}

const UNFINISHED: Damage =
    Damage::Field { field: "number in a run", expected: Expected::Word("one of at most 5 bytes"), found: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    fn check(encoded: &[u8]) -> Result<(), Damage> {
        Runs::check(encoded, PageSize::MIN).map(|_| ())
    }

    #[test]
    fn runs_that_leave_the_page_are_refused() {
        assert_eq!(check(&[0xff, 0x03, 1, 9]), Ok(()));
        let field = "end of a run in the page";
        assert_eq!(
            check(&[0x80, 0x04, 1, 9]),
            Err(Damage::Field { field, expected: Expected::AtMost(512), found: 513 })
        );
        assert_eq!(
            check(&[0xff, 0xff, 0xff, 0xff, 0x7f, 1, 9]),
            Err(Damage::Field { field, expected: Expected::AtMost(512), found: 1 << 35 })
        );
    }

    #[test]
    fn empty_and_unfinished_runs_are_refused() {
        let empty = Damage::Field { field: "length of a run", expected: Expected::AtLeast(1), found: 0 };
        assert_eq!(check(&[3, 0]), Err(empty));
        assert_eq!(check(&[3, 2, 7]), Err(Damage::Truncated { expected: 2, found: 1 }));
        assert_eq!(check(&[3]), Err(UNFINISHED));
        assert_eq!(check(&[3, 0x80]), Err(UNFINISHED));
        assert_eq!(check(&[]), Ok(()));
    }
}
