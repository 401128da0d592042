//! libSQL's offline sync: `/info`, `/export/{generation}`, `/sync/{generation}/{start}/{end}[/{baton}]`.

use axum::Json;
use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use super::answer::Refusal;
use crate::hosted::Hosted;
use crate::libsql::{Pulled, PushAnswer, SyncError};

/// A request of a libSQL client. Generations are its word for spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramesRoute {
    Info,
    Export { generation: u32 },
    Pull(Range),
    Push(Range, Option<u64>),
}

/// Frames by number, from 1; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    generation: u32,
    start: u32,
    end: u32,
}

impl FramesRoute {
    /// Of the part of a path that follows the database.
    pub(super) fn of(method: &Method, path: &str) -> Option<FramesRoute> {
        let parts: Vec<&str> = path.split('/').collect();
        match (method, &parts[..]) {
            (&Method::GET, ["info"]) => Some(FramesRoute::Info),
            (&Method::GET, ["export", generation]) => {
                Some(FramesRoute::Export { generation: generation.parse().ok()? })
            }
            (&Method::GET, ["sync", generation, start, end]) => {
                Some(FramesRoute::Pull(Range::of(generation, start, end)?))
            }
            (&Method::POST, ["sync", generation, start, end, baton @ ..]) => {
                let baton = match baton {
                    [] => None,
                    [baton] => Some(u64::from_str_radix(baton, 16).ok()?),
                    _ => return None,
                };
                Some(FramesRoute::Push(Range::of(generation, start, end)?, baton))
            }
            _ => None,
        }
    }
}

impl Range {
    fn of(generation: &str, start: &str, end: &str) -> Option<Range> {
        Some(Range {
            generation: generation.parse().ok()?,
            start: start.parse().ok()?,
            end: end.parse().ok()?,
        })
    }
}

impl From<SyncError> for Refusal {
    fn from(error: SyncError) -> Refusal {
        if let SyncError::Unavailable(reason) = &error {
            tracing::warn!(%reason, "frames cannot be synced");
        }
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Refusal::new(status, error.to_string())
    }
}

/// Answers a request; `body` is that of a push.
pub(super) async fn answer(hosted: &Hosted, route: FramesRoute, body: Bytes) -> Result<Response, SyncError> {
    let frames = hosted.frames();
    match route {
        FramesRoute::Info => {
            Ok(Json(json!({ "current_generation": frames.current().await? })).into_response())
        }
        FramesRoute::Export { generation } => {
            let (len, parts) = frames.export(generation).await?;
            Ok(bytes_of(len, Body::from_stream(parts)))
        }
        FramesRoute::Pull(Range { generation, start, end }) => {
            match frames.pull(generation, start, end).await? {
                Pulled::Frames(answer) => Ok(bytes_of(answer.len(), Body::from_stream(answer.into_stream()))),
                Pulled::End { current, frames } => {
                    let status = if current == generation { "ok" } else { "checkpoint_needed" };
                    let body = json!({
                        "status": status, "generation": current, "max_frame_no": frames, "baton": null,
                    });
                    Ok((StatusCode::BAD_REQUEST, Json(body)).into_response())
                }
            }
        }
        FramesRoute::Push(Range { generation, start, end }, baton) => {
            let PushAnswer { is_conflict, span, frames, baton } =
                frames.push(generation, start, end, baton, body).await?;
            let mut body = json!({
                "status": if is_conflict { "conflict" } else { "ok" },
                "generation": span,
                "max_frame_no": frames,
                "baton": baton.map(|baton| format!("{baton:016x}")),
            });
            if is_conflict {
                // Its client cannot get out of this by itself.
                body["message"] =
                    "others have changed the database since this copy was synced: save what it has not \
                                   pushed, remove it with its -info file, and sync again"
                        .into();
            }
            Ok(Json(body).into_response())
        }
    }
}

fn bytes_of(len: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, len.to_string()),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_strictly() {
        let get = |path| FramesRoute::of(&Method::GET, path);
        let post = |path| FramesRoute::of(&Method::POST, path);
        let range = Range { generation: 3, start: 1, end: 129 };
        assert_eq!(get("info"), Some(FramesRoute::Info));
        assert_eq!(get("export/7"), Some(FramesRoute::Export { generation: 7 }));
        assert_eq!(get("sync/3/1/129"), Some(FramesRoute::Pull(range)));
        assert_eq!(post("sync/3/1/129"), Some(FramesRoute::Push(range, None)));
        assert_eq!(post("sync/3/1/129/00ff"), Some(FramesRoute::Push(range, Some(255))));
        for path in
            ["sync/3/1", "sync/3/1/129/1", "sync/-3/1/129", "sync/3/1/99999999999", "export", "info/1"]
        {
            assert_eq!(get(path), None, "{path}");
        }
        for path in ["info", "sync/3/1/129/x", "sync/3/1/129/1/2"] {
            assert_eq!(post(path), None, "{path}");
        }
    }
}
