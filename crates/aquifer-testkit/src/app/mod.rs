//! An application that owns a database, as a process of its own that a test may kill at any moment.
//!
//! It commits numbered transactions and prints `committed N` after each, so a test knows which commits were
//! acknowledged; [`check_log`] then says which transactions a database (the application's own, or a restored
//! copy) holds, and fails unless they are whole and without gaps.
//!
//! There are two of them with one schema and one protocol: this one, on the bundled SQLite, and
//! `foreign/app.py` on Python's own `sqlite3`, usually another version of SQLite.
//!
//! # Protocol
//!
//! Arguments: the database file and [`AppOptions`] as JSON. The process first prints `ready N`, the last
//! transaction that the database already held. Commands come on stdin, one per line:
//!
//! | command | effect | answer |
//! |---|---|---|
//! | `commit K` | K transactions | `committed N` for each, then `ok` |
//! | `run` | transactions until the next command arrives | `committed N` for each, then `ok` |
//! | `sql S` | runs one statement outside of a transaction of its own | `ok` and the first row, tab-separated |
//! | `close` | closes the connection: the last close deletes the WAL | `ok` |
//! | `open` | opens it again | `ok` |
//! | `quit` | closes the connection and ends | `ok` |
//!
//! The end of stdin ends the process without closing the database. `busy` is printed when a lock was not had
//! within the busy timeout (the transaction is tried again), `error …` when anything else fails.

mod check;
mod options;
mod process;
mod program;
mod schema;
mod serve;
mod transaction;

pub use check::{LogError, check_log};
pub use options::{AppOptions, AutoVacuum, JournalMode, Mix, Synchronous};
pub use process::{AppError, AppProcess};
pub use program::Language;
pub use serve::serve;
