//! Aquifer's segment format and the types that name pages, transactions and generations.
//!
//! Pure functions over bytes: no files, no network, no SQLite. `docs/format.md` is the specification;
//! this crate is its reference implementation.
//!
//! - [`types`]: the words of the field as types: [`Pgno`], [`Txid`], [`PageHash`], [`GenerationId`] …
//! - [`segment`]: the immutable object that holds what changed in a range of transactions.

pub mod segment;
pub mod types;

pub use types::{
    DbChecksum, GenerationId, Moment, PageHash, PageSize, Pgno, Revision, Timestamp, Txid, TxidRange,
    WriterNonce,
};
