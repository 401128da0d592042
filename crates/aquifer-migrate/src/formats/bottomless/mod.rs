//! bottomless: `<database>-<generation>/`, a directory for each run of a database's WAL.
//!
//! The generation is a UUID (version 7) of reversed time, so that the newest is listed first. In it are a snapshot of the database
//! file as it was when the generation began, and what its WAL got since: an object for each page ([`pages`], version
//! 0.1 of the crate) or for a run of frames ([`batches`], the libSQL server's).
//!
//! Sources: the crate's and libSQL's `replicator.rs`, and buckets that they wrote (tests/fixtures).

mod batches;
mod pages;

use aquifer_format::{PageSize, Timestamp};
use aquifer_log::store::{Key, ObjectInfo, Prefix, Store};
use aquifer_sqlite::wal::WalChecksum;
use futures::TryStreamExt;
use uuid::Uuid;

use crate::backup::{Backup, Format, History, Snapshot, Survey};
use crate::codec::Codec;
use crate::error::Result;
use crate::formats::{damaged, directories, fixed, small};
use crate::plan::{Content, Piece, Plan, Target};

use batches::Batch;
use pages::PageFrame;

/// Generations without a snapshot that a restore goes through at most, as bottomless does.
const MOST_PARENTS: usize = 100;
/// What time is counted back from, in seconds since the Unix epoch.
const END_OF_TIME: i64 = 253_370_761_200;

pub(crate) async fn find(store: &Store) -> Result<Vec<Backup>> {
    let dirs = directories(store, &Prefix::ROOT).await?;
    let mut found: Vec<Backup> = dirs.iter().filter_map(|dir| backup(store, dir)).collect();
    // Within a database the newest generation is listed first; databases whose names go on with a dash stand between.
    found.sort_by(|a, b| a.database().cmp(b.database()));
    Ok(found)
}

fn backup(store: &Store, directory: &str) -> Option<Backup> {
    let (database, id) = split(directory)?;
    let backup = Backup::new(store, Format::Bottomless, database, Prefix::ROOT.dir(directory));
    Some(backup.of_generation(id.to_string(), created(id)?))
}

/// The database and the generation that a directory's name says.
fn split(directory: &str) -> Option<(&str, Uuid)> {
    const ID: usize = 36;
    let at = directory.len().checked_sub(ID)?;
    let (database, id) = (directory.get(..at)?.strip_suffix('-')?, directory.get(at..)?);
    let id = Uuid::try_parse(id).ok().filter(|id| id.get_version_num() == 7)?;
    // Databases are files.
    (!["", ".", ".."].contains(&database)).then_some((database, id))
}

/// When a generation began: its id holds the time that was left.
fn created(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let seconds = END_OF_TIME.checked_sub(i64::try_from(seconds).ok()?)?;
    let millis = i64::from(999_999_999 - nanos.min(999_999_999)) / 1_000_000;
    Some(Timestamp::from_millis(seconds.checked_mul(1000)?.checked_add(millis)?))
}

/// The objects of a generation, by what they are.
#[derive(Debug, Default)]
struct Generation {
    snapshot: Option<(Codec, ObjectInfo)>,
    meta: Option<Key>,
    parent: Option<Key>,
    consistent: Option<Key>,
    change_counter: Option<Key>,
    /// In the order of their numbers.
    pages: Vec<PageFrame>,
    /// In the order of their first frames.
    batches: Vec<Batch>,
    objects: u64,
    bytes: u64,
    last_write: Option<Timestamp>,
}

impl Generation {
    async fn list(backup: &Backup) -> Result<Generation> {
        let mut listing = backup.store.list(&backup.prefix, None);
        let mut generation = Generation::default();
        while let Some(object) = listing.try_next().await? {
            generation.objects += 1;
            generation.bytes += object.len;
            generation.last_write = generation.last_write.max(Some(object.last_modified));
            let Some(name) = backup.prefix.strip(&object.key).map(str::to_owned) else { continue };
            match name.as_str() {
                "db.db" | "db.raw" => generation.snapshot(Codec::Raw, object),
                "db.gz" => generation.snapshot(Codec::Gzip, object),
                "db.zstd" => generation.snapshot(Codec::Zstd, object),
                ".meta" => generation.meta = Some(object.key),
                ".dep" => generation.parent = Some(object.key),
                ".consistent" => generation.consistent = Some(object.key),
                ".changecounter" => generation.change_counter = Some(object.key),
                name => {
                    if let Some(page) = PageFrame::parse(name, &object) {
                        generation.pages.push(page);
                    } else if let Some(batch) = Batch::parse(name, &object) {
                        generation.batches.push(batch);
                    } else {
                        tracing::warn!(object = %object.key, "is no object of bottomless, and not used");
                    }
                }
            }
        }
        // By number: names of numbers beyond twelve digits do not sort.
        generation.pages.sort_by_key(PageFrame::order);
        generation.batches.sort_by_key(Batch::order);
        Ok(generation)
    }

    /// Of several the newest: which compression is used can be set.
    fn snapshot(&mut self, codec: Codec, object: ObjectInfo) {
        if self.snapshot.as_ref().is_none_or(|(_, other)| other.last_modified < object.last_modified) {
            self.snapshot = Some((codec, object));
        }
    }

    fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.pages.is_empty() && self.batches.is_empty()
    }
}

pub(crate) async fn survey(backup: &Backup) -> Result<Survey> {
    let generation = Generation::list(backup).await?;
    let pages = generation.pages.first().zip(generation.pages.last());
    let batches = generation.batches.first().zip(generation.batches.last());
    let consistent = match &generation.consistent {
        Some(key) => Some(pages::consistent(backup, key).await?),
        None => None,
    };
    let parent = match &generation.parent {
        Some(key) => Some(parent(backup, key).await?.to_string()),
        None => None,
    };
    let change_counter = match &generation.change_counter {
        Some(key) => Some(u32::from_be_bytes(small(backup, key).await?)),
        None => None,
    };
    Ok(Survey {
        objects: generation.objects,
        bytes: generation.bytes,
        snapshot: generation.snapshot.as_ref().map(|(_, object)| Snapshot::of(object)),
        positions: pages
            .map(|(first, last)| (u64::from(first.number), u64::from(last.number)))
            .or(batches.map(|(first, last)| (u64::from(first.first), u64::from(last.last)))),
        consistent,
        change_counter,
        parent,
        last_write: generation.last_write,
    })
}

pub(crate) async fn plan(backup: &Backup, target: Target) -> Result<Option<Plan>> {
    let line = line(backup).await?;
    let own = line.len();
    plan_line(line, target, own).await
}

/// What the generation and those that it goes on from make, each moment at its time.
///
/// `older` are the generations of the database that are imported besides, in the order in which they are listed. One of them
/// that stands between two of the line has the moments there, so that those of the line from before it are given the time
/// at which the line goes on after it.
pub(crate) async fn history(backup: &Backup, older: &[Backup]) -> Result<Option<History>> {
    let line = line(backup).await?;
    let parents = line[1..].iter().map(|member| &member.backup);
    let own = match older {
        [] => line.len(),
        _ => 1 + parents.zip(older).take_while(|(parent, listed)| parent.prefix == listed.prefix).count(),
    };
    let holds = line[..own].windows(2).filter(|pair| !pair[1].went_on_after(&pair[0]));
    let holds = holds.map(|pair| pair[1].backup.prefix().to_owned()).collect();
    let plan = plan_line(line, Target::Latest, own).await?;
    Ok(plan.map(|plan| History { holds, ..History::of(plan) }))
}

/// A generation that a restore goes through.
struct Member {
    backup: Backup,
    generation: Generation,
}

impl Member {
    /// When it began.
    fn begun(&self) -> Timestamp {
        self.backup.created().unwrap_or_default()
    }

    /// Whether it has frames from after `child` began, which says that it goes on from this one. In one process it cannot:
    /// frames get their time before the checkpoint that the next generation begins with. So another process wrote them,
    /// or the clock was set back.
    fn went_on_after(&self, child: &Member) -> bool {
        self.generation
            .batches
            .iter()
            .any(|batch| batch.seconds() > child.begun().as_millis().div_euclid(1000))
    }
}

/// The generation, and those before it up to one that begins with a snapshot: newest first.
async fn line(backup: &Backup) -> Result<Vec<Member>> {
    refuse_deleted(backup).await?;
    let generation = Generation::list(backup).await?;
    if !generation.pages.is_empty() && !generation.batches.is_empty() {
        return Err(
            backup.broken("it holds single pages and runs of frames: objects of two databases were mixed")
        );
    }
    let mut line = vec![Member { backup: backup.clone(), generation }];
    while let Some(Member { backup, generation }) = line.last()
        && generation.snapshot.is_none()
        && generation.pages.is_empty()
        && let Some(key) = &generation.parent
    {
        if line.len() > MOST_PARENTS {
            return Err(backup.broken("more than 100 generations without a snapshot lead to it"));
        }
        let id = parent(backup, key).await?;
        let Some(parent) = self::backup(&backup.store, &format!("{}-{id}", backup.database())) else {
            return Err(backup.broken(format!("its parent {id} is no generation's id")));
        };
        let generation = Generation::list(&parent).await?;
        if generation.objects == 0 {
            return Err(backup.broken(format!(
                "it has no snapshot and goes on from generation {id}, of which there is nothing"
            )));
        }
        line.push(Member { backup: parent, generation });
    }
    Ok(line)
}

async fn plan_line(mut line: Vec<Member>, target: Target, own: usize) -> Result<Option<Plan>> {
    if line.iter().all(|member| member.generation.is_empty()) {
        return Ok(None);
    }
    let is_pages = !line[0].generation.pages.is_empty();
    let plan = match line.pop() {
        Some(member) if is_pages => pages::plan(member, target).await?,
        Some(first) => {
            line.push(first);
            batches::plan(line, target, own).await?
        }
        None => return Ok(None),
    };
    Ok(Some(plan))
}

/// The whole database that a generation begins with: as it was then, whenever it was uploaded.
fn snapshot_piece(member: &mut Member) -> Option<Piece> {
    let (codec, object) = member.generation.snapshot.take()?;
    let time = Some(member.begun());
    Some(Piece { object, content: Content::Database(codec), time, position: 0 })
}

/// Deleting a database leaves a mark, and the objects for a while.
async fn refuse_deleted(backup: &Backup) -> Result<()> {
    let Ok(key) = Key::parse(format!("{}.tombstone", backup.database())) else { return Ok(()) };
    let deleted = match backup.store.get(&key).await {
        Ok(bytes) => bytes,
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let seconds = i64::from_be_bytes(fixed(backup, &key, &deleted)?);
    let deleted = Timestamp::from_millis(seconds.saturating_mul(1000));
    if backup.created().is_some_and(|created| created <= deleted) {
        return Err(backup.broken(format!(
            "the database was deleted at {deleted}, says '{key}'. What is left of it can be restored after that object \
             was removed"
        )));
    }
    Ok(())
}

/// The page size and the checksum that a generation's first frame continues.
async fn meta(backup: &Backup, key: &Key) -> Result<(PageSize, WalChecksum)> {
    let [a, b, c] = words(small(backup, key).await?);
    let size = PageSize::new(a).map_err(|_| damaged(backup, key, format!("it says pages of {a} bytes")))?;
    Ok((size, WalChecksum { s0: b, s1: c }))
}

async fn parent(backup: &Backup, key: &Key) -> Result<Uuid> {
    Ok(Uuid::from_bytes(small(backup, key).await?))
}

/// Big-endian words.
fn words(bytes: [u8; 12]) -> [u32; 3] {
    std::array::from_fn(|i| u32::from_be_bytes(std::array::from_fn(|j| bytes[4 * i + j])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_says_its_database_and_generation() {
        let id = "e4ce7d64-228f-7b00-a358-ef26d54e1d69";
        let (database, found) = split("ns-db1:default-e4ce7d64-228f-7b00-a358-ef26d54e1d69").unwrap();
        assert_eq!((database, found.to_string().as_str()), ("ns-db1:default", id));
        // The first batch of that bucket was written at 1795243093.
        let created = created(found).unwrap().as_millis();
        assert!((1_795_243_000_000..1_795_243_100_000).contains(&created), "{created}");
        for other in [
            id,
            "..-e4ce7d64-228f-7b00-a358-ef26d54e1d69",
            "-e4ce7d64-228f-7b00-a358-ef26d54e1d69",
            "db-e4ce7d64-228f-4b00-a358-ef26d54e1d69",
            "é",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
