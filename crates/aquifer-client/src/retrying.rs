//! Waiting before something is tried again.

use std::time::Duration;

/// Waits that grow, and that two clients do not spend alike.
pub(crate) struct Backoff {
    seed: u64,
}

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { seed: uuid::Uuid::now_v7().as_u64_pair().1 | 1 }
    }

    /// Before the try after this one, counted from 1. Cancel-safe.
    pub(crate) async fn pause(&mut self, round: u32) {
        let longest = FIRST.saturating_mul(1 << round.min(16)).min(LONGEST);
        // xorshift64
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let share = (self.seed >> 11) as f64 / (1_u64 << 53) as f64;
        tokio::time::sleep(longest.mul_f64(share)).await;
    }
}
