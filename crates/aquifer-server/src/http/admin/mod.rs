//! `/admin/v1`: what administrators do over HTTP. Described for programs by `/openapi.json`.

mod databases;
mod history;
mod import;
mod stats;

use std::sync::Arc;

use aquifer_format::{GenerationId, Timestamp, Txid};
use aquifer_log::{DatabaseName, Target};
use axum::Router;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::{StatusCode, header, request};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tracing::Instrument;

use super::Service;
use super::answer::Refusal;
use super::forward::{Find, Forwarded};

pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// The routes, for a service that is asked who may use them.
pub(super) fn routes(service: &Arc<Service>) -> Router<Arc<Service>> {
    let of_a_database = Router::new()
        .route(
            "/admin/v1/databases/{name}",
            get(stats::stats).put(databases::create).delete(databases::delete),
        )
        .route("/admin/v1/databases/{name}/undelete", post(databases::undelete))
        .route("/admin/v1/databases/{name}/freeze", post(databases::freeze))
        .route("/admin/v1/databases/{name}/unfreeze", post(databases::unfreeze))
        .route("/admin/v1/databases/{name}/snapshot", post(history::snapshot))
        .route("/admin/v1/databases/{name}/restore", post(history::restore))
        .route("/admin/v1/databases/{name}/fork", post(history::fork))
        .route_layer(from_fn_with_state(Arc::clone(service), by_its_server));
    Router::new()
        .route("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .route("/admin/v1/databases", get(databases::list))
        // Of a database that is not there: no server has it.
        .route("/admin/v1/databases/{name}/import", put(import::import))
        .merge(of_a_database)
}

/// Lets administrators through; of a database that another server has, that one does what they ask for: what is done to
/// a history under the server that writes it costs that server's clients their open requests.
async fn by_its_server(
    Admin(service): Admin,
    Named(name): Named,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    match service.place(&name, &head, body, Find::Look).await? {
        Forwarded::Here(body) => Ok(next.run(Request::from_parts(head, body)).await),
        Forwarded::Answered(response) => Ok(response),
    }
}

/// The service, for a request whose sender is an administrator.
pub(super) struct Admin(Arc<Service>);

impl FromRequestParts<Arc<Service>> for Admin {
    type Rejection = Refusal;
    async fn from_request_parts(head: &mut request::Parts, service: &Arc<Service>) -> Result<Admin, Refusal> {
        service.grant(head)?.require_admin()?;
        Ok(Admin(Arc::clone(service)))
    }
}

/// The database that a path names.
struct Named(DatabaseName);

impl FromRequestParts<Arc<Service>> for Named {
    type Rejection = Refusal;
    async fn from_request_parts(head: &mut request::Parts, service: &Arc<Service>) -> Result<Named, Refusal> {
        let path = Path::<String>::from_request_parts(head, service).await;
        let Path(name) = path.map_err(|e| Refusal::bad(e.to_string()))?;
        name.parse().map(Named).map_err(|e| Refusal::bad(format!("{name}: {e}")))
    }
}

/// The value of a parameter of the query, decoded.
fn parameter(head: &request::Parts, name: &str) -> Option<String> {
    let pairs = head.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}

/// As [`parameter`], of a type of its own.
fn parsed<T: std::str::FromStr>(head: &request::Parts, name: &str, what: &str) -> Result<Option<T>, Refusal> {
    let value = parameter(head, name)
        .map(|text| text.parse().map_err(|_| Refusal::bad(format!("{name}={text}: this is no {what}"))));
    value.transpose()
}

/// A moment of a database's history; the newest if nothing is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moment {
    generation: Option<String>,
    txid: Option<u64>,
    timestamp: Option<Timestamp>,
}

impl Moment {
    fn target(&self) -> Result<(Option<GenerationId>, Target), Refusal> {
        let generation: Result<Option<GenerationId>, _> =
            self.generation.as_deref().map(str::parse).transpose();
        let generation = generation.map_err(|e| Refusal::bad(format!("{e}")))?;
        let target = match (self.txid, self.timestamp) {
            (None, None) => Target::Latest,
            (Some(txid), None) => Target::Txid(Txid::new(txid)),
            (None, Some(moment)) => Target::Timestamp(moment),
            (Some(_), Some(_)) => {
                return Err(Refusal::bad("say either a txid or a timestamp".to_owned()));
            }
        };
        Ok((generation, target))
    }
}

/// Does what must not be left half-done when the client goes away.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// A body in JSON; an empty one is the default.
fn from_json<T: Default + for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|e| Refusal::bad(format!("the body is not as expected: {e}")))
}

/// An answer in JSON.
fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    (status, axum::Json(value)).into_response()
}
