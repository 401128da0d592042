//! What a server turned out not to know.
//!
//! `tursodb --sync-server` refuses a pull that asks for zstd, and a pipeline with a `close` in it, each as a whole and
//! with status 500. Both are asked for again without, and without from then on.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::RemoteError;

#[derive(Debug, Default)]
pub(super) struct Abilities {
    no_zstd: AtomicBool,
    no_close: AtomicBool,
}

impl Abilities {
    /// Whether to ask for pages as zstd frames.
    pub(super) fn zstd(&self) -> bool {
        !self.no_zstd.load(Ordering::Relaxed)
    }

    /// Whether to send `close` with a batch.
    pub(super) fn close(&self) -> bool {
        !self.no_close.load(Ordering::Relaxed)
    }

    /// Whether a pull that asked for zstd failed for that; it is not asked for again.
    pub(super) fn lacks_zstd(&self, error: &RemoteError) -> bool {
        let RemoteError::Refused { status, message, .. } = error else { return false };
        let lacks = matches!(status, 400 | 415 | 500 | 501) && message.to_ascii_lowercase().contains("zstd");
        self.no_zstd.fetch_or(lacks, Ordering::Relaxed);
        lacks
    }

    /// Whether a pipeline could not be read for its `close`, so that nothing of it was run; it is not sent again.
    pub(super) fn lacks_close(&self, error: &RemoteError) -> bool {
        let RemoteError::Refused { message, .. } = error else { return false };
        let lacks = message.contains("unknown variant `close`");
        self.no_close.fetch_or(lacks, Ordering::Relaxed);
        lacks
    }
}
