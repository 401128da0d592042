//! Capture, shipping, restore and follow.
#![forbid(unsafe_code)]

mod budget;
pub mod capture;
mod error;
pub mod follow;
pub mod metrics;
mod options;
mod replica;
mod replicator;
pub mod restore;
pub mod state;
mod status;
mod tracker;
mod watch;
mod workers;

pub use error::{Error, Result};
pub use options::{Primary, ReplicaOptions};
pub use replica::{Applied, PageWrite, RevisionView, UpkeepOptions};
pub use replicator::{Replicator, ReplicatorBuilder};
pub use status::{ReplicaState, ReplicaStatus};
pub use tracker::{BatchPages, Tracker};
