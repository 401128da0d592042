//! Finding what changed in a page: the hot loop of capture.

use std::ops::Range;

use super::varint;

/// Bytes compared at a time. A block's difference fits the bits of a `u64`, one per byte.
const BLOCK: usize = 64;

/// Unchanged bytes below which two changed stretches stay one run of a delta: a run costs 2 bytes or more, and
/// zeros inside one compress to nearly nothing.
const GAP: usize = 8;

/// Zeros of an image are left out where a whole block of so many is zero: the unused space of a b-tree page.
/// Larger than for deltas so that decoding an image is nearly a single copy.
const IMAGE_BLOCK: usize = 32;

/// Appends the runs of `old XOR new` to `out`: nothing if the pages are equal.
///
/// # Panics
/// If the pages differ in length, or their length is no multiple of 64.
pub fn encode_delta(old: &[u8], new: &[u8], out: &mut Vec<u8>) {
    assert_eq!(old.len(), new.len(), "both contents of a page have its size");
    let (old_blocks, []) = old.as_chunks::<BLOCK>() else { panic!("pages are multiples of {BLOCK} bytes") };
    let (new_blocks, _) = new.as_chunks::<BLOCK>();
    let mut written = 0;
    // The run being collected: stretches of changed bytes with short gaps. Empty before the first.
    let mut run = 0..0;
    for (i, (a, b)) in old_blocks.iter().zip(new_blocks).enumerate() {
        if a == b {
            continue;
        }
        let mut mask = close_gaps(changed_bytes(a, b));
        while mask != 0 {
            let low = mask.trailing_zeros();
            let stretch = (mask >> low).trailing_ones();
            let start = i * BLOCK + low as usize;
            if run.is_empty() {
                run.start = start;
            } else if start - run.end >= GAP {
                put_run(&mut written, run.clone(), out);
                xor_range(old, new, run.clone(), out);
                run.start = start;
            }
            run.end = start + stretch as usize;
            // In two steps: 64 is no valid shift.
            mask &= (u64::MAX << low) << (stretch - 1) << 1;
        }
    }
    if !run.is_empty() {
        put_run(&mut written, run.clone(), out);
        xor_range(old, new, run, out);
    }
}

/// Appends the runs of `page` against zeros to `out`: nothing for a page of zeros.
///
/// # Panics
/// If the page's length is no multiple of 64.
pub fn encode_image(page: &[u8], out: &mut Vec<u8>) {
    assert!(page.len().is_multiple_of(BLOCK), "pages are multiples of {BLOCK} bytes");
    let (blocks, _) = page.as_chunks::<IMAGE_BLOCK>();
    let mut written = 0;
    let mut next = 0;
    while let Some(skipped) = blocks[next..].iter().position(|block| *block != [0; IMAGE_BLOCK]) {
        let first = next + skipped;
        let used = blocks[first..].iter().position(|block| *block == [0; IMAGE_BLOCK]);
        next = used.map_or(blocks.len(), |used| first + used);
        let run = trim(page, first * IMAGE_BLOCK..next * IMAGE_BLOCK);
        put_run(&mut written, run.clone(), out);
        out.extend_from_slice(&page[run]);
    }
}

/// The range without zeros at its ends.
fn trim(page: &[u8], range: Range<usize>) -> Range<usize> {
    let bytes = &page[range.clone()];
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    let trailing = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    range.start + leading..range.end - trailing
}

/// Appends what precedes a run's bytes: how many are skipped since the last, and how many follow.
#[inline]
fn put_run(written: &mut usize, run: Range<usize>, out: &mut Vec<u8>) {
    varint::put(out, (run.start - *written) as u64);
    varint::put(out, run.len() as u64);
    *written = run.end;
}

/// Appends the XOR of a range. Most runs are short, so it goes by whole registers, cutting what is too much at
/// the end, as long as the pages reach that far.
#[inline]
fn xor_range(old: &[u8], new: &[u8], at: Range<usize>, out: &mut Vec<u8>) {
    const STEP: usize = 16;
    let end = out.len() + at.len();
    let padded = at.start..at.start + at.len().next_multiple_of(STEP);
    if let (Some(old), Some(new)) = (old.get(padded.clone()), new.get(padded)) {
        for (a, b) in old.as_chunks::<STEP>().0.iter().zip(new.as_chunks::<STEP>().0) {
            let change: [u8; STEP] = std::array::from_fn(|i| a[i] ^ b[i]);
            out.extend_from_slice(&change);
        }
        out.truncate(end);
    } else {
        out.extend(old[at.clone()].iter().zip(&new[at]).map(|(a, b)| a ^ b));
    }
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

/// Sets the bits of gaps shorter than [`GAP`] between two set bits. `mask` is not 0.
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::runs::Runs;
    use super::*;
    use crate::PageSize;

    /// The runs of a delta, straight from their definition.
    fn runs_by_definition(old: &[u8], new: &[u8]) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for i in (0..old.len()).filter(|&i| old[i] != new[i]) {
            match runs.last_mut() {
                Some(run) if i - run.end < GAP => run.end = i + 1,
                _ => runs.push(i..i + 1),
            }
        }
        runs
    }

    fn encode_by_definition(old: &[u8], new: &[u8]) -> Vec<u8> {
        let (mut out, mut written) = (Vec::new(), 0);
        for run in runs_by_definition(old, new) {
            put_run(&mut written, run.clone(), &mut out);
            out.extend(run.map(|i| old[i] ^ new[i]));
        }
        out
    }

    /// A page, and another that differs in a few stretches, with gaps of all lengths around [`GAP`].
    fn two_contents() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let change = (0..512usize, vec(0..3u8, 0..40));
        (vec(any::<u8>(), 512), vec(change, 0..12)).prop_map(|(old, changes)| {
            let mut new = old.clone();
            for (at, flips) in changes {
                new[at..].iter_mut().zip(flips).for_each(|(byte, flip)| *byte ^= flip);
            }
            (old, new)
        })
    }

    /// A page with stretches of zeros.
    fn sparse_page() -> impl Strategy<Value = Vec<u8>> {
        vec((0..90usize, vec(0..3u8, 0..90)), 0..12).prop_map(|stretches| {
            let mut page: Vec<u8> = Vec::new();
            for (zeros, bytes) in stretches {
                page.resize(page.len() + zeros, 0);
                page.extend(bytes);
            }
            page.resize(512, 0);
            page
        })
    }

    proptest! {
        #[test]
        fn deltas_are_the_runs_that_the_definition_gives((old, new) in two_contents()) {
            let mut out = vec![0xee];
            encode_delta(&old, &new, &mut out);
            prop_assert_eq!(out[0], 0xee);
            prop_assert_eq!(&out[1..], encode_by_definition(&old, &new));
        }

        #[test]
        fn a_delta_turns_old_into_new_and_back((old, new) in two_contents()) {
            let mut out = Vec::new();
            encode_delta(&old, &new, &mut out);
            let runs = Runs::check(&out, PageSize::MIN).expect("valid");
            let mut page = old.clone();
            runs.xor_into(&mut page);
            prop_assert_eq!(&page, &new);
            runs.xor_into(&mut page);
            prop_assert_eq!(&page, &old);
        }

        #[test]
        fn an_image_replaces_whatever_was_there(page in sparse_page(), before in any::<u8>()) {
            let mut out = Vec::new();
            encode_image(&page, &mut out);
            let mut restored = vec![before; 512];
            Runs::check(&out, PageSize::MIN).expect("valid").copy_into(&mut restored);
            prop_assert_eq!(restored, page);
        }

        #[test]
        fn gaps_close_as_bits_do_one_by_one(mask in 1..u64::MAX) {
            // Random bits have few gaps of 8: thin them out too.
            for mask in [mask, mask & mask.rotate_left(21) & mask.rotate_left(42) | 1 << 17] {
                let set: Vec<u32> = (0..64).filter(|bit| mask >> bit & 1 == 1).collect();
                let mut closed = mask;
                for pair in set.windows(2).filter(|pair| pair[1] - pair[0] <= GAP as u32) {
                    (pair[0]..pair[1]).for_each(|bit| closed |= 1 << bit);
                }
                prop_assert_eq!(close_gaps(mask), closed);
            }
        }
    }

    #[test]
    fn equal_pages_and_zero_pages_cost_nothing() {
        let mut out = Vec::new();
        encode_delta(&[5; 4096], &[5; 4096], &mut out);
        encode_image(&[0; 4096], &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn no_page_takes_more_than_itself_and_a_few_bytes() {
        // Alternating runs and gaps of the least length that splits, and all bytes changed.
        for period in [GAP + 1, GAP + 2, 4 * GAP, 65_536] {
            let page: Vec<u8> = (0..65_536).map(|i| u8::from(i % period == 0 || period == 65_536)).collect();
            let (mut delta, mut image) = (Vec::new(), Vec::new());
            encode_delta(&vec![0; 65_536], &page, &mut delta);
            encode_image(&page, &mut image);
            assert!(delta.len() <= 65_536 + 4, "{period}: {}", delta.len());
            assert!(image.len() <= 65_536 + 4, "{period}: {}", image.len());
        }
    }
}
