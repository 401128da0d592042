//! A generation's record: what is known of a history before its first segment.

use std::fmt;

use aquifer_format::{PageSize, Revision, Timestamp, WriterNonce};
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::name::DatabaseName;
use crate::store::{Key, Store};

/// What `generation.json` holds. Written once, when the generation begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    /// Version of the record. Set by [`GenerationRecord::new`] and [`GenerationRecord::continuing`].
    pub version: u32,
    /// What the history continues, if anything: its first segment then builds on that revision's content.
    pub parent: Option<Parent>,
    /// Size of the database's pages, the same for the whole generation.
    pub page_size: PageSize,
    /// When it began, by the clock of the host.
    pub created_at: Timestamp,
    /// Name of the machine that began it.
    pub host: String,
    /// Path of the database file there.
    pub source: String,
    /// The program that began it, with its version.
    pub program: String,
    /// Who began it.
    pub writer: WriterNonce,
}

/// What a generation continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The database of the same store that has it; `None` if that is the generation's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseName>,
    /// The revision.
    #[serde(flatten)]
    pub revision: Revision,
}

impl Parent {
    /// A revision of the same database.
    pub fn own(revision: Revision) -> Parent {
        Parent { database: None, revision }
    }

    /// The other database that has it, if it is in another one than `child`.
    pub fn elsewhere(&self, child: &DatabaseStore) -> Option<DatabaseStore> {
        let name = self.database.as_ref().filter(|name| *name != child.name())?;
        Some(DatabaseStore::new(child.store().clone(), name.clone()))
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{} of '{database}'", self.revision),
            None => self.revision.fmt(f),
        }
    }
}

/// The part that says whether the rest can be understood.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl GenerationRecord {
    /// The newest version that this program reads. Records of generations whose parent is in another database are of
    /// this one: who does not look there must not take them for whole.
    pub const VERSION: u32 = 2;

    /// The version of all other records.
    const WITHIN_ITS_DATABASE: u32 = 1;

    /// A record of a generation that begins now.
    pub fn new(page_size: PageSize, writer: WriterNonce) -> GenerationRecord {
        GenerationRecord {
            version: Self::WITHIN_ITS_DATABASE,
            parent: None,
            page_size,
            created_at: Timestamp::now(),
            host: String::new(),
            source: String::new(),
            program: concat!("aquifer ", env!("CARGO_PKG_VERSION")).to_owned(),
            writer,
        }
    }

    /// The same, of a generation that continues something.
    #[must_use]
    pub fn continuing(mut self, parent: Parent) -> GenerationRecord {
        self.version = if parent.database.is_some() { Self::VERSION } else { Self::WITHIN_ITS_DATABASE };
        self.parent = Some(parent);
        self
    }

    /// The same, of a copy that has all of it, and continues nothing.
    #[must_use]
    pub fn by_itself(self) -> GenerationRecord {
        GenerationRecord { version: Self::WITHIN_ITS_DATABASE, parent: None, ..self }
    }

    /// As stored: JSON, with a newline at its end.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a record. Fields that this program does not know are skipped.
    pub(crate) fn decode(store: &Store, key: &Key, bytes: &[u8]) -> Result<GenerationRecord, LogError> {
        let version: Version = decode(store, key, bytes)?;
        if version.version > Self::VERSION {
            return Err(LogError::RecordVersion {
                url: store.url().to_owned(),
                key: key.clone(),
                found: version.version,
                supported: Self::VERSION,
            });
        }
        decode(store, key, bytes)
    }
}

/// A record as JSON for people to read.
pub(crate) fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(record).expect("records have string keys and no failing fields");
    bytes.push(b'\n');
    bytes
}

/// A record from JSON.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    store: &Store,
    key: &Key,
    bytes: &'a [u8],
) -> Result<T, LogError> {
    serde_json::from_slice(bytes).map_err(|e| LogError::Record {
        url: store.url().to_owned(),
        key: key.clone(),
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use aquifer_format::{GenerationId, Txid};

    use super::*;
    use crate::StoreUrl;

    fn read(json: &[u8]) -> Result<GenerationRecord, LogError> {
        let store = Store::open(&"memory://".parse::<StoreUrl>().unwrap()).unwrap();
        GenerationRecord::decode(&store, &Key::parse("db/x/generation.json").unwrap(), json)
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let generation = GenerationId::new(Timestamp::from_millis(77));
        let revision = Revision { generation, txid: Txid::new(u64::MAX) };
        for database in [None, Some("ä/b".parse().unwrap())] {
            let mut record = GenerationRecord::new(PageSize::DEFAULT, WriterNonce::random());
            record.host = "böx".to_owned();
            record = record.continuing(Parent { database, revision });
            assert_eq!(read(&record.encode()).unwrap(), record);
        }
    }

    #[test]
    fn only_a_record_with_a_parent_elsewhere_is_kept_from_those_who_would_not_look_there() {
        let revision =
            Revision { generation: GenerationId::new(Timestamp::from_millis(77)), txid: Txid::FIRST };
        let plain = GenerationRecord::new(PageSize::DEFAULT, WriterNonce::random());
        let branch = plain.clone().continuing(Parent::own(revision));
        let fork = plain.clone().continuing(Parent { database: Some("a".parse().unwrap()), revision });
        assert_eq!((plain.version, branch.version, fork.version), (1, 1, 2));
    }

    #[test]
    fn a_newer_record_is_refused_by_name_and_not_misread() {
        let error = read(br#"{"version": 3, "page_size": {"bytes": 4096}}"#).unwrap_err();
        assert!(matches!(error, LogError::RecordVersion { found: 3, supported: 2, .. }), "{error}");
        assert!(error.to_string().contains("db/x/generation.json"), "{error}");
    }

    #[test]
    fn fields_added_later_are_skipped() {
        let record = GenerationRecord::new(PageSize::MIN, WriterNonce::random());
        let mut json: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
        json["colour"] = "blue".into();
        assert_eq!(read(json.to_string().as_bytes()).unwrap(), record);
    }

    #[test]
    fn damage_names_the_object() {
        for bad in [&b""[..], b"{}", b"\xff", br#"{"version":1,"page_size":4095}"#] {
            let error = read(bad).unwrap_err();
            assert!(matches!(error, LogError::Record { .. }), "{error}");
        }
    }

    proptest::proptest! {
        /// Whatever is in the object of a record: it is read, or refused with the object's name.
        #[test]
        fn any_bytes_are_a_record_or_an_error_that_names_it(
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            changes in proptest::collection::vec(
                (proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..4),
        ) {
            let mut damaged = GenerationRecord::new(PageSize::MIN, WriterNonce::random()).encode();
            for (at, byte) in changes {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            let store = Store::open(&"memory://".parse::<StoreUrl>().unwrap()).unwrap();
            let key = Key::parse("db/x/generation.json").unwrap();
            for bytes in [&noise, &damaged] {
                let errors = [
                    GenerationRecord::decode(&store, &key, bytes).err(),
                    crate::owner::OwnerRecord::decode(&store, &key, bytes).err(),
                    crate::retain::RetiredRecord::parse(&store, &key, bytes).err(),
                ];
                for error in errors.into_iter().flatten() {
                    proptest::prop_assert!(error.to_string().contains("db/x/generation.json"), "{}", error);
                }
            }
        }
    }
}
