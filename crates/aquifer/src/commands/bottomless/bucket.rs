//! What a bucket has of a database: generations of bottomless and of Aquifer, side by side.

use aquifer_format::{GenerationId, Timestamp};
use aquifer_log::store::Prefix;
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use aquifer_migrate::{Backup, Origin, find};
use futures::TryStreamExt;

use super::Subject;
use crate::error::CliError;

#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) store: Store,
    /// Of all databases, by name, newest first.
    backups: Vec<Backup>,
}

/// A generation, and whose.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    pub(super) id: GenerationId,
    pub(super) created: Timestamp,
    pub(super) of: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Bottomless(Backup),
    Aquifer(DatabaseStore),
}

impl Bucket {
    pub(super) async fn open(store: Store) -> Result<Bucket, CliError> {
        let backups = find(&store, Origin::Bottomless).await?;
        Ok(Bucket { store, backups })
    }

    /// The databases of which there is a generation, ascending.
    pub(super) async fn databases(&self) -> Result<Vec<String>, CliError> {
        let mut names: Vec<String> = self.backups.iter().map(|backup| backup.database().to_owned()).collect();
        let candidates: Vec<DatabaseName> = DatabaseStore::list(&self.store).try_collect().await?;
        for name in candidates {
            // A generation of bottomless, which has a directory at the top, makes a fine name as well.
            let directory = format!("{}/", name.to_component());
            if self.backups.iter().any(|backup| backup.prefix() == directory) {
                continue;
            }
            let database = DatabaseStore::new(self.store.clone(), name);
            if database.generation_ids().try_next().await?.is_some() {
                names.push(database.name().to_string());
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The generations of a database, newest first.
    pub(super) async fn generations(&self, subject: &Subject) -> Result<Vec<Generation>, CliError> {
        let mut found = Vec::new();
        for backup in self.backups.iter().filter(|backup| backup.database() == subject.name) {
            if let (Some(id), Some(created)) =
                (backup.generation().and_then(|id| id.parse().ok()), backup.created())
            {
                found.push(Generation { id, created, of: Kind::Bottomless(backup.clone()) });
            }
        }
        if let Ok(name) = subject.name.parse::<DatabaseName>() {
            let database = DatabaseStore::new(self.store.clone(), name);
            let ids: Vec<GenerationId> = database.generation_ids().try_collect().await?;
            found.extend(ids.into_iter().map(|id| Generation {
                id,
                created: id.created_at(),
                of: Kind::Aquifer(database.clone()),
            }));
        }
        found.sort_by_key(|generation| std::cmp::Reverse(generation.created));
        Ok(found)
    }

    /// One of them.
    pub(super) async fn generation(
        &self,
        subject: &Subject,
        id: GenerationId,
    ) -> Result<Generation, CliError> {
        let found = self.generations(subject).await?.into_iter().find(|generation| generation.id == id);
        found.ok_or_else(|| CliError::NoBottomlessGeneration {
            url: self.store.url().to_owned(),
            generation: id,
            database: subject.name.clone(),
        })
    }
}

impl Generation {
    /// Where its objects are.
    pub(super) fn prefix(&self) -> Prefix {
        match &self.of {
            Kind::Bottomless(backup) => Prefix::ROOT.dir(backup.prefix().trim_end_matches('/')),
            Kind::Aquifer(database) => database.layout().generation(self.id),
        }
    }
}
