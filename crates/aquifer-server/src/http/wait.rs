//! Reading one's own writes through another server: a request may name a revision that its answer must have seen.

use std::time::Duration;

use aquifer_format::Revision;
use aquifer_log::DatabaseName;
use axum::http::{StatusCode, request};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::Service;
use super::answer::Refusal;
use super::limits::Place;

/// The header, and parameter of the query, that names the revision: as [`REVISION_HEADER`](crate::hrana::REVISION_HEADER)
/// of another answer told it.
pub const WAIT_HEADER: &str = "aquifer-wait";

/// Between two looks at the store, which tells what other servers wrote; doubled up to the longest.
const LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The revision that a request wants to have been reached.
pub(super) fn wanted(head: &request::Parts) -> Result<Option<Revision>, Refusal> {
    let header =
        head.headers.get(WAIT_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let query = || {
        let pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == WAIT_HEADER)?;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    };
    let Some(text) = header.or_else(query) else { return Ok(None) };
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| {
        Refusal::bad(format!(
            "{WAIT_HEADER}: '{text}' is no revision: send what the header aquifer-revision said"
        ))
    })
}

impl Service {
    /// Waits until this server has a revision of a database in the store, its own or another server's. Gives up the
    /// request's place among those in work, if it has to wait.
    ///
    /// # Errors
    /// It is of a history that was left, or does not come in time. Cancel-safe.
    pub(super) async fn reach(
        &self,
        name: &DatabaseName,
        wanted: Revision,
        place: &mut Option<Place>,
    ) -> Result<(), Refusal> {
        let deadline = Instant::now() + self.options.wait;
        let mut look = LOOK;
        loop {
            let hosted = self.open(name).await?;
            let has = hosted.in_store();
            match has {
                Some(has) if has.generation == wanted.generation && has.txid >= wanted.txid => return Ok(()),
                // The newest generations sort first.
                Some(has) if has.generation < wanted.generation => {
                    let reason =
                        format!("revision {wanted} is of a history that '{name}' has left; it is at {has}");
                    return Err(Refusal::new(StatusCode::CONFLICT, reason));
                }
                _ => {}
            }
            *place = None;
            if self.hosts.refresh(&hosted).await? {
                continue;
            }
            if Instant::now() + look >= deadline {
                let has = has.map_or("nothing".to_owned(), |has| has.to_string());
                let waited = self.options.wait;
                let reason = format!(
                    "this server has {has} of '{name}', and not {wanted} after {waited:?}: try again"
                );
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, reason));
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
    }
}
