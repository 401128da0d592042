//! `aquifer ls --from ORIGIN URL`

use std::io::{self, Write};

use aquifer_format::Timestamp;
use aquifer_migrate::{Backup, Origin, Survey, find};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{Foreign, shown_name};
use crate::error::CliError;
use crate::output::{Columns, Report};
use crate::session::Session;
use crate::time::show;
use crate::units::Bytes;

/// Backups looked at, at a time.
const AT_ONCE: usize = 16;

#[derive(Debug, Serialize)]
pub(crate) struct Backups {
    url: String,
    backups: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    format: &'static str,
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(flatten)]
    survey: Survey,
}

impl Foreign {
    /// What there is: generations of bottomless and Litestream 0.3, databases of the others.
    pub(crate) async fn ls(
        &self,
        session: &Session,
        (origin, url): (Origin, &str),
        wants: impl Fn(Option<Timestamp>) -> bool,
        limit: Option<usize>,
    ) -> Result<Backups, CliError> {
        let store = Foreign::store(url)?;
        let mut found = find(&store, origin).await?;
        found.retain(|backup| self.database.as_deref().is_none_or(|name| name == backup.database()));
        found.retain(|backup| wants(backup.created()));
        found.truncate(limit.unwrap_or(usize::MAX));
        let progress = session.progress(&format!("list {url}"));
        let rows = stream::iter(found).map(|backup| async move { row(&backup).await });
        let backups = rows.buffered(AT_ONCE).try_collect().await;
        progress.finish();
        Ok(Backups { url: store.url().to_owned(), backups: backups? })
    }
}

async fn row(backup: &Backup) -> Result<Row, CliError> {
    Ok(Row {
        format: backup.format().name(),
        database: shown_name(backup).to_owned(),
        generation: backup.generation().map(str::to_owned),
        created: backup.created(),
        survey: backup.survey().await?,
    })
}

impl Report for Backups {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.backups.is_empty() {
            return writeln!(out, "{} holds no backup that this program knows", self.url);
        }
        let mut columns = Columns::new(&[
            "DATABASE",
            "GENERATION",
            "CREATED",
            ">SNAPSHOT",
            ">POSITIONS",
            ">OBJECTS",
            ">SIZE",
            "LAST WRITE",
            "FORMAT",
        ]);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        for row in &self.backups {
            let survey = &row.survey;
            columns.row([
                row.database.clone(),
                or_dash(row.generation.clone()),
                or_dash(row.created.map(show)),
                or_dash(survey.snapshot.as_ref().map(|snapshot| Bytes(snapshot.bytes).to_string())),
                or_dash(survey.positions.map(|(first, last)| format!("{first}-{last}"))),
                survey.objects.to_string(),
                Bytes(survey.bytes).to_string(),
                or_dash(survey.last_write.map(show)),
                row.format.to_owned(),
            ]);
        }
        columns.write(out)
    }
}
