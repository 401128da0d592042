//! How many requests were sent, by kind: what a cloud bills and what an idle database must not cause.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Requests sent to a store, retries included, since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RequestCounts {
    /// Unconditional puts of whole objects.
    pub put: u64,
    /// Puts that create an object only if it is absent.
    pub create: u64,
    /// Reads of objects or ranges of them.
    pub get: u64,
    /// Requests for an object's length and time.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Deletions. One request may delete up to 1,000 objects where the store can.
    pub delete: u64,
    /// Requests of multipart uploads: initiation, parts, completion, abort.
    pub multipart: u64,
    /// How many of the above repeated one that failed.
    pub retries: u64,
    /// Bytes of payload sent, those of failed requests included.
    pub bytes_up: u64,
    /// Bytes of payload received.
    pub bytes_down: u64,
}

impl RequestCounts {
    /// All requests of every kind.
    pub fn total(&self) -> u64 {
        self.put + self.create + self.get + self.head + self.list + self.delete + self.multipart
    }

    /// Each kind's name and count, for metrics.
    pub fn by_kind(&self) -> [(&'static str, u64); 7] {
        [
            ("put", self.put),
            ("create", self.create),
            ("get", self.get),
            ("head", self.head),
            ("list", self.list),
            ("delete", self.delete),
            ("multipart", self.multipart),
        ]
    }
}

/// What was sent between two moments.
impl Sub for RequestCounts {
    type Output = RequestCounts;
    fn sub(self, earlier: RequestCounts) -> RequestCounts {
        RequestCounts {
            put: self.put - earlier.put,
            create: self.create - earlier.create,
            get: self.get - earlier.get,
            head: self.head - earlier.head,
            list: self.list - earlier.list,
            delete: self.delete - earlier.delete,
            multipart: self.multipart - earlier.multipart,
            retries: self.retries - earlier.retries,
            bytes_up: self.bytes_up - earlier.bytes_up,
            bytes_down: self.bytes_down - earlier.bytes_down,
        }
    }
}

/// The kind under which a request is counted, and what an error message calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Put,
    Create,
    Get,
    Head,
    List,
    Delete,
    Multipart,
}

impl Request {
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Request::Put | Request::Multipart => "write",
            Request::Create => "create",
            Request::Get => "read",
            Request::Head => "look up",
            Request::List => "list",
            Request::Delete => "delete",
        }
    }

    /// Whether an attempt that failed may have changed the store all the same.
    pub(crate) fn changes_the_store(self) -> bool {
        matches!(self, Request::Put | Request::Create | Request::Delete | Request::Multipart)
    }
}

/// The counters themselves, shared by all clones of a store.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: [AtomicU64; 7],
    retries: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, request: Request, bytes: u64) {
        self.requests[request as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> RequestCounts {
        let of = |request: Request| self.requests[request as usize].load(Ordering::Relaxed);
        RequestCounts {
            put: of(Request::Put),
            create: of(Request::Create),
            get: of(Request::Get),
            head: of(Request::Head),
            list: of(Request::List),
            delete: of(Request::Delete),
            multipart: of(Request::Multipart),
            retries: self.retries.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_counts_under_its_own_name() {
        let counters = Counters::default();
        let all = [
            Request::Put,
            Request::Create,
            Request::Get,
            Request::Head,
            Request::List,
            Request::Delete,
            Request::Multipart,
        ];
        for (n, request) in all.into_iter().enumerate() {
            for _ in 0..=n {
                counters.sent(request, 10);
            }
        }
        let counts = counters.snapshot();
        assert_eq!(counts.by_kind().map(|(_, n)| n), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((counts.total(), counts.bytes_up), (28, 280));
        assert_eq!((counts - counts).total(), 0);
    }
}
