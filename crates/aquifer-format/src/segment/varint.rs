//! LEB128: seven bits per byte, least significant first, the high bit says that more follow.

/// Longest encoding that readers accept: 35 bits are enough for every number that a segment codes so.
pub(super) const MAX_LEN: usize = 5;

/// Appends `value`, which is below 2^35.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    debug_assert!(value < 1 << 35);
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a number from the start of `bytes`: it, and what follows. `None` if it does not end within
/// [`MAX_LEN`] bytes or within `bytes`.
#[inline]
pub(super) fn take(bytes: &[u8]) -> Option<(u64, &[u8])> {
    if let [first @ 0..0x80, rest @ ..] = bytes {
        return Some((u64::from(*first), rest));
    }
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(MAX_LEN).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_a_round_trip_and_leave_what_follows() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), (1 << 35) - 1] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert!(out.len() <= MAX_LEN);
            out.push(0xaa);
            assert_eq!(take(&out), Some((value, &[0xaa][..])));
        }
    }

    #[test]
    fn an_unfinished_or_overlong_number_is_refused() {
        assert_eq!(take(&[]), None);
        assert_eq!(take(&[0x80, 0x80]), None);
        assert_eq!(take(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), None);
    }
}
