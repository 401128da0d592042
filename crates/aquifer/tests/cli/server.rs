//! A running `serve`, as tests see it.

use serde_json::{Value, json};

use crate::daemon::{Daemon, eventually, request};
use crate::world::World;

/// A running server, killed when dropped.
pub(crate) struct Server {
    pub(crate) daemon: Daemon,
    pub(crate) address: String,
}

impl Server {
    /// On a free port, with the world's store.
    pub(crate) fn start(world: &World, data_dir: &str, more: &[&str]) -> Server {
        let args = ["serve", "--listen", "127.0.0.1:0", "--store", "store", "--data-dir", data_dir];
        let args = ["--log-format", "json"].iter().chain(&args).chain(more).copied().collect::<Vec<_>>();
        let mut daemon = Daemon::start(world, &args);
        let address = daemon.address_in_log("serving databases");
        Server { daemon, address }
    }

    pub(crate) fn execute(&self, database: &str, sql: &str) -> Value {
        execute(&self.address, database, sql)
    }

    /// The rows of a statement on the database `shop`, which must succeed.
    pub(crate) fn rows(&self, sql: &str) -> Value {
        let mut answer = Value::Null;
        eventually("served", || {
            answer = self.execute("shop", sql);
            // As clients do: the server that has the database is gone, and is waited for.
            answer["error"].is_null()
        });
        assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
        answer["results"][0]["response"]["result"]["rows"].clone()
    }
}

/// What a statement answers, or why it does not.
pub(crate) fn execute(address: &str, database: &str, sql: &str) -> Value {
    let body = json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]});
    let path = format!("/db/{database}/v2/pipeline");
    let answer = request(address, "POST", &path, &body.to_string());
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
}
