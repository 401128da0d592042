//! Hrana over real HTTP on loopback, with a host whose databases are plain files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod authorize;
mod batch;
mod conformance;
mod cursor;
mod durability;
mod limits;
mod push;
mod sessions;
mod socket;
mod streams;
mod traces;
mod world;
