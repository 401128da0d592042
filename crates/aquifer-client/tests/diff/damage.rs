//! Images that are damaged.

use std::sync::LazyLock;

use aquifer_client::diff::Diff;
use proptest::prelude::*;

use crate::files::{File, changed};
use crate::traps::{Databases, ROWS};

/// The base and the database as it is now.
static DATABASES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let databases = Databases::new(
        &format!(
            "PRAGMA page_size=512; CREATE TABLE t(k INTEGER PRIMARY KEY, v);
             CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE VIRTUAL TABLE f USING fts5(x);
             {ROWS} INSERT INTO t SELECT i, hex(zeroblob(i)) FROM n WHERE i < 300;
             INSERT INTO w SELECT 'key ' || k, k FROM t; INSERT INTO f SELECT k FROM t WHERE k < 50;"
        ),
        "UPDATE t SET v = substr(v, 1, length(v) - 1) || 1; UPDATE w SET v = -v; DELETE FROM w WHERE k > 'key 8'",
    );
    [databases.base(), databases.current()].map(|path| std::fs::read(path).unwrap())
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn damaged_images_are_errors_and_never_panics(
        flips in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0_usize..512, 1_u8..), 1..8),
    ) {
        let mut images = DATABASES.clone();
        for (in_base, page, at, bits) in flips {
            let bytes = &mut images[usize::from(in_base)];
            // Without the first page nobody gets anywhere.
            let page = page.index(bytes.len() / 512 - 1) + 1;
            bytes[page * 512 + at] ^= bits;
        }
        let [base, current] = images.map(File::of);
        let changed = changed(&base, &current);
        if let Ok(diff) = Diff::between(Box::new(base), Box::new(current), changed) {
            for table in diff.tables() {
                if let Ok(rows) = diff.rows(table) {
                    // One error is the last item.
                    let rows: Vec<_> = rows.collect();
                    prop_assert!(rows.iter().rev().skip(1).all(Result::is_ok));
                }
            }
        }
    }
}
