//! The program as its users run it: real processes, real files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod admin;
mod bottomless;
mod config;
mod copy;
mod daemon;
mod doctor;
mod errors;
mod failover;
mod foreign;
mod fork;
mod import;
mod limits;
mod ls;
mod next;
mod replaced;
mod replicate;
mod restore;
mod rm;
mod serve;
mod server;
mod stores;
mod sync;
mod terminal;
mod world;
