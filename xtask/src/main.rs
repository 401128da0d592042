//! The project's own tasks: `cargo xtask <task>`, built with optimisations.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod torture;
mod workload;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Aquifer's own tasks", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes realistic databases and runs transactions against them; same seed, same bytes.
    #[command(subcommand)]
    Workload(workload::Command),
    /// Measures what docs/benchmarks.md states, each figure against something else in the same run.
    Bench(bench::Options),
    /// Kills daemon, application, restore, standby, server and sync for hours; runs the long form of every test.
    Torture(torture::Options),
}

fn main() -> ExitCode {
    let done: Result<(), Box<dyn Error>> = match Cli::parse().task {
        Task::Workload(command) => workload::run(&command),
        Task::Bench(options) => bench::run(&options),
        Task::Torture(options) => torture::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
