//! An overlay against a database file that the same was done to.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use aquifer_format::{PageSize, Pgno};
use aquifer_sqlite::{Overlay, PageTransaction, ReadPages, integrity_check, open_overlay, open_pages};
use proptest::prelude::*;
use rusqlite::{Connection, ErrorCode};

#[derive(Clone)]
struct Base {
    size: PageSize,
    bytes: Vec<u8>,
    /// Pages behind the bytes, of zeros.
    more: u32,
    broken: Option<u32>,
}

impl Base {
    fn read(path: &Path, size: u32) -> Base {
        Base {
            size: PageSize::new(size).unwrap(),
            bytes: std::fs::read(path).unwrap(),
            more: 0,
            broken: None,
        }
    }
}

impl ReadPages for Base {
    fn page_size(&self) -> PageSize {
        self.size
    }

    fn pages(&self) -> u32 {
        (self.bytes.len() / self.size.bytes()) as u32 + self.more
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        let at = pgno.index() * self.size.bytes();
        match self.bytes.get(at..at + self.size.bytes()) {
            Some(bytes) => page.copy_from_slice(bytes),
            None => page.fill(0),
        }
        self.broken != Some(pgno.get())
    }
}

fn overlay(base: &Base) -> (Connection, Overlay) {
    open_overlay(Box::new(base.clone()), tempfile::tempfile().unwrap()).unwrap()
}

/// Everything that SQL says of a database.
fn content(db: &Connection) -> Vec<String> {
    let mut lines = Vec::new();
    for sql in ["SELECT type, name, sql FROM sqlite_schema", "SELECT rowid, k, v FROM t"] {
        let Ok(mut statement) = db.prepare(sql) else { continue };
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            lines.push(format!("{:?}", (0..columns).map(|i| row.get_ref(i).unwrap()).collect::<Vec<_>>()));
        }
    }
    lines
}

/// The pages that were written, put over the base in the place where they are to go, make the image.
fn assert_written_makes_it(base: &Path, overlay: &mut Overlay, expected: &[String]) {
    let mut apply = PageTransaction::begin(base, Duration::ZERO).unwrap();
    let mut page = vec![0; overlay.page_size().bytes()];
    for pgno in overlay.written() {
        assert!(overlay.read(pgno, &mut page));
        apply.write(pgno, &page).unwrap();
    }
    apply.commit(overlay.pages()).unwrap();
    let db = Connection::open(base).unwrap();
    assert_eq!(content(&db), expected);
    drop(db);
    assert_eq!(integrity_check(base).unwrap(), [] as [String; 0]);
}

fn step(db: &Connection, kind: u8, n: u32) -> bool {
    let sql = match kind {
        0 => "CREATE TABLE IF NOT EXISTS t(k INT, v BLOB); CREATE INDEX IF NOT EXISTS i ON t(v)".to_owned(),
        1..=3 => format!(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {})
             INSERT INTO t SELECT i, CAST(printf('%0*d', 1 + i * 7 % 3000, i * {n}) AS BLOB) FROM c", n % 300 + 1
        ),
        4 => format!("UPDATE t SET v = CAST(k || '{n}' || v AS BLOB) WHERE rowid % 7 = {}", n % 7),
        5 => format!("DELETE FROM t WHERE rowid % 3 = {}", n % 3),
        6 => "DELETE FROM t WHERE rowid > (SELECT max(rowid) / 4 FROM t)".to_owned(),
        7 => "PRAGMA incremental_vacuum".to_owned(),
        8 => "BEGIN".to_owned(),
        9 => "COMMIT".to_owned(),
        10 => "ROLLBACK".to_owned(),
        11 => "DROP INDEX i".to_owned(),
        12 => "VACUUM".to_owned(),
        // Fails after it has written some: the statement alone is rolled back.
        _ => "UPDATE t SET k = CASE WHEN rowid = (SELECT max(rowid) FROM t) THEN abs(-9223372036854775807 - 1) ELSE -k END"
            .to_owned(),
    };
    db.execute_batch(&sql).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]
    #[test]
    fn an_overlay_becomes_what_a_file_becomes_and_its_written_pages_are_all_that_differs(
        log2 in 9_u32..=16,
        vacuum in 0_u8..3,
        is_empty in prop::bool::weighted(0.15),
        first in prop::collection::vec((0_u8..8, any::<u32>()), 0..8),
        then in prop::collection::vec((0_u8..14, any::<u32>()), 0..24),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (base, plain) = (dir.path().join("base.db"), dir.path().join("plain.db"));
        let size = 1 << log2;
        let db = Connection::open(&base).unwrap();
        db.execute_batch(&format!("PRAGMA page_size={size}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL")).unwrap();
        step(&db, 0, 0);
        for (kind, n) in first {
            step(&db, kind, n);
        }
        drop(db);
        if is_empty {
            std::fs::write(&base, []).unwrap();
        }
        std::fs::copy(&base, &plain).unwrap();
        let image = Base::read(&base, size);
        let (over, mut overlay) = overlay(&image);
        let plain = Connection::open(&plain).unwrap();
        plain.execute_batch(&format!("PRAGMA page_size={size}; PRAGMA synchronous=OFF")).unwrap();
        for (kind, n) in then {
            prop_assert_eq!(step(&over, kind, n), step(&plain, kind, n), "{}", kind);
            prop_assert_eq!(content(&over), content(&plain));
        }
        for db in [&over, &plain] {
            if !db.is_autocommit() {
                step(db, 10, 0);
            }
        }
        let expected = content(&plain);
        let (again, _) = open_pages(Box::new(overlay.clone())).unwrap();
        if overlay.pages() > 0 {
            prop_assert_eq!(&content(&again), &expected);
        }
        drop(over);
        let written = overlay.written();
        let (mut before, mut now) = (vec![0; size as usize], vec![0; size as usize]);
        for pgno in Pgno::up_to(image.pages().min(overlay.pages())).filter(|pgno| !written.contains(pgno)) {
            prop_assert!(image.clone().read(pgno, &mut before) && overlay.read(pgno, &mut now));
            prop_assert!(before == now, "{}", pgno);
        }
        if !is_empty {
            assert_written_makes_it(&base, &mut overlay, &expected);
        }
    }
}

fn small(dir: &Path, size: u32) -> Base {
    let path = dir.join("a.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size={size}; PRAGMA journal_mode=WAL; CREATE TABLE t(k INT, v BLOB)"
    ))
    .unwrap();
    drop(db);
    Base::read(&path, size)
}

#[test]
fn nothing_is_written_by_reading_and_page_1_says_wal_mode_either_way() {
    let dir = tempfile::tempdir().unwrap();
    let base = small(dir.path(), 4096);
    let (db, mut overlay) = overlay(&base);
    assert_eq!(content(&db).len(), 1);
    db.execute_batch("BEGIN; CREATE TEMP TABLE x AS SELECT * FROM t; DROP TABLE x; COMMIT").unwrap();
    assert_eq!(overlay.written().len(), 0);
    let mut page = vec![0; 4096];
    assert!(overlay.read(Pgno::ONE, &mut page) && page[18..20] == [2, 2]);
    db.execute_batch("INSERT INTO t VALUES(1, 2)").unwrap();
    assert!(overlay.read(Pgno::ONE, &mut page) && page[18..20] == [2, 2]);
    assert!(overlay.written().contains(&Pgno::ONE));
}

#[test]
fn a_new_database_has_the_pages_of_its_base() {
    let base = Base { size: PageSize::new(1024).unwrap(), bytes: Vec::new(), more: 0, broken: None };
    let (db, mut overlay) = overlay(&base);
    assert!(overlay.pages() == 0 && overlay.written().is_empty());
    db.execute_batch("CREATE TABLE t(k INT, v BLOB); INSERT INTO t VALUES(1, zeroblob(5000))").unwrap();
    assert_eq!(overlay.written().len(), overlay.pages() as usize);
    let mut page = vec![0; 1024];
    assert!(overlay.read(Pgno::ONE, &mut page) && page[16..20] == [4, 0, 2, 2]);
    assert_eq!(content(&open_pages(Box::new(overlay)).unwrap().0), content(&db));
}

#[test]
fn growing_past_the_lock_byte_leaves_its_page_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut base = small(dir.path(), 65_536);
    // Pages that nothing uses, up to the one before it.
    let lock_page = base.size.lock_page();
    base.more = lock_page.get() - 1 - base.pages();
    base.bytes[28..32].copy_from_slice(&(lock_page.get() - 1).to_be_bytes());
    let (db, overlay) = overlay(&base);
    db.execute_batch("INSERT INTO t VALUES(1, CAST(printf('%0200000d', 7) AS BLOB))").unwrap();
    assert!(overlay.pages() > lock_page.get() + 2);
    assert!(!overlay.written().contains(&lock_page) && overlay.written().contains(&lock_page.next()));
    assert_eq!(content(&open_pages(Box::new(overlay)).unwrap().0), content(&db));
}

#[test]
fn a_full_disk_and_a_page_that_cannot_be_read_are_errors_and_what_was_committed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let base = small(dir.path(), 4096);
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let (db, overlay) = open_overlay(Box::new(base.clone()), full).unwrap();
    let error = db.execute_batch("INSERT INTO t VALUES(1, 2)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DiskFull), "{error}");
    drop(db);
    assert_eq!(content(&open_pages(Box::new(overlay)).unwrap().0).len(), 1);
    let broken = Base { broken: Some(2), ..base };
    let (db, _) = open_overlay(Box::new(broken), tempfile::tempfile().unwrap()).unwrap();
    let error = db.execute_batch("INSERT INTO t VALUES(1, 2)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure), "{error}");
}
