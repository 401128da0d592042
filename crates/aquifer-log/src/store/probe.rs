//! Whether a store keeps the one promise that the commit protocol rests on. Services that speak S3's protocol
//! differ, and some answer "created" and overwrite: measured, not believed.

use futures::future::try_join_all;
use serde::Serialize;

use super::create::Created;
use super::{Key, Prefix, Store, StoreError};

/// What a store was found to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Whether of several writers that create one object exactly one succeeds.
    pub put_if_absent: Verdict,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "how")]
pub enum Verdict {
    /// It does.
    Honoured,
    /// It says that it does, and does not. The text says what was seen.
    Broken(String),
    /// It refuses such requests. The text is its answer.
    Unsupported(String),
}

impl Verdict {
    /// Whether writers can be fenced in this store.
    pub fn is_honoured(&self) -> bool {
        matches!(self, Verdict::Honoured)
    }
}

impl Store {
    /// Finds out what the store can do, with two creates of one scratch object and its deletion.
    pub async fn probe(&self) -> Result<Capabilities, StoreError> {
        self.probe_with(async |store, key| {
            if store.create(key, "first").await? == Created::New {
                let second = store.create(key, "second").await?;
                return Ok(match second {
                    Created::Taken(found) if found == "first" => Verdict::Honoured,
                    Created::Taken(_) => {
                        Verdict::Broken("the object read back is not the one written".into())
                    }
                    Created::New | Created::AlreadyOurs => Verdict::Broken(
                        "a second create of the same object succeeded and overwrote it".into(),
                    ),
                });
            }
            Ok(Verdict::Broken("a new object was said to exist".into()))
        })
        .await
    }

    /// As [`Store::probe`], and with so many creates at once of another scratch object: stores that check first
    /// and then write show only so. For `doctor`: it costs `writers` puts, and as many reads.
    pub async fn probe_race(&self, writers: usize) -> Result<Capabilities, StoreError> {
        let alone = self.probe().await?;
        if !alone.put_if_absent.is_honoured() {
            return Ok(alone);
        }
        self.probe_with(async |store, key| {
            let creates = (0..writers).map(async |n| {
                let created = store.create(key, format!("writer {n}")).await?;
                Ok::<_, StoreError>((n, created))
            });
            let outcomes = try_join_all(creates).await?;
            let winners: Vec<_> =
                outcomes.iter().filter(|(_, created)| created.is_ours()).map(|(n, _)| n).collect();
            let content = store.get(key).await?;
            Ok(match winners[..] {
                [winner] if content == format!("writer {winner}") => Verdict::Honoured,
                [_] => Verdict::Broken("the content is not that of the only writer who succeeded".into()),
                ref some => Verdict::Broken(format!("of {writers} writers at once {} succeeded", some.len())),
            })
        })
        .await
    }

    async fn probe_with(
        &self,
        probe: impl AsyncFnOnce(&Store, &Key) -> Result<Verdict, StoreError>,
    ) -> Result<Capabilities, StoreError> {
        let name = uuid::Uuid::now_v7().simple().to_string();
        let scratch = Prefix::ROOT.dir(".aquifer").dir("probe").key(&name);
        // What is asked for is the store's own promise.
        let store = Store { fenced: true, ..self.clone() };
        let put_if_absent = match probe(&store, &scratch).await {
            Err(StoreError::Refused { reason, .. }) if says_not_implemented(&reason) => {
                Verdict::Unsupported(reason)
            }
            found => found?,
        };
        // A scratch object that cannot be deleted says nothing about creates.
        if let Err(error) = store.delete(&scratch).await {
            tracing::warn!(%error, "the probe's scratch object stays behind");
        }
        Ok(Capabilities { put_if_absent })
    }
}

fn says_not_implemented(reason: &str) -> bool {
    ["501 ", "NotImplemented", "not yet implemented", "no hard links"]
        .iter()
        .any(|text| reason.contains(text))
}
