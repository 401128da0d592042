//! How many databases a server has open, and how much of them on its disk.

use aquifer_server::hosted::HostOptions;
use clap::Args;

use crate::units::{Bytes, Length};

/// What a server keeps of databases that nobody uses.
#[derive(Debug, Args)]
#[command(next_help_heading = "Open databases")]
pub(super) struct HostingArgs {
    /// Close databases that nobody has used for so long; the next use opens them again
    #[arg(long, value_name = "LENGTH", default_value = "10m")]
    close_after: Length,

    /// Databases open at the same time; beyond, the one that was used least recently is closed
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..))]
    max_open: u32,

    /// Bytes of local files; beyond, those of closed databases are thrown away [default: no limit]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Bytes>,
}

impl HostingArgs {
    pub(super) fn apply(&self, options: HostOptions) -> HostOptions {
        HostOptions {
            close_after: self.close_after.0,
            max_open: self.max_open as usize,
            cache_size: self.cache_size.map(|size| size.0),
            ..options
        }
    }
}
