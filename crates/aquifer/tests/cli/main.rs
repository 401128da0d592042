//! The program as its users run it: real processes, real files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod config;
mod copy;
mod doctor;
mod errors;
mod ls;
mod replicate;
mod restore;
mod rm;
mod stores;
mod terminal;
mod world;
