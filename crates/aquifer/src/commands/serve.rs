//! `aquifer serve`

mod history;
mod hosting;
mod limits;
mod sharing;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aquifer_log::Store;
use aquifer_log::store::Patience;
use aquifer_server::auth::{AuthOptions, Authority};
use aquifer_server::hosted::{Create, Durability, HostOptions, Hosts};
use aquifer_server::http::{ConnectionLimits, Listening, Options, Service};
use clap::{Args, ValueEnum};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::error::CliError;
use crate::exit::Exit;
use crate::fencing::Fencing;
use crate::session::Session;
use crate::signals::{SIGTERM, Signals};

use history::HistoryArgs;
use hosting::HostingArgs;
use limits::{LimitArgs, ObserveArgs, TlsArgs};
use sharing::SharingArgs;

/// Serve databases over HTTP; their primary storage is the store
///
/// Databases are at /db/NAME/, the database 'main' at / as well. What is acknowledged is in the store: a server that
/// starts on an empty disk serves all of it. Speaks SQL over HTTP and WebSocket (Hrana 2
/// and 3).
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to take requests
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Where local files are kept: a cache of the store, for this server alone
    #[arg(long, value_name = "DIR", default_value = "aquifer-cache")]
    data_dir: PathBuf,

    /// When databases come into being
    #[arg(long, value_name = "WHEN", default_value = "on-demand")]
    create: CreateWhen,

    /// What an answer waits for
    #[arg(long, value_name = "WHERE", default_value = "store")]
    durability: DurableWhere,

    /// Databases by host as well: shop.example.com is the database shop if this is example.com
    #[arg(long, value_name = "DOMAIN")]
    base_domain: Option<String>,

    /// File with public keys of those who issue tokens (JWT): PEM, JWKS, or a raw Ed25519 key in base64; may be repeated
    #[arg(long, value_name = "FILE")]
    auth_key: Vec<PathBuf>,

    /// File with a static token per line: TOKEN [ro|rw|admin] [DATABASE,…]; may be repeated
    #[arg(long, value_name = "FILE")]
    auth_tokens: Vec<PathBuf>,

    /// Let everybody in, on addresses that others can reach as well
    #[arg(long)]
    allow_anonymous: bool,

    /// Serve from a store that does not keep two servers of one database apart: make sure that there is only one
    #[arg(long)]
    allow_unfenced: bool,

    #[command(flatten)]
    hosting: HostingArgs,

    #[command(flatten)]
    history: HistoryArgs,

    #[command(flatten)]
    sharing: SharingArgs,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    observe: ObserveArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CreateWhen {
    /// When somebody uses them for the first time
    OnDemand,
    /// Not by using them
    Admin,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurableWhere {
    /// Everything that it wrote, or could have seen, is in the store
    Store,
    /// It is synced to this machine's disk; it is lost with it, and where another server takes over before it is shipped
    Local,
}

/// Threads for what the server does to its store, besides those that requests run on.
const STORE_THREADS: usize = 512;
/// More than a process has on most machines.
const MOST_THREADS: usize = 1 << 15;

impl Serve {
    /// Threads for what blocks, at most. Each request in work may hold one while it waits for what others do on theirs:
    /// if there were no more threads than such requests, all could wait for ever.
    pub(crate) fn threads(&self) -> usize {
        let requests = self.limits.options(&self.observe).limits.requests;
        requests.saturating_add(STORE_THREADS).min(MOST_THREADS)
    }

    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        aquifer_sqlite::check_build().map_err(CliError::Build)?;
        let mut signals = Signals::listen()?;
        let authority = Authority::new(&self.auth_options()?).map_err(|e| CliError::Usage(e.to_string()))?;
        let tls = self.tls.open()?;
        let store = self.store(session).await?;
        let create = match self.create {
            CreateWhen::OnDemand => Create::OnDemand,
            CreateWhen::Admin => Create::Admin,
        };
        let durability = match self.durability {
            DurableWhere::Store => Durability::Store,
            DurableWhere::Local => Durability::Local,
        };
        let failed = |source| CliError::Serve { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let cluster = self.sharing.options(address, tls.is_some())?;
        let upkeep = self.history.upkeep();
        let options = HostOptions { create, durability, cluster, upkeep, ..HostOptions::default() };
        let hosts = Hosts::new(store, &self.data_dir, self.hosting.apply(options))?;
        let (settings, options) = (self.limits.settings(&self.observe), self.limits.options(&self.observe));
        let (base_domain, redirect) = (self.base_domain.clone(), self.sharing.redirect);
        let options = Options { base_domain, redirect, ..options };
        let service = Service::with(hosts, authority, settings, options);
        let metrics = match self.observe.metrics {
            Some(address) => Some(serve_metrics(address, &service).await?),
            None => None,
        };
        let is_encrypted = tls.is_some();
        let listening = Listening::new(listener, self.limits.connections(), tls);
        tracing::info!(%address, tls = is_encrypted, store = %session.settings.store.value, "serving databases");
        let number = tokio::select! {
            number = serve(listening, &service, &mut signals) => number,
            () = service.upkeep() => unreachable!("it never returns"),
        };
        if let Some(metrics) = metrics {
            metrics.abort();
        }
        // What is committed is acknowledged already: nothing but the locks of open transactions is lost.
        tokio::select! {
            shut = service.shutdown() => shut?,
            _ = signals.next() => {}
        }
        Ok(if number == SIGTERM { Exit::Ok } else { Exit::Signal(number) })
    }

    fn auth_options(&self) -> Result<AuthOptions, CliError> {
        let has_keys = !self.auth_key.is_empty() || !self.auth_tokens.is_empty();
        let anonymous = self.allow_anonymous || (!has_keys && self.listen.ip().is_loopback());
        if !has_keys && !anonymous {
            return Err(CliError::Usage(format!(
                "{} can be reached by others: give --auth-key or --auth-tokens, or let everybody in with \
                 --allow-anonymous",
                self.listen
            )));
        }
        Ok(AuthOptions {
            key_files: self.auth_key.clone(),
            token_files: self.auth_tokens.clone(),
            anonymous,
            anonymous_admin: !has_keys && self.listen.ip().is_loopback(),
            ..AuthOptions::default()
        })
    }

    async fn store(&self, session: &Session) -> Result<Store, CliError> {
        let store = session.store()?;
        let found = Fencing::probe(&store).await?;
        // Whoever waits for an answer waits for the store, and for nothing else.
        let store = store.with_patience(Patience::COMMIT);
        match (found.fenced, self.allow_unfenced) {
            (true, _) => Ok(store),
            (false, true) => {
                tracing::warn!(store = store.url(), "two servers of one database are not kept apart");
                Ok(store.unfenced())
            }
            (false, false) => Err(CliError::Unfenced {
                store: store.url().to_owned(),
                seen: found.seen.unwrap_or_default(),
            }),
        }
    }
}

/// Serves metrics until the task is aborted. Port 0 takes a free one; the log says which.
async fn serve_metrics(address: SocketAddr, service: &Arc<Service>) -> Result<JoinHandle<()>, CliError> {
    let failed = |source| CliError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "serving /metrics and /healthz");
    let listening = Listening::new(listener, ConnectionLimits::default(), None);
    Ok(tokio::spawn(listening.serve(service.metrics_router(), std::future::pending())))
}

/// Serves until a signal comes, and ends the answers that are under way.
async fn serve(listening: Listening, service: &Arc<Service>, signals: &mut Signals) -> i32 {
    let (end, ended) = tokio::sync::oneshot::channel();
    let ended = async move {
        let _ = ended.await;
    };
    let mut serving = std::pin::pin!(listening.serve(service.router(), ended));
    let number = tokio::select! {
        () = &mut serving => return SIGTERM,
        number = signals.next() => number,
    };
    service.end_waits();
    let _ = end.send(());
    // A second signal ends those who take too long.
    tokio::select! {
        () = &mut serving => {}
        _ = signals.next() => {}
    }
    number
}
