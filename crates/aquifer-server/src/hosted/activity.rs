//! What clients were seen to do with a database since it was opened here, for administrators.

use std::collections::BTreeMap;

use aquifer_format::Timestamp;
use parking_lot::Mutex;

/// Clients that are remembered, before the one that has been quiet for longest is forgotten.
const CLIENTS: usize = 1000;

/// Pulls and pushes of sync clients. Pulls do not say whose they are.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    pulls: u64,
    last_pull: Option<Timestamp>,
    pushes: BTreeMap<String, Timestamp>,
}

impl Activity {
    /// A client has pulled.
    pub(crate) fn pulled(&self) {
        let mut seen = self.0.lock();
        seen.pulls += 1;
        seen.last_pull = Some(Timestamp::now());
    }

    /// A client has pushed.
    pub(crate) fn pushed(&self, client: &str) {
        let pushes = &mut self.0.lock().pushes;
        if pushes.len() >= CLIENTS
            && !pushes.contains_key(client)
            && let Some(quiet) = pushes.iter().min_by_key(|(_, at)| **at).map(|(client, _)| client.clone())
        {
            pushes.remove(&quiet);
        }
        pushes.insert(client.to_owned(), Timestamp::now());
    }

    /// How many pulls were answered, and when the last one was.
    pub fn pulls(&self) -> (u64, Option<Timestamp>) {
        let seen = self.0.lock();
        (seen.pulls, seen.last_pull)
    }

    /// When a client pushed last.
    pub fn last_push(&self, client: &str) -> Option<Timestamp> {
        self.0.lock().pushes.get(client).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_no_memory_without_end() {
        let activity = Activity::default();
        for client in 0..2 * CLIENTS {
            activity.pushed(&client.to_string());
        }
        assert_eq!(activity.0.lock().pushes.len(), CLIENTS);
        assert!(activity.last_push(&(2 * CLIENTS - 1).to_string()).is_some());
    }
}
