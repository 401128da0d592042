//! `aquifer admin`: what administrators ask of a running server.

mod client;

use std::io::{self, Write};
use std::path::PathBuf;

use aquifer_log::DatabaseName;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::confirm::confirm;
use crate::error::CliError;
use crate::exit::Exit;
use crate::moment::Moment;
use crate::output::{Report, write_fields};
use crate::session::Session;
use crate::units::Length;
use client::Client;

/// Administer a running server: create, delete, freeze, set back, fork, import
///
/// The token is taken from the file named, else from AQUIFER_TOKEN: one of an administrator.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// The server
    #[arg(
        long,
        global = true,
        env = "AQUIFER_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,

    /// File whose first line is the token
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the databases, one name per line
    List,
    /// Tell all that is known of a database
    Stats { name: DatabaseName },
    /// Make an empty database
    Create { name: DatabaseName },
    /// Make a database of an SQLite file that nobody writes to
    Import {
        file: PathBuf,
        name: DatabaseName,
        /// Take pages of other sizes than 4096 bytes, too, which sync clients cannot use
        #[arg(long)]
        any_page_size: bool,
    },
    /// Delete a database; it can be had back for a time
    Delete {
        name: DatabaseName,
        /// For how long; 0s: gone at once
        #[arg(long, value_name = "LENGTH", default_value = "7d")]
        grace: Length,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Take a deletion back
    Undelete { name: DatabaseName },
    /// Refuse writes from now on, on every server of the store
    Freeze { name: DatabaseName },
    /// Take writes again
    Unfreeze { name: DatabaseName },
    /// Make a snapshot in the store
    Snapshot {
        name: DatabaseName,
        #[command(flatten)]
        moment: Moment,
    },
    /// Set a database back to a moment, for all its clients
    Restore {
        name: DatabaseName,
        #[command(flatten)]
        moment: Moment,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Make a new database of what one is, or was, without copying it
    Fork {
        name: DatabaseName,
        /// The new one's name
        to: DatabaseName,
        #[command(flatten)]
        moment: Moment,
    },
}

/// What is said of a moment in a request.
fn body(moment: &Moment) -> Result<Map<String, Value>, CliError> {
    let said = [
        ("timestamp", moment.timestamp.map(|moment| json!(moment))),
        ("txid", moment.txid.map(|txid| json!(txid.get()))),
        ("generation", moment.generation()?.map(|id| json!(id))),
    ];
    Ok(said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

impl Admin {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let client = Client::new(&self.server, self.token_file.as_deref())?;
        if let Verb::List = self.verb {
            return list(&client, session).await;
        }
        let told = match &self.verb {
            Verb::List => unreachable!("done above"),
            Verb::Stats { name } => client.get(name).await?,
            Verb::Create { name } => client.put(name).await?,
            Verb::Import { file, name, any_page_size } => client.import(name, file, *any_page_size).await?,
            Verb::Delete { name, grace, yes } => {
                confirm("delete", &format!("'{name}' on {}", self.server), *yes).await?;
                client.delete(name, grace.0).await?
            }
            Verb::Undelete { name } => client.post(name, "undelete", Map::new()).await?,
            Verb::Freeze { name } => client.post(name, "freeze", Map::new()).await?,
            Verb::Unfreeze { name } => client.post(name, "unfreeze", Map::new()).await?,
            Verb::Snapshot { name, moment } => client.post(name, "snapshot", body(moment)?).await?,
            Verb::Restore { name, moment, yes } => {
                confirm("set back", &format!("'{name}' on {}", self.server), *yes).await?;
                client.post(name, "restore", body(moment)?).await?
            }
            Verb::Fork { name, to, moment } => {
                let mut body = body(moment)?;
                body.insert("to".to_owned(), json!(to));
                client.post(name, "fork", body).await?
            }
        };
        session.output.print(&Answer(told))?;
        Ok(Exit::Ok)
    }
}

async fn list(client: &Client, session: &Session) -> Result<Exit, CliError> {
    let mut databases = Vec::new();
    let mut after = None;
    loop {
        let page = client.page(after.as_deref()).await?;
        databases.extend(page["databases"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    session.output.print(&List { databases })?;
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct List {
    databases: Vec<Value>,
}

impl Report for List {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        for database in &self.databases {
            let deleted = if database["deleted"] == true { " (deleted)" } else { "" };
            writeln!(out, "{}{deleted}", database["name"].as_str().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// What the server said.
#[derive(Debug, Serialize)]
struct Answer(Value);

impl Report for Answer {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut fields = Vec::new();
        flatten(String::new(), &self.0, &mut fields);
        let fields: Vec<(&str, String)> =
            fields.iter().map(|(name, value)| (&**name, value.clone())).collect();
        write_fields(out, &fields)
    }
}

/// `{"revision": {"txid": 1}}` as `revision txid` and `1`.
fn flatten(name: String, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(of) => {
            for (key, value) in of {
                let key = key.replace('_', " ");
                flatten(if name.is_empty() { key } else { format!("{name} {key}") }, value, fields);
            }
        }
        Value::Null => {}
        Value::Array(of) if of.is_empty() => {}
        Value::Array(of) => {
            for (number, value) in of.iter().enumerate() {
                flatten(format!("{name} {}", number + 1), value, fields);
            }
        }
        Value::String(text) => fields.push((name, text.clone())),
        other => fields.push((name, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_line_by_line() {
        let answer =
            json!({"name": "shop", "open": null, "revision": {"txid": 7}, "clients": [{"change_id": 1}]});
        let mut text = Vec::new();
        Answer(answer).human(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("revision txid:") && text.contains(" 7\n"), "{text}");
        assert!(text.contains("clients 1 change id:") && !text.contains("open"), "{text}");
    }
}
