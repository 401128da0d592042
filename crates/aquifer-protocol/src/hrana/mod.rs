//! SQL over HTTP and WebSocket: what both ends share of Hrana's JSON.

mod value;

pub use value::{BASE64, Value};
