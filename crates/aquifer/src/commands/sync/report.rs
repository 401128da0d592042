//! What a sync came to, as it is printed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use aquifer_client::{Error, Synced, Times};
use serde::Serialize;

use super::target::Target;
use crate::output;
use crate::units::Length;

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    database: PathBuf,
    remote: String,
    state: State,
    pushed: u64,
    pulled_pages: u64,
    conflicts: u64,
    revision: Option<String>,
    requests: u64,
    took_ms: Took,
    /// Why the server could not be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// When it is tried again, by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    again_in_ms: Option<u128>,
}

/// What took how long, in milliseconds.
#[derive(Debug, Serialize)]
struct Took {
    prepare: f64,
    send: f64,
    fetch: f64,
    apply: f64,
}

impl From<&Times> for Took {
    fn from(times: &Times) -> Took {
        let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
        let Times { prepare, send, fetch, apply, .. } = times;
        Took { prepare: ms(*prepare), send: ms(*send), fetch: ms(*fetch), apply: ms(*apply) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Synced,
    Offline,
    Waiting,
}

impl Report {
    pub(super) fn of(target: &Target, synced: &Synced) -> Report {
        Report {
            database: target.path.clone(),
            remote: target.remote.clone(),
            state: if synced.offline.is_some() { State::Offline } else { State::Synced },
            pushed: synced.pushed,
            pulled_pages: synced.pulled,
            conflicts: synced.conflicts,
            revision: synced.revision.clone(),
            requests: synced.requests,
            took_ms: Took::from(&synced.times),
            reason: synced.offline.as_ref().map(ToString::to_string),
            again_in_ms: None,
        }
    }

    pub(super) fn waiting(target: &Target, why: &Error, again: Duration) -> Report {
        Report {
            state: State::Waiting,
            reason: Some(why.to_string()),
            again_in_ms: Some(again.as_millis()),
            ..Report::of(target, &Synced::default())
        }
    }
}

impl output::Report for Report {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = self.database.display();
        let count =
            |n: u64, one: &str| (n > 0).then(|| format!("{n} {one}{}", if n == 1 { "" } else { "s" }));
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.state {
            State::Offline => writeln!(out, "{name}: offline: {reason}"),
            State::Waiting => {
                let again = Duration::from_millis(self.again_in_ms.unwrap_or(0) as u64);
                writeln!(out, "{name}: waiting {}: {reason}", Length(again))
            }
            State::Synced => {
                let done: Vec<String> = [
                    count(self.pushed, "change").map(|what| format!("pushed {what}")),
                    count(self.pulled_pages, "page").map(|what| format!("pulled {what}")),
                    count(self.conflicts, "conflict")
                        .map(|what| format!("{what} (aquifer conflicts {name})")),
                ]
                .into_iter()
                .flatten()
                .collect();
                let done = if done.is_empty() { "nothing new".to_owned() } else { done.join(", ") };
                writeln!(out, "{name}: {done}")
            }
        }
    }
}
