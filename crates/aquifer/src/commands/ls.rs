//! `aquifer ls [NAME]`

use std::io::{self, Write};

use aquifer_format::{GenerationId, Timestamp};
use aquifer_log::{DatabaseName, DatabaseStore, GenerationRecord, Parent, StoreError};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::commands::foreign::Foreign;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Columns, Report};
use crate::session::Session;
use crate::survey::Survey;
use crate::time::{parse_moment_or_age, show};
use crate::units::Bytes;

/// Databases looked at, at a time.
const AT_ONCE: usize = 16;

/// List the databases of the store, or the generations of one database, newest first
///
/// Without -v the list of databases costs one request per thousand of them.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Database whose generations to list: its name, or the path of its file; with --from the URL of the backups
    name: Option<String>,

    #[command(flatten)]
    from: Foreign,

    /// More: of each database its newest generation, of each generation its levels
    #[arg(short, long)]
    verbose: bool,

    /// List at most so many
    #[arg(short, long, value_name = "N")]
    limit: Option<usize>,

    /// Only generations made before this: a moment, or an age such as 30d
    #[arg(long, value_name = "WHEN", value_parser = parse_moment_or_age, requires = "name")]
    older_than: Option<Timestamp>,

    /// Only generations made after this: a moment, or an age such as 30d
    #[arg(long, value_name = "WHEN", value_parser = parse_moment_or_age, requires = "name")]
    newer_than: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Databases {
    store: String,
    databases: Vec<DatabaseRow>,
}

#[derive(Debug, Serialize)]
struct DatabaseRow {
    name: DatabaseName,
    /// With -v: the newest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<GenerationRow>,
}

#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the names are those of the JSON document")]
struct Generations {
    store: String,
    name: DatabaseName,
    #[serde(skip)]
    verbose: bool,
    generations: Vec<GenerationRow>,
}

#[derive(Debug, Serialize)]
struct GenerationRow {
    generation: GenerationId,
    created_at: Timestamp,
    /// Its record is gone or not there yet: a removal or a copy that has not finished.
    incomplete: bool,
    parent: Option<Parent>,
    page_size: Option<u32>,
    host: Option<String>,
    source: Option<String>,
    program: Option<String>,
    #[serde(flatten)]
    survey: Survey,
}

impl Ls {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        if let (Some(origin), Some(url)) = (self.from.origin, &self.name) {
            let wants = |created: Option<Timestamp>| created.is_none_or(|created| self.wants(created));
            session.output.print(&self.from.ls(session, (origin, url), wants, self.limit).await?)?;
            return Ok(Exit::Ok);
        }
        match &self.name {
            None => session.output.print(&self.databases(&session.store()?).await?)?,
            Some(name) => {
                let database = session.database(name).await?;
                session.output.print(&self.generations(&database).await?)?;
            }
        }
        Ok(Exit::Ok)
    }

    async fn databases(&self, store: &aquifer_log::Store) -> Result<Databases, CliError> {
        let names = DatabaseStore::list(store).take(self.limit.unwrap_or(usize::MAX));
        let names: Vec<DatabaseName> = names.try_collect().await?;
        let rows = stream::iter(names).map(|name| async move {
            let generation = if self.verbose {
                let database = DatabaseStore::new(store.clone(), name.clone());
                match database.generation_ids().try_next().await? {
                    Some(id) => Some(GenerationRow::of(&database, id).await?),
                    None => None,
                }
            } else {
                None
            };
            Ok::<_, CliError>(DatabaseRow { name, generation })
        });
        let databases = rows.buffered(AT_ONCE).try_collect().await?;
        Ok(Databases { store: store.url().to_owned(), databases })
    }

    async fn generations(&self, database: &DatabaseStore) -> Result<Generations, CliError> {
        let ids = database
            .generation_ids()
            .try_filter(|id| std::future::ready(self.wants(id.created_at())))
            .take(self.limit.unwrap_or(usize::MAX));
        let rows = ids
            .map(|id: Result<_, StoreError>| async move { GenerationRow::of(database, id?).await })
            .buffered(AT_ONCE);
        Ok(Generations {
            store: database.store().url().to_owned(),
            name: database.name().clone(),
            verbose: self.verbose,
            generations: rows.try_collect().await?,
        })
    }

    fn wants(&self, created: Timestamp) -> bool {
        self.older_than.is_none_or(|limit| created < limit)
            && self.newer_than.is_none_or(|limit| created > limit)
    }
}

impl GenerationRow {
    async fn of(database: &DatabaseStore, id: GenerationId) -> Result<GenerationRow, CliError> {
        let (record, survey) = futures::try_join!(database.generation_record(id), async {
            Survey::of(database, id).await.map_err(aquifer_log::LogError::from)
        })?;
        let text = |field: fn(&GenerationRecord) -> &String| {
            record.as_ref().map(field).filter(|text| !text.is_empty()).cloned()
        };
        Ok(GenerationRow {
            generation: id,
            created_at: record.as_ref().map_or(id.created_at(), |record| record.created_at),
            incomplete: record.is_none(),
            parent: record.as_ref().and_then(|record| record.parent.clone()),
            page_size: record.as_ref().map(|record| record.page_size.get()),
            host: text(|record| &record.host),
            source: text(|record| &record.source),
            program: text(|record| &record.program),
            survey,
        })
    }

    fn last_write(&self) -> String {
        self.survey.last_write.map_or_else(|| "-".to_owned(), show)
    }
}

impl Report for Databases {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.databases.iter().all(|row| row.generation.is_none()) {
            // One name per line, for scripts that do not read JSON.
            for row in &self.databases {
                writeln!(out, "{}", row.name)?;
            }
            return Ok(());
        }
        let mut columns =
            Columns::new(&["NAME", "GENERATION", "CREATED", ">TXIDS", "LAST WRITE", ">SEGMENTS", ">SIZE"]);
        for DatabaseRow { name, generation } in &self.databases {
            let Some(row) = generation else {
                columns.row([name.as_str(), "-", "-", "-", "-", "-", "-"]);
                continue;
            };
            columns.row([
                name.to_string(),
                row.generation.to_string(),
                show(row.created_at),
                row.survey.range(),
                row.last_write(),
                segments(&row.survey).to_string(),
                Bytes(row.survey.bytes).to_string(),
            ]);
        }
        columns.write(out)
    }
}

impl Report for Generations {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns =
            Columns::new(&["GENERATION", "CREATED", ">TXIDS", "LAST WRITE", ">SEGMENTS", ">SIZE", "PARENT"]);
        for row in &self.generations {
            let mut parent = row.parent.as_ref().map_or_else(|| "-".to_owned(), Parent::to_string);
            if row.incomplete {
                "(incomplete: a removal or a copy has not finished)".clone_into(&mut parent);
            }
            columns.row([
                row.generation.to_string(),
                show(row.created_at),
                row.survey.range(),
                row.last_write(),
                segments(&row.survey).to_string(),
                Bytes(row.survey.bytes).to_string(),
                parent,
            ]);
        }
        columns.write(out)?;
        if !self.verbose {
            return Ok(());
        }
        for row in &self.generations {
            writeln!(out, "\n{}", row.generation)?;
            let host = row.host.as_deref().unwrap_or("an unnamed host");
            let source = row.source.as_deref().unwrap_or("an unnamed file");
            writeln!(out, "  of {source} on {host}, by {}", row.program.as_deref().unwrap_or("?"))?;
            write_levels(out, &row.survey)?;
        }
        Ok(())
    }
}

fn segments(survey: &Survey) -> u64 {
    survey.levels.values().map(|level| level.segments).sum()
}

/// The levels of a generation, as an indented table.
pub(crate) fn write_levels(out: &mut dyn Write, survey: &Survey) -> io::Result<()> {
    let mut columns = Columns::new(&["  LEVEL", ">TXIDS", ">SEGMENTS", ">SIZE"]);
    for (level, row) in &survey.levels {
        columns.row([
            format!("  {level}"),
            format!("{}-{}", row.first, row.last),
            row.segments.to_string(),
            Bytes(row.bytes).to_string(),
        ]);
    }
    columns.write(out)?;
    if survey.unknown_objects > 0 {
        writeln!(out, "  {} objects are not of this program, or of a newer version", survey.unknown_objects)?;
    }
    Ok(())
}
