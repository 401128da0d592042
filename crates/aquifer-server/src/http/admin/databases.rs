//! Databases as a whole: which there are, making and deleting them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aquifer_log::{DatabaseName, DatabaseStore, deleted_databases};
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use futures::TryStreamExt;
use serde_json::json;

use super::{Admin, Named, json, parsed, to_the_end};
use crate::http::Service;
use crate::http::answer::Refusal;

type Answer = Result<Response, Refusal>;

/// Names in one answer, if not said, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// For how long a deletion can be taken back, if not said.
const GRACE: Duration = Duration::from_hours(7 * 24);

/// The databases of the store, a page at a time.
pub(super) async fn list(Admin(service): Admin, request: Request<axum::body::Body>) -> Answer {
    let (head, _) = request.into_parts();
    let limit = parsed::<usize>(&head, "limit", "number")?.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let after: Option<DatabaseName> = parsed(&head, "after", "name of a database")?;
    let store = service.hosts.store();
    let deleted: BTreeSet<DatabaseName> =
        deleted_databases(store).try_collect().await.map_err(Refusal::log)?;
    let open: BTreeSet<DatabaseName> = service.hosts.status().into_iter().map(|status| status.name).collect();
    // Ascending by key, which names with escapes are not by themselves.
    let after = after.map(|name| name.to_component());
    let mut names = DatabaseStore::list(store);
    let mut page = Vec::new();
    let mut next = None;
    loop {
        let name = match names.try_next().await {
            Ok(Some(name)) => name,
            Ok(None) | Err(aquifer_log::StoreError::NoStore { .. }) => break,
            Err(e) => return Err(Refusal::log(e)),
        };
        if after.as_ref().is_some_and(|after| name.to_component() <= *after) {
            continue;
        }
        if page.len() == limit {
            next = page.last().map(|last: &serde_json::Value| last["name"].clone());
            break;
        }
        page.push(json!({
            "name": name,
            "open": open.contains(&name),
            // A mark alone may be of a deletion that was interrupted.
            "deleted": deleted.contains(&name)
                && service.hosts.log(&name).control().await.map_err(Refusal::log)?.deleted.is_some(),
        }));
    }
    Ok(json(StatusCode::OK, &json!({ "databases": page, "next": next })))
}

/// Makes an empty database.
pub(super) async fn create(State(service): State<Arc<Service>>, Named(name): Named) -> Answer {
    let revision = service.hosts.create_new(&name).await?;
    Ok(json(StatusCode::CREATED, &json!({ "name": name, "revision": revision })))
}

/// Deletes a database, after a grace time.
pub(super) async fn delete(
    State(service): State<Arc<Service>>,
    Named(name): Named,
    request: Request<axum::body::Body>,
) -> Answer {
    let (head, _) = request.into_parts();
    let grace = parsed::<u64>(&head, "grace_seconds", "number of seconds")?;
    let grace = grace.map_or(GRACE, Duration::from_secs);
    let deleted = name.clone();
    let (deletion, forks) = to_the_end(async move { service.hosts.delete(&deleted, grace).await }).await?;
    let told = json!({ "name": name, "deleted": deletion.at, "gone": deletion.gone, "forks": forks });
    Ok(json(StatusCode::OK, &told))
}

/// Takes a deletion back.
pub(super) async fn undelete(State(service): State<Arc<Service>>, Named(name): Named) -> Answer {
    service.hosts.undelete(&name).await?;
    Ok(json(StatusCode::OK, &json!({ "name": name })))
}

/// Refuses writes from now on.
pub(super) async fn freeze(State(service): State<Arc<Service>>, Named(name): Named) -> Answer {
    let frozen = name.clone();
    let revision = to_the_end(async move { service.hosts.freeze(&frozen).await }).await?;
    Ok(json(StatusCode::OK, &json!({ "name": name, "revision": revision, "frozen": true })))
}

/// Takes writes again.
pub(super) async fn unfreeze(State(service): State<Arc<Service>>, Named(name): Named) -> Answer {
    service.hosts.unfreeze(&name).await?;
    Ok(json(StatusCode::OK, &json!({ "name": name, "frozen": false })))
}
