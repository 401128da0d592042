//! `aquifer bottomless ls`

use std::io::{self, Write};

use aquifer_format::{GenerationId, Timestamp};
use aquifer_log::layout::ObjectKind;
use aquifer_log::{DatabaseStore, Level, SegmentKey};
use aquifer_migrate::{Backup, Snapshot};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::bucket::{Bucket, Generation, Kind};
use super::{Subject, date, parse_date, parse_generation};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;

/// Generations looked at, at a time.
const AT_ONCE: usize = 16;

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// List details about single generation
    #[arg(short, long, value_parser = parse_generation, value_name = "GENERATION")]
    generation: Option<GenerationId>,

    /// List only so many newest generations
    #[arg(short, long, conflicts_with = "generation")]
    limit: Option<usize>,

    /// List only generations made on this day (UTC) or before
    #[arg(long, value_parser = parse_date, conflicts_with = "generation", value_name = "DATE")]
    older_than: Option<Date>,

    /// List only generations made on this day (UTC) or after
    #[arg(long, value_parser = parse_date, conflicts_with = "generation", value_name = "DATE")]
    newer_than: Option<Date>,

    /// Print detailed information on each generation
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    database: String,
    #[serde(skip)]
    shape: Shape,
    /// Whether there are any, wanted or not.
    #[serde(skip)]
    any: bool,
    generations: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Ids,
    Verbose,
    /// Of one generation.
    Single,
}

#[derive(Debug, Serialize)]
struct Row {
    generation: GenerationId,
    created_at: Timestamp,
    /// Whose it is.
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Debug, Serialize)]
struct Details {
    /// Not kept by Aquifer.
    change_counter: Option<u32>,
    /// The last that can be restored: a frame, or a txid of Aquifer.
    position: u64,
    checksum: u64,
    snapshot: Option<Snapshot>,
}

impl Ls {
    pub(super) async fn run(
        &self,
        session: &Session,
        bucket: &Bucket,
        subject: &Subject,
    ) -> Result<Exit, CliError> {
        let (shape, any, wanted) = if let Some(id) = self.generation {
            (Shape::Single, true, vec![bucket.generation(subject, id).await?])
        } else {
            let mut found = bucket.generations(subject).await?;
            let any = !found.is_empty();
            found.retain(|generation| self.wants(date(generation.created)));
            found.truncate(self.limit.unwrap_or(usize::MAX));
            (if self.verbose { Shape::Verbose } else { Shape::Ids }, any, found)
        };
        let with_details = shape != Shape::Ids;
        let rows = stream::iter(wanted).map(|generation| row(generation, with_details));
        let generations = rows.buffered(AT_ONCE).try_collect().await?;
        session.output.print(&Listing { database: subject.name.clone(), shape, any, generations })?;
        Ok(Exit::Ok)
    }

    /// The day itself is among both, as it is for bottomless-cli.
    fn wants(&self, created: Date) -> bool {
        self.older_than.is_none_or(|limit| created <= limit)
            && self.newer_than.is_none_or(|limit| created >= limit)
    }
}

async fn row(generation: Generation, with_details: bool) -> Result<Row, CliError> {
    let (format, details) = match &generation.of {
        Kind::Bottomless(backup) if with_details => (backup.format().name(), Some(details(backup).await?)),
        Kind::Bottomless(backup) => (backup.format().name(), None),
        Kind::Aquifer(database) if with_details => {
            ("aquifer", Some(details_of_ours(database, generation.id).await?))
        }
        Kind::Aquifer(_) => ("aquifer", None),
    };
    Ok(Row { generation: generation.id, created_at: generation.created, format, details })
}

async fn details(backup: &Backup) -> Result<Details, CliError> {
    let survey = backup.survey().await?;
    let (position, checksum) = backup.committed(&survey).await?;
    // Those without the object count from 0, as bottomless reads them.
    let change_counter = Some(survey.change_counter.unwrap_or(0));
    Ok(Details { change_counter, position, checksum, snapshot: survey.snapshot })
}

async fn details_of_ours(database: &DatabaseStore, id: GenerationId) -> Result<Details, CliError> {
    let layout = database.layout();
    let mut objects = database.store().list(&layout.generation(id), None);
    let (mut newest, mut snapshot) = (None, None);
    while let Some(object) = objects.try_next().await? {
        if let ObjectKind::Segment(segment) = layout.kind(id, &object.key) {
            if newest.is_none_or(|newest: SegmentKey| newest.range.last < segment.range.last) {
                newest = Some(segment);
            }
            if segment.level == Level::Snapshot {
                snapshot = Some(Snapshot { bytes: object.len, at: object.last_modified });
            }
        }
    }
    let checksum = match newest {
        Some(segment) => database.open_segment(id, segment).await?.info().meta().checksum_after.get(),
        None => 0,
    };
    let position = newest.map_or(0, |newest| newest.range.last.get());
    Ok(Details { change_counter: None, position, checksum, snapshot })
}

impl Report for Listing {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.shape == Shape::Verbose {
            writeln!(out, "Database {}:", self.database)?;
        }
        if !self.any {
            return writeln!(out, "No generations found");
        }
        for row in &self.generations {
            match self.shape {
                Shape::Ids => writeln!(out, "{}", row.generation)?,
                Shape::Verbose => {
                    writeln!(out, "{}\n\tcreated at (UTC):     {}", row.generation, utc(row.created_at))?;
                }
                Shape::Single => {
                    writeln!(out, "Generation {} for {}", row.generation, self.database)?;
                    writeln!(out, "\tcreated at:           {}", utc(row.created_at))?;
                }
            }
            if let Some(details) = &row.details {
                details.human(out)?;
            }
            if self.shape == Shape::Verbose {
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

impl Details {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.change_counter {
            Some(counter) => writeln!(out, "\tchange counter:       {:?}", counter.to_be_bytes())?,
            None => writeln!(out, "\tchange counter:       not kept")?,
        }
        writeln!(out, "\tconsistent WAL frame: {}", self.position)?;
        writeln!(out, "\tWAL frame checksum:   {:x}", self.checksum)?;
        let Some(snapshot) = &self.snapshot else {
            return writeln!(out, "\tno main database snapshot file found");
        };
        let written = in_utc(snapshot.at).strftime("%Y-%m-%dT%H:%M:%SZ");
        writeln!(out, "\tmain database snapshot:")?;
        writeln!(out, "\t\tobject size:   {}\n\t\tlast modified: {written}", snapshot.bytes)
    }
}

fn in_utc(moment: Timestamp) -> jiff::Zoned {
    let moment = jiff::Timestamp::from_millisecond(moment.as_millis()).unwrap_or(jiff::Timestamp::MIN);
    moment.to_zoned(TimeZone::UTC)
}

/// To the millisecond; whole seconds without a fraction.
fn utc(moment: Timestamp) -> String {
    let format = if moment.as_millis() % 1000 == 0 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    in_utc(moment).strftime(format).to_string()
}
