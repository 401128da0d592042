//! `cargo xtask torture`: the long form of the tests that kill, fill and break things. Hours are well spent on it.

use std::error::Error;
use std::process::Command;

use clap::Args;

/// What is run, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of kills on each kind of store, and of synced databases: each round kills something at a random moment.
    #[arg(long, default_value_t = 300)]
    rounds: u64,
    /// What happens in the first rounds; each life of some rounds has the next seed. Default: another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the kills, not the long forms of the other tests.
    #[arg(long)]
    only_kills: bool,
}

/// Runs it: the kills first, then every test of the workspace with `AQUIFER_TORTURE=1`, by which those that have a long
/// form know that it is wanted.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    // Both programs that are killed, once, before the tests that run them.
    step(cargo("build").args(["--package", "aquifer", "--package", "aquifer-testkit", "--bins"]))?;
    let mut kills = cargo("test");
    kills.args([
        "--package",
        "aquifer",
        "--package",
        "aquifer-testkit",
        "--test",
        "kill_9",
        "--",
        "--nocapture",
    ]);
    kills.env("AQUIFER_TORTURE_ROUNDS", options.rounds.to_string());
    kills.env("AQUIFER_TORTURE_SEED", seed.to_string());
    eprintln!("{} rounds on each kind of store and of synced databases, from seed {seed}", options.rounds);
    step(&mut kills)?;
    if options.only_kills {
        return Ok(());
    }
    step(cargo("test").args(["--workspace", "--no-fail-fast"]).env("AQUIFER_TORTURE", "1"))
}

/// Cargo itself, with optimisations: rounds are for the program, not for its checks.
fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([command, "--release", "--locked"]);
    cargo
}

fn step(command: &mut Command) -> Result<(), Box<dyn Error>> {
    eprintln!("+ {command:?}");
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("it ended with {status}; what it said is above").into())
    }
}
