//! The `aquifer` program: it reads the command line, calls the libraries, and prints what came of it.

#![allow(clippy::format_push_string, reason = "short texts for people, where write! reads worse")]
#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

mod args;
mod commands;
mod config;
mod copy;
mod error;
mod exit;
mod fencing;
mod logging;
mod moment;
mod output;
mod progress;
mod session;
mod signals;
mod survey;
mod time;
mod token;
mod units;

use std::process::ExitCode;
use std::time::Duration;

use args::{Command, Invocation};
use config::Settings;
use error::{CliError, Told};
use exit::Exit;
use logging::LogLevel;
use output::Output;
use session::Session;
use signals::Signals;

fn main() -> ExitCode {
    let invocation = Invocation::from_process();
    let global = &invocation.cli.global;
    let default = match &invocation.cli.command {
        Command::Replicate(replicate) if !replicate.is_once() => LogLevel::Info,
        Command::Serve(_) => LogLevel::Info,
        _ => LogLevel::Warn,
    };
    logging::start(global.log_level, global.log_format, default);
    let json = global.json;
    let exit = run(invocation).unwrap_or_else(|error| {
        Told::of(&error).note(json);
        error.exit()
    });
    exit.into()
}

fn run(invocation: Invocation) -> Result<Exit, CliError> {
    let global = &invocation.cli.global;
    let output = Output { json: global.json, quiet: global.quiet };
    // Needs no settings, and must work where the configuration file is broken.
    if let Command::Completions(completions) = &invocation.cli.command {
        return completions.run();
    }
    let settings =
        Settings::merge(global.config.as_deref(), invocation.store.clone(), invocation.replicate_flags())?;
    let session = Session { output, settings };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Serve(serve) = &invocation.cli.command {
        runtime.max_blocking_threads(serve.threads());
    }
    let runtime = runtime.enable_all().build().map_err(CliError::Start)?;
    let result = match invocation.cli.command {
        // Ends in order when interrupted: what is committed is shipped.
        Command::Replicate(replicate) => runtime.block_on(replicate.run(&session)),
        Command::Serve(serve) => runtime.block_on(serve.run(&session)),
        Command::Sync(sync) if sync.is_watch() => runtime.block_on(sync.run(&session)),
        other => runtime.block_on(until_interrupted(command(&session, other))),
    };
    // An interrupted restore removes its temporary file on a thread of the runtime.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

async fn command(session: &Session, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Replicate(replicate) => replicate.run(session).await,
        Command::Restore(restore) => restore.run(session).await,
        Command::Serve(serve) => serve.run(session).await,
        Command::Sync(sync) => sync.run(session).await,
        Command::Conflicts(conflicts) => conflicts.run(session).await,
        Command::Import(import) => import.run(session).await,
        Command::Export(export) => export.run(session).await,
        Command::Admin(admin) => admin.run(session).await,
        Command::Ls(ls) => ls.run(session).await,
        Command::Info(info) => info.run(session).await,
        Command::Verify(verify) => verify.run(session).await,
        Command::Snapshot(snapshot) => snapshot.run(session).await,
        Command::Compact(compact) => compact.run(session).await,
        Command::Rm(rm) => rm.run(session).await,
        Command::Bottomless(bottomless) => bottomless.run(session).await,
        Command::Copy(copy) => copy.run(session).await,
        Command::Doctor(doctor) => doctor.run(session).await,
        Command::Config(config) => config.run(session),
        Command::Completions(completions) => completions.run(),
    }
}

/// Runs a command until it ends or the user interrupts it. Dropping it half-way leaves nothing behind that the
/// next run does not cope with: the libraries say so of each of their futures.
async fn until_interrupted(command: impl Future<Output = Result<Exit, CliError>>) -> Result<Exit, CliError> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = command => result,
        number = signals.next() => Ok(Exit::Signal(number)),
    }
}
