//! The application process itself: commands in, acknowledgements out.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};

use super::options::AppOptions;
use super::schema::open;
use super::transaction::commit_next;
use crate::workload::Rng;

/// Runs the application until `quit` or the end of stdin. The protocol is the [module](super)'s.
pub fn serve(path: &Path, options: &AppOptions) -> Result<(), Box<dyn std::error::Error>> {
    let commands = commands();
    let mut db = Some(open(path, options)?);
    let mut rng = Rng::new(options.seed);
    let last: i64 = connection(db.as_ref())?.query_row("SELECT last FROM state", [], |row| row.get(0))?;
    say(&format!("ready {last}"));
    let mut pending = None;
    while let Some(command) = pending.take().or_else(|| commands.recv().ok()) {
        let (word, rest) = command.split_once(' ').unwrap_or((&command, ""));
        let mut answer = "ok".to_owned();
        match word {
            "commit" => {
                for _ in 0..rest.parse::<u64>()? {
                    acknowledge(connection(db.as_ref())?, &mut rng, options)?;
                }
            }
            "run" => {
                pending = loop {
                    match commands.try_recv() {
                        Ok(next) => break Some(next),
                        Err(mpsc::TryRecvError::Disconnected) => break None,
                        Err(mpsc::TryRecvError::Empty) => {
                            acknowledge(connection(db.as_ref())?, &mut rng, options)?;
                        }
                    }
                };
            }
            "sql" => match first_row(connection(db.as_ref())?, rest) {
                Ok(row) if row.is_empty() => {}
                Ok(row) => answer = format!("ok {row}"),
                Err(error) => answer = format!("error {error}"),
            },
            "close" | "quit" => {
                if let Some(db) = db.take() {
                    db.close().map_err(|(_, error)| error)?;
                }
            }
            "open" => db = Some(open(path, options)?),
            _ => answer = format!("error no such command: {command}"),
        }
        say(&answer);
        if word == "quit" {
            return Ok(());
        }
    }
    // As when a process is killed: the operating system closes the files, SQLite does nothing.
    std::process::exit(0);
}

fn connection(db: Option<&Connection>) -> Result<&Connection, &'static str> {
    db.ok_or("the database is closed")
}

fn acknowledge(
    db: &Connection,
    rng: &mut Rng,
    options: &AppOptions,
) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        match commit_next(db, rng, options.mix) {
            Ok(n) => {
                say(&format!("committed {n}"));
                return Ok(());
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => say("busy"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The values of the first row, tab-separated; the statement is run to its end.
fn first_row(db: &Connection, sql: &str) -> rusqlite::Result<String> {
    let mut statement = db.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut first = None;
    while let Some(row) = rows.next()? {
        if first.is_none() {
            let values: Vec<String> = (0..columns)
                .map(|column| {
                    Ok(match row.get_ref(column)? {
                        ValueRef::Null => String::new(),
                        ValueRef::Integer(value) => value.to_string(),
                        ValueRef::Real(value) => value.to_string(),
                        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                        ValueRef::Blob(blob) => format!("{} bytes", blob.len()),
                    })
                })
                .collect::<rusqlite::Result<_>>()?;
            first = Some(values.join("\t"));
        }
    }
    Ok(first.unwrap_or_default())
}

/// The lines of stdin. The channel closes at its end.
fn commands() -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// A line on stdout, at once; whoever reads it may be gone already.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
