//! How revisions are written where clients see them.

use std::fmt;

use aquifer_format::{Revision, Txid};

/// The header of an answer to SQL that tells up to which revision it may have seen the database, as [`Revision`] is
/// printed.
pub const REVISION_HEADER: &str = "aquifer-revision";

/// A revision as clients get and send it: `<generation>.<txid>`. Opaque to them. (Of the shape `g1:o123` old clients
/// would take it for one of the MVCC protocol.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireRevision(pub Revision);

impl fmt::Display for WireRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.generation, self.0.txid)
    }
}

impl WireRevision {
    /// The revision of this text; `None` when no Aquifer server wrote it.
    pub fn parse(text: &str) -> Option<WireRevision> {
        let (generation, txid) = text.split_once('.')?;
        let revision = WireRevision(Revision {
            generation: generation.parse().ok()?,
            txid: Txid::new(txid.parse().ok()?),
        });
        // Numbers have more than one spelling ("+1", "01"); revisions have one.
        (revision.to_string() == text).then_some(revision)
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::{GenerationId, Timestamp};

    use super::*;

    #[test]
    fn revisions_have_one_spelling_and_survive_the_way_to_the_client_and_back() {
        let generation = GenerationId::new(Timestamp::from_millis(5));
        let revision = WireRevision(Revision { generation, txid: Txid::new(17) });
        assert_eq!(WireRevision::parse(&revision.to_string()), Some(revision));
        for foreign in ["17", "", "g1:o17", &format!("{generation}"), &format!("{generation}.")] {
            assert_eq!(WireRevision::parse(foreign), None, "{foreign}");
        }
        for spelling in ["017", "+17", "-1", "1.7", " 17", "99999999999999999999"] {
            assert_eq!(WireRevision::parse(&format!("{generation}.{spelling}")), None, "{spelling}");
        }
    }
}
