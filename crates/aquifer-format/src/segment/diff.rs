//! Finding what changed in a page: the hot loop of capture.

use super::varint;

/// Bytes compared at a time. A block's difference fits the bits of a `u64`, one per byte.
const BLOCK: usize = 64;

/// Unchanged bytes below which two changed stretches stay one run of a delta: a run costs 2 bytes or more, and
/// zeros inside one compress to nearly nothing.
const DELTA_GAP: usize = 8;

/// The same for images, larger so that decoding one is nearly a single copy.
const IMAGE_GAP: usize = 32;

/// Appends the runs of `old XOR new` to `out`: nothing if the pages are equal.
///
/// # Panics
/// If the pages differ in length, or their length is no multiple of 64.
pub fn encode_delta(old: &[u8], new: &[u8], out: &mut Vec<u8>) {
    assert_eq!(old.len(), new.len(), "both contents of a page have its size");
    let (old_blocks, []) = old.as_chunks::<BLOCK>() else { panic!("pages are multiples of {BLOCK} bytes") };
    let (new_blocks, _) = new.as_chunks::<BLOCK>();
    let mut runs = RunWriter::<DELTA_GAP>::default();
    for (i, (a, b)) in old_blocks.iter().zip(new_blocks).enumerate() {
        if a != b {
            runs.block(
                i * BLOCK,
                close_gaps(changed_bytes(a, b)),
                |at, out| xor_range(old, new, at, out),
                out,
            );
        }
    }
    runs.finish(|at, out| xor_range(old, new, at, out), out);
}

/// Appends the runs of `page` against zeros to `out`: nothing for a page of zeros.
///
/// # Panics
/// If the page's length is no multiple of 64.
pub fn encode_image(page: &[u8], out: &mut Vec<u8>) {
    encode_nonzero::<IMAGE_GAP>(page, out);
}

/// Appends the runs of a page that is a difference already.
pub(super) fn encode_difference(page: &[u8], out: &mut Vec<u8>) {
    encode_nonzero::<DELTA_GAP>(page, out);
}

fn encode_nonzero<const GAP: usize>(page: &[u8], out: &mut Vec<u8>) {
    let (blocks, []) = page.as_chunks::<BLOCK>() else { panic!("pages are multiples of {BLOCK} bytes") };
    let mut runs = RunWriter::<GAP>::default();
    let copy = |at: std::ops::Range<usize>, out: &mut Vec<u8>| out.extend_from_slice(&page[at]);
    for (i, block) in blocks.iter().enumerate() {
        if *block != [0; BLOCK] {
            runs.block(i * BLOCK, close_gaps(changed_bytes(block, &[0; BLOCK])), copy, out);
        }
    }
    runs.finish(copy, out);
}

/// One bit per byte that differs, the first byte in the lowest bit.
#[inline]
fn changed_bytes(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> u64 {
    const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut mask = 0;
    let (a, _) = a.as_chunks::<8>();
    let (b, _) = b.as_chunks::<8>();
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let x = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        // The high bit of each byte that is not zero; the multiplication moves those bits next to each other.
        let high = (((x & LOW7) + LOW7) | x) & !LOW7;
        mask |= ((high >> 7).wrapping_mul(GATHER) >> 56) << (8 * i);
    }
    mask
}

/// Sets the bits of gaps that are shorter than [`DELTA_GAP`] between two set bits.
#[inline]
fn close_gaps(mask: u64) -> u64 {
    let mut grown = mask | mask << 1;
    grown |= grown << 2;
    grown |= grown << 4;
    // Shrink by the same 7 from above; past the end of the block counts as set, then cut at the last set bit.
    let mut closed = grown & (grown >> 1 | 1 << 63);
    closed &= closed >> 2 | 3 << 62;
    closed &= closed >> 4 | 0xf << 60;
    closed & (u64::MAX >> mask.leading_zeros())
}

fn xor_range(old: &[u8], new: &[u8], at: std::ops::Range<usize>, out: &mut Vec<u8>) {
    out.extend(old[at.clone()].iter().zip(&new[at]).map(|(a, b)| a ^ b));
}

/// Joins stretches of changed bytes into runs.
#[derive(Default)]
struct RunWriter<const GAP: usize> {
    /// End of the last run written.
    written: usize,
    /// The run being collected; empty before the first.
    start: usize,
    end: usize,
}

impl<const GAP: usize> RunWriter<GAP> {
    /// Adds a block's changed bytes, one bit each.
    #[inline]
    fn block(
        &mut self,
        base: usize,
        mut mask: u64,
        mut emit: impl FnMut(std::ops::Range<usize>, &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        while mask != 0 {
            let low = mask.trailing_zeros();
            let len = (mask >> low).trailing_ones();
            let start = base + low as usize;
            if self.end == 0 {
                self.start = start;
            } else if start - self.end >= GAP {
                self.flush(&mut emit, out);
                self.start = start;
            }
            self.end = start + len as usize;
            if low + len == 64 {
                break;
            }
            mask &= u64::MAX << (low + len);
        }
    }

    fn flush(&mut self, emit: &mut impl FnMut(std::ops::Range<usize>, &mut Vec<u8>), out: &mut Vec<u8>) {
        varint::put(out, (self.start - self.written) as u64);
        varint::put(out, (self.end - self.start) as u64);
        emit(self.start..self.end, out);
        self.written = self.end;
    }

    fn finish(mut self, mut emit: impl FnMut(std::ops::Range<usize>, &mut Vec<u8>), out: &mut Vec<u8>) {
        if self.end > self.start {
            self.flush(&mut emit, out);
        }
    }
}
