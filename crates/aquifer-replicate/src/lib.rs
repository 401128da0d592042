//! Capture, shipping, restore and follow.
#![forbid(unsafe_code)]

pub mod capture;
mod error;
pub mod state;

pub use error::{Error, Result};
