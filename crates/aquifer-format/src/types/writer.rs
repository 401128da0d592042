//! Who wrote a segment.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Random identity of one run of one writer. A writer whose create meets an object with another's nonce has
/// been taken over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterNonce(Uuid);

impl WriterNonce {
    /// A fresh one.
    pub fn random() -> WriterNonce {
        WriterNonce(Uuid::now_v7())
    }

    /// From its bytes, as stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> WriterNonce {
        WriterNonce(Uuid::from_bytes(bytes))
    }

    /// As bytes, to be stored.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl fmt::Debug for WriterNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for WriterNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.simple(), f)
    }
}
