//! The WAL's cumulative checksum.

/// The two running sums of the WAL's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct WalChecksum {
    /// First sum.
    pub s0: u32,
    /// Second sum.
    pub s1: u32,
}

impl WalChecksum {
    /// Continues the checksum over `bytes`, read as 32-bit words of the byte order that the WAL's magic number
    /// names.
    ///
    /// # Panics
    /// If `bytes` is not a multiple of 8 long; headers and pages always are.
    #[must_use]
    #[inline]
    pub fn over(self, bytes: &[u8], big_endian: bool) -> WalChecksum {
        if big_endian { self.run(bytes, u32::from_be_bytes) } else { self.run(bytes, u32::from_le_bytes) }
    }

    #[inline]
    fn run(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> WalChecksum {
        let (pairs, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "the WAL's checksum covers multiples of 8 bytes");
        let (mut s0, mut s1) = (self.s0, self.s1);
        for &[a, b, c, d, e, f, g, h] in pairs {
            s0 = s0.wrapping_add(word([a, b, c, d])).wrapping_add(s1);
            s1 = s1.wrapping_add(word([e, f, g, h])).wrapping_add(s0);
        }
        WalChecksum { s0, s1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_definition_in_the_file_format() {
        // Worked by hand from fileformat2.html, section 4.2, with x = 1, 2, 3, 4.
        let bytes: Vec<u8> = [1u32, 2, 3, 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let sum = WalChecksum::default().over(&bytes, false);
        // s0 = 1, s1 = 2 + 1 = 3; s0 = 1 + 3 + 3 = 7, s1 = 3 + 4 + 7 = 14
        assert_eq!(sum, WalChecksum { s0: 7, s1: 14 });
        let swapped: Vec<u8> = [1u32, 2, 3, 4].iter().flat_map(|x| x.to_be_bytes()).collect();
        assert_eq!(WalChecksum::default().over(&swapped, true), sum);
    }
}
