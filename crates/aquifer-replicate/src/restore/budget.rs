//! How much memory, how many requests and how many threads a restore may use.

use std::thread::available_parallelism;

use aquifer_log::store::Store;

/// Most bytes that one request to an object store fetches, and requests in flight: it answers each after some 30 ms,
/// with 50 to 100 MB/s.
const REMOTE: (usize, usize) = (2 << 20, 16);
/// The same for a directory. Small pieces stay in the processor's cache until they are decoded, and come out nearly
/// in the order of the file, which the disk rewards: 1 GB took two thirds of the time that large ones take.
const LOCAL: (usize, usize) = (512 << 10, 8);
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
    /// Whether requests are reads of a local file.
    pub(crate) local: bool,
    /// Threads that decode.
    pub(crate) threads: usize,
}

impl Budget {
    /// Divides a limit in bytes: half for folded entries, a quarter for what is being fetched; the rest is for
    /// decoding, indexes and the allocator.
    pub(crate) fn new(limit: usize, store: &Store) -> Budget {
        Budget::shared_out(limit.max(LEAST), store.is_local())
    }

    fn shared_out(limit: usize, local: bool) -> Budget {
        let (piece, requests) = if local { LOCAL } else { REMOTE };
        let piece = (limit / 64).min(piece);
        // One more than processors: now and then one waits for the file.
        let threads = available_parallelism().map_or(2, usize::from) + 1;
        Budget {
            overlay: limit / 2,
            piece: piece as u64,
            requests: (limit / 4 / piece).min(requests),
            local,
            threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_at_once_stays_within_a_quarter() {
        for limit in [LEAST, 32 << 20, 192 << 20, 4 << 30] {
            for local in [true, false] {
                let budget = Budget::shared_out(limit, local);
                let fetched = budget.requests * budget.piece as usize;
                assert!(budget.requests >= 2 && fetched <= limit / 4, "{limit}: {budget:?}");
            }
        }
    }
}
