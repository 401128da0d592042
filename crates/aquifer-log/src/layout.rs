//! Which object is what: the names of everything that is in a store.
//!
//! ```text
//! <database>/<generation>/generation.json
//! <database>/<generation>/0/<txid>.seg                    as shipped, created only if absent
//! <database>/<generation>/0/<txid>-<writer>.groups        groups of a large one, referred to by the .seg
//! <database>/<generation>/<level>/<first>-<last>.seg      compacted
//! <database>/<generation>/snapshot/<txid>.seg             an image of every page
//! <database>/<generation>/spans/<number:08x>.json          where libSQL's numbers of frames begin
//! <database>/<generation>/retired.json                    what retention will delete, and since when it knows
//! <database>/first.json                                   the generation that it begins with, created only if absent
//! <database>/control.json                                 what an administrator has said of it
//! <database>/forks/<database>/<generation>.json           which other one builds on it, and on what
//! <database>/owner/<epoch>.json                           who serves it, created only if absent
//! servers/<server>.json                                   a server's sign of life
//! .aquifer/deleted/<database>                             that it was deleted, and may still be there
//! ```
//!
//! Txids and epochs are 16 hexadecimal digits, so that names sort as numbers. Parsing is strict: what is not exactly as
//! this module writes it is of unknown purpose, and left alone.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use aquifer_format::{GenerationId, Txid, TxidRange, WriterNonce};
use serde::{Deserialize, Serialize};

use crate::name::DatabaseName;
use crate::store::{Key, Prefix};

const SEGMENT: &str = ".seg";
const GROUPS: &str = ".groups";
const GENERATION_RECORD: &str = "generation.json";
const RETIRED_RECORD: &str = "retired.json";
const FIRST_RECORD: &str = "first.json";
const CONTROL_RECORD: &str = "control.json";
const OWNERS: &str = "owner";
const JSON: &str = ".json";
const FORKS: &str = "forks";
const SPANS: &str = "spans";

/// Where the servers of a store announce themselves. No database has this name.
pub(crate) const SERVERS: &str = "servers";

/// How a segment came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Level {
    /// As shipped: one txid each.
    Shipped,
    /// Compacted from segments of lower levels.
    Compacted(NonZeroU8),
    /// An image of every page: its range starts at txid 1.
    Snapshot,
}

impl Level {
    /// The compacted level of this number, or `Shipped` for 0.
    pub fn number(n: u8) -> Level {
        NonZeroU8::new(n).map_or(Level::Shipped, Level::Compacted)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Shipped => f.write_str("0"),
            Level::Compacted(n) => write!(f, "{n}"),
            Level::Snapshot => f.write_str("snapshot"),
        }
    }
}

/// Not the name of a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no level: 0 to 255, or 'snapshot'")]
pub struct ParseLevelError(String);

impl FromStr for Level {
    type Err = ParseLevelError;
    fn from_str(text: &str) -> Result<Level, ParseLevelError> {
        let level = match text {
            "snapshot" => Some(Level::Snapshot),
            digits => digits.parse().ok().map(Level::number),
        };
        // "+1" and "01" parse as numbers, and are not how levels are written.
        level.filter(|level| level.to_string() == text).ok_or_else(|| ParseLevelError(text.to_owned()))
    }
}

impl From<Level> for String {
    fn from(level: Level) -> String {
        level.to_string()
    }
}

impl TryFrom<String> for Level {
    type Error = ParseLevelError;
    fn try_from(text: String) -> Result<Level, ParseLevelError> {
        text.parse()
    }
}

/// Names a segment inside its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentKey {
    /// Its level.
    pub level: Level,
    /// The txids that it covers: one at level `Shipped`, from 1 in a snapshot.
    pub range: TxidRange,
}

impl SegmentKey {
    /// The segment of one txid, as shipped.
    pub fn shipped(txid: Txid) -> SegmentKey {
        SegmentKey { level: Level::Shipped, range: TxidRange::one(txid) }
    }

    /// The snapshot of the database after `txid`, or `None` for txid 0.
    pub fn snapshot(txid: Txid) -> Option<SegmentKey> {
        Some(SegmentKey { level: Level::Snapshot, range: TxidRange::new(Txid::FIRST, txid)? })
    }

    /// A compacted segment.
    pub fn compacted(level: NonZeroU8, range: TxidRange) -> SegmentKey {
        SegmentKey { level: Level::Compacted(level), range }
    }

    /// Its object's name without directory and extension.
    fn stem(&self) -> String {
        match self.level {
            Level::Shipped | Level::Snapshot => self.range.last.to_hex(),
            Level::Compacted(_) => format!("{}-{}", self.range.first.to_hex(), self.range.last.to_hex()),
        }
    }

    fn from_stem(level: Level, stem: &str) -> Option<SegmentKey> {
        let range = match level {
            Level::Shipped => {
                let txid = Txid::from_hex(stem)?;
                TxidRange::new(txid, txid)?
            }
            Level::Snapshot => TxidRange::new(Txid::FIRST, Txid::from_hex(stem)?)?,
            Level::Compacted(_) => {
                let (first, last) = stem.split_once('-')?;
                TxidRange::new(Txid::from_hex(first)?, Txid::from_hex(last)?)?
            }
        };
        Some(SegmentKey { level, range })
    }
}

/// As in the object's key: `0/000000000000002a.seg`.
impl fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{SEGMENT}", self.level, self.stem())
    }
}

/// What an object of a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// The generation's record.
    GenerationRecord,
    /// Which objects of the generation are to be deleted.
    RetiredRecord,
    /// A segment.
    Segment(SegmentKey),
    /// The groups of a segment that is too large for one put.
    Companion {
        /// The segment that may refer to it.
        segment: SegmentKey,
        /// Who wrote it.
        writer: WriterNonce,
    },
    /// Not ours, or of a newer version.
    Unknown,
}

/// The names of one database's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    database: Prefix,
}

impl Layout {
    /// Of this database.
    pub fn new(name: &DatabaseName) -> Layout {
        Layout { database: Prefix::ROOT.dir(&name.to_component()) }
    }

    /// Everything of the database.
    pub fn database(&self) -> &Prefix {
        &self.database
    }

    /// Which generation is the first of a database that servers share.
    pub fn first(&self) -> Key {
        self.database.key(FIRST_RECORD)
    }

    /// The claims of servers.
    pub fn owners(&self) -> Prefix {
        self.database.dir(OWNERS)
    }

    /// The claim of this epoch.
    pub fn owner(&self, epoch: u64) -> Key {
        self.owners().key(&format!("{epoch:016x}{JSON}"))
    }

    /// The epoch of a claim, by its key.
    pub fn epoch(&self, key: &Key) -> Option<u64> {
        let name = self.owners().strip(key)?.strip_suffix(JSON)?;
        let epoch = u64::from_str_radix(name, 16).ok()?;
        (self.owner(epoch) == *key).then_some(epoch)
    }

    /// What others build on.
    pub fn forks(&self) -> Prefix {
        self.database.dir(FORKS)
    }

    /// That a generation of another database builds on this one.
    pub fn fork(&self, child: &DatabaseName, generation: GenerationId) -> Key {
        self.forks().dir(&child.to_component()).key(&format!("{generation}{JSON}"))
    }

    /// The generation that builds on this database, by the key of the record that says so.
    pub(crate) fn forked(&self, key: &Key) -> Option<(DatabaseName, GenerationId)> {
        let (child, generation) = self.forks().strip(key)?.strip_suffix(JSON)?.split_once('/')?;
        let (child, generation) = (DatabaseName::from_component(child)?, generation.parse().ok()?);
        (self.fork(&child, generation) == *key).then_some((child, generation))
    }

    /// What an administrator has said of the database.
    pub fn control(&self) -> Key {
        self.database.key(CONTROL_RECORD)
    }

    /// Everything of a generation.
    pub fn generation(&self, generation: GenerationId) -> Prefix {
        self.database.dir(&generation.to_string())
    }

    /// A generation's record.
    pub fn generation_record(&self, generation: GenerationId) -> Key {
        self.generation(generation).key(GENERATION_RECORD)
    }

    /// Which objects of a generation are to be deleted.
    pub fn retired_record(&self, generation: GenerationId) -> Key {
        self.generation(generation).key(RETIRED_RECORD)
    }

    /// Where frames are numbered from.
    pub(crate) fn spans(&self, generation: GenerationId) -> Prefix {
        self.generation(generation).dir(SPANS)
    }

    /// A span's record.
    pub(crate) fn span(&self, generation: GenerationId, number: u32) -> Key {
        self.spans(generation).key(&format!("{number:08x}.json"))
    }

    /// The number of the span whose record this is.
    pub(crate) fn span_number(&self, generation: GenerationId, key: &Key) -> Option<u32> {
        let number =
            u32::from_str_radix(self.spans(generation).strip(key)?.strip_suffix(".json")?, 16).ok()?;
        (self.span(generation, number) == *key).then_some(number)
    }

    /// All segments of a level.
    pub fn level(&self, generation: GenerationId, level: Level) -> Prefix {
        self.generation(generation).dir(&level.to_string())
    }

    /// A segment.
    pub fn segment(&self, generation: GenerationId, segment: SegmentKey) -> Key {
        self.level(generation, segment.level).key(&format!("{}{SEGMENT}", segment.stem()))
    }

    /// The groups of a segment that does not hold them itself.
    pub fn companion(&self, generation: GenerationId, segment: SegmentKey, writer: WriterNonce) -> Key {
        self.level(generation, segment.level).key(&format!("{}-{writer}{GROUPS}", segment.stem()))
    }

    /// Where to start listing a level for the segments whose first txid is greater than `txid` (for snapshots,
    /// whose last one is). A key of this level that sorts before all of them and after all others.
    pub(crate) fn after(&self, generation: GenerationId, level: Level, txid: Txid) -> Key {
        // '~' sorts after '-', '.' and every digit.
        self.level(generation, level).key(&format!("{}~", txid.to_hex()))
    }

    /// What an object is, by its key.
    pub fn kind(&self, generation: GenerationId, key: &Key) -> ObjectKind {
        let known = self.generation(generation).strip(key).and_then(|rest| match rest.split_once('/') {
            None => match rest {
                GENERATION_RECORD => Some(ObjectKind::GenerationRecord),
                RETIRED_RECORD => Some(ObjectKind::RetiredRecord),
                _ => None,
            },
            Some((level, name)) => parse_in_level(level.parse().ok()?, name),
        });
        known.unwrap_or(ObjectKind::Unknown)
    }
}

fn parse_in_level(level: Level, name: &str) -> Option<ObjectKind> {
    if let Some(stem) = name.strip_suffix(SEGMENT) {
        return SegmentKey::from_stem(level, stem).map(ObjectKind::Segment);
    }
    let (stem, nonce) = name.strip_suffix(GROUPS)?.rsplit_once('-')?;
    let segment = SegmentKey::from_stem(level, stem)?;
    let writer = WriterNonce::from_bytes(u128::from_str_radix(nonce, 16).ok()?.to_be_bytes());
    (writer.to_string() == nonce).then_some(ObjectKind::Companion { segment, writer })
}

/// Where servers announce themselves.
pub fn servers() -> Prefix {
    Prefix::ROOT.dir(SERVERS)
}

/// Where one server announces itself. Its id is made by the server: a UUID.
pub fn server(id: uuid::Uuid) -> Key {
    servers().key(&format!("{}.json", id.simple()))
}

#[cfg(test)]
mod tests {
    use aquifer_format::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn layout() -> (Layout, GenerationId) {
        (Layout::new(&"app.db".parse().unwrap()), GenerationId::new(Timestamp::from_millis(1)))
    }

    fn range(first: u64, last: u64) -> TxidRange {
        TxidRange::new(Txid::new(first), Txid::new(last)).unwrap()
    }

    #[test]
    fn keys_are_as_documented() {
        let (layout, generation) = layout();
        let under =
            |key: Key| key.as_str().strip_prefix(&format!("app.db/{generation}/")).unwrap().to_owned();
        let nonce = WriterNonce::from_bytes([0xab; 16]);
        assert_eq!(layout.first().as_str(), "app.db/first.json");
        assert_eq!(layout.control().as_str(), "app.db/control.json");
        assert_eq!(layout.owner(26).as_str(), "app.db/owner/000000000000001a.json");
        assert_eq!(layout.epoch(&layout.owner(26)), Some(26));
        for other in ["app.db/owner/1a.json", "app.db/owner.json", "app.db/owner/000000000000001A.json"] {
            assert_eq!(layout.epoch(&Key::parse(other).unwrap()), None, "{other}");
        }
        let child = "team/servers".parse().unwrap();
        let fork = layout.fork(&child, generation);
        assert_eq!(fork.as_str(), format!("app.db/forks/team=2Fservers/{generation}.json"));
        assert_eq!(layout.forked(&fork), Some((child, generation)));
        for other in ["app.db/forks/a.json", "app.db/forks/a/b.json", "app.db/control.json"] {
            assert_eq!(layout.forked(&Key::parse(other).unwrap()), None, "{other}");
        }
        assert_eq!(under(layout.generation_record(generation)), "generation.json");
        assert_eq!(under(layout.retired_record(generation)), "retired.json");
        let retired = layout.retired_record(generation);
        assert_eq!(layout.kind(generation, &retired), ObjectKind::RetiredRecord);
        let shipped = SegmentKey::shipped(Txid::new(42));
        assert_eq!(under(layout.segment(generation, shipped)), "0/000000000000002a.seg");
        assert_eq!(
            under(layout.companion(generation, shipped, nonce)),
            "0/000000000000002a-abababababababababababababababab.groups"
        );
        let compacted = SegmentKey::compacted(NonZeroU8::new(2).unwrap(), range(1, 255));
        assert_eq!(under(layout.segment(generation, compacted)), "2/0000000000000001-00000000000000ff.seg");
        let snapshot = SegmentKey::snapshot(Txid::new(255)).unwrap();
        assert_eq!(under(layout.segment(generation, snapshot)), "snapshot/00000000000000ff.seg");
        assert_eq!(snapshot.to_string(), "snapshot/00000000000000ff.seg");
    }

    #[test]
    fn what_is_not_exactly_a_known_name_is_unknown() {
        let (layout, generation) = layout();
        for name in [
            "generation.json.bak",
            "x/generation.json",
            "0/2a.seg",
            "0/000000000000002A.seg",
            "0/0000000000000000.seg",
            "0/0000000000000001-0000000000000002.seg",
            "00/000000000000002a.seg",
            "+1/0000000000000001-0000000000000002.seg",
            "256/0000000000000001-0000000000000002.seg",
            "1/0000000000000002-0000000000000001.seg",
            "1/0000000000000001.seg",
            "0/000000000000002a.seg/x",
            "0/000000000000002a.seg.tmp",
            "0/000000000000002a-abab.groups",
            "0/000000000000002a-ABABABABABABABABABABABABABABABAB.groups",
            "snapshots/000000000000002a.seg",
        ] {
            let key = Key::parse(format!("app.db/{generation}/{name}")).unwrap();
            assert_eq!(layout.kind(generation, &key), ObjectKind::Unknown, "{name}");
        }
        let elsewhere = Key::parse("other.db/x/generation.json").unwrap();
        assert_eq!(layout.kind(generation, &elsewhere), ObjectKind::Unknown);
    }

    proptest! {
        #[test]
        fn every_key_is_recognised(level: Option<u8>, a in 1u64.., b in 1u64.., nonce: [u8; 16]) {
            let (layout, generation) = layout();
            let segment = match level.map(Level::number) {
                None => SegmentKey::snapshot(Txid::new(a)).unwrap(),
                Some(Level::Compacted(n)) => SegmentKey::compacted(n, range(a.min(b), a.max(b))),
                Some(_) => SegmentKey::shipped(Txid::new(a)),
            };
            let key = layout.segment(generation, segment);
            prop_assert_eq!(layout.kind(generation, &key), ObjectKind::Segment(segment));
            let writer = WriterNonce::from_bytes(nonce);
            let key = layout.companion(generation, segment, writer);
            prop_assert_eq!(layout.kind(generation, &key), ObjectKind::Companion { segment, writer });
        }

        #[test]
        fn keys_sort_as_txids(a in 1u64.., b in 1u64..) {
            let (layout, generation) = layout();
            let key = |txid| layout.segment(generation, SegmentKey::shipped(Txid::new(txid)));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            let start = layout.after(generation, Level::Shipped, Txid::new(a));
            prop_assert_eq!(key(b) > start, b > a);
        }
    }
}
