//! All that is known of one database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aquifer_log::{DatabaseName, Plan, Target};
use aquifer_replicate::ReplicaStatus;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Named, json};
use crate::hosted::{HostError, Hosted, Puller, Pulls};
use crate::http::Service;
use crate::http::answer::Refusal;

/// Clients that are told, the last to have pushed, or pulled, first.
const CLIENTS: u32 = 100;
/// How long a writer may keep the clients' table from being read.
const BUSY: Duration = Duration::from_millis(200);

/// Size and revision as the store has them, and what of it is open here.
pub(super) async fn stats(
    State(service): State<Arc<Service>>,
    Named(name): Named,
) -> Result<Response, Refusal> {
    let log = service.hosts.log(&name);
    let plan = Plan::make(&log, None, Target::Latest).await;
    let plan = match plan {
        Ok(plan) => plan,
        Err(e) if e.is_no_replica() => return Err(HostError::NoSuchDatabase(name).into()),
        Err(e) => return Err(HostError::from(e).into()),
    };
    let control = log.control().await.map_err(HostError::from)?;
    let status = service.hosts.status().into_iter().find(|status| status.name == name);
    let open = match (status, service.hosts.opened(&name)) {
        (Some(status), Some(hosted)) => {
            let streams = service.streams.lock().get(&name).map_or(0, |open| open.hrana.open_streams());
            let (pulls, last_pull) = hosted.activity().pulls();
            let pullers = pullers(&hosted);
            let clients = match tokio::task::spawn_blocking(move || clients(&hosted)).await {
                Ok(clients) => clients,
                Err(e) => std::panic::resume_unwind(e.into_panic()),
            };
            let mut open = of_open(&status, streams, &clients);
            open["pulls"] = json!(pulls);
            open["last_pull"] = json!(last_pull);
            open["pullers"] = pullers;
            Some(open)
        }
        _ => None,
    };
    let forks = log.forks().await.map_err(HostError::from)?;
    let forks: BTreeSet<DatabaseName> = forks.into_iter().map(|fork| fork.database).collect();
    let forked_from = plan.steps.iter().rev().map(|step| &step.database).find(|of| **of != name);
    let stats = json!({
        "name": name,
        "revision": plan.revision,
        "pages": plan.size_after,
        "page_size": plan.page_size,
        "bytes": u64::from(plan.size_after) * plan.page_size.bytes() as u64,
        "last_commit": plan.last_commit,
        "segments": plan.steps.len(),
        "stored_bytes": plan.stored_bytes(),
        "forked_from": forked_from,
        "forks": forks,
        "frozen": control.frozen,
        "deleted": control.deleted,
        "open": open,
    });
    Ok(json(StatusCode::OK, &stats))
}

fn of_open(status: &ReplicaStatus, streams: usize, clients: &[Value]) -> Value {
    json!({
        "durable": status.durable,
        "lag_seconds": status.lag().as_secs_f64(),
        "lag_txids": status.behind_txids,
        "wal_bytes": status.wal_bytes,
        "shipped_bytes": status.shipped_bytes,
        "streams": streams,
        "clients": clients,
    })
}

/// Who has pulled.
fn pullers(hosted: &Hosted) -> Value {
    let pullers = hosted.activity().pullers(CLIENTS as usize).into_iter();
    let told = pullers.map(|(Puller { subject, address }, Pulls { count, last, revision })| {
        json!({
            "subject": subject,
            "address": address,
            "pulls": count,
            "last_pull": last,
            "revision": revision,
        })
    });
    told.collect()
}

/// What Turso's sync clients have pushed, as they write it down themselves.
fn clients(hosted: &Hosted) -> Vec<Value> {
    let read = || -> Result<Vec<Value>, rusqlite::Error> {
        let Ok(connection) = hosted.connect(true) else { return Ok(Vec::new()) };
        connection.busy_timeout(BUSY)?;
        let mut statement = connection.prepare(
            "SELECT client_id, pull_gen, change_id FROM turso_sync_last_change_id ORDER BY rowid DESC LIMIT ?",
        )?;
        let rows = statement.query_map([CLIENTS], |row| {
            let client: String = row.get(0)?;
            Ok(json!({
                "last_push": hosted.activity().last_push(&client),
                "client_id": client,
                "pull_gen": row.get::<_, Option<i64>>(1)?,
                "change_id": row.get::<_, Option<i64>>(2)?,
            }))
        })?;
        rows.collect()
    };
    // No client has pushed, most often: there is no table.
    read().unwrap_or_default()
}
