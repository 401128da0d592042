//! The field's words as types, so that no two numbers can be confused.

mod checksum;
mod generation;
mod moment;
mod page;
mod timestamp;
mod txid;
mod writer;

pub use checksum::{DbChecksum, PageHash};
pub use generation::{GenerationId, ParseGenerationError, Revision};
pub use moment::Moment;
pub use page::{PageSize, PageSizeError, Pgno};
pub use timestamp::Timestamp;
pub use txid::{ParseTxidError, Txid, TxidRange};
pub use writer::WriterNonce;
