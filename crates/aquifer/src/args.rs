//! The command line.

use std::path::{Path, PathBuf};

use aquifer_log::StoreUrl;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    admin, bottomless, compact, completions, config, conflicts, copy, doctor, export, import, info, ls,
    replicate, restore, rm, serve, snapshot, sync, verify,
};
use crate::config::{Origin, ReplicateSettings, Setting};
use crate::exit::Exit;
use crate::logging::{LogFormat, LogLevel};

/// Continuous backup of SQLite databases into object storage, and restore to any moment
#[derive(Debug, Parser)]
#[command(name = "aquifer", version, propagate_version = true, after_help = Exit::help(), max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the store is: s3://bucket/prefix, gs://…, az://…, or a directory [default: ./aquifer-data]
    #[arg(long, global = true, env = "AQUIFER_STORE", value_name = "URL")]
    pub(crate) store: Option<StoreUrl>,

    /// Configuration file (TOML)
    #[arg(long, global = true, env = "AQUIFER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print results and errors as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// No progress and no remarks on stderr; errors and the log stay
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// How much to log on stderr; RUST_LOG says it by module [default: info for replicate without --once, else warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,

    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Replicate(Box<replicate::Replicate>),
    Restore(restore::Restore),
    Serve(Box<serve::Serve>),
    Sync(Box<sync::Sync>),
    Conflicts(conflicts::Conflicts),
    Import(import::Import),
    Export(export::Export),
    Admin(admin::Admin),
    Ls(ls::Ls),
    Info(info::Info),
    Verify(verify::Verify),
    Snapshot(snapshot::Snapshot),
    Compact(compact::Compact),
    Copy(copy::Copy),
    Rm(rm::Rm),
    Bottomless(bottomless::Bottomless),
    Doctor(doctor::Doctor),
    Config(config::Config),
    Completions(completions::Completions),
}

/// The same program under the name that users of bottomless call.
#[derive(Debug, Parser)]
#[command(name = BOTTOMLESS_CLI, about = "Bottomless CLI", long_about = None, max_term_width = 100)]
struct BottomlessCli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    bottomless: bottomless::Bottomless,
}

const BOTTOMLESS_CLI: &str = "bottomless-cli";

/// The command line as parsed, and what clap knows of where values came from.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) cli: Cli,
    /// The store's URL, if the command line or the environment has one.
    pub(crate) store: Option<Setting<StoreUrl>>,
}

impl Invocation {
    /// Reads the process's arguments. Ends the process for `--help`, and with code 2 for what makes no sense.
    pub(crate) fn from_process() -> Invocation {
        let (matches, cli) = if is_called(BOTTOMLESS_CLI) {
            let matches = BottomlessCli::command().get_matches();
            let parsed = BottomlessCli::from_arg_matches(&matches);
            let cli = parsed.map(|BottomlessCli { global, bottomless }| Cli {
                global,
                command: Command::Bottomless(bottomless),
            });
            (matches, cli)
        } else {
            let matches = Cli::command().get_matches();
            let cli = Cli::from_arg_matches(&matches);
            (matches, cli)
        };
        let cli = cli.unwrap_or_else(|e| e.exit());
        let store = cli.global.store.clone().map(|value| Setting { value, origin: origin(&matches) });
        Invocation { cli, store }
    }

    /// What the command line says about replication.
    pub(crate) fn replicate_flags(&self) -> ReplicateSettings {
        match &self.cli.command {
            Command::Replicate(replicate) => replicate.flags(),
            Command::Config(config) => config.replicate_flags(),
            _ => ReplicateSettings::default(),
        }
    }
}

/// Whether the program was started under this name.
fn is_called(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|program| Path::new(&program).file_stem() == Some(name.as_ref()))
}

fn origin(matches: &ArgMatches) -> Origin {
    match matches.value_source("store") {
        Some(clap::parser::ValueSource::EnvVariable) => Origin::Environment,
        _ => Origin::CommandLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
        BottomlessCli::command().debug_assert();
    }

    #[test]
    fn packaged_command_lines_are_understood() {
        let unit = include_str!("../../../packaging/aquifer-serve.service");
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        Cli::try_parse_from(start.split_whitespace()).unwrap();
        let image = include_str!("../../../Dockerfile");
        let default = image.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
        let default: Vec<String> = serde_json::from_str(default).unwrap();
        Cli::try_parse_from(std::iter::once("aquifer".to_owned()).chain(default)).unwrap();
    }

    /// The part of a page under a heading, up to the next one of the same rank.
    fn section<'a>(page: &'a str, heading: &str) -> &'a str {
        let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
        rest.split("\n#").next().unwrap_or_default()
    }

    #[test]
    fn every_option_is_documented_where_its_command_is() {
        let docs = include_str!("../../../docs/cli.md");
        let documented = |section: &str, arg: &clap::Arg| {
            let Some(long) = arg.get_long() else { return };
            let is_there = ["`", " "].iter().any(|end| section.contains(&format!("`--{long}{end}")))
                || section.contains(&format!(", `--{long}"));
            assert!(is_there, "docs/cli.md lacks --{long} in:\n{section}");
        };
        let cli = Cli::command();
        let general = section(docs, "## Options of every command");
        cli.get_arguments().for_each(|arg| documented(general, arg));
        for command in cli.get_subcommands() {
            let own: Vec<_> = command.get_arguments().filter(|arg| arg.get_long().is_some()).collect();
            if !own.is_empty() {
                let section = section(docs, &format!("### `{}`", command.get_name()));
                for arg in own {
                    documented(section, arg);
                }
            }
        }
        let bottomless = cli.find_subcommand("bottomless").unwrap();
        let options = section(docs, "### `bottomless`");
        let verbs = bottomless.get_subcommands().flat_map(clap::Command::get_arguments);
        verbs.for_each(|arg| documented(options, arg));
    }
}
