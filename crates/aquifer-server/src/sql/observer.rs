//! What is counted of statements, and which of them are told in the log.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{SqlError, Summary};

/// Bytes of a statement's text in the log.
const TOLD: usize = 300;

/// Statements and their rows, of all sessions that share it.
#[derive(Debug, Default)]
pub struct Counts {
    statements: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
    rows_read: AtomicU64,
    rows_written: AtomicU64,
}

/// The values of [`Counts`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Statements that ran, failed ones too.
    pub statements: u64,
    /// Statements that failed.
    pub failed: u64,
    /// Statements that took so long that the log tells of them.
    pub slow: u64,
    /// Rows that statements read, as their summaries count them.
    pub rows_read: u64,
    /// Rows that statements wrote.
    pub rows_written: u64,
}

impl Counts {
    /// What was counted so far.
    pub fn get(&self) -> Counted {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            statements: of(&self.statements),
            failed: of(&self.failed),
            slow: of(&self.slow),
            rows_read: of(&self.rows_read),
            rows_written: of(&self.rows_written),
        }
    }
}

/// Looks at every statement of a session.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    /// Where they are counted.
    pub counts: Arc<Counts>,
    /// From which time on a statement is told in the log, waiting for locks and for its reader included.
    pub slow: Option<Duration>,
}

impl Observer {
    /// A statement has run. Its arguments are nobody's business, its text is cut.
    pub(super) fn ran(&self, sql: &str, took: Duration, result: &Result<Summary, SqlError>) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counts.statements, 1);
        add(&self.counts.failed, u64::from(result.is_err()));
        let summary = result.as_ref().ok();
        let (read, written) = summary.map_or((0, 0), |summary| (summary.rows_read, summary.rows_written));
        add(&self.counts.rows_read, read);
        add(&self.counts.rows_written, written);
        if self.slow.is_some_and(|slow| took >= slow) {
            add(&self.counts.slow, 1);
            let error = result.as_ref().err().map(SqlError::code);
            let duration_ms = took.as_secs_f64() * 1000.0;
            tracing::warn!(
                duration_ms,
                rows_read = read,
                rows_written = written,
                error,
                sql = cut(sql),
                "slow statement"
            );
        }
    }
}

/// The beginning of a text, at the border of a character.
fn cut(text: &str) -> &str {
    let text = text.trim();
    &text[..text.floor_char_boundary(TOLD)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let long = "ä".repeat(TOLD);
        assert_eq!(cut(&format!("x{long}")).len(), TOLD - 1);
        assert_eq!(cut(" SELECT 1 "), "SELECT 1");
    }
}
