//! A database file that is sent becomes a database.

use std::path::Path;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::{Admin, Named, json, parsed};
use crate::hosted::HostError;
use crate::hosted::import::{ImportError, import as ship};
use crate::http::answer::Refusal;
use crate::http::body::next_data;

/// Takes a database file as it stands on a disk. Its size is bounded by the disk only.
pub(super) async fn import(
    Admin(service): Admin,
    Named(name): Named,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    let (head, mut body) = request.into_parts();
    let any_page_size = parsed::<bool>(&head, "any_page_size", "true or false")?.unwrap_or(false);
    // Before gigabytes are sent for nothing.
    service.hosts.must_be_free(&name).await?;
    let scratch = service.hosts.scratch()?;
    let path = scratch.path().join("db.sqlite");
    let idle = service.gate.limits().body_idle;
    let failed = |source| unreadable(&path, source);
    let mut file = File::create(&path).await.map_err(failed)?;
    while let Some(data) = next_data(&mut body, idle).await? {
        file.write_all(&data).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    drop(file);
    let imported = ship(service.hosts.store(), &name, &path, any_page_size).await.map_err(refusal)?;
    // The scratch directory is gone when this is dropped: the store has it all.
    Ok(json(
        StatusCode::CREATED,
        &json!({
            "name": name,
            "revision": imported.revision,
            "pages": imported.pages,
            "page_size": imported.page_size,
        }),
    ))
}

fn unreadable(path: &Path, source: std::io::Error) -> Refusal {
    refusal(ImportError::File { path: path.to_owned(), source })
}

fn refusal(error: ImportError) -> Refusal {
    let status = match error {
        ImportError::Host(error) => return HostError::into(error),
        ImportError::File { .. } => StatusCode::INSUFFICIENT_STORAGE,
        ImportError::NotADatabase(_) | ImportError::Damaged(_) | ImportError::PageSize(_) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    };
    Refusal::new(status, error.to_string())
}
