//! What others left in a bucket: read-only, so that their users can come over with the backups they have.
//!
//! [`find`] lists the backups in a store by their layout. Each [`Backup`] can be looked at
//! ([`Backup::survey`]); [`Restorer`] makes a database of one, and [`Importer`] a generation of an Aquifer
//! store. [`Exporter`] goes the other way. [`Opener`] does what bottomless did when a database was opened.
//!
//! ```text
//! find ──► Backup ──► plan: objects, oldest first ──► replay: fetched ahead, decoded, proven ──► image
//! ```
//!
//! A format's module knows names and how an object is to be read, and no more: what is planned is a list of pieces
//! (`plan.rs`), and one loop (`replay.rs`) decodes and proves them and hands pages and commits on (`image/`).
#![forbid(unsafe_code)]

mod backup;
mod codec;
mod error;
mod export;
mod formats;
mod image;
mod import;
mod opening;
mod plan;
mod replay;
mod restore;

pub use backup::{Backup, Format, Origin, Snapshot, Survey, find};
pub use error::{MigrateError, Result};
pub use export::{Exported, Exporter};
pub use import::{Imported, ImportedGeneration, Importer, LeftOut};
pub use opening::{Opened, Opener, RestoreAction, Standing, compare, compare_with_store};
pub use plan::Target;
pub use restore::{Restored, Restorer, auto_restore};
