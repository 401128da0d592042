//! More rows than are held in memory.

use std::fmt::Write;

use crate::stage::Stage;

/// Rows of so many bytes each, of which deletes, updates that must wait for each other, and inserts meet others.
fn outcome(bytes: usize) -> (String, String) {
    let base = format!(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE, b, content);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO t SELECT i, i, 'base', zeroblob({bytes}) FROM n"
    );
    // All values of `a` go round, so that no row can have its own before another one has let go of it.
    let ours = format!(
        "DELETE FROM t WHERE k BETWEEN 11 AND 20;
         UPDATE t SET a = -a; UPDATE t SET a = CASE k WHEN 1 THEN 60 ELSE -a - 1 END WHERE k NOT BETWEEN 21 AND 22;
         UPDATE t SET a = 'x' || k, content = CAST('ours' || substr(content, 5) AS BLOB) WHERE k < 0 OR a < 0;
         UPDATE t SET content = CAST('mine' AS BLOB) || zeroblob({bytes} - 4) WHERE k >= 30;
         INSERT INTO t SELECT k + 1000, k + 1000, 'ours', content FROM t WHERE k >= 30"
    );
    let theirs = "UPDATE t SET b = 'theirs' WHERE k % 2 = 0; DELETE FROM t WHERE k IN (3, 40);
                  INSERT INTO t VALUES (1031, 1031, 'theirs', 'theirs'), (2000, 1032, 'theirs', 'theirs')";
    let rebased = Stage::new(&base, &ours, theirs).rebase();
    let sum = "SELECT k, a, b, substr(CAST(content AS TEXT), 1, 6) FROM t ORDER BY k";
    let mut recorded: Vec<_> = rebased
        .conflicts
        .iter()
        .map(|conflict| format!("{:?} {:?}", conflict.kind, conflict.outcome))
        .collect();
    recorded.sort();
    let mut told = String::new();
    for line in recorded {
        let _ = writeln!(told, "{line}");
    }
    (rebased.asked(sum), told)
}

#[test]
fn rows_that_are_too_many_to_be_held_are_rebased_as_few_are() {
    // 18 MiB of old and new values, and as many of those that were inserted.
    let (rows, recorded) = outcome(300_000);
    assert_eq!((rows, recorded), outcome(20));
}
