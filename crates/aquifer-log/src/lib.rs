//! The log of a database in an object store: layout, commit protocol, plan, compaction, retention, verify.
//!
//! - [`store`]: object stores, and the put-if-absent that the commit protocol rests on;
//! - [`layout`]: which object is what;
//! - [`DatabaseStore`]: a database's generations and segments, and how a writer extends them;
//! - [`SegmentHandle`]: reading of a segment only what is wanted;
//! - [`Plan`]: the fewest segments that make up a revision;
//! - [`Merge`]: adjacent segments as if they were one, in bounded memory;
//! - [`Compactor`], [`snapshot`]: fewer and larger segments, so that plans stay short;
//! - [`fork()`]: databases that begin with a revision of another one;
//! - [`retain`], [`remove_generation`]: what is deleted, and when;
//! - [`verify`]: proof that a revision can be restored.

mod begin;
mod compact;
mod control;
mod database;
mod error;
mod fork;
mod forks;
mod generation;
pub mod layout;
mod merge;
mod name;
mod owner;
mod plan;
mod remove;
mod retain;
mod seal;
mod segment_io;
mod segment_write;
mod snapshot;
mod spans;
pub mod store;
mod verify;
mod whole;

pub use compact::{Compactor, Levels};
pub use control::{ControlRecord, Deletion, Purged, deleted_databases, purge_deleted};
pub use database::{DatabaseStore, Generation, ListedSegment, Shipped};
pub use error::LogError;
pub use fork::{ForkError, Forked, fork};
pub use forks::Fork;
pub use generation::{GenerationRecord, Parent};
pub use layout::{Level, SegmentKey};
pub use merge::{Merge, MergedPage, PageSink};
pub use name::{DatabaseName, DatabaseNameError};
pub use owner::{Owner, OwnerRecord, ServerRecord, ServerSecret};
pub use plan::{Plan, PlanError, Step, Target};
pub use remove::{RemoveError, remove_generation};
pub use retain::{Retained, Retention, retain};
pub use seal::{branch, seal};
pub use segment_io::{FetchedGroups, SegmentHandle};
pub use segment_write::Written;
pub use snapshot::{Snapshotted, snapshot, snapshot_of};
pub use spans::Span;
pub use store::{Store, StoreError, StoreUrl};
pub use verify::{Scope, Verified, VerifyProgress, verify};
