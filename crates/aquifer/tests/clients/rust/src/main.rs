//! What the test of the unmodified clients runs: `clients SCRIPT CLIENT SCENARIO`.

mod converge;
mod copy;
mod offline;
mod rows;
mod sql;
mod stage;
mod sync;

use stage::Done;

/// Runs the scenario of this name, one of these.
macro_rules! scenario {
    ($name:expr, $($scenario:ident)+) => {
        match $name {
            $(stringify!($scenario) => $scenario().await,)+
            other => Err(format!("there is no scenario {other}").into()),
        }
    };
}
pub(crate) use scenario;

#[tokio::main]
async fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [script, client, scenario] = &arguments[..] else {
        return Err("usage: clients SCRIPT CLIENT SCENARIO".into());
    };
    match script.as_str() {
        "sql" => sql::run(scenario).await,
        "sync" => sync::run(scenario).await,
        "offline" => offline::run(scenario).await,
        "converge" => converge::run(client.parse()?, scenario).await,
        other => Err(format!("there is no script {other}").into()),
    }?;
    // Clients hold threads that would keep the process alive.
    std::process::exit(0)
}
