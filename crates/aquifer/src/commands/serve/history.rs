//! How much of the history of its databases a server keeps, and in what shape.

use aquifer_replicate::UpkeepOptions;
use clap::Args;

use crate::config::DatabaseSettings;
use crate::units::Length;

/// As `replicate` has them.
#[derive(Debug, Args)]
#[command(next_help_heading = "History")]
pub(super) struct HistoryArgs {
    /// Keep the history of this long, to restore to any moment of it, and delete what is older [default: all]
    #[arg(long, value_name = "LENGTH")]
    retain: Option<Length>,

    /// Keep what is older this long still, for those who are reading it [default: 1h]
    #[arg(long, value_name = "LENGTH")]
    retain_grace: Option<Length>,

    /// Segments of a level that are compacted into one of the next, at least 2 [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    fanout: Option<u32>,

    /// Make a snapshot when what came after the last one has grown to so many per cent of it; 0: none [default: 100]
    #[arg(long, value_name = "PERCENT")]
    snapshot_share: Option<u32>,
}

impl HistoryArgs {
    pub(super) fn upkeep(&self) -> UpkeepOptions {
        let HistoryArgs { retain, retain_grace, fanout, snapshot_share } = *self;
        DatabaseSettings { retain, retain_grace, fanout, snapshot_share, ..DatabaseSettings::default() }
            .upkeep()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aquifer_log::{Levels, Retention};
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        history: HistoryArgs,
    }

    #[test]
    fn what_is_given_is_heeded_and_the_rest_is_as_replicate_has_it() {
        let of = |args: &[&str]| Line::parse_from([&["serve"], args].concat()).history.upkeep();
        assert_eq!(of(&[]), UpkeepOptions::default());
        let days = |n: u64| Duration::from_hours(24 * n);
        assert_eq!(of(&["--retain", "7d"]).retention, Some(Retention::of(days(7))));
        let all = of(&["--retain", "30d", "--retain-grace", "2d", "--fanout", "8", "--snapshot-share", "50"]);
        let expected = UpkeepOptions {
            levels: Levels { fanout: 8, ..Levels::default() },
            snapshot_share: 50,
            retention: Some(Retention { window: days(30), grace: days(2) }),
            ..UpkeepOptions::default()
        };
        assert_eq!(all, expected);
    }
}
