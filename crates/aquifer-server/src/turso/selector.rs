//! Page selectors: Roaring bitmaps of 0-based page ids in the portable format
//! (<https://github.com/RoaringBitmap/RoaringFormatSpec>), searched where they lie.
//!
//! Nothing is unpacked: a run of six bytes may stand for 65,536 pages, and a request of some hundred kilobytes for all
//! that there can be. What is allocated is a few bytes per container, each of which takes at least six in the request.

use std::ops::Range;

use bytes::Bytes;

/// Without run containers: the number of containers follows.
const COOKIE_NO_RUNS: u32 = 12_346;
/// With run containers: in the lower half; the upper half is the number of containers less one.
const COOKIE_RUNS: u32 = 12_347;
/// Bitmaps with run containers have a table of offsets from this many containers on; those without always have.
const OFFSETS_FROM: usize = 4;
/// Largest cardinality of an array container.
const ARRAY_MAX: u32 = 4096;
const BITMAP_BYTES: usize = 8192;

/// A set of 0-based page ids, in ascending order.
#[derive(Debug, Clone)]
pub struct Selector {
    bytes: Bytes,
    containers: Vec<Container>,
}

#[derive(Debug, Clone)]
struct Container {
    /// The upper 16 bits of its ids.
    key: u16,
    kind: Kind,
    /// Where its values are in the bytes.
    values: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ascending u16.
    Array,
    /// 65,536 bits.
    Bitmap,
    /// Pairs of u16: first value, number of further values.
    Runs,
}

/// Not a Roaring bitmap in the portable format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page selector is no Roaring bitmap in the portable format: {0}")]
pub struct SelectorError(&'static str);

impl Selector {
    /// Takes the bitmap as it was sent. Checks all of it.
    ///
    /// # Errors
    /// Anything that a writer of the format would not write: too short or too long, containers or values that do not
    /// ascend, a cardinality or an offset that is not the true one.
    pub fn parse(bytes: Bytes) -> Result<Selector, SelectorError> {
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let cookie = reader.u32()?;
        let (count, run_flags) = if cookie == COOKIE_NO_RUNS {
            (reader.u32()? as usize, None)
        } else if cookie & 0xffff == COOKIE_RUNS {
            let count = (cookie >> 16) as usize + 1;
            (count, Some(reader.take(count.div_ceil(8))?))
        } else {
            return Err(SelectorError("it does not begin with a cookie of the format"));
        };
        if count > 1 << 16 {
            return Err(SelectorError("it has more than 65,536 containers"));
        }
        let descriptions = reader.take(4 * count)?;
        let offsets =
            if run_flags.is_none() || count >= OFFSETS_FROM { Some(reader.take(4 * count)?) } else { None };
        let mut containers: Vec<Container> = Vec::with_capacity(count);
        for i in 0..count {
            let key = le_u16(&bytes[descriptions.start + 4 * i..]);
            let cardinality = u32::from(le_u16(&bytes[descriptions.start + 4 * i + 2..])) + 1;
            if containers.last().is_some_and(|last| last.key >= key) {
                return Err(SelectorError("its containers do not ascend"));
            }
            if let Some(offsets) = &offsets {
                let offset = &bytes[offsets.start + 4 * i..];
                if le_u32(offset) as usize != reader.at {
                    return Err(SelectorError("an offset does not point at its container"));
                }
            }
            let is_run = |flags: &Range<usize>| bytes[flags.start + i / 8] >> (i % 8) & 1 == 1;
            let (kind, len) = if run_flags.as_ref().is_some_and(is_run) {
                (Kind::Runs, 4 * usize::from(reader.u16()?))
            } else if cardinality <= ARRAY_MAX {
                (Kind::Array, 2 * cardinality as usize)
            } else {
                (Kind::Bitmap, BITMAP_BYTES)
            };
            let values = reader.take(len)?;
            check(kind, &bytes[values.clone()], cardinality)?;
            containers.push(Container { key, kind, values });
        }
        if reader.at != bytes.len() {
            return Err(SelectorError("there is more behind its last container"));
        }
        Ok(Selector { bytes, containers })
    }

    /// The smallest id of the set that is `from` or larger.
    pub fn next(&self, from: u32) -> Option<u32> {
        let (key, low) = ((from >> 16) as u16, from as u16);
        let first = self.containers.partition_point(|container| container.key < key);
        self.containers[first..].iter().find_map(|container| {
            let low = if container.key == key { low } else { 0 };
            let value = next_value(container.kind, &self.bytes[container.values.clone()], low)?;
            Some(u32::from(container.key) << 16 | u32::from(value))
        })
    }

    /// Whether the id is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.next(id) == Some(id)
    }
}

/// Whether the values ascend and are as many as the description says.
fn check(kind: Kind, values: &[u8], cardinality: u32) -> Result<(), SelectorError> {
    let counted = match kind {
        Kind::Array => {
            if !(2..values.len()).step_by(2).all(|at| le_u16(&values[at - 2..]) < le_u16(&values[at..])) {
                return Err(SelectorError("the values of an array do not ascend"));
            }
            values.len() as u32 / 2
        }
        Kind::Bitmap => values.iter().map(|byte| byte.count_ones()).sum(),
        Kind::Runs => {
            let mut free_from = 0;
            let mut counted = 0;
            for at in (0..values.len()).step_by(4) {
                let (first, last) = run(values, at / 4);
                if first < free_from || last > u32::from(u16::MAX) {
                    return Err(SelectorError("its runs overlap or do not ascend"));
                }
                free_from = last + 1;
                counted += last + 1 - first;
            }
            counted
        }
    };
    if counted != cardinality {
        return Err(SelectorError("a container has more or fewer values than it says"));
    }
    Ok(())
}

/// The smallest value of a container that is `low` or larger.
fn next_value(kind: Kind, values: &[u8], low: u16) -> Option<u16> {
    match kind {
        Kind::Array => {
            let i = partition_point(values.len() / 2, |i| le_u16(&values[2 * i..]) < low);
            values.get(2 * i..).filter(|rest| !rest.is_empty()).map(le_u16)
        }
        Kind::Runs => {
            let i = partition_point(values.len() / 4, |i| run(values, i).1 < u32::from(low));
            (4 * i < values.len()).then(|| low.max(run(values, i).0 as u16))
        }
        Kind::Bitmap => {
            let first = usize::from(low) / 8;
            let masked = values[first] & (0xff << (low % 8));
            if masked != 0 {
                return Some((8 * first) as u16 + masked.trailing_zeros() as u16);
            }
            let more = values[first + 1..].iter().position(|byte| *byte != 0)?;
            let found = first + 1 + more;
            Some((8 * found) as u16 + values[found].trailing_zeros() as u16)
        }
    }
}

/// First and last value of a run, both inclusive; the last may be too large in a run that is not checked yet.
fn run(values: &[u8], i: usize) -> (u32, u32) {
    let first = u32::from(le_u16(&values[4 * i..]));
    (first, first + u32::from(le_u16(&values[4 * i + 2..])))
}

/// The first of `0..count` for which `before` does not hold, given that it holds for none after that.
fn partition_point(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<Range<usize>, SelectorError> {
        let start = self.at;
        if self.bytes.len() - start < len {
            return Err(SelectorError("it ends too early"));
        }
        self.at += len;
        Ok(start..self.at)
    }

    fn u16(&mut self) -> Result<u16, SelectorError> {
        Ok(le_u16(&self.bytes[self.take(2)?]))
    }

    fn u32(&mut self) -> Result<u32, SelectorError> {
        Ok(le_u32(&self.bytes[self.take(4)?]))
    }
}

/// Of the first two bytes.
fn le_u16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// Of the first four bytes.
fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roaring::RoaringBitmap;

    use super::*;

    fn serialized(bitmap: &RoaringBitmap) -> Bytes {
        let mut bytes = Vec::new();
        bitmap.serialize_into(&mut bytes).unwrap();
        bytes.into()
    }

    fn ids(selector: &Selector) -> Vec<u32> {
        std::iter::successors(selector.next(0), |id| id.checked_add(1).and_then(|from| selector.next(from)))
            .collect()
    }

    /// Three that clients sent: one run of pages 0 to 15, one of 16 to 31.
    #[test]
    fn recorded_selectors_are_read() {
        let run = [0x3b, 0x30, 0, 0, 1, 0, 0, 0x0f, 0, 1, 0, 0, 0, 0x0f, 0];
        assert_eq!(ids(&Selector::parse(Bytes::copy_from_slice(&run)).unwrap()), (0..16).collect::<Vec<_>>());
        let mut next = run;
        next[11] = 0x10;
        assert_eq!(
            ids(&Selector::parse(Bytes::copy_from_slice(&next)).unwrap()),
            (16..32).collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_empty_set_selects_nothing() {
        let selector = Selector::parse(serialized(&RoaringBitmap::new())).unwrap();
        assert_eq!(selector.next(0), None);
    }

    #[test]
    fn all_that_there_can_be_takes_no_memory_to_speak_of() {
        // Each of 65,536 containers is one run of all its values.
        let mut bytes = (COOKIE_RUNS | 0xffff << 16).to_le_bytes().to_vec();
        bytes.extend([0xff; 8192]);
        bytes.extend((0..=u16::MAX).flat_map(|key| [key.to_le_bytes(), [0xff, 0xff]].concat()));
        let first = (bytes.len() + (4 << 16)) as u32;
        bytes.extend((0..1 << 16).flat_map(|i| (first + 6 * i).to_le_bytes()));
        bytes.extend((0..1 << 16).flat_map(|_| [1, 0, 0, 0, 0xff, 0xff]));
        let len = bytes.len();
        let selector = Selector::parse(bytes.into()).unwrap();
        assert_eq!(selector.next(0), Some(0));
        assert_eq!(selector.next(3_000_000_000), Some(3_000_000_000));
        assert_eq!(selector.next(u32::MAX), Some(u32::MAX));
        assert!(selector.containers.capacity() * size_of::<Container>() < 3 * len);
    }

    #[test]
    fn a_number_of_containers_that_cannot_be_is_refused_before_it_is_believed() {
        for (count, why) in
            [(65_536, "ends too early"), (65_537, "more than 65,536"), (u32::MAX, "more than")]
        {
            let bytes = [COOKIE_NO_RUNS.to_le_bytes(), count.to_le_bytes()].concat();
            let error = Selector::parse(bytes.into()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn runs_that_overlap_or_reach_beyond_their_container_are_refused() {
        let with_runs = |cardinality: u16, runs: &[[u16; 2]]| {
            let head = [0x303b, 0, 1, 0, cardinality - 1, runs.len() as u16];
            let words = head.iter().chain(runs.as_flattened()).flat_map(|word| word.to_le_bytes());
            // One byte of flags stands where the words have two.
            Selector::parse(words.enumerate().filter(|(i, _)| *i != 5).map(|(_, byte)| byte).collect())
        };
        assert_eq!(ids(&with_runs(4, &[[0, 1], [7, 1]]).unwrap()), [0, 1, 7, 8]);
        assert_eq!(ids(&with_runs(2, &[[0xfffe, 1]]).unwrap()), [0xfffe, 0xffff]);
        for (cardinality, runs) in [(12, [[0, 5], [3, 5]]), (4, [[7, 1], [0, 1]]), (5, [[0, 1], [0xfffe, 2]])]
        {
            assert!(with_runs(cardinality, &runs).unwrap_err().to_string().contains("runs"));
        }
    }

    /// Arrays, bitmaps and runs in neighbouring containers, as `roaring` writes them.
    fn bitmaps() -> impl Strategy<Value = RoaringBitmap> {
        let range = (0..6_u32 << 16, prop_oneof![1..20_u32, 1..9000_u32, 1..150_000_u32])
            .prop_map(|(start, len)| start..start + len);
        let sparse =
            (any::<u32>(), 2..9_u32, 1..20_000_u32).prop_map(|(start, step, count)| (start, step, count));
        (
            prop::collection::vec(range, 0..6),
            prop::collection::vec(sparse, 0..3),
            prop::collection::vec(any::<u32>(), 0..50),
            any::<bool>(),
        )
            .prop_map(|(ranges, sparse, single, optimize)| {
                let mut bitmap: RoaringBitmap = single.into_iter().collect();
                for range in ranges {
                    bitmap.insert_range(range);
                }
                for (start, step, count) in sparse {
                    bitmap.extend((0..count).map(|i| start.wrapping_add(i * step)));
                }
                if optimize {
                    bitmap.optimize();
                }
                bitmap
            })
    }

    proptest! {
        #[test]
        fn every_bitmap_means_here_what_it_means_to_its_writer(
            bitmap in bitmaps(), from in prop::collection::vec(any::<u32>(), 20),
        ) {
            let selector = Selector::parse(serialized(&bitmap)).unwrap();
            prop_assert!(ids(&selector).into_iter().eq(bitmap.iter()));
            for from in from {
                prop_assert_eq!(selector.next(from), bitmap.range(from..).next());
                prop_assert_eq!(selector.contains(from), bitmap.contains(from));
            }
        }

        #[test]
        fn a_damaged_bitmap_is_refused_or_means_what_it_means_to_others(
            bitmap in bitmaps(),
            damage in prop::collection::vec((0..64_usize, any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = serialized(&bitmap).to_vec();
            for (at, byte) in damage {
                if let Some(old) = bytes.get_mut(at) {
                    *old = byte;
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(selector) = Selector::parse(bytes.clone().into()) {
                let theirs = RoaringBitmap::deserialize_from(&bytes[..]).unwrap();
                prop_assert!(ids(&selector).into_iter().eq(theirs.iter()));
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_without_a_panic(
            with_runs in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let cookie = if with_runs { vec![0x3b, 0x30] } else { vec![0x3a, 0x30, 0, 0] };
            for bytes in [bytes.clone(), [cookie, bytes].concat()] {
                if let Ok(selector) = Selector::parse(bytes.into()) {
                    let _ = selector.next(7);
                }
            }
        }
    }
}
