//! Asking before something goes.

use std::io::{self, IsTerminal, Write};

use tokio::sync::oneshot;

use crate::error::CliError;

/// Goes on if the user says so, on the command line (`yes`) or on the terminal. `what` would be lost.
pub(crate) async fn confirm(verb: &str, what: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::Unconfirmed(what.to_owned()));
    }
    match ask(format!("{verb} {what}? [y/N] ")).await.as_deref() {
        Some("y" | "yes") => Ok(()),
        _ => Err(CliError::Declined),
    }
}

/// Asks on the terminal. On a thread of its own, which does not keep an interrupted process from ending.
async fn ask(question: String) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let asked = write!(io::stderr(), "{question}")
            .and_then(|()| io::stderr().flush())
            .and_then(|()| io::stdin().read_line(&mut line));
        if asked.is_ok() {
            // Nobody waits for it any more where the process is ending.
            drop(answer.send(line.trim().to_lowercase()));
        }
    });
    answered.await.ok()
}
