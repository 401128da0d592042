//! What was promised of each database when it was added.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aquifer_log::DatabaseName;

use crate::config::DatabaseSettings;

/// Lag behind which /healthz calls a database unhealthy, if nobody says: at least twice what it waits on purpose.
const LAG_BOUND: Duration = Duration::from_mins(1);

/// The databases, as they are added.
#[derive(Debug, Clone, Default)]
pub(super) struct Roster(Arc<Mutex<BTreeMap<DatabaseName, Terms>>>);

/// Of one database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Lag behind which it is unhealthy.
    pub(super) lag_bound: Duration,
    /// How often to prove that it can be restored.
    pub(super) verify_every: Option<Duration>,
}

impl Roster {
    pub(super) fn note(&self, name: &DatabaseName, settings: &DatabaseSettings) {
        let usual = settings.interval.map_or(LAG_BOUND, |interval| LAG_BOUND.max(interval.0 * 2));
        let terms = Terms {
            lag_bound: settings.lag_bound.map_or(usual, |bound| bound.0),
            verify_every: settings.verify_every.map(|every| every.0),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), terms);
    }

    /// The terms of a database; the usual ones if it is being added right now.
    pub(super) fn of(&self, name: &DatabaseName) -> Terms {
        let usual = Terms { lag_bound: LAG_BOUND, verify_every: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(usual)
    }
}
