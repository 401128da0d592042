//! Scripts of SQL through the server and through stock SQLite: the same values, types, columns, counts and errors.
//!
//! The scripts are written as sqllogictest's: records with an empty line between them, each `statement ok`,
//! `statement error` or `query` and then SQL. What they must answer is what SQLite answers.
use std::path::Path;

use aquifer_server::hrana::Settings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use super::world::{World, world};

/// What a statement came to.
#[derive(Debug, PartialEq)]
enum Came {
    To { cols: Value, rows: Value, affected: u64, rowid: Option<i64>, open: bool },
    Error(String),
}

struct Server<'a> {
    world: &'a World,
    baton: Option<String>,
}

impl Server<'_> {
    fn run(&mut self, sql: &str) -> Came {
        let requests = json!([{"type": "execute", "stmt": {"sql": sql}}, {"type": "get_autocommit"}]);
        let answer = self.world.pipeline(self.baton.as_deref(), &requests);
        self.baton = answer["baton"].as_str().map(str::to_owned);
        let [ran, autocommit] = [&answer["results"][0], &answer["results"][1]];
        if ran["type"] == "error" {
            return Came::Error(ran["error"]["message"].as_str().unwrap().to_owned());
        }
        let result = &ran["response"]["result"];
        Came::To {
            cols: result["cols"].clone(),
            rows: result["rows"].clone(),
            affected: result["affected_row_count"].as_u64().unwrap(),
            rowid: result["last_insert_rowid"].as_str().map(|rowid| rowid.parse().unwrap()),
            open: autocommit["response"]["is_autocommit"] == false,
        }
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => json!({"type": "null"}),
        ValueRef::Integer(integer) => json!({"type": "integer", "value": integer.to_string()}),
        ValueRef::Real(real) => json!({"type": "float", "value": real}),
        ValueRef::Text(text) => json!({"type": "text", "value": std::str::from_utf8(text).unwrap()}),
        ValueRef::Blob(blob) => json!({"type": "blob", "base64": STANDARD_NO_PAD.encode(blob)}),
    }
}

fn stock(connection: &Connection, sql: &str) -> Came {
    let before = connection.total_changes();
    let run = || -> rusqlite::Result<(Value, Value, bool)> {
        let mut statement = connection.prepare(sql)?;
        let cols: Vec<Value> = statement
            .columns()
            .map(|column| json!({"name": column.name(), "decltype": column.decl_type()}))
            .collect();
        let (mut all, count) = (Vec::new(), cols.len());
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            all.push((0..count).map(|i| row.get_ref(i).map(value)).collect::<rusqlite::Result<Vec<_>>>()?);
        }
        drop(rows);
        Ok((json!(cols), json!(all), statement.readonly()))
    };
    match run() {
        Ok((cols, rows, readonly)) => Came::To {
            cols,
            rows,
            affected: if connection.total_changes() == before { 0 } else { connection.changes() },
            rowid: (!readonly).then(|| connection.last_insert_rowid()),
            open: !connection.is_autocommit(),
        },
        Err(
            rusqlite::Error::SqliteFailure(_, Some(message))
            | rusqlite::Error::SqlInputError { msg: message, .. },
        ) => Came::Error(message),
        Err(error) => Came::Error(error.to_string()),
    }
}

/// Runs a script through both; answers how many records it has.
fn conforms(script: &Path) -> usize {
    let world = world(Settings::default());
    world.execute("DROP TABLE t");
    let (mut server, connection) =
        (Server { world: &world, baton: None }, Connection::open_in_memory().unwrap());
    let text = std::fs::read_to_string(script).unwrap();
    let records: Vec<&str> = text.split("\n\n").map(str::trim).filter(|record| !record.is_empty()).collect();
    for record in &records {
        let lines: Vec<&str> = record.lines().filter(|line| !line.starts_with('#')).collect();
        let Some((kind, sql)) = lines.split_first() else { continue };
        let sql = sql.join("\n");
        let (ours, theirs) = (server.run(&sql), stock(&connection, &sql));
        assert_eq!(ours, theirs, "{}: {sql}", script.display());
        match (*kind, &theirs) {
            ("statement ok", Came::To { .. }) | ("statement error", Came::Error(_)) => {}
            ("query", Came::To { rows, .. }) if rows.as_array().is_some_and(|rows| !rows.is_empty()) => {}
            _ => panic!("{}: not what the script says, {kind}: {sql}\n{theirs:?}", script.display()),
        }
    }
    records.len()
}

macro_rules! scripts {
    ($($name:ident)+) => { $(
        #[test]
        fn $name() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hrana/conformance");
            assert!(conforms(&folder.join(concat!(stringify!($name), ".slt"))) > 5);
        }
    )+ };
}

scripts! { values queries changes schema transactions functions }
