//! SQL over HTTP, as clients send it. The statements have nothing in them that JSON would escape.

use std::io;

use super::client::Client;

/// Where a database takes SQL.
pub(super) fn path(database: &str) -> String {
    format!("/db/{database}/v2/pipeline")
}

/// Runs one statement, and fails if it does.
pub(super) fn execute(client: &mut Client, path: &str, statement: &str) -> io::Result<()> {
    request(client, path, &format!(r#"{{"type":"execute","stmt":{{"sql":"{statement}"}}}}"#))
}

/// Runs several statements, each a transaction of its own.
pub(super) fn sequence(client: &mut Client, path: &str, statements: &str) -> io::Result<()> {
    request(client, path, &format!(r#"{{"type":"sequence","sql":"{statements}"}}"#))
}

fn request(client: &mut Client, path: &str, request: &str) -> io::Result<()> {
    let body = format!(r#"{{"baton":null,"requests":[{request},{{"type":"close"}}]}}"#);
    let answer = client.post(path, body.as_bytes())?;
    let answer = String::from_utf8_lossy(&answer);
    if answer.contains(r#""type":"error""#) { Err(io::Error::other(answer.into_owned())) } else { Ok(()) }
}
