//! Cursors over HTTP: the results of a batch as JSON lines while it runs.
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::entries::{Entries, Next};
use super::error::Failure;
use super::request::CursorBody;
use super::streams::Baton;
use super::{Database, Hrana};
use crate::sql::Access;

/// Answers `POST …/v3/cursor`: the batch in `body`, as JSON lines while it runs. The statement waits for its reader.
///
/// No line leaves before what it could have seen is durable. When the answer is dropped, what runs is stopped and
/// rolled back. The baton is valid when the last line has arrived.
pub async fn cursor<D: Database>(hrana: &Arc<Hrana<D>>, access: Access, body: &[u8]) -> Response {
    answer(hrana, access, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer<D: Database>(
    hrana: &Arc<Hrana<D>>,
    access: Access,
    body: &[u8],
) -> Result<Response, Failure> {
    let CursorBody { baton, batch } = serde_json::from_slice(body)?;
    let steps = batch.into_steps()?;
    let stream = hrana.stream(baton.as_deref(), access).await?;
    let baton = Baton::for_stream(&stream)?;
    let first = format!("{{\"baton\":\"{}\",\"base_url\":null}}\n", baton.text());
    let entries = Entries::of(hrana, stream, steps);
    let streams = Arc::clone(&hrana.streams);
    let lines = futures::stream::unfold(Some((entries, baton)), move |running| {
        let streams = Arc::clone(&streams);
        async move {
            let (mut entries, baton) = running?;
            let (lines, running) = match entries.next().await {
                Next::Lines(lines) => (lines, Some((entries, baton))),
                Next::Failed(lines) => (lines, None),
                Next::Done(stream) => {
                    streams.park(*stream, &baton);
                    return None;
                }
            };
            Some((Ok::<_, Infallible>(Bytes::from(lines)), running))
        }
    });
    let all = futures::StreamExt::chain(futures::stream::once(async move { Ok(Bytes::from(first)) }), lines);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(all)).into_response())
}
