//! The server over HTTP: which database a request is for, who sends it, and which protocol it speaks.
//!
//! `/db/{name}/…` is the database of that name, everything else the default database `main`. SQL and pages are never
//! answered before what they may have seen is durable.

mod answer;
mod health;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_log::DatabaseName;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;

use crate::auth::{self, Access, Authority};
use crate::hosted::{Hosted, Hosts};
use crate::hrana::{self, Hrana, Settings};

use answer::Refusal;
use health::Health;
use target::{Route, Target};

/// A server's databases, behind their protocols.
pub struct Service {
    hosts: Hosts,
    authority: Authority,
    settings: Settings,
    health: Health,
    /// The streams of each database that is open.
    streams: Mutex<BTreeMap<DatabaseName, Streams>>,
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
        let health = Health::new(hosts.store());
        Arc::new(Service { hosts, authority, settings, health, streams: Mutex::default() })
    }

    /// Its routes.
    pub fn router(self: &Arc<Service>) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/version", get(|| async { concat!("aquifer ", env!("CARGO_PKG_VERSION")) }))
            .fallback(dispatch)
            .with_state(Arc::clone(self))
    }

    /// Ends what clients hold open, ships what is committed, and closes all databases.
    pub async fn shutdown(&self) -> Result<(), crate::hosted::HostError> {
        for open in std::mem::take(&mut *self.streams.lock()).into_values() {
            open.hrana.close_idle_streams();
        }
        self.hosts.shutdown().await
    }

    async fn hrana(&self, name: &DatabaseName) -> Result<Arc<Hrana<Hosted>>, Refusal> {
        let hosted = self.hosts.open(name).await?;
        let mut streams = self.streams.lock();
        if let Some(open) = streams.get(name) {
            if Arc::ptr_eq(&open.hosted, &hosted) {
                return Ok(Arc::clone(&open.hrana));
            }
            // Another server had it meanwhile: the transactions that are open on the old file lead nowhere.
            open.hrana.close_idle_streams();
        }
        let hrana = Hrana::new(Arc::clone(&hosted), self.settings.clone());
        streams.insert(name.clone(), Streams { hosted, hrana: Arc::clone(&hrana) });
        Ok(hrana)
    }

    fn access(&self, headers: &HeaderMap, name: &DatabaseName) -> Result<Access, Refusal> {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        Ok(self.authority.check(header.and_then(auth::bearer_of), name.as_str(), SystemTime::now())?)
    }

    async fn serve(&self, request: Request) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        let Target { name, route } = Target::of(&head.method, head.uri.path())?;
        let access = self.access(&head.headers, &name)?;
        match route {
            Route::Version => Ok(StatusCode::OK.into_response()),
            Route::Pipeline => {
                let (hrana, body) = (self.hrana(&name).await?, self.body(body).await?);
                Ok(hrana::pipeline(&hrana, access, &body).await)
            }
            Route::Cursor => {
                let (hrana, body) = (self.hrana(&name).await?, self.body(body).await?);
                Ok(hrana::cursor(&hrana, access, &body).await)
            }
        }
    }

    async fn body(&self, body: Body) -> Result<bytes::Bytes, Refusal> {
        let limit = self.settings.body_bytes;
        axum::body::to_bytes(body, limit).await.map_err(|_| Refusal::body(limit))
    }
}

async fn dispatch(State(service): State<Arc<Service>>, request: Request) -> Response {
    // What browsers send first says nothing of who calls.
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    service.serve(request).await.unwrap_or_else(Refusal::into_response)
}

async fn health(State(service): State<Arc<Service>>) -> Response {
    match service.health.check().await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
