//! The network: a server as `aquifer serve` runs it, and one that says whatever a test has written down.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod cancel;
mod faults;
mod places;
mod pull;
mod scripted;
mod sql;
mod stage;
