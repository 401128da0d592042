//! What a database's history is good for: snapshots, going back, going on elsewhere.

use std::sync::Arc;

use aquifer_log::{DatabaseName, PlanError, snapshot as make_snapshot};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::{Moment, Named, from_json, json, to_the_end};
use crate::hosted::HostError;
use crate::http::Service;
use crate::http::answer::Refusal;

type Answer = Result<Response, Refusal>;

/// Makes a snapshot in the store, so that restores to what follows need less.
pub(super) async fn snapshot(State(service): State<Arc<Service>>, Named(name): Named, body: Body) -> Answer {
    let moment: Moment = from_json(&service.body(body).await?)?;
    let (generation, target) = moment.target()?;
    let made = make_snapshot(&service.hosts.log(&name), generation, target).await;
    let made = made.map_err(|e: PlanError| HostError::from(e))?;
    let written = made.written.and_then(|written| written.info);
    Ok(json(
        StatusCode::OK,
        &json!({
            "name": name,
            "revision": made.revision,
            "created": written.is_some(),
            "bytes": written.map(|info| info.stored_len()),
        }),
    ))
}

/// Sets a database back.
pub(super) async fn restore(State(service): State<Arc<Service>>, Named(name): Named, body: Body) -> Answer {
    let moment: Moment = from_json(&service.body(body).await?)?;
    let (generation, target) = moment.target()?;
    let restored = name.clone();
    let restoring = async move { service.hosts.restore_in_place(&restored, generation, target).await };
    let revision = to_the_end(restoring).await?;
    Ok(json(StatusCode::OK, &json!({ "name": name, "restored": revision })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fork {
    to: String,
    generation: Option<String>,
    txid: Option<u64>,
    timestamp: Option<aquifer_format::Timestamp>,
}

/// Makes a new database of what this one is, or was.
pub(super) async fn fork(State(service): State<Arc<Service>>, Named(name): Named, body: Body) -> Answer {
    let Fork { to, generation, txid, timestamp } = from_json(&service.body(body).await?)?;
    let (generation, target) = Moment { generation, txid, timestamp }.target()?;
    let to: DatabaseName = to.parse().map_err(|e| Refusal::bad(format!("{to}: {e}")))?;
    let (from, copy) = (name.clone(), to.clone());
    let forking = async move { service.hosts.fork(&from, generation, target, &copy).await };
    let revision = to_the_end(forking).await?;
    Ok(json(StatusCode::CREATED, &json!({ "name": to, "of": name, "revision": revision })))
}
