//! The claims of a JWT, as libSQL's server and Turso use them.
//!
//! | claim | meaning |
//! |---|---|
//! | `p` | `{"ro": {"ns": […]}, "rw": {"ns": […]}}`: databases by name; `roa` and `rwa` (may attach, too) count as `ro` and `rw`. Where it is there, `id` and `a` say nothing |
//! | `id` | the only database that the token is for; absent = every database |
//! | `a` | `ro` or `rw`; absent = `rw` |
//! | `sub` | whose it is, for administrators to read; grants nothing |
//! | `admin` | `true`: may administer the whole server, too; absent = `false` |
//! | `exp`, `nbf` | seconds since 1970; absent = no limit, as Turso's tokens may have none |
//! | `aud` | must contain an audience of this server when it is there (RFC 7519, 4.1.3) |

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::grant::{Access, Denied, Grant, InvalidToken};

/// How far the clocks of an issuer and of this server may be apart, in seconds.
const LEEWAY: f64 = 30.0;

/// The claims that mean something here; others are ignored.
#[derive(Deserialize)]
pub(super) struct Claims {
    id: Option<String>,
    a: Option<Right>,
    p: Option<Permissions>,
    // RFC 7519 allows fractions of seconds.
    exp: Option<f64>,
    nbf: Option<f64>,
    aud: Option<Audiences>,
    admin: Option<bool>,
    /// Text, if it is one; it grants nothing.
    sub: Option<serde_json::Value>,
}

#[derive(Deserialize, Clone, Copy)]
enum Right {
    #[serde(rename = "ro", alias = "roa")]
    ReadOnly,
    #[serde(rename = "rw", alias = "rwa")]
    ReadWrite,
}

// Unknown members would be restrictions (Turso's cloud has them for tables): they must not be overlooked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permissions {
    ro: Option<Databases>,
    roa: Option<Databases>,
    rw: Option<Databases>,
    rwa: Option<Databases>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Databases {
    ns: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// What the claims grant at `now` on a server that answers to `audiences`.
    pub(super) fn grant(self, now: SystemTime, audiences: &[String]) -> Result<Grant, Denied> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        if self.exp.is_some_and(|exp| now >= exp + LEEWAY) {
            return Err(Denied::Expired);
        }
        if self.nbf.is_some_and(|nbf| now + LEEWAY < nbf) {
            return Err(Denied::NotYetValid);
        }
        let meant = match &self.aud {
            None => true,
            Some(Audiences::One(aud)) => audiences.contains(aud),
            Some(Audiences::Several(auds)) => auds.iter().any(|aud| audiences.contains(aud)),
        };
        if !meant {
            return Err(InvalidToken::Audience.into());
        }
        let grant = match (self.p, self.id) {
            (Some(p), _) => p.grant(),
            (None, Some(id)) => Grant::named([(id, Right::access(self.a))]),
            (None, None) => Grant::every(Right::access(self.a)),
        };
        let subject = self.sub.as_ref().and_then(serde_json::Value::as_str);
        Ok(grant.with_admin(self.admin == Some(true)).of_subject(subject))
    }
}

impl Right {
    fn access(right: Option<Right>) -> Access {
        match right {
            Some(Right::ReadOnly) => Access::ReadOnly,
            Some(Right::ReadWrite) | None => Access::ReadWrite,
        }
    }
}

impl Permissions {
    fn grant(self) -> Grant {
        let named = |databases: Option<Databases>, access| {
            databases.and_then(|d| d.ns).unwrap_or_default().into_iter().map(move |name| (name, access))
        };
        Grant::named(
            named(self.ro, Access::ReadOnly)
                .chain(named(self.roa, Access::ReadOnly))
                .chain(named(self.rw, Access::ReadWrite))
                .chain(named(self.rwa, Access::ReadWrite)),
        )
    }
}
