//! How servers of one store share its databases.

use std::net::SocketAddr;

use aquifer_server::cluster::ClusterOptions;
use clap::Args;

use crate::error::CliError;
use crate::units::Length;

/// A lease is renewed five times in its length: what is shorter is lost to hiccups.
const SHORTEST_LEASE_MILLIS: u128 = 100;

/// How a server shares databases with other servers of its store.
#[derive(Debug, Args)]
#[command(next_help_heading = "Several servers")]
pub(super) struct SharingArgs {
    /// Where other servers reach this one; by default where it listens, unless that is an unspecified address
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,

    /// For how long a server that gives no sign of life keeps its databases
    #[arg(long, value_name = "LENGTH", default_value = "10s")]
    lease: Length,

    /// Send clients to the server that has their database (307), instead of passing their requests on: Turso's sync
    /// clients do not follow
    #[arg(long)]
    pub(super) redirect: bool,
}

impl SharingArgs {
    /// Of a server that listens there.
    pub(super) fn options(&self, address: SocketAddr, tls: bool) -> Result<ClusterOptions, CliError> {
        if self.lease.0.as_millis() < SHORTEST_LEASE_MILLIS {
            return Err(CliError::Usage("--lease must be 100ms at least".to_owned()));
        }
        if let Some(url) = &self.advertise
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(CliError::Usage(format!("--advertise {url}: give a URL, as http://10.0.0.7:8080")));
        }
        let scheme = if tls { "https" } else { "http" };
        let listening = (!address.ip().is_unspecified()).then(|| format!("{scheme}://{address}"));
        let url = self.advertise.as_deref().map(|url| url.trim_end_matches('/').to_owned()).or(listening);
        Ok(ClusterOptions { url, lease: self.lease.0 })
    }
}
