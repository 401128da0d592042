//! Clients that keep a copy of a hosted database: by pages, as Turso's do, and by frames, as libSQL's do.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod frames;
mod pull;
mod stage;
