use std::collections::BTreeMap;

use aquifer_format::PageSize;
use proptest::prelude::*;
use rusqlite::Connection;

use super::*;

/// A database in memory, of as many pages as it says.
struct Memory {
    size: PageSize,
    bytes: Vec<u8>,
    claimed: Option<u32>,
}

impl ReadPages for Memory {
    fn page_size(&self) -> PageSize {
        self.size
    }

    fn pages(&self) -> u32 {
        self.claimed.unwrap_or((self.bytes.len() / self.size.bytes()) as u32)
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        let at = self.size.offset(pgno) as usize;
        self.bytes.get(at..at + page.len()).is_some_and(|bytes| {
            page.copy_from_slice(bytes);
            true
        })
    }
}

/// A database with rows of all types and lengths, made by `more` first.
fn database(size: u32, more: &str, rows: u32) -> (Memory, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size={size}; {more};
         CREATE TABLE t(k INTEGER PRIMARY KEY, i, r REAL, x TEXT, b BLOB);
         CREATE TABLE w(k TEXT, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID;
         CREATE INDEX t_x ON t(x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i * 7 - {rows}, CASE i % 3 WHEN 0 THEN i << (i % 60) WHEN 1 THEN -i << (i % 60) END,
           CASE i % 2 WHEN 0 THEN i ELSE i + 0.5 END, 'täxt' || i || hex(zeroblob((i * 37) % ({size} * 3 / 2))),
           CASE i % 11 WHEN 0 THEN randomblob(i * 97 % ({size} * 4)) WHEN 5 THEN NULL ELSE zeroblob(i % 7) END FROM n;
         INSERT INTO w SELECT x, k, b FROM t;
         DELETE FROM t WHERE k % 4 = 0; DELETE FROM w WHERE n % 5 = 0;"
    ))
    .unwrap();
    drop(db);
    let bytes =
        Memory { size: PageSize::new(size).unwrap(), bytes: std::fs::read(path).unwrap(), claimed: None };
    (bytes, dir)
}

/// All rows of a tree: rowid and values.
fn rows(pages: &mut dyn ReadPages, header: Header, root: Pgno) -> Result<Vec<(i64, Vec<Value>)>, BTreeError> {
    let mut found = Vec::new();
    let mut rows = Rows::new(pages, header, root)?;
    while let Some(cell) = rows.next(pages, |_| false)? {
        let payload = cell.payload.read(pages, &header)?;
        let damaged = || BTreeError::damaged(root, "a record");
        let mut record = Record::new(&payload).ok_or_else(damaged)?;
        let mut values = Vec::new();
        while let Some(field) = record.next_field().ok_or_else(damaged)? {
            values.push(field.to_value(header.encoding));
        }
        found.push((cell.rowid, values));
    }
    Ok(found)
}

/// The roots of all trees, by name, the schema's too.
fn roots(pages: &mut dyn ReadPages, header: Header) -> Result<BTreeMap<String, Pgno>, BTreeError> {
    let mut roots = BTreeMap::from([("sqlite_schema".to_owned(), Pgno::ONE)]);
    for (_, values) in rows(pages, header, Pgno::ONE)? {
        if let [_, Value::Text(name), _, Value::Integer(root), ..] = &values[..]
            && let Some(root) = u32::try_from(*root).ok().and_then(Pgno::new)
        {
            roots.insert(String::from_utf8_lossy(name).into_owned(), root);
        }
    }
    Ok(roots)
}

fn by_sql(dir: &tempfile::TempDir, sql: &str) -> Vec<Vec<Value>> {
    let db = Connection::open(dir.path().join("a.db")).unwrap();
    let mut select = db.prepare(sql).unwrap();
    let columns = select.column_count();
    let rows = select.query_map([], |row| (0..columns).map(|i| row.get(i)).collect());
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

fn assert_all_is_read(size: u32, more: &str) {
    let (mut pages, dir) = database(size, more, 600);
    let header = Header::read(&mut pages).unwrap().unwrap();
    let roots = roots(&mut pages, header).unwrap();
    assert_eq!(roots.len(), 4, "{roots:?}");
    assert!(size > 4096 || height(&mut pages, &header, roots["t"]).unwrap() > 0);
    let t: Vec<_> = rows(&mut pages, header, roots["t"])
        .unwrap()
        .into_iter()
        .map(|(rowid, mut values)| {
            // The alias of the rowid is stored as NULL, and integers in a column of reals are stored as such.
            assert_eq!(values[0], Value::Null);
            values[0] = Value::Integer(rowid);
            if let Value::Integer(n) = values[2] {
                values[2] = Value::Real(n as f64);
            }
            values
        })
        .collect();
    assert!(t == by_sql(&dir, "SELECT * FROM t ORDER BY k"), "{size} {more}");
    let w: Vec<_> = rows(&mut pages, header, roots["w"]).unwrap().into_iter().map(|row| row.1).collect();
    assert!(w == by_sql(&dir, "SELECT * FROM w ORDER BY k, n"), "{size} {more}");
    let x: Vec<_> = rows(&mut pages, header, roots["t_x"]).unwrap().into_iter().map(|row| row.1).collect();
    assert!(x == by_sql(&dir, "SELECT x, k FROM t ORDER BY x, k"), "{size} {more}");
}

#[test]
fn trees_of_every_page_size_are_read_as_sqlite_reads_them() {
    for log2 in 9..=16 {
        assert_all_is_read(1 << log2, "");
    }
}

#[test]
fn text_in_utf_16_and_databases_with_pointer_maps_are_read() {
    assert_all_is_read(1024, "PRAGMA encoding='UTF-16le'");
    assert_all_is_read(1024, "PRAGMA encoding='UTF-16be'");
    assert_all_is_read(512, "PRAGMA auto_vacuum=FULL");
}

#[test]
fn reserved_bytes_belong_to_no_cell() {
    // SQLite reserves them when the source of a VACUUM does.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let db = Connection::open(&path).unwrap();
    let reserve = |bytes: i32| {
        let mut bytes = bytes;
        // SAFETY: the connection is open, and this file control takes a pointer to an int.
        #[allow(unsafe_code, reason = "there is no pragma for it")]
        let code = unsafe {
            rusqlite::ffi::sqlite3_file_control(
                db.handle(),
                c"main".as_ptr(),
                rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES,
                (&raw mut bytes).cast(),
            )
        };
        assert_eq!(code, 0);
    };
    reserve(24);
    db.execute_batch(
        "PRAGMA page_size=512; CREATE TABLE t(k INTEGER PRIMARY KEY, b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO t SELECT i, randomblob(i * 5) FROM n;",
    )
    .unwrap();
    drop(db);
    let size = PageSize::new(512).unwrap();
    let mut pages = Memory { size, bytes: std::fs::read(path).unwrap(), claimed: None };
    let header = Header::read(&mut pages).unwrap().unwrap();
    assert_eq!(header.usable, 488);
    let root = roots(&mut pages, header).unwrap()["t"];
    let blobs = rows(&mut pages, header, root)
        .unwrap()
        .into_iter()
        .map(|(k, mut v)| vec![Value::Integer(k), v.remove(1)]);
    assert!(blobs.eq(by_sql(&dir, "SELECT * FROM t")));
}

#[test]
fn what_is_skipped_is_not_read() {
    let (mut pages, _dir) = database(512, "", 600);
    let header = Header::read(&mut pages).unwrap().unwrap();
    let root = roots(&mut pages, header).unwrap()["t"];
    let all = rows(&mut pages, header, root).unwrap().len();
    // The first child is damaged beyond recognition.
    let first = Node::read(&mut pages, &header, Pgno::ONE, root).unwrap().child(0).unwrap();
    let at = pages.size.offset(first) as usize;
    pages.bytes[at..at + 512].fill(0xee);
    assert!(rows(&mut pages, header, root).is_err());
    let mut some = 0;
    let mut walk = Rows::new(&mut pages, header, root).unwrap();
    while walk.next(&mut pages, |pgno| pgno == first).unwrap().is_some() {
        some += 1;
    }
    assert!(some > 0 && some < all);
}

#[test]
fn the_page_of_the_lock_byte_is_no_part_of_a_tree() {
    let (mut pages, _dir) = database(4096, "", 600);
    pages.claimed = Some(300_000);
    let header = Header::read(&mut pages).unwrap().unwrap();
    let root = roots(&mut pages, header).unwrap()["t"];
    let at = pages.size.offset(root) as usize;
    pages.bytes[at + 8..at + 12].copy_from_slice(&PageSize::DEFAULT.lock_page().get().to_be_bytes());
    let error = rows(&mut pages, header, root).unwrap_err();
    assert_eq!(error, BTreeError::damaged(root, "it points to the page of the lock byte"));
    // Any other page that is not there cannot be read.
    pages.bytes[at + 8..at + 12].copy_from_slice(&290_000_u32.to_be_bytes());
    let error = rows(&mut pages, header, root).unwrap_err();
    assert_eq!(error, BTreeError::Unreadable(Pgno::new(290_000).unwrap()));
}

#[test]
fn a_tree_that_contains_itself_ends() {
    let (mut pages, _dir) = database(512, "", 600);
    let header = Header::read(&mut pages).unwrap().unwrap();
    let root = roots(&mut pages, header).unwrap()["t"];
    let at = pages.size.offset(root) as usize;
    // All children are the page above them.
    let cells = usize::from(u16_at(&pages.bytes, at + 3).unwrap());
    pages.bytes[at + 8..at + 12].copy_from_slice(&root.get().to_be_bytes());
    for i in 0..cells {
        let cell = usize::from(u16_at(&pages.bytes, at + 12 + 2 * i).unwrap());
        pages.bytes[at + cell..at + cell + 4].copy_from_slice(&root.get().to_be_bytes());
    }
    // Before it holds more than a few pages.
    let error = rows(&mut pages, header, root).unwrap_err();
    assert_eq!(error, BTreeError::damaged(root, "the tree above it is too deep"));
    assert!(height(&mut pages, &header, root).is_err());
}

#[test]
fn a_cell_that_says_it_is_huge_makes_nobody_allocate_that() {
    let (mut pages, _dir) = database(4096, "", 3);
    let payload =
        Payload { length: i64::MAX as u64, local: vec![0; 100], overflow: Some(Pgno::ONE), pgno: Pgno::ONE };
    let header = Header::read(&mut pages).unwrap().unwrap();
    let error = payload.read(&mut pages, &header).unwrap_err();
    assert_eq!(error, BTreeError::damaged(Pgno::ONE, "a cell is longer than the database"));
}

#[test]
fn free_pages_are_those_that_sqlite_counts() {
    let (mut pages, dir) = database(512, "", 3000);
    let header = Header::read(&mut pages).unwrap().unwrap();
    let mut used: std::collections::BTreeSet<_> = Pgno::up_to(pages.pages()).collect();
    free_pages(&mut pages, &header, &mut used).unwrap();
    let free = i64::from(pages.pages()) - used.len() as i64;
    assert_eq!(by_sql(&dir, "PRAGMA freelist_count"), [[Value::Integer(free)]]);
    assert!(free > 130, "more than one trunk: {free}");
}

/// More of them: `AQUIFER_BTREE_CASES`.
fn cases() -> u32 {
    std::env::var("AQUIFER_BTREE_CASES").ok().map_or(60, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn damaged_pages_are_errors_and_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        in_headers in any::<bool>(),
    ) {
        static DATABASE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| database(512, "", 200).0.bytes);
        let mut pages = Memory { size: PageSize::MIN, bytes: DATABASE.clone(), claimed: None };
        let whole = Header::read(&mut pages).unwrap().unwrap();
        let roots = roots(&mut pages, whole).unwrap();
        for (at, bits) in flips {
            // Most of a page is text and blobs: what is before them matters more.
            let at = if in_headers { at.index(DATABASE.len() / 512) * 512 + usize::from(bits) % 40 } else { at.index(DATABASE.len()) };
            pages.bytes[at] ^= bits;
        }
        if let Ok(Some(header)) = Header::read(&mut pages) {
            for root in roots.into_values() {
                let _ = rows(&mut pages, header, root);
                let _ = height(&mut pages, &header, root);
            }
            let mut used = Pgno::up_to(pages.pages()).collect();
            let _ = free_pages(&mut pages, &header, &mut used);
        }
    }
}
