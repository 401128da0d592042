//! `aquifer info NAME`

use std::io::{self, Write};

use aquifer_format::{GenerationId, Revision, Timestamp};
use aquifer_log::store::RequestCounts;
use aquifer_log::{DatabaseName, DatabaseStore, GenerationRecord, LogError, Owner, SegmentKey};
use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;

use crate::commands::ls::write_levels;
use crate::error::CliError;
use crate::exit::Exit;
use crate::fencing::Fencing;
use crate::output::{Report, write_fields};
use crate::session::Session;
use crate::survey::Survey;
use crate::time::show;
use crate::units::Bytes;

/// Tell all that the store knows of a database
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// The database: its name, or the path of its file
    name: String,

    /// Generation to tell of [default: the newest]
    #[arg(short, long, value_name = "ID")]
    generation: Option<GenerationId>,
}

#[derive(Debug, Serialize)]
struct Facts {
    store: String,
    name: DatabaseName,
    generations: usize,
    generation: GenerationId,
    record: GenerationRecord,
    /// The newest revision; `None` while nothing was shipped.
    head: Option<Head>,
    survey: Survey,
    /// Which server it is served by.
    owner: Option<Owner>,
    /// Whether the store keeps two writers apart; `None` while nobody has found out.
    fencing: Option<Fencing>,
    /// What it cost to find this out.
    requests: RequestCounts,
}

#[derive(Debug, Serialize)]
struct Head {
    revision: Revision,
    /// Pages of the database.
    pages: u32,
    /// Bytes of the database file.
    database_bytes: u64,
    checksum: String,
    last_commit: Timestamp,
}

impl Info {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let database = session.database(&self.name).await?;
        let generation = session.generation(&database, self.generation).await?;
        let ids: Vec<GenerationId> = database.generation_ids().try_collect().await?;
        let survey = Survey::of(&database, generation.id).await?;
        let head = match survey.head {
            Some(segment) => Some(Head::read(&database, generation.id, segment).await?),
            None => None,
        };
        session.output.print(&Facts {
            store: database.store().url().to_owned(),
            name: database.name().clone(),
            generations: ids.len(),
            generation: generation.id,
            record: generation.record,
            head,
            survey,
            owner: database.owner().await?.filter(|owner| !owner.record.released),
            fencing: Fencing::remembered(database.store()).await?,
            requests: database.store().counts(),
        })?;
        Ok(Exit::Ok)
    }
}

impl Head {
    /// Reads the end of the newest segment.
    async fn read(
        database: &DatabaseStore,
        generation: GenerationId,
        segment: SegmentKey,
    ) -> Result<Head, LogError> {
        let handle = database.open_segment(generation, segment).await?;
        let meta = handle.info().meta();
        Ok(Head {
            revision: Revision { generation, txid: segment.range.last },
            pages: meta.size_after,
            database_bytes: u64::from(meta.size_after) * u64::from(meta.page_size.get()),
            checksum: meta.checksum_after.to_string(),
            last_commit: meta.last_commit,
        })
    }
}

impl Report for Facts {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let mut fields = vec![
            ("name", self.name.to_string()),
            ("store", self.store.clone()),
            (
                "generation",
                match self.generations {
                    1 => self.generation.to_string(),
                    n => format!("{}, one of {n} (`aquifer ls {}` lists them)", self.generation, self.name),
                },
            ),
            ("created", show(self.record.created_at)),
            ("source", text(&self.record.source)),
            ("host", text(&self.record.host)),
        ];
        if let Some(parent) = &self.record.parent {
            fields.push(("parent", parent.to_string()));
        }
        if let Some(owner) = &self.owner {
            let record = &owner.record;
            fields.push(("served by", format!("{} since {}", text(&record.host), show(record.since))));
        }
        match &self.head {
            None => fields.push(("newest txid", "none: nothing was shipped yet".to_owned())),
            Some(head) => fields.extend([
                ("newest txid", head.revision.txid.to_string()),
                ("restorable", self.survey.range()),
                ("last commit", show(head.last_commit)),
                (
                    "database",
                    format!(
                        "{} in {} pages of {} bytes",
                        Bytes(head.database_bytes),
                        head.pages,
                        self.record.page_size
                    ),
                ),
                ("checksum", head.checksum.clone()),
            ]),
        }
        fields.push((
            "in the store",
            format!("{} in {} objects", Bytes(self.survey.bytes), self.survey.objects),
        ));
        fields.push((
            "fencing",
            match &self.fencing {
                None => "not known yet: `aquifer doctor` finds out".to_owned(),
                Some(Fencing { fenced: true, .. }) => "two writers are kept apart".to_owned(),
                Some(Fencing { seen, .. }) => format!(
                    "NONE: the store does not keep two writers apart ({})",
                    seen.as_deref().unwrap_or("it was not said why")
                ),
            },
        ));
        let requests = self.requests.by_kind().into_iter().filter(|(_, count)| *count > 0);
        let requests: Vec<_> = requests.map(|(kind, count)| format!("{count} {kind}")).collect();
        fields.push(("this cost", format!("{} requests", requests.join(", "))));
        write_fields(out, &fields)?;
        write_levels(out, &self.survey)
    }
}
