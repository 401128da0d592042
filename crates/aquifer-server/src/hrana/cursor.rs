//! Cursors over HTTP: the results of a batch as JSON lines while it runs.
use std::convert::Infallible;
use std::sync::Arc;

use aquifer_format::Revision;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, TRAILER};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;

use super::entries::{Entries, Next};
use super::error::Failure;
use super::request::CursorBody;
use super::streams::{Baton, Streams};
use super::{Database, Hrana, REVISION_HEADER};
use crate::sql::Access;

/// Answers `POST …/v3/cursor`: the batch in `body`, as JSON lines while it runs. The statement waits for its reader.
///
/// No line leaves before what it could have seen is durable. When the answer is dropped, what runs is stopped and
/// rolled back. The baton is valid when the last line has arrived. The revision comes after it, as a trailer.
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
    let entries = Entries::of(hrana, stream, steps).await;
    let streams = Arc::clone(&hrana.streams);
    let frames =
        futures::stream::unfold(Answer::Running { entries, baton, first: Some(first) }, move |answer| {
            let streams = Arc::clone(&streams);
            async move { answer.next(&streams).await }
        });
    let body = Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>)));
    let head = [(CONTENT_TYPE, "application/x-ndjson"), (TRAILER, REVISION_HEADER)];
    Ok((head, body).into_response())
}

/// What is left of an answer.
enum Answer<D> {
    Running {
        entries: Entries<D>,
        baton: Baton,
        /// The line that comes before all others.
        first: Option<String>,
    },
    /// The revision, after the last line.
    Told(Option<Revision>),
    /// Nothing. One that breaks off tells no revision.
    Ended,
}

impl<D: Database> Answer<D> {
    /// What comes next, and what is left then.
    async fn next(self, streams: &Arc<Streams>) -> Option<(Frame<Bytes>, Self)> {
        let data = |lines: Vec<u8>| Frame::data(Bytes::from(lines));
        let (mut entries, baton) = match self {
            Answer::Running { entries, baton, first: Some(first) } => {
                return Some((data(first.into_bytes()), Answer::Running { entries, baton, first: None }));
            }
            Answer::Running { entries, baton, first: None } => (entries, baton),
            Answer::Told(revision) => {
                let told = HeaderValue::try_from(revision?.to_string()).ok()?;
                let told = HeaderMap::from_iter([(HeaderName::from_static(REVISION_HEADER), told)]);
                return Some((Frame::trailers(told), Answer::Ended));
            }
            Answer::Ended => return None,
        };
        Some(match entries.next().await {
            Next::Lines(lines) => (data(lines), Answer::Running { entries, baton, first: None }),
            Next::Failed(lines) => (data(lines), Answer::Ended),
            Next::Last(lines, stream) => {
                streams.park(*stream, &baton);
                (data(lines), Answer::Told(entries.revision()))
            }
        })
    }
}
