//! The offline-first client: programs of its own for server, client and application, on the loopback interface.

mod copy;
mod large;
mod turso;
mod writes;

pub(super) use large::run as large;
pub(super) use writes::run as writes;
