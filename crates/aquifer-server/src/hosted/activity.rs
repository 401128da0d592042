//! What clients were seen to do with a database since it was opened here, for administrators.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aquifer_format::{Revision, Timestamp};
use parking_lot::Mutex;

/// Clients that are remembered, before the one that has been quiet for longest is forgotten.
const CLIENTS: usize = 1000;

/// Pulls and pushes of sync clients. Pushes say which client's they are, pulls do not: of these it is known who sent them.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    pulls: u64,
    last_pull: Option<Timestamp>,
    pullers: BTreeMap<Puller, Pulls>,
    pushes: BTreeMap<String, Timestamp>,
}

/// Who pulls, as far as is known. Several clients may be one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Puller {
    /// Whom its token was issued to, if that says so.
    pub subject: Option<String>,
    /// Where it, or the proxy before it, is.
    pub address: Option<IpAddr>,
}

/// What somebody has pulled.
#[derive(Clone, Copy, Debug)]
pub struct Pulls {
    /// How many pulls were answered.
    pub count: u64,
    /// When the last one was.
    pub last: Timestamp,
    /// What the last one brought the client to, once it has taken all of it.
    pub revision: Option<Revision>,
}

impl Activity {
    /// A pull is answered.
    pub(crate) fn pulled(&self, puller: Puller, revision: Option<Revision>) {
        let (mut seen, last) = (self.0.lock(), Timestamp::now());
        seen.pulls += 1;
        seen.last_pull = Some(last);
        let count = seen.pullers.get(&puller).map_or(0, |pulls| pulls.count) + 1;
        remember(&mut seen.pullers, puller, Pulls { count, last, revision }, |pulls| pulls.last);
    }

    /// A client has pushed.
    pub(crate) fn pushed(&self, client: &str) {
        remember(&mut self.0.lock().pushes, client.to_owned(), Timestamp::now(), |at| *at);
    }

    /// How many pulls were answered, and when the last one was.
    pub fn pulls(&self) -> (u64, Option<Timestamp>) {
        let seen = self.0.lock();
        (seen.pulls, seen.last_pull)
    }

    /// Those who have pulled, the last one first; so many at most.
    pub fn pullers(&self, limit: usize) -> Vec<(Puller, Pulls)> {
        let mut pullers: Vec<_> =
            self.0.lock().pullers.iter().map(|(puller, pulls)| (puller.clone(), *pulls)).collect();
        pullers.sort_by_key(|(_, pulls)| std::cmp::Reverse(pulls.last));
        pullers.truncate(limit);
        pullers
    }

    /// When a client pushed last.
    pub fn last_push(&self, client: &str) -> Option<Timestamp> {
        self.0.lock().pushes.get(client).copied()
    }
}

/// Puts it in; there is room for it, if need be in place of what is oldest.
fn remember<K: Ord + Clone, V>(of: &mut BTreeMap<K, V>, who: K, what: V, at: impl Fn(&V) -> Timestamp) {
    if of.len() >= CLIENTS
        && !of.contains_key(&who)
        && let Some(quiet) = of.iter().min_by_key(|(_, what)| at(what)).map(|(who, _)| who.clone())
    {
        of.remove(&quiet);
    }
    of.insert(who, what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_no_memory_without_end() {
        let activity = Activity::default();
        for client in 0..2 * CLIENTS {
            activity.pushed(&client.to_string());
            activity.pulled(Puller { subject: Some(client.to_string()), address: None }, None);
        }
        let (pushers, pullers) = {
            let seen = activity.0.lock();
            (seen.pushes.len(), seen.pullers.len())
        };
        assert_eq!((pushers, pullers), (CLIENTS, CLIENTS));
        assert!(activity.last_push(&(2 * CLIENTS - 1).to_string()).is_some());
        assert_eq!(activity.pulls().0, 2 * CLIENTS as u64);
        assert_eq!(activity.pullers(3).len(), 3);
    }
}
