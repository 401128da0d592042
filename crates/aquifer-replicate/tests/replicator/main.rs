//! What is committed becomes durable, whatever the store, the process and the clock do.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod fencing;
mod idle;
mod outages;
mod restarts;
mod served;
mod shipping;
mod stage;
#[path = "../support/mod.rs"]
mod support;
