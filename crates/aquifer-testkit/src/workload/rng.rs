//! The seeded source of randomness: the same seed gives the same workload on every machine.

/// A small deterministic generator (the finisher of `SplitMix64` over a Weyl sequence). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    stream: u64,
}

const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// A generator whose whole sequence is decided by `seed`.
    pub fn new(seed: u64) -> Rng {
        let mut rng = Rng { state: seed ^ WEYL, stream: seed.wrapping_mul(0xD134_2543_DE82_EF95) | 1 };
        for _ in 0..8 {
            rng.next_u64();
        }
        rng
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(WEYL ^ (self.stream << 1));
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`; `n` must be above 0.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        debug_assert!(n > 0, "below(0) has no answer");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `first..=last`.
    #[inline]
    pub fn range(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// Uniform in `0.0..1.0`.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True once in `n` draws on average.
    #[inline]
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An index in `0..n`, small ones most often: close to a Zipf distribution with exponent 1.
    #[inline]
    pub fn zipf(&mut self, n: u64) -> u64 {
        (((n as f64 + 1.0).powf(self.unit())) as u64).saturating_sub(1).min(n - 1)
    }

    /// Any of `choices`, each as often as the others.
    #[inline]
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Any of `choices`, the first ones most often.
    #[inline]
    pub fn pick_skewed<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.zipf(choices.len() as u64) as usize]
    }

    /// Overwrites `bytes` with what no compressor can shrink.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }

    /// `len` letters and digits.
    pub fn alnum(&mut self, len: usize) -> String {
        self.string_of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", len)
    }

    /// `len` decimal digits.
    pub fn digits(&mut self, len: usize) -> String {
        self.string_of(b"0123456789", len)
    }

    /// `len` hexadecimal digits.
    pub fn hex(&mut self, len: usize) -> String {
        self.string_of(b"0123456789abcdef", len)
    }

    /// A random (version 4) UUID.
    pub fn uuid(&mut self) -> String {
        let (low, mid, high) = (self.hex(8), self.hex(4), self.hex(3));
        let variant = self.pick(&["8", "9", "a", "b"]);
        let (clock, node) = (self.hex(3), self.hex(12));
        format!("{low}-{mid}-4{high}-{variant}{clock}-{node}")
    }

    fn string_of(&mut self, alphabet: &[u8], len: usize) -> String {
        (0..len).map(|_| char::from(self.pick(alphabet))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_decides_the_whole_sequence() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn range_includes_both_ends() {
        let mut rng = Rng::new(1);
        let drawn: std::collections::BTreeSet<u64> = (0..1000).map(|_| rng.range(3, 6)).collect();
        assert_eq!(drawn, [3, 4, 5, 6].into());
    }

    #[test]
    fn zipf_stays_in_bounds_and_prefers_the_first() {
        let mut rng = Rng::new(2);
        let drawn: Vec<u64> = (0..10_000).map(|_| rng.zipf(1000)).collect();
        assert!(drawn.iter().all(|&i| i < 1000));
        // Zipf with exponent 1 over 1,000: about 10 % each for index 0 and 0.01 % for the last.
        assert!(drawn.iter().filter(|&&i| i == 0).count() > 700);
        assert!(drawn.iter().filter(|&&i| i > 500).count() > 700, "the tail is long, too");
    }
}
