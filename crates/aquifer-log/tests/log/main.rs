//! Plans, compaction, snapshots, retention and verification, over histories whose every image is known.

#![allow(clippy::unwrap_used, reason = "tests")]

mod branch_races;
mod compact;
mod fork;
mod fork_races;
mod forks_model;
mod growth;
mod history;
mod plan;
mod retain;
mod seal;
#[path = "../stores/mod.rs"]
mod stores;
mod verify;
