//! What bottomless did by itself when a database was opened.

mod local;
mod standing;

pub use standing::{Standing, compare};
