//! The command that runs while its databases are replicated.

use std::ffi::OsString;
use std::process::ExitStatus;

use tokio::process::{Child, Command};

use crate::error::CliError;
use crate::exit::Exit;
use crate::signals::Signals;

/// Starts the command.
pub(super) fn start(command: &[OsString]) -> Result<Child, CliError> {
    let (program, args) =
        command.split_first().ok_or_else(|| CliError::Usage("no command after --".into()))?;
    Command::new(program).args(args).spawn().map_err(|source| CliError::File {
        action: "run",
        path: program.into(),
        source,
    })
}

/// Waits for the command to end. Signals are passed on to it: when it ends is its own decision.
pub(super) async fn wait(child: &mut Child, signals: &mut Signals) -> Result<Exit, CliError> {
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map(exit_of).map_err(CliError::Start),
            number = signals.next() => pass_on(child, number),
        }
    }
}

fn pass_on(child: &Child, number: i32) {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    if let (Some(pid), Some(signal)) = (pid, rustix::process::Signal::from_named_raw(number)) {
        // It may have ended just now.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Child(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}
