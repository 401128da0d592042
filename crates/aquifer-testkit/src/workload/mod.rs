//! Seeded generators of realistic SQLite databases and of the transactions that change them.
//!
//! Four kinds, each with the page fill, row sizes and locality of an application of its sort:
//!
//! | kind | what it is | one operation |
//! |---|---|---|
//! | `orders` | a shop in the manner of TPC-C: 9 tables, 3 indexes | a new order, a payment or a delivery |
//! | `json` | documents of 200 bytes to 2 kB under random UUIDs | insert, `json_set` or delete of one |
//! | `blobs` | incompressible files of 1 KiB to 256 KiB | insert of one |
//! | `kv` | one narrow table | insert, or update of one row (uniform or skewed) |
//!
//! The same seed gives the same database and the same transactions on every machine, so figures of two
//! runs, two versions or two programs compare.

mod blobs;
mod build;
mod json;
mod kv;
mod orders;
mod rng;
mod text;
mod wal_stats;
mod work;

use std::fmt;
use std::str::FromStr;

pub use build::{Build, build, page_bytes};
pub use rng::Rng;
pub use wal_stats::{WalStats, wal_stats};
pub use work::{KvMode, Work};

/// What sort of application the database belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A shop: orders, payments, deliveries over nine tables.
    Orders,
    /// A document store.
    Json,
    /// Files kept as incompressible blobs.
    Blobs,
    /// A key-value table.
    Kv,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Orders, Kind::Json, Kind::Blobs, Kind::Kv];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Orders => "orders",
            Kind::Json => "json",
            Kind::Blobs => "blobs",
            Kind::Kv => "kv",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("no workload is called {name:?}; there are orders, json, blobs and kv"))
    }
}
