//! What bottomless did by itself when a database was opened.

mod local;
mod opener;
mod proof;
mod standing;
mod store;

pub use opener::{Opened, Opener, RestoreAction};
pub use proof::compare_with_store;
pub use standing::{Standing, compare};
