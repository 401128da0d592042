//! All that Aquifer knows of SQLite's files. All `unsafe` code of the workspace lives here.
//!
//! - [`wal`]: the write-ahead log's bytes: header, frames, checksums. Pure, no SQLite needed.
//! - [`Handle`]: a connection to a database that others own: read transactions whose place in the WAL is known
//!   exactly ([`WalPosition`]), raw reads of the database file through SQLite's own descriptor, checkpoints.
//! - [`btree`]: tables and indexes, read straight from pages.
//! - [`open_pages`]: queries over pages from anywhere, with a note of those that they read.
//! - [`open_overlay`]: writing to such a database; what is written goes aside.
//! - [`FileLock`]: a file that says who works on a database.
//! - [`PinnedDatabase`]: a database whose WAL is kept from being reset under us, and [`View`]s of its image.
//!
//! # Never a second descriptor
//! A process that opens and closes the database file or the `-shm` file with a descriptor of its own drops the
//! POSIX locks that SQLite holds on it in the same process (sqlite.org/howtocorrupt.html, section 2.2). So the
//! database file is read through [`Handle::read_at`] only, for as long as a [`Handle`] on it may exist. The `-wal`
//! file carries no locks and is read directly.

mod apply;
pub mod btree;
mod build;
mod error;
mod file_lock;
mod handle;
mod integrity;
mod lent_lock;
mod page_vfs;
mod pinned;
mod position;
mod rowid;
mod snapshot;
mod takeover;
mod view;
pub mod wal;
mod wal_mode;

pub use apply::PageTransaction;
pub use build::check_build;
pub use error::{Error, said};
pub use file_lock::FileLock;
pub use handle::{Backfill, Handle};
pub use integrity::integrity_check;
pub use page_vfs::{Overlay, PagesRead, ReadPages, open_overlay, open_pages};
pub use pinned::{Advance, Continuity, PinnedDatabase};
pub use position::WalPosition;
pub use rowid::forget_last_insert_rowid;
pub use takeover::{Takeover, take_over};
pub use view::View;
pub use wal_mode::use_wal;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
