//! Backups that other programs made.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod bucket;
mod choices;
mod damage;
mod export;
mod generated;
mod generations;
mod generator;
mod guards;
mod histories;
mod hostile;
mod import;
mod interrupted;
mod live;
mod moments;
mod mutated;
mod originals;
mod proofs;
mod room;
