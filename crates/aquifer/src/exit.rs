//! Exit codes: what a script may branch on.

use std::process::ExitCode;

/// How the program ends. The numbers are part of the interface: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// Something failed that has no code of its own.
    Error,
    /// The command line or the configuration file makes no sense.
    Usage,
    /// What was named (store, database, generation, txid) does not exist.
    NotFound,
    /// A replica is damaged, or a check failed.
    Damaged,
    /// Another writer has taken the database over.
    Fenced,
    /// The store cannot be reached; the same command may succeed later.
    Unavailable,
    /// The store does not let us in, or refuses the request for good.
    Refused,
    /// Something is there that would be overwritten or deleted, and nobody said that it may.
    Exists,
    /// Ended by this signal, or the child command was.
    Signal(i32),
    /// What the command after `--` returned.
    Child(u8),
}

impl Exit {
    /// All with a fixed number, for `--help` and for the test that holds the documentation to it.
    pub(crate) const ALL: [Exit; 9] = [
        Exit::Ok,
        Exit::Error,
        Exit::Usage,
        Exit::NotFound,
        Exit::Damaged,
        Exit::Fenced,
        Exit::Unavailable,
        Exit::Refused,
        Exit::Exists,
    ];

    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Damaged => 4,
            Exit::Fenced => 5,
            Exit::Unavailable => 6,
            Exit::Refused => 7,
            Exit::Exists => 8,
            // As shells do.
            Exit::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
            Exit::Child(code) => code,
        }
    }

    /// The name used in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Error => "error",
            Exit::Usage => "usage",
            Exit::NotFound => "not-found",
            Exit::Damaged => "damaged",
            Exit::Fenced => "fenced",
            Exit::Unavailable => "unavailable",
            Exit::Refused => "refused",
            Exit::Exists => "exists",
            Exit::Signal(_) => "signal",
            Exit::Child(_) => "child",
        }
    }

    /// One line for people.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done",
            Exit::Error => "failed for a reason without a code of its own",
            Exit::Usage => "the command line or the configuration file makes no sense",
            Exit::NotFound => "no such store, database, generation or txid",
            Exit::Damaged => "a replica is damaged, or a check failed",
            Exit::Fenced => "another writer has taken the database over",
            Exit::Unavailable => "the store cannot be reached: try again later",
            Exit::Refused => "the store does not let us in, or refuses the request",
            Exit::Exists => "something would be overwritten or deleted: say --force or --yes",
            Exit::Signal(_) => "ended by a signal",
            Exit::Child(_) => "what the command after -- returned",
        }
    }

    /// The table of codes at the end of `--help`.
    pub(crate) fn help() -> String {
        let mut help = "Exit codes:\n".to_owned();
        for exit in Exit::ALL {
            help += &format!("  {}  {}\n", exit.code(), exit.meaning());
        }
        help += "  128+N: ended by signal N. `replicate … -- COMMAND` passes on the command's own code.";
        help
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let docs = include_str!("../../../docs/cli.md");
        for exit in Exit::ALL {
            let row = format!("| {} | `{}` | {} |", exit.code(), exit.name(), exit.meaning());
            assert!(docs.contains(&row), "docs/cli.md lacks the row: {row}");
        }
    }

    #[test]
    fn codes_count_from_zero_without_gaps() {
        assert!(Exit::ALL.iter().enumerate().all(|(n, exit)| usize::from(exit.code()) == n));
        assert_eq!((Exit::Signal(2).code(), Exit::Child(77).code()), (130, 77));
    }
}
