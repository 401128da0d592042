//! Backups that other programs made.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bucket;
mod damage;
mod export;
mod import;
mod originals;
