//! What every scenario has from the test that runs it: the server's URL, its token, and answers to what it asks for.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;

/// How a scenario ends.
pub(crate) type Done<T = ()> = Result<T, Box<dyn Error>>;

pub(crate) const WRONG_TOKEN: &str = "a-wrong-token";

/// The URL of the database.
pub(crate) fn database() -> String {
    format!("{}/db/shop", variable("AQUIFER_URL"))
}

/// What the server lets in.
pub(crate) fn token() -> String {
    variable("AQUIFER_TOKEN")
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: the test of the clients runs this program"))
}

/// Asks the test to do something with the server or its network, and waits until it is done.
pub(crate) fn ask(what: &str) -> Done {
    println!("{what}");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer == "done\n" { Ok(()) } else { Err(format!("the test did not {what}: {answer}").into()) }
}

/// The server is killed, and another one is started on an empty disk.
pub(crate) fn restart() -> Done {
    ask("restart")
}

/// Checks that this failed with an error in which one of these is.
#[track_caller]
pub(crate) fn fails<T, E: Display>(result: Result<T, E>, what: &[&str]) {
    match result {
        Ok(_) => panic!("it did not fail with: {what:?}"),
        Err(error) => {
            let told = error.to_string();
            assert!(what.iter().any(|what| told.contains(what)), "{what:?} is not in: {told}");
        }
    }
}
