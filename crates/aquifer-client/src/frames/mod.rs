//! Sync with servers of libSQL: whole pages travel, as numbered frames, instead of SQL.
//!
//! - [`Place`]: up to which frame the base goes; it is the base's revision;
//! - [`Protocol`]: which protocol a server is spoken to in;
//! - `pull`: what the server has, as pages;
//! - [`Frames`]: the pages of an image, as they are pushed.
//!
//! The engine is the same: a pull's pages are put under the local changes row by row. A push is the image itself, so it
//! is sent only on top of exactly what the base has; when the server has taken it, it is the base.

mod pull;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use pull::{base_pages, fetch, has_frame, image_at};

use crate::remote::{PullQuery, Remote, RemoteError};

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// As the server turns out to speak: it is asked once, with the first request, and the answer is remembered. Turso's
    /// where it speaks both.
    #[default]
    Auto,
    /// Turso's: pages come by revision, changes go as SQL.
    Turso,
    /// libSQL's offline sync: numbered frames come and go.
    Libsql,
}

/// Up to where a base goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) generation: u32,
    /// The last frame that is in it; 0: none.
    pub(crate) frame: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "libsql:{}:{}", self.generation, self.frame)
    }
}

impl Place {
    /// Of a base's revision; `None`: it is not of this protocol.
    pub(crate) fn of(revision: &str) -> Option<Place> {
        let (generation, frame) = revision.strip_prefix("libsql:")?.split_once(':')?;
        Some(Place { generation: generation.parse().ok()?, frame: frame.parse().ok()? })
    }
}

/// The frames of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frames {
    /// The generation that they go into.
    pub(crate) generation: u32,
    /// The number of the first.
    pub(crate) first: u32,
    /// The version of the schema: page 1 says it, if it is among them.
    pub(crate) schema_version: u32,
    /// Whether page 1 is among them, whatever is new in it.
    pub(crate) has_first_page: bool,
}

/// The protocol that a server speaks.
///
/// Cancel-safe.
pub(crate) async fn spoken_by(remote: &Remote) -> Result<Protocol, RemoteError> {
    let first_page = PullQuery { pages: Some([1].into_iter().collect()), ..PullQuery::default() };
    match remote.pull(&first_page).await {
        Ok(_) => Ok(Protocol::Turso),
        Err(error) => instead(remote, error).await,
    }
}

/// The protocol that a server speaks that has answered to Turso's with an error.
///
/// # Errors
/// This one, if it speaks none.
pub(crate) async fn instead(remote: &Remote, error: RemoteError) -> Result<Protocol, RemoteError> {
    let is_unknown = match &error {
        RemoteError::NotFound { .. } => true,
        RemoteError::Refused { status, .. } => matches!(status, 405 | 501),
        _ => false,
    };
    if is_unknown && remote.frames_generation().await.is_ok() { Ok(Protocol::Libsql) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = Place { generation: 7, frame: 12 };
        assert_eq!(Place::of(&place.to_string()), Some(place));
        for other in ["", "7:12", "libsql:7", "libsql:7:", "libsql:x:1", "libsql:1:-1", "g/00000012"] {
            assert_eq!(Place::of(other), None, "{other}");
        }
    }
}
