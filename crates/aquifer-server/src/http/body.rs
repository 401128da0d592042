//! Bodies of requests, read whole within limits, and of answers, with what goes with them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tracing::Span;

use super::answer::Refusal;
use super::limits::{Limit, Place};

/// Reads a body of up to `limit` bytes that never stands still for longer than `idle`. Cancel-safe.
pub(super) async fn whole(mut body: Body, limit: usize, idle: Duration) -> Result<Bytes, Refusal> {
    let too_large = || {
        let reason = format!("the body has more than {limit} bytes: send less at once");
        Refusal::beyond(Limit::BodySize, StatusCode::PAYLOAD_TOO_LARGE, reason)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut read = BytesMut::new();
    while let Some(data) = next_data(&mut body, idle).await? {
        if read.len() + data.len() > limit {
            return Err(too_large());
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// The next bytes of a body, within `idle`. Cancel-safe.
pub(super) async fn next_data(body: &mut Body, idle: Duration) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await.map_err(|_| {
            let reason = format!("nothing of the body came for {idle:?}: send it again");
            Refusal::beyond(Limit::BodyTime, StatusCode::REQUEST_TIMEOUT, reason)
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(e)) => return Err(Refusal::bad(format!("the body broke off: {e}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The answer, in work until its end.
pub(super) fn holding(place: Option<Place>, response: Response) -> Response {
    let Some(place) = place else { return response };
    response.map(|body| if body.is_end_stream() { body } else { accompanied(body, place) })
}

/// What goes with a body on its way: dropped when the body has ended and is dropped, or when nobody takes it any more.
pub(super) trait Companion: Send + Unpin + 'static {
    /// In which the body is read.
    fn span(&self) -> Span {
        Span::none()
    }

    /// The body has come so far: to its next frame, or to its end.
    fn passed(&mut self, _frame: Option<&Frame<Bytes>>, _is_end: bool) {}
}

impl Companion for Place {}

pub(super) fn accompanied(body: Body, companion: impl Companion) -> Body {
    Body::new(Accompanied { body, companion })
}

struct Accompanied<C> {
    body: Body,
    companion: C,
}

impl<C: Companion> HttpBody for Accompanied<C> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.companion.span().in_scope(|| Pin::new(&mut self.body).poll_frame(cx));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let is_end = self.body.is_end_stream();
                self.companion.passed(Some(frame), is_end);
            }
            Poll::Ready(None) => self.companion.passed(None, true),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
