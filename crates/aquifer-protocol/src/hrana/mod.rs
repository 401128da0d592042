//! SQL over HTTP and WebSocket: what both ends share of Hrana's JSON.

mod condition;
mod value;

pub use condition::{Condition, MissingField};
pub use value::{Value, ValueRef};
