//! SQL on the server: Hrana over HTTP, `POST …/v2/pipeline`, in JSON.
//!
//! - [`Batch`] is written as it will be sent, so that ten thousand rows are in memory once;
//! - [`Remote::batch`] runs one that needs no further request; [`SqlStream`] runs several on one connection of the server.

mod answer;
mod batch;
mod stream;

pub use answer::{BatchAnswer, SqlFailure, StepOutcome, StepResult};
pub use aquifer_protocol::hrana::Condition;
pub use batch::{Batch, Unsendable, sendable};
pub use stream::SqlStream;
