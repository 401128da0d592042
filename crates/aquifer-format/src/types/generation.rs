//! Generations, and the revisions inside them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Timestamp, Txid};

/// Largest value of a version 7 UUID's 48-bit millisecond field.
const MAX_MILLIS: u64 = (1 << 48) - 1;

/// One unbroken history of a database: a version 7 UUID made from *reversed* time, so that the newest sorts first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationId(Uuid);

impl GenerationId {
    /// A new generation, created at `now`. Two made in the same millisecond differ in their random part.
    pub fn new(now: Timestamp) -> GenerationId {
        let random = Uuid::now_v7().into_bytes();
        let entropy: [u8; 10] = std::array::from_fn(|i| random[i + 6]);
        let reversed = MAX_MILLIS - now.as_millis().clamp(0, MAX_MILLIS as i64) as u64;
        GenerationId(uuid::Builder::from_unix_timestamp_millis(reversed, &entropy).into_uuid())
    }

    /// When it was created, to the millisecond, as its id tells.
    pub fn created_at(self) -> Timestamp {
        let millis = (self.0.as_u128() >> 80) as u64;
        Timestamp::from_millis((MAX_MILLIS - millis) as i64)
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Not a generation's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no generation (a UUID such as fe6f9e6b-1c2f-7a3b-9d0e-5b1f2a3c4d5e; `aquifer ls NAME` lists them)"
)]
pub struct ParseGenerationError(String);

impl FromStr for GenerationId {
    type Err = ParseGenerationError;
    fn from_str(s: &str) -> Result<GenerationId, ParseGenerationError> {
        // Only the hyphenated lower-case form: it is the object key.
        match Uuid::try_parse(s) {
            Ok(id) if id.to_string() == s => Ok(GenerationId(id)),
            _ => Err(ParseGenerationError(s.to_owned())),
        }
    }
}

/// One exact database image, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// The history it belongs to.
    pub generation: GenerationId,
    /// The last batch that it includes.
    pub txid: Txid,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.txid)
    }
}

/// Not a revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no revision: a generation, a colon, and a txid")]
pub struct ParseRevisionError(String);

impl FromStr for Revision {
    type Err = ParseRevisionError;
    fn from_str(s: &str) -> Result<Revision, ParseRevisionError> {
        let parsed = s.split_once(':').and_then(|(generation, txid)| {
            Some(Revision { generation: generation.parse().ok()?, txid: txid.parse().ok()? })
        });
        parsed.ok_or_else(|| ParseRevisionError(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_generation_sorts_first() {
        let old = GenerationId::new(Timestamp::from_millis(1_700_000_000_000));
        let new = GenerationId::new(Timestamp::from_millis(1_700_000_000_001));
        assert!(new < old);
        assert!(new.to_string() < old.to_string());
        assert_eq!(new.created_at(), Timestamp::from_millis(1_700_000_000_001));
    }

    #[test]
    fn a_revision_reads_as_it_prints() {
        let revision =
            Revision { generation: GenerationId::new(Timestamp::from_millis(5)), txid: Txid::new(17) };
        assert_eq!(revision.to_string().parse(), Ok(revision));
        for bad in ["", "17", ":17", &revision.generation.to_string(), &format!("{}:", revision.generation)] {
            assert!(bad.parse::<Revision>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_form_used_in_keys_parses() {
        let id = GenerationId::new(Timestamp::from_millis(5));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<GenerationId>().is_err());
        assert!("servers".parse::<GenerationId>().is_err());
    }
}
