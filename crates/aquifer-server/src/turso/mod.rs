//! Turso's sync protocol, the pull side: `POST /pull-updates`. Its messages are those of [`pull_updates`].
//!
//! - [`selector`]: the set of pages that a client asks for;
//! - [`source`]: what a hosted database has to offer for its pages to be pulled;
//! - [`shared`]: answers that many get;
//! - [`pull`]: from a request to an answer that is streamed.
//!
//! The wire's page ids are 0-based; everything behind [`source`] counts from 1 ([`Pgno`](aquifer_format::Pgno)).
//!
//! [`pull_updates`]: aquifer_protocol::pull_updates

pub mod pull;
mod reading;
pub mod selector;
pub mod shared;
pub mod source;
#[cfg(test)]
mod tests;
