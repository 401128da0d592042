//! What a server turned out not to know.
//!
//! `tursodb --sync-server` refuses a pull that asks for zstd, and a pipeline with a `close` in it, each as a whole and
//! with status 500. Both are asked for again without, and without from then on. It keeps no connection from one
//! request to the next, and reads reals as others near them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::RemoteError;
use super::{Batch, Remote};
use crate::push::Reals;

#[derive(Debug, Default)]
pub(super) struct Abilities {
    no_zstd: AtomicBool,
    no_close: AtomicBool,
    /// Whether a connection is kept for a client that has more to come.
    streams: OnceLock<bool>,
    /// Whether reals are read as they are written.
    exact_reals: OnceLock<bool>,
}

impl Remote {
    /// How it reads reals; exactly, until it has turned out otherwise.
    pub(crate) fn reals(&self) -> Reals {
        let exactly = self.http.abilities.exact_reals.get().is_none_or(|exactly| *exactly);
        if exactly { Reals::Exact } else { Reals::Near }
    }

    /// Whether it was found out how it reads reals.
    pub(crate) fn is_asked_of_reals(&self) -> bool {
        self.http.abilities.exact_reals.get().is_some()
    }

    /// That was found out.
    pub(crate) fn reads_reals(&self, exactly: bool) {
        let _ = self.http.abilities.exact_reals.set(exactly);
    }

    /// Whether it keeps a connection, with its open transaction, for a client that has more to come. It is asked once,
    /// and without a transaction: one that does not may leave it open for everybody.
    ///
    /// Cancel-safe.
    pub(crate) async fn keeps_streams(&self) -> Result<bool, RemoteError> {
        let known = &self.http.abilities.streams;
        if let Some(&keeps) = known.get() {
            return Ok(keeps);
        }
        let mut stream = self.sql_stream();
        stream.batch(&Batch::new()).await?;
        let keeps = stream.is_open();
        // The server forgets it by itself, only later.
        let _ = stream.close().await;
        Ok(*known.get_or_init(|| keeps))
    }
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
