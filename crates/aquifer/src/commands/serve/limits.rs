//! What `serve` takes on, and what it tells of it.

use std::net::SocketAddr;
use std::path::PathBuf;

use aquifer_server::hrana::Settings;
use aquifer_server::http::{ConnectionLimits, Limits, Options, Tls, TlsError};
use aquifer_server::sql::{self, Observer};
use clap::Args;

use crate::error::CliError;
use crate::units::{Bytes, Length};

/// Limits of a server. Each answers with an error that names it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Connections at the same time; more wait
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_connections: usize,

    /// Requests in work at the same time; those that only wait for changes do not count
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_requests: usize,

    /// Requests in work on one database at the same time
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_requests_per_database: usize,

    /// Requests a second of one token, or of one address without a token [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: Option<u32>,

    /// Bytes of a request's body
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    max_body: Bytes,

    /// Rows of one result; a cursor has no such limit
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_rows: u64,

    /// Bytes of the results of one request; a cursor has no such limit
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    max_result: Bytes,

    /// Computing time of one statement
    #[arg(long, value_name = "LENGTH", default_value = "30s")]
    statement_timeout: Length,

    /// How long a transaction may be open over several requests; it keeps others from writing
    #[arg(long, value_name = "LENGTH", default_value = "30s")]
    transaction_timeout: Length,

    /// How long a request waits for a revision that it names (aquifer-wait)
    #[arg(long, value_name = "LENGTH", default_value = "10s")]
    wait_timeout: Length,

    /// How long a request's head may take to arrive, and an idle connection stays open
    #[arg(long, value_name = "LENGTH", default_value = "1m")]
    idle_timeout: Length,

    /// How long a client may send nothing of a body, or take nothing of an answer
    #[arg(long, value_name = "LENGTH", default_value = "30s")]
    stall_timeout: Length,
}

/// What is told of requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Observation")]
pub(super) struct ObserveArgs {
    /// Serve /metrics and /healthz there, to everybody; else administrators have /metrics where databases are
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<SocketAddr>,

    /// Log every request
    #[arg(long)]
    access_log: bool,

    /// Log statements that take longer; 0s logs all
    #[arg(long, value_name = "LENGTH", default_value = "1s")]
    slow_query: Length,
}

/// How clients get a secret connection.
#[derive(Debug, Args)]
pub(super) struct TlsArgs {
    /// Serve TLS with this certificate chain (PEM); read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl LimitArgs {
    pub(super) fn connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self.max_connections,
            head: self.idle_timeout.0,
            stalled: self.stall_timeout.0,
        }
    }

    pub(super) fn options(&self, observe: &ObserveArgs) -> Options {
        Options {
            limits: Limits {
                requests: self.max_requests,
                requests_per_database: self.max_requests_per_database,
                rate: self.rate_limit,
                body_idle: self.stall_timeout.0,
                ..Limits::default()
            },
            access_log: observe.access_log,
            wait: self.wait_timeout.0,
            ..Options::default()
        }
    }

    pub(super) fn settings(&self, observe: &ObserveArgs) -> Settings {
        Settings {
            limits: sql::Limits {
                rows: self.max_rows,
                result_bytes: self.max_result.0,
                statement_time: self.statement_timeout.0,
                ..sql::Limits::default()
            },
            transaction: self.transaction_timeout.0,
            slow_reader: self.stall_timeout.0,
            body_bytes: usize::try_from(self.max_body.0).unwrap_or(usize::MAX),
            observer: Observer { slow: Some(observe.slow_query.0), ..Observer::default() },
            ..Settings::default()
        }
    }
}

impl TlsArgs {
    pub(super) fn open(&self) -> Result<Option<Tls>, CliError> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let usage = |e: TlsError| CliError::Usage(e.to_string());
        Tls::open(certificate, key).map(Some).map_err(usage)
    }
}
