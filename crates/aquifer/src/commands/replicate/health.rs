//! `--metrics`: `/metrics` for Prometheus, `/healthz` for supervisors. Made when asked for: nothing is counted twice,
//! and an idle process stays idle.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_replicate::metrics::{self, Exposition};
use aquifer_replicate::{ReplicaState, Replicator};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::roster::Roster;
use super::verifier::Verifications;
use crate::error::CliError;

/// What both pages tell of.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) replicator: Arc<Replicator>,
    pub(super) roster: Roster,
    pub(super) verifications: Verifications,
}

/// Serves both pages until the task is aborted. Port 0 takes a free one; the log says which.
pub(super) async fn serve(address: SocketAddr, watched: Watched) -> Result<JoinHandle<()>, CliError> {
    let failed = |source| CliError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "serving /metrics and /healthz");
    let pages = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .with_state(watched);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, pages).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    }))
}

async fn healthz(State(watched): State<Watched>) -> impl IntoResponse {
    let statuses = watched.replicator.status();
    let verifications = watched.verifications.get();
    let unhealthy: Vec<_> = statuses
        .iter()
        .filter_map(|status| {
            let failed = verifications.get(&status.name).and_then(|of| of.failure.clone());
            if failed.is_none() && status.is_healthy(watched.roster.of(&status.name).lag_bound) {
                return None;
            }
            let (state, reason) = state(&status.state);
            Some(json!({
                "verification": failed,
                "name": status.name,
                "state": state,
                "reason": reason,
                "lag_seconds": status.lag().as_secs_f64(),
            }))
        })
        .collect();
    let code = if unhealthy.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let healthy = unhealthy.is_empty();
    let body = json!({ "healthy": healthy, "databases": statuses.len(), "unhealthy": unhealthy });
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}

async fn metrics_page(State(watched): State<Watched>) -> impl IntoResponse {
    let text = render(&watched);
    ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text)
}

/// The state's name, and why.
pub(super) fn state(state: &ReplicaState) -> (&'static str, Option<&str>) {
    match state {
        ReplicaState::Starting => ("starting", None),
        ReplicaState::Idle => ("idle", None),
        ReplicaState::Shipping => ("shipping", None),
        ReplicaState::Outage(reason) => ("outage", Some(reason)),
        ReplicaState::Waiting(reason) => ("waiting", Some(reason)),
        ReplicaState::Stopped(reason) => ("stopped", Some(reason)),
    }
}

fn render(watched: &Watched) -> String {
    let (statuses, verifications) = (watched.replicator.status(), watched.verifications.get());
    let mut page = Exposition::default();
    // The operator named every one of them.
    metrics::write_replicas(&mut page, &statuses, usize::MAX);
    let name = "aquifer_healthy";
    page.family(name, "gauge", "1 if the database is within its lag bound and replicated.");
    for status in &statuses {
        let healthy = u8::from(status.is_healthy(watched.roster.of(&status.name).lag_bound));
        page.sample(name, &[("database", status.name.as_str())], healthy);
    }
    let name = "aquifer_last_verified_timestamp_seconds";
    page.family(name, "gauge", "When it was last proven restorable.");
    for (database, of) in &verifications {
        if let Some((at, _)) = of.proven {
            page.sample(name, &[("database", database.as_str())], at.as_millis() as f64 / 1000.0);
        }
    }
    let name = "aquifer_verification_failed";
    page.family(name, "gauge", "1 if the last verification failed.");
    for (database, of) in &verifications {
        page.sample(name, &[("database", database.as_str())], u8::from(of.failure.is_some()));
    }
    metrics::write_store(&mut page, watched.replicator.store());
    page.finish()
}
