use std::time::Duration;

/// What one client may take. Every limit answers with an error that names it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Rows of one result. A cursor streams and is not bound by it.
    pub rows: u64,
    /// Bytes of values in the answer to one request, all its results together. A cursor is not bound by it.
    pub result_bytes: u64,
    /// Bytes of one string, blob or row, stored or computed.
    pub value_bytes: u32,
    /// Bytes of one SQL text.
    pub sql_bytes: u32,
    /// How long one statement may compute. Waiting for a lock or for a slow reader does not count.
    pub statement_time: Duration,
    /// How long a statement waits for another's write transaction before `SQLITE_BUSY`.
    pub busy_timeout: Duration,
    /// Texts that one stream may store.
    pub stored_texts: usize,
    /// Bytes of all texts that one stream has stored.
    pub stored_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows: 100_000,
            result_bytes: 16 << 20,
            value_bytes: 64 << 20,
            sql_bytes: 1 << 20,
            statement_time: Duration::from_secs(30),
            busy_timeout: Duration::from_secs(5),
            stored_texts: 256,
            stored_bytes: 1 << 20,
        }
    }
}
