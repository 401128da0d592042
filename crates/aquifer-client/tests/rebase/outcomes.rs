//! The table of outcomes in docs/sync.md: its lines are what happens here.

use crate::stage::Stage;

/// What both sides have before.
const BASE: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body); INSERT INTO notes VALUES(1, 'a', 'b');
    CREATE TABLE log(line);
    CREATE TABLE users(name TEXT PRIMARY KEY, mail UNIQUE, age INT NOT NULL CHECK(age < 200));
    INSERT INTO users VALUES('ann', 'a@', 30);
    CREATE TABLE folders(id INTEGER PRIMARY KEY); INSERT INTO folders VALUES(1);
    CREATE TABLE files(id INTEGER PRIMARY KEY, folder REFERENCES folders(id)); INSERT INTO files VALUES(10, NULL);";

const NOTES: &str = "SELECT * FROM notes";
const USERS: &str = "SELECT * FROM users ORDER BY name";
const FILES: &str = "SELECT 'folder', id FROM folders UNION ALL SELECT 'file', * FROM (SELECT id || ' in ' || coalesce(folder, 'none') FROM files)";

/// What is done here, what is done on the server, what is asked then, what comes out, and what is recorded.
const CASES: &[[&str; 5]] = &[
    // Insert and insert.
    [
        "INSERT INTO notes VALUES(2, 'new', 'x')",
        "INSERT INTO notes VALUES(2, 'new', 'x')",
        NOTES,
        "1 a b, 2 new x",
        "",
    ],
    [
        "INSERT INTO notes VALUES(2, 'ours', NULL)",
        "INSERT INTO notes VALUES(2, 'theirs', 'x')",
        NOTES,
        "1 a b, 2 ours NULL",
        "insert-insert: ours",
    ],
    [
        "INSERT INTO log VALUES('ours')",
        "INSERT INTO log VALUES('theirs')",
        "SELECT * FROM log",
        "theirs, ours",
        "",
    ],
    [
        "INSERT INTO users VALUES('bob', 'ours@', 1)",
        "INSERT INTO users VALUES('bob', 'theirs@', 2)",
        USERS,
        "ann a@ 30, bob ours@ 1",
        "insert-insert: ours",
    ],
    // Update and update.
    ["UPDATE notes SET title = 'ours'", "UPDATE notes SET body = 'theirs'", NOTES, "1 ours theirs", ""],
    [
        "UPDATE notes SET title = 'ours'",
        "UPDATE notes SET title = 'theirs', body = 'theirs'",
        NOTES,
        "1 ours theirs",
        "update-update: ours",
    ],
    ["UPDATE notes SET title = 'same'", "UPDATE notes SET title = 'same'", NOTES, "1 same b", ""],
    // Update and delete.
    ["UPDATE notes SET title = 'ours'", "DELETE FROM notes", NOTES, "1 ours b", "update-delete: ours"],
    ["DELETE FROM notes", "UPDATE notes SET title = 'theirs'", NOTES, "", "delete-update: ours"],
    ["DELETE FROM notes", "DELETE FROM notes", NOTES, "", ""],
    [
        "DELETE FROM notes; INSERT INTO notes VALUES(1, 'ours', 'x')",
        "UPDATE notes SET body = 'theirs'",
        NOTES,
        "1 ours x",
        "update-update: ours",
    ],
    // Unique values of other rows.
    [
        "INSERT INTO users VALUES('bob', 'b@', 1)",
        "INSERT INTO users VALUES('eve', 'b@', 2)",
        USERS,
        "ann a@ 30, eve b@ 2",
        "unique: theirs",
    ],
    [
        "UPDATE users SET mail = 'b@', age = 31",
        "INSERT INTO users VALUES('eve', 'b@', 2)",
        USERS,
        "ann a@ 30, eve b@ 2",
        "unique: theirs",
    ],
    [
        "INSERT INTO users VALUES('bob', 'b@', 1)",
        "UPDATE users SET mail = 'b@'",
        USERS,
        "ann b@ 30",
        "unique: theirs",
    ],
    // Foreign keys.
    [
        "INSERT INTO files VALUES(11, 1)",
        "DELETE FROM folders",
        FILES,
        "file 10 in none",
        "missing-parent: theirs",
    ],
    [
        "UPDATE files SET folder = 1",
        "DELETE FROM folders",
        FILES,
        "file 10 in none",
        "missing-parent: theirs",
    ],
    [
        "DELETE FROM folders",
        "INSERT INTO files VALUES(11, 1)",
        FILES,
        "folder 1, file 10 in none, file 11 in 1",
        "needed-parent: theirs",
    ],
    // What the table demands.
    [
        "INSERT INTO users VALUES('bob', 'b@', 100)",
        "DROP TABLE users; CREATE TABLE users(name TEXT PRIMARY KEY, mail, age CHECK(age < 50))",
        USERS,
        "",
        "constraint: theirs",
    ],
    // The schema against rows.
    ["UPDATE notes SET title = 'ours'", "DROP TABLE notes", "SELECT 1 WHERE 0", "", "table-gone: theirs"],
    [
        "UPDATE notes SET title = 'ours', body = 'ours'",
        "ALTER TABLE notes DROP COLUMN body",
        NOTES,
        "1 ours",
        "column-gone: theirs",
    ],
    [
        "INSERT INTO notes VALUES(2, 'ours', 'x')",
        "ALTER TABLE notes ADD COLUMN stars DEFAULT 3",
        NOTES,
        "1 a b 3, 2 ours x 3",
        "",
    ],
    [
        "UPDATE notes SET title = 'ours'",
        "ALTER TABLE notes RENAME COLUMN title TO name; ALTER TABLE notes RENAME TO texts",
        "SELECT id, name, body FROM texts",
        "1 ours b",
        "",
    ],
    // The schema on both sides.
    [
        "ALTER TABLE notes ADD COLUMN stars; UPDATE notes SET stars = 4",
        "ALTER TABLE notes ADD COLUMN stars; INSERT INTO notes VALUES(2, 'theirs', 'x', 5)",
        NOTES,
        "1 a b 4, 2 theirs x 5",
        "",
    ],
    [
        "ALTER TABLE notes ADD COLUMN ours DEFAULT 1",
        "ALTER TABLE notes ADD COLUMN theirs DEFAULT 2",
        "SELECT id, title, body, ours, theirs FROM notes",
        "1 a b 1 2",
        "",
    ],
    [
        "ALTER TABLE notes ADD COLUMN stars INT DEFAULT 1; UPDATE notes SET stars = 4",
        "ALTER TABLE notes ADD COLUMN stars TEXT DEFAULT 'none'",
        NOTES,
        "1 a b 4",
        "schema: theirs, update-update: ours",
    ],
    [
        "CREATE TABLE new(id INTEGER PRIMARY KEY, a); INSERT INTO new VALUES(1, 'ours')",
        "CREATE TABLE new(id INTEGER PRIMARY KEY, a); INSERT INTO new VALUES(2, 'theirs')",
        "SELECT * FROM new",
        "1 ours, 2 theirs",
        "",
    ],
    [
        "CREATE TABLE new(id INTEGER PRIMARY KEY, a); INSERT INTO new VALUES(1, 'ours')",
        "CREATE TABLE new(id INTEGER PRIMARY KEY, a, b DEFAULT 0); INSERT INTO new VALUES(2, 'theirs', 1)",
        "SELECT * FROM new",
        "1 ours 0, 2 theirs 1",
        "schema: theirs",
    ],
    ["DROP TABLE notes", "ALTER TABLE notes ADD COLUMN stars", NOTES, "1 a b NULL", "schema: theirs"],
    [
        "CREATE UNIQUE INDEX titles ON notes(title)",
        "INSERT INTO notes VALUES(2, 'a', 'x')",
        NOTES,
        "1 a b, 2 a x",
        "schema: theirs",
    ],
    ["PRAGMA user_version = 2", "PRAGMA user_version = 3", "PRAGMA user_version", "3", "setting: theirs"],
];

#[test]
fn the_outcomes_of_conflicts_are_those_in_the_documentation() {
    let documented = include_str!("../../../../docs/sync.md");
    let mut missing = String::new();
    for [ours, theirs, sql, result, recorded] in CASES {
        let stage = Stage::new(BASE, ours, theirs);
        let rebased = stage.rebase();
        let found = (rebased.asked(sql), rebased.recorded());
        assert_eq!(
            found,
            ((*result).to_owned(), (*recorded).to_owned()),
            "{ours} / {theirs}: {:?}",
            rebased.messages()
        );
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let line = format!("| {} | {} | {} | {} |\n", code(ours), code(theirs), code(result), code(recorded));
        if !documented.contains(&line) {
            missing += &line;
        }
    }
    assert!(missing.is_empty(), "docs/sync.md lacks:\n{missing}");
}

/// Whoever pushes first: where rows and their columns have one owner each, both ways lead to the same.
#[test]
fn what_is_no_conflict_comes_to_the_same_whoever_is_first() {
    for [ours, theirs, sql, result, recorded] in CASES {
        if recorded.is_empty() {
            let rebased = Stage::new(BASE, theirs, ours).rebase();
            assert_eq!(rebased.recorded(), "", "{theirs} / {ours}");
            let sorted = |text: &str| {
                let mut rows: Vec<_> = text.split(", ").map(str::to_owned).collect();
                rows.sort();
                rows
            };
            assert_eq!(sorted(&rebased.asked(sql)), sorted(result), "{theirs} / {ours}");
        }
    }
}
