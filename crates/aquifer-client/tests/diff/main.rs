//! From two images of a database to the rows that differ, held against what SQL says.
#![allow(clippy::unwrap_used, reason = "tests")]

mod cost;
mod damage;
mod files;
mod python;
mod random;
mod replay;
mod traps;
mod virtual_tables;
mod workload;
