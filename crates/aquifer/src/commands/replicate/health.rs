//! `--metrics`: `/metrics` for Prometheus, `/healthz` for supervisors. Made when asked for: nothing is counted twice,
//! and an idle process stays idle.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_replicate::{ReplicaState, ReplicaStatus, Replicator};
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
    let pages =
        Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).with_state(watched);
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

async fn metrics(State(watched): State<Watched>) -> impl IntoResponse {
    let text = render(&watched);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
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

/// A metric of a database: its name, kind, help, and value.
type Metric = (&'static str, &'static str, &'static str, fn(&ReplicaStatus) -> f64);

const DATABASE_METRICS: [Metric; 8] = [
    ("aquifer_lag_seconds", "gauge", "Time that something committed has waited to be durable.", |s| {
        s.lag().as_secs_f64()
    }),
    ("aquifer_lag_txids", "gauge", "Batches captured and not yet durable.", |s| s.behind_txids as f64),
    ("aquifer_durable_txid", "gauge", "The last txid that is durable in the store.", |s| {
        s.durable.map_or(0, |revision| revision.txid.get()) as f64
    }),
    ("aquifer_wal_bytes", "gauge", "Bytes of frames in the WAL.", |s| s.wal_bytes as f64),
    ("aquifer_staged_bytes", "gauge", "Bytes kept on disk until the store can be reached.", |s| {
        s.staged_bytes as f64
    }),
    ("aquifer_captured_bytes_total", "counter", "Bytes of WAL frames captured.", |s| s.captured_bytes as f64),
    ("aquifer_shipped_bytes_total", "counter", "Bytes of segments shipped.", |s| s.shipped_bytes as f64),
    ("aquifer_errors_total", "counter", "Puts and other steps that failed.", |s| s.errors as f64),
];

fn render(watched: &Watched) -> String {
    let (statuses, verifications) = (watched.replicator.status(), watched.verifications.get());
    let mut text = String::new();
    let head = |text: &mut String, name: &str, kind: &str, help: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    for (name, kind, help, value) in DATABASE_METRICS {
        head(&mut text, name, kind, help);
        for status in &statuses {
            let _ = writeln!(text, "{name}{{database=\"{}\"}} {}", label(&status.name), value(status));
        }
    }
    head(&mut text, "aquifer_healthy", "gauge", "1 if the database is within its lag bound and replicated.");
    for status in &statuses {
        let healthy = u8::from(status.is_healthy(watched.roster.of(&status.name).lag_bound));
        let _ = writeln!(text, "aquifer_healthy{{database=\"{}\"}} {healthy}", label(&status.name));
    }
    head(
        &mut text,
        "aquifer_last_verified_timestamp_seconds",
        "gauge",
        "When it was last proven restorable.",
    );
    for (name, of) in &verifications {
        if let Some((at, _)) = of.proven {
            let seconds = at.as_millis() as f64 / 1000.0;
            let name = label(name);
            let _ =
                writeln!(text, "aquifer_last_verified_timestamp_seconds{{database=\"{name}\"}} {seconds}");
        }
    }
    head(&mut text, "aquifer_verification_failed", "gauge", "1 if the last verification failed.");
    for (name, of) in &verifications {
        let failed = u8::from(of.failure.is_some());
        let _ = writeln!(text, "aquifer_verification_failed{{database=\"{}\"}} {failed}", label(name));
    }
    let store = watched.replicator.store();
    let counts = store.counts();
    head(&mut text, "aquifer_store_requests_total", "counter", "Requests sent to the store, by kind.");
    for (kind, count) in counts.by_kind() {
        let _ = writeln!(text, "aquifer_store_requests_total{{kind=\"{kind}\"}} {count}");
    }
    head(&mut text, "aquifer_store_retries_total", "counter", "Requests sent again after one that failed.");
    let _ = writeln!(text, "aquifer_store_retries_total {}", counts.retries);
    head(&mut text, "aquifer_store_bytes_total", "counter", "Bytes of payload, by direction.");
    for (direction, bytes) in [("up", counts.bytes_up), ("down", counts.bytes_down)] {
        let _ = writeln!(text, "aquifer_store_bytes_total{{direction=\"{direction}\"}} {bytes}");
    }
    head(&mut text, "aquifer_fencing", "gauge", "1 if the store keeps two writers of one database apart.");
    let _ = writeln!(text, "aquifer_fencing {}", u8::from(store.is_fenced()));
    text
}

/// A label's value, escaped as Prometheus wants it. Names hold no control characters.
fn label(name: &aquifer_log::DatabaseName) -> String {
    name.as_str().replace('\\', "\\\\").replace('"', "\\\"")
}
