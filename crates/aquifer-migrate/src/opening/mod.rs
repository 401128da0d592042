//! What bottomless did by itself when a database was opened.

mod local;
mod opener;
mod standing;
mod store;

pub use opener::{Opened, Opener, RestoreAction};
pub use standing::{Standing, compare};
