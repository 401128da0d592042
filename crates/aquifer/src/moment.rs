//! Which moment of a database's history is meant.

use aquifer_format::{GenerationId, Timestamp, Txid};
use aquifer_log::Target;
use clap::Args;

use crate::error::CliError;
use crate::time::parse_moment;

/// A moment of a database's history; the newest if nothing is said.
#[derive(Debug, Args)]
pub(crate) struct Moment {
    /// As it was then: '10 minutes ago', 'yesterday 14:00', '2026-11-21T14:00:00Z'
    #[arg(long, value_name = "WHEN", value_parser = parse_moment, conflicts_with = "txid")]
    pub(crate) timestamp: Option<Timestamp>,

    /// As of this txid (`info` tells which there are)
    #[arg(long, value_name = "N")]
    pub(crate) txid: Option<Txid>,

    /// In this generation [default: the newest that has what is asked for]
    #[arg(short, long, value_name = "ID")]
    pub(crate) generation: Option<String>,
}

impl Moment {
    /// The generation, which is one of ours.
    pub(crate) fn generation(&self) -> Result<Option<GenerationId>, CliError> {
        let Some(id) = &self.generation else { return Ok(None) };
        id.parse()
            .map(Some)
            .map_err(|e| CliError::Usage(format!("invalid value '{id}' for --generation: {e}")))
    }

    pub(crate) fn target(&self) -> Target {
        match (self.timestamp, self.txid) {
            (Some(moment), _) => Target::Timestamp(moment),
            (_, Some(txid)) => Target::Txid(txid),
            _ => Target::Latest,
        }
    }
}
