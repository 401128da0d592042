//! What operators rely on: limits, request ids, metrics, TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod admin;
mod durability;
mod limits;
mod observation;
mod sockets;
mod stage;
mod tls;
mod waiting;
