//! Capture, shipping, restore and follow.
#![forbid(unsafe_code)]

pub mod state;
