//! Bodies of requests, read whole within limits, and of answers, which keep their request's place.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

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
    response.map(|body| if body.is_end_stream() { body } else { Body::new(Holding { body, _place: place }) })
}

struct Holding {
    body: Body,
    _place: Place,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
