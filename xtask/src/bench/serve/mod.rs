//! The server: its own program, asked over HTTP on the loopback interface.

mod client;
mod durable;
mod fleet;
mod poll;
mod pull;
mod push;
mod server;
mod sql;

pub(super) use durable::run as durable;
pub(super) use fleet::run as fleet;
pub(super) use poll::run as poll;
pub(super) use pull::run as pull;
pub(super) use push::run as push;
pub(super) use server::Server;
