//! What is known of every request when it is over: in the log, in the metrics, and in the answer's headers.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use aquifer_log::DatabaseName;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use tracing::{Instrument, Span, field};

use super::Service;
use super::body::{Companion, accompanied};
use super::peer::{self, Peer};
use super::request_id::{REQUEST_ID_HEADER, RequestId};

/// The status of a request whose client went away before there was one, as nginx counts it.
const CLIENT_WENT_AWAY: u16 = 499;
/// Bytes of a path in the log.
const TOLD: usize = 200;

/// What a request turned out to be for. In the extensions of every request.
#[derive(Debug, Default)]
pub(super) struct Seen {
    route: OnceLock<&'static str>,
}

impl Seen {
    /// The request is for this route, one of few, of this database.
    pub(super) fn is(&self, route: &'static str, database: Option<&DatabaseName>) {
        let _ = self.route.set(route);
        if let Some(name) = database {
            Span::current().record("database", name.as_str());
        }
    }
}

/// Wraps the handling of every request.
pub(super) async fn observed(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(client) = peer::client(request.headers(), service.hosts.cluster()) {
        request.extensions_mut().insert(client);
    }
    let id = RequestId::of(request.headers());
    let seen = Arc::new(Seen::default());
    if let Some(route) = fixed_route(request.uri().path()) {
        seen.is(route, None);
    }
    let span = tracing::info_span!("request", id = %id, database = field::Empty);
    let mut over = Over {
        service: Arc::clone(&service),
        seen: Arc::clone(&seen),
        span: span.clone(),
        method: request.method().clone(),
        // Without its query, which may hold a token.
        path: cut(request.uri().path()),
        peer: request.extensions().get::<Peer>().copied(),
        began: Instant::now(),
        status: CLIENT_WENT_AWAY,
        bytes: 0,
        is_whole: false,
    };
    service.metrics.begun();
    request.extensions_mut().insert(seen);
    // Another server that gets it passed on calls it the same.
    request.headers_mut().insert(REQUEST_ID_HEADER, id.header());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID_HEADER, id.header());
    over.status = response.status().as_u16();
    response.map(|body| {
        over.is_whole = body.is_end_stream();
        accompanied(body, over)
    })
}

/// The name under which a route outside of databases is counted.
fn fixed_route(path: &str) -> Option<&'static str> {
    Some(match path {
        "/health" => "health",
        "/version" => "version",
        "/metrics" => "metrics",
        "/openapi.json" => "openapi",
        path if path.starts_with("/admin/") => "admin",
        _ => return None,
    })
}

fn cut(path: &str) -> String {
    path[..path.floor_char_boundary(TOLD)].to_owned()
}

/// Tells of a request when it is dropped: its answer has been sent, or nobody waits for it.
struct Over {
    service: Arc<Service>,
    seen: Arc<Seen>,
    span: Span,
    method: Method,
    path: String,
    peer: Option<Peer>,
    began: Instant,
    status: u16,
    /// Of the answer's body.
    bytes: u64,
    is_whole: bool,
}

impl Companion for Over {
    fn span(&self) -> Span {
        self.span.clone()
    }

    fn passed(&mut self, frame: Option<&Frame<Bytes>>, is_end: bool) {
        self.bytes += frame.and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        self.is_whole = is_end;
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let route = self.seen.route.get().copied().unwrap_or("none");
        self.service.metrics.over(route, self.status, took, self.bytes);
        if !self.service.options.access_log {
            return;
        }
        let Over { method, path, status, bytes, is_whole, .. } = self;
        let peer = self.peer.map(|peer| peer.0.to_string());
        let duration_ms = took.as_secs_f64() * 1000.0;
        self.span.in_scope(|| {
            tracing::info!(%method, path, route, status, duration_ms, bytes, whole = is_whole, peer, "answered");
        });
    }
}
