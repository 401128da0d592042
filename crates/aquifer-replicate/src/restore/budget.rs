//! How much memory, how many requests and how many threads a restore may use.

use std::thread::available_parallelism;

/// Most bytes that one request fetches: long enough that a store's latency does not count, short enough that all
/// threads have work to the end.
const PIECE: usize = 2 << 20;
/// Requests in flight: object stores answer one with 50 to 100 MB/s.
const REQUESTS: usize = 16;
/// Below this nothing works well.
const LEAST: usize = 16 << 20;

/// Shares of a memory limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Bytes of folded entries.
    pub(crate) overlay: usize,
    /// Bytes per request.
    pub(crate) piece: u64,
    /// Requests in flight, whose answers are waiting or being worked on.
    pub(crate) requests: usize,
    /// Threads that decode.
    pub(crate) threads: usize,
}

impl Budget {
    /// Divides a limit in bytes: half for folded entries, a quarter for what is being fetched; the rest is for
    /// decoding, indexes and the allocator.
    pub(crate) fn new(limit: usize) -> Budget {
        let limit = limit.max(LEAST);
        let piece = (limit / 64).min(PIECE);
        let threads = available_parallelism().map_or(2, usize::from);
        Budget {
            overlay: limit / 2,
            piece: piece as u64,
            requests: (limit / 4 / piece).min(REQUESTS),
            threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_at_once_stays_within_a_quarter() {
        for limit in [0, 1 << 20, 32 << 20, 192 << 20, 4 << 30] {
            let budget = Budget::new(limit);
            let fetched = budget.requests * budget.piece as usize;
            assert!(budget.requests >= 2 && fetched <= limit.max(LEAST) / 4, "{limit}: {budget:?}");
        }
    }
}
