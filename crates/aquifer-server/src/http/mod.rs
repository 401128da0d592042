//! The server over HTTP: which database a request is for, who sends it, and which protocol it speaks.
//!
//! `/db/{name}/…` is the database of that name, everything else the default database `main`. SQL and pages are never
//! answered before what they may have seen is durable.

mod admin;
mod answer;
mod body;
mod forward;
mod frames;
mod health;
mod host;
mod limits;
mod listening;
mod metrics;
mod observe;
mod peer;
mod pull;
mod relay;
mod request_id;
mod socket;
mod stalling;
mod target;
mod tls;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_log::DatabaseName;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use tokio::sync::watch;

use aquifer_replicate::metrics::Exposition;

use crate::auth::{self, Authority, Grant};
use crate::hosted::{HostError, Hosted, Hosts, Puller};
use crate::hrana::{self, Hrana, Settings};
use crate::turso::pull::Pull;

use answer::Refusal;
use forward::{Find, Forwarded, Forwarder};
use frames::FramesRoute;
use health::Health;
use limits::{Caller, Gate};
use metrics::Metrics;
use observe::Seen;
use target::{Route, Target};

pub use limits::Limits;
pub use listening::{ConnectionLimits, Listening};
pub use peer::Peer;
pub use request_id::REQUEST_ID_HEADER;
pub use tls::{Tls, TlsError};
pub use wait::WAIT_HEADER;

/// How a server goes about requests.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much it takes on.
    pub limits: Limits,
    /// Whether every request is told in the log, at level info.
    pub access_log: bool,
    /// Whether clients are sent to the server that has their database (307), instead of passing their requests on.
    pub redirect: bool,
    /// How long a request waits for a revision that it wants to have been reached.
    pub wait: Duration,
    /// `shop.example.com` is the database `shop` if this is `example.com`.
    pub base_domain: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            limits: Limits::default(),
            access_log: false,
            wait: Duration::from_secs(10),
            base_domain: None,
            redirect: false,
        }
    }
}

/// How long sockets may take to say goodbye.
const PARTING: Duration = Duration::from_secs(5);

/// A server's databases, behind their protocols.
pub struct Service {
    hosts: Hosts,
    authority: Authority,
    settings: Settings,
    options: Options,
    gate: Gate,
    forwarder: Forwarder,
    metrics: Metrics,
    health: Health,
    /// The streams of each database that is open.
    streams: Mutex<BTreeMap<DatabaseName, Streams>>,
    /// Whether nobody waits for changes any more, and no socket is to stay open.
    ends: watch::Sender<bool>,
}

/// What clients hold open of a database.
struct Streams {
    hosted: Arc<Hosted>,
    hrana: Arc<Hrana<Hosted>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Service {
    /// Serves these databases to those whom the authority lets in.
    pub fn new(hosts: Hosts, authority: Authority, settings: Settings) -> Arc<Service> {
        Service::with(hosts, authority, settings, Options::default())
    }

    /// The same, with options.
    pub fn with(hosts: Hosts, authority: Authority, settings: Settings, options: Options) -> Arc<Service> {
        let (health, gate) = (Health::new(hosts.store()), Gate::new(options.limits.clone()));
        let (metrics, streams) = (Metrics::default(), Mutex::default());
        let (forwarder, ends) = (Forwarder::default(), watch::Sender::new(false));
        Arc::new(Service {
            hosts,
            authority,
            settings,
            options,
            gate,
            forwarder,
            metrics,
            health,
            streams,
            ends,
        })
    }

    /// Its routes.
    pub fn router(self: &Arc<Service>) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/version", get(|| async { concat!("aquifer ", env!("CARGO_PKG_VERSION")) }))
            .route("/metrics", get(metrics_for_admins))
            .merge(admin::routes(self))
            .fallback(dispatch)
            .layer(axum::middleware::from_fn_with_state(Arc::clone(self), observe::observed))
            .with_state(Arc::clone(self))
    }

    /// What `/metrics` tells, and `/health`, for a listener that only the right people reach.
    pub fn metrics_router(self: &Arc<Service>) -> Router {
        Router::new()
            .route("/metrics", get(metrics_page))
            .route("/healthz", get(health))
            .with_state(Arc::clone(self))
    }

    /// What a server does on the side: closes databases that nobody uses, removes those whose grace time after a deletion
    /// is over. Never returns.
    pub async fn upkeep(&self) {
        tokio::join!(self.hosts.keep_purging(), self.keep_closing());
    }

    async fn keep_closing(&self) {
        loop {
            self.let_go();
            self.hosts.close_unused().await;
        }
    }

    /// Lets go of databases that no request and no stream uses, so that they may be closed.
    fn let_go(&self) {
        self.streams.lock().retain(|_, open| {
            // Whoever has the service without having it from here holds a clone; a connection is a stream.
            let is_used = Arc::strong_count(&open.hrana) > 1 || open.hrana.open_streams() > 0;
            if !is_used {
                self.close_streams(open);
            }
            is_used
        });
    }

    /// Opens a database, or finds it open.
    async fn open(&self, name: &DatabaseName) -> Result<Arc<Hosted>, HostError> {
        match self.hosts.open(name).await {
            Err(HostError::TooManyOpen { .. }) => {
                self.let_go();
                self.hosts.open(name).await
            }
            opened => opened,
        }
    }

    /// Answers those who wait for changes as if there were none, and closes sockets: for a server that is about to end.
    pub fn end_waits(&self) {
        self.ends.send_replace(true);
    }

    async fn ending(&self) {
        // It cannot fail: the sender is here.
        let _ = self.ends.subscribe().wait_for(|ends| *ends).await;
    }

    /// Ends what clients hold open, ships what is committed, and closes all databases.
    pub async fn shutdown(&self) -> Result<(), HostError> {
        self.end_waits();
        // Sockets that take longer lose their connection when the process ends.
        let _ = tokio::time::timeout(PARTING, self.ends.closed()).await;
        for open in std::mem::take(&mut *self.streams.lock()).into_values() {
            self.close_streams(&open);
        }
        self.hosts.shutdown().await
    }

    async fn hrana(&self, name: &DatabaseName) -> Result<Arc<Hrana<Hosted>>, Refusal> {
        let hosted = self.open(name).await?;
        let mut streams = self.streams.lock();
        if let Some(open) = streams.get(name) {
            if Arc::ptr_eq(&open.hosted, &hosted) {
                return Ok(Arc::clone(&open.hrana));
            }
            // Another server had it meanwhile: the transactions that are open on the old file lead nowhere.
            self.close_streams(open);
        }
        let hrana = Hrana::new(Arc::clone(&hosted), self.settings.clone());
        streams.insert(name.clone(), Streams { hosted, hrana: Arc::clone(&hrana) });
        Ok(hrana)
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        self.counted(refusal).into_response()
    }

    fn counted(&self, refusal: Refusal) -> Refusal {
        if let Some(limit) = refusal.limit() {
            self.metrics.refused(limit);
        }
        refusal
    }

    fn close_streams(&self, open: &Streams) {
        open.hrana.close_idle_streams();
        self.metrics.closed(open.hrana.rejected_statements());
    }

    /// What the sender of a request may do, if it does not send too many.
    fn grant(&self, head: &request::Parts) -> Result<Grant, Refusal> {
        let header = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = header.and_then(auth::bearer_of);
        let grant = self.authority.authenticate(bearer, SystemTime::now());
        // A token that is not good is nobody's in particular: whoever tries many is counted by address.
        let caller = match (bearer, &grant) {
            (Some(bearer), Ok(_)) => Caller::Token(self.authority.caller(bearer)),
            _ => Caller::Address(head.extensions.get::<Peer>().map(|peer| peer.0.ip())),
        };
        self.gate.check_rate(caller, Instant::now())?;
        Ok(grant?)
    }

    async fn serve(self: &Arc<Service>, request: Request) -> Result<Response, Refusal> {
        let (mut head, body) = request.into_parts();
        let host = host::database(&head, self.options.base_domain.as_deref())?;
        let Target { name, route } = Target::of(&head.method, head.uri.path(), host)?;
        if let Some(seen) = head.extensions.get::<Arc<Seen>>() {
            seen.is(route.name(), Some(&name));
        }
        if route == Route::Socket {
            // Its token comes later.
            return socket::upgrade(Arc::clone(self), name, &mut head).await;
        }
        let grant = self.grant(&head)?;
        let access = grant.access(name.as_str())?;
        let puller = || Puller {
            subject: grant.subject().map(str::to_owned),
            address: head.extensions.get::<Peer>().map(|peer| peer.0.ip()),
        };
        let mut place = if route.is_work() { Some(self.gate.enter(&name).await?) } else { None };
        let wanted = wait::wanted(&head)?;
        let body = match route {
            Route::Version if wanted.is_none() => body,
            _ => match self.place(&name, &head, body, Find::Open).await? {
                Forwarded::Here(body) => body,
                Forwarded::Answered(response) => return Ok(body::holding(place, response)),
            },
        };
        if let Some(revision) = wanted {
            self.reach(&name, revision, &mut place).await?;
            if route.is_work() && place.is_none() {
                place = Some(self.gate.enter(&name).await?);
            }
        }
        let response = match route {
            Route::Version | Route::Socket => StatusCode::OK.into_response(),
            Route::Pipeline => {
                let (hrana, body) = (self.hrana(&name).await?, self.body(body).await?);
                hrana::pipeline(&hrana, access, &body).await
            }
            Route::Pull => {
                let pull = Pull::parse(self.body(body).await?)?;
                let mut hosted = self.open(&name).await?;
                let is_gone = tokio::select! {
                    () = pull.wait(hosted.pages().as_ref(), pull::LONGEST_POLL) => false,
                    // What it is now, it is somewhere else.
                    () = hosted.gone() => true,
                    () = self.ending() => false,
                };
                if is_gone {
                    hosted = self.open(&name).await?;
                }
                place = Some(self.gate.enter(&name).await?);
                let answer = pull.answer(Arc::clone(hosted.pages())).await;
                Self::check_newest(&hosted, answer.is_ok()).await?;
                let answer = answer?;
                hosted.activity().pulled(puller(), answer.revision());
                pull::response(answer)
            }
            Route::Frames(route) => {
                let is_push = matches!(route, FramesRoute::Push(..));
                let body = if is_push {
                    access.require_write()?;
                    self.body(body).await?
                } else {
                    bytes::Bytes::new()
                };
                let hosted = self.open(&name).await?;
                if is_push && hosted.is_frozen() {
                    return Err(crate::hosted::HostError::Frozen(name).into());
                }
                let answer = frames::answer(&hosted, route, body).await;
                Self::check_newest(&hosted, answer.is_ok()).await?;
                let answer = answer?;
                if matches!(route, FramesRoute::Export { .. } | FramesRoute::Pull(_)) {
                    hosted.activity().pulled(puller(), hosted.in_store());
                }
                answer
            }
            Route::Cursor => {
                let (hrana, body) = (self.hrana(&name).await?, self.body(body).await?);
                hrana::cursor(&hrana, access, &body).await
            }
        };
        Ok(body::holding(place, response))
    }

    /// For answers made of revisions that are durable: whether they may leave.
    async fn check_newest(hosted: &Hosted, is_answer: bool) -> Result<(), Refusal> {
        if is_answer {
            return Ok(hosted.is_newest().await?);
        }
        // Another server may have it now: the next request finds out who.
        let _ = hosted.durable().await;
        Ok(())
    }

    async fn body(&self, body: Body) -> Result<bytes::Bytes, Refusal> {
        body::whole(body, self.settings.body_bytes, self.gate.limits().body_idle).await
    }
}

async fn dispatch(State(service): State<Arc<Service>>, request: Request) -> Response {
    // What browsers send first says nothing of who calls.
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    service.serve(request).await.unwrap_or_else(|refusal| service.refuse(refusal))
}

async fn metrics_for_admins(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let admin = service.grant(&head).and_then(|grant| Ok(grant.require_admin()?));
    match admin {
        Ok(()) => metrics_page(State(service)).await,
        Err(refusal) => service.refuse(refusal),
    }
}

async fn metrics_page(State(service): State<Arc<Service>>) -> Response {
    ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], metrics::render(&service)).into_response()
}

async fn health(State(service): State<Arc<Service>>) -> Response {
    match service.health.check().await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
