//! Which push of which client a server has applied: a table there, written in the push's own transaction.
//!
//! `change_id` is the number of the last push that may not come any more, `applied` that of the last one that was
//! applied. A push sets both, and fails unless its number is higher than `change_id`: it happens once at most, however
//! often its request arrives. Of a push whose answer was lost, [`Bookkeeping::fence`] raises `change_id` alone: from then
//! on it cannot happen any more, and `applied` says whether it has: a client has one push on its way at a time, so it is
//! that one's number, or it was not applied.

use std::sync::Arc;

use aquifer_sqlite::btree::Value;

use super::Step;

/// The table that says which push of each client was applied.
pub const CLIENTS: &str = "aquifer_sync";

/// One push of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookkeeping {
    /// Who pushes.
    pub client_id: String,
    /// The number of the push, larger than that of the client's push before it. From 1.
    pub change_id: i64,
}

impl Bookkeeping {
    /// What comes before the statements of the push.
    pub fn begin(&self) -> Vec<Step> {
        // NULL is refused in that column.
        let upsert = format!(
            "INSERT INTO {CLIENTS}(client_id, change_id, applied) VALUES (?1, ?2, ?2) ON CONFLICT(client_id) DO UPDATE SET \
             change_id = CASE WHEN change_id < excluded.change_id THEN excluded.change_id END, applied = excluded.applied"
        );
        vec![step("BEGIN IMMEDIATE", &[]), create(), step(&upsert, &self.args())]
    }

    /// Whether what a server says of the last step of [`begin`](Bookkeeping::begin) means that this push, or a later
    /// one, was applied or fenced off before.
    pub fn is_late(message: &str) -> bool {
        message.contains(&format!("{CLIENTS}.change_id"))
    }

    /// What finds out whether this push was applied, and keeps it from being applied from then on. The answer is in
    /// the row of the step before the last, and holds when the last one has succeeded.
    pub fn fence(&self) -> Vec<Step> {
        let raise = format!(
            "INSERT INTO {CLIENTS}(client_id, change_id, applied) VALUES (?1, ?2, 0) ON CONFLICT(client_id) DO UPDATE SET \
             change_id = max(change_id, excluded.change_id)"
        );
        let read = format!("SELECT applied FROM {CLIENTS} WHERE client_id = ?1");
        vec![
            step("BEGIN IMMEDIATE", &[]),
            create(),
            step(&raise, &self.args()),
            step(&read, &self.args()[..1]),
            step("COMMIT", &[]),
        ]
    }

    /// What the row that [`fence`](Bookkeeping::fence) reads says: whether the push was applied. `None`: it is no
    /// answer to that.
    pub fn was_applied(&self, row: &[Value]) -> Option<bool> {
        match row {
            [Value::Integer(applied)] => Some(*applied == self.change_id),
            _ => None,
        }
    }

    fn args(&self) -> [Value; 2] {
        [Value::Text(self.client_id.clone().into_bytes()), Value::Integer(self.change_id)]
    }
}

fn create() -> Step {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {CLIENTS}(client_id TEXT PRIMARY KEY, change_id INTEGER NOT NULL, applied INTEGER NOT NULL)"
    );
    step(&sql, &[])
}

fn step(sql: &str, args: &[Value]) -> Step {
    Step { sql: sql.into(), args: args.to_vec(), about: Arc::from(CLIENTS), is_optional: false }
}
