//! A store behind `object_store`: a cloud, memory, or what an embedding program or a test supplies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aquifer_format::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartId, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};

use super::failure::{bucket_missing, classify, is_beyond_end};
use super::{Backend, BackendUpload, Fetched, Page, Part, Position};
use crate::store::ObjectInfo;
use crate::store::error::{Failure, FailureKind};
use crate::store::key::{Key, Prefix};

#[derive(Debug)]
pub(crate) struct Remote {
    objects: Arc<dyn ObjectStore>,
    cloud: Option<Cloud>,
    /// Before every key: empty, or with a slash at its end.
    root: String,
    /// Keys that one delete request takes.
    deletes_at_once: usize,
    reads_suffixes: bool,
}

/// What the clouds' clients can do besides the general trait.
struct Cloud {
    pages: Arc<dyn PaginatedListStore>,
    parts: Arc<dyn MultipartStore>,
}

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cloud")
    }
}

impl Remote {
    pub(crate) fn cloud<C: ObjectStore + PaginatedListStore + MultipartStore>(
        client: Arc<C>,
        prefix: &str,
        deletes_at_once: usize,
    ) -> Remote {
        let root = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let cloud = Cloud { pages: Arc::clone(&client) as _, parts: Arc::clone(&client) as _ };
        Remote { objects: client, cloud: Some(cloud), root, deletes_at_once, reads_suffixes: true }
    }

    /// For a service that cannot read the end of an object whose length is not known.
    pub(crate) fn without_suffixes(self) -> Remote {
        Remote { reads_suffixes: false, ..self }
    }

    pub(crate) fn plain(objects: Arc<dyn ObjectStore>) -> Remote {
        Remote { objects, cloud: None, root: String::new(), deletes_at_once: 1, reads_suffixes: true }
    }

    fn path(&self, key: &Key) -> Result<Path, Failure> {
        self.parse_path(key.as_str())
    }

    fn parse_path(&self, name: &str) -> Result<Path, Failure> {
        Path::parse(format!("{}{name}", self.root)).map_err(|e| Failure::new(FailureKind::Refused, e))
    }

    /// What a listing found, or `None` for what no key can name: `object_store` drops the slash at the end of
    /// the markers that some tools make for directories, and so they appear outside of the prefix.
    fn info(&self, prefix: &Prefix, meta: &ObjectMeta) -> Option<ObjectInfo> {
        let key = Key::parse(meta.location.as_ref().strip_prefix(&self.root)?).ok()?;
        prefix.strip(&key)?;
        let last_modified = Timestamp::from_millis(meta.last_modified.timestamp_millis());
        Some(ObjectInfo { key, len: meta.size, last_modified })
    }

    async fn page(
        &self,
        cloud: &Cloud,
        prefix: &Prefix,
        from: Position,
        delimiter: bool,
        limit: Option<usize>,
    ) -> Result<(object_store::ListResult, Option<Position>), Failure> {
        let (page_token, after) = match from {
            Position::Start => (None, None),
            Position::After(key) => (None, Some(key)),
            Position::Token { token, after } => (Some(token), after),
        };
        let options = PaginatedListOptions {
            // Repeated with the token: a service may want the request that the token came from.
            offset: after.as_ref().map(|key| format!("{}{key}", self.root)),
            delimiter: delimiter.then_some(Cow::Borrowed("/")),
            max_keys: limit,
            page_token,
            ..PaginatedListOptions::default()
        };
        let under = format!("{}{prefix}", self.root);
        let page = cloud.pages.list_paginated(Some(&under), options).await.map_err(classify)?;
        Ok((page.result, page.page_token.map(|token| Position::Token { token, after })))
    }
}

#[async_trait]
impl Backend for Remote {
    async fn put(&self, key: &Key, payload: PutPayload) -> Result<(), Failure> {
        let result = self.objects.put_opts(&self.path(key)?, payload, PutOptions::default()).await;
        result.map(drop).map_err(|e| bucket_missing(classify(e)))
    }

    async fn create(&self, key: &Key, payload: PutPayload) -> Result<(), Failure> {
        let result = self.objects.put_opts(&self.path(key)?, payload, PutMode::Create.into()).await;
        result.map(drop).map_err(|e| bucket_missing(classify(e)))
    }

    async fn get(&self, key: &Key, part: Part) -> Result<Fetched, Failure> {
        let range = match &part {
            Part::All => None,
            Part::Range(range) => Some(GetRange::Bounded(range.clone())),
            Part::Suffix(n) => Some(GetRange::Suffix(*n)),
        };
        let options = GetOptions { range, ..GetOptions::default() };
        let answer = match self.objects.get_opts(&self.path(key)?, options).await.map_err(classify) {
            // No byte of the range is there; S3 says so of every suffix of an empty object, too.
            Err(failure) if part != Part::All && is_beyond_end(&failure) => {
                return Ok(Fetched { bytes: Bytes::new(), object_len: 0 });
            }
            answer => answer?,
        };
        let (object_len, range) = (answer.meta.size, answer.range.clone());
        let bytes = answer.bytes().await.map_err(classify)?;
        if bytes.len() as u64 != range.end - range.start {
            let reason = format!("the store sent {} bytes of {}", bytes.len(), range.end - range.start);
            return Err(Failure::new(FailureKind::NotSent, reason));
        }
        Ok(Fetched { bytes, object_len })
    }

    fn reads_suffixes(&self) -> bool {
        self.reads_suffixes
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, Failure> {
        let meta = self.objects.head(&self.path(key)?).await.map_err(classify)?;
        let last_modified = Timestamp::from_millis(meta.last_modified.timestamp_millis());
        Ok(ObjectInfo { key: key.clone(), len: meta.size, last_modified })
    }

    async fn list(&self, prefix: &Prefix, from: Position) -> Result<Page<ObjectInfo>, Failure> {
        if let Some(cloud) = &self.cloud {
            let after = match &from {
                Position::After(key) | Position::Token { after: Some(key), .. } => Some(key.clone()),
                _ => None,
            };
            let (result, next) = self.page(cloud, prefix, from, false, None).await?;
            let mut items: Vec<_> =
                result.objects.iter().filter_map(|meta| self.info(prefix, meta)).collect();
            // Not every service that speaks a cloud's protocol honours where to start.
            items.retain(|info| after.as_ref().is_none_or(|after| info.key > *after));
            items.sort_by(|a, b| a.key.cmp(&b.key));
            return Ok(Page { items, next });
        }
        let under = match prefix.as_str() {
            "" => None,
            name => Some(self.parse_path(name.trim_end_matches('/'))?),
        };
        let stream = match &from {
            Position::After(key) => self.objects.list_with_offset(under.as_ref(), &self.path(key)?),
            _ => self.objects.list(under.as_ref()),
        };
        let found: Vec<ObjectMeta> = stream.try_collect().await.map_err(classify)?;
        let mut items: Vec<_> = found.iter().filter_map(|meta| self.info(prefix, meta)).collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Page { items, next: None })
    }

    async fn list_dirs(
        &self,
        prefix: &Prefix,
        from: Position,
        limit: usize,
    ) -> Result<Page<String>, Failure> {
        let (result, next) = if let Some(cloud) = &self.cloud {
            self.page(cloud, prefix, from, true, Some(limit)).await?
        } else {
            let under = match prefix.as_str() {
                "" => None,
                name => Some(self.parse_path(name.trim_end_matches('/'))?),
            };
            (self.objects.list_with_delimiter(under.as_ref()).await.map_err(classify)?, None)
        };
        let mut items: Vec<String> =
            result.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        items.sort_by(|a, b| a.bytes().chain([b'/']).cmp(b.bytes().chain([b'/'])));
        Ok(Page { items, next })
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let paths: Vec<_> = keys.iter().map(|key| self.path(key)).collect::<Result<_, _>>()?;
        let mut deleted =
            self.objects.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        let mut worst = None;
        while let Some(result) = deleted.next().await {
            match result.map_err(classify) {
                Ok(_) | Err(Failure { kind: FailureKind::NotFound, .. }) => {}
                Err(failure) => worst = Some(failure),
            }
        }
        worst.map_or(Ok(()), Err)
    }

    fn delete_requests(&self, keys: usize) -> u64 {
        keys.div_ceil(self.deletes_at_once) as u64
    }

    async fn upload(&self, key: &Key) -> Result<Arc<dyn BackendUpload>, Failure> {
        let path = self.path(key)?;
        let Some(Cloud { parts, .. }) = &self.cloud else {
            let upload = self.objects.put_multipart(&path).await.map_err(classify)?;
            return Ok(Arc::new(PlainUpload(tokio::sync::Mutex::new(upload))));
        };
        let id = parts.create_multipart(&path).await.map_err(|e| bucket_missing(classify(e)))?;
        let (client, sent) = (Arc::clone(parts), Mutex::default());
        Ok(Arc::new(CloudUpload { client, path, id, sent }))
    }
}

/// An upload whose parts have numbers: any can be sent again.
struct CloudUpload {
    client: Arc<dyn MultipartStore>,
    path: Path,
    id: MultipartId,
    sent: Mutex<BTreeMap<usize, PartId>>,
}

impl std::fmt::Debug for CloudUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudUpload").field("path", &self.path).field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl BackendUpload for CloudUpload {
    fn part(self: Arc<Self>, number: usize, payload: PutPayload) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            let sent = self.client.put_part(&self.path, &self.id, number, payload).await.map_err(classify)?;
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sent);
            Ok(())
        })
    }

    async fn complete(&self) -> Result<(), Failure> {
        let parts = self.sent.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        self.client.complete_multipart(&self.path, &self.id, parts).await.map(drop).map_err(classify)
    }

    async fn abort(&self) -> Result<(), Failure> {
        self.client.abort_multipart(&self.path, &self.id).await.map_err(classify)
    }
}

/// An upload through the general trait, which numbers parts itself as they are begun.
#[derive(Debug)]
struct PlainUpload(tokio::sync::Mutex<Box<dyn MultipartUpload>>);

#[async_trait]
impl BackendUpload for PlainUpload {
    fn part(self: Arc<Self>, _number: usize, payload: PutPayload) -> BoxFuture<'static, Result<(), Failure>> {
        // Nobody holds the lock: completing and aborting come after all parts.
        let begun = self.0.try_lock().map(|mut upload| upload.put_part(payload));
        Box::pin(async move {
            match begun {
                Ok(sent) => sent.await.map_err(classify),
                Err(_) => Err(Failure::new(FailureKind::Refused, "the upload has ended")),
            }
        })
    }

    fn repeats_requests(&self) -> bool {
        false
    }

    async fn complete(&self) -> Result<(), Failure> {
        self.0.lock().await.complete().await.map(drop).map_err(classify)
    }

    async fn abort(&self) -> Result<(), Failure> {
        self.0.lock().await.abort().await.map_err(classify)
    }
}

/// How long an idle connection may be kept: below what load balancers allow, so that a request seldom meets a
/// connection that is being closed.
pub(crate) const IDLE_CONNECTION: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn ends_of_objects_are_read_where_suffixes_cannot_be() {
        let backend = Remote::plain(Arc::new(InMemory::new())).without_suffixes();
        let store = Store::with_backend(Box::new(backend), "memory".to_owned());
        let key = Key::parse("a").expect("a key");
        for (content, n, suffix) in [("0123456789", 3, "789"), ("01", 3, "01"), ("", 3, "")] {
            store.put(&key, content).await.expect("a put");
            let (read, len) = store.get_suffix(&key, n).await.expect("its end");
            assert_eq!((&read[..], len), (suffix.as_bytes(), content.len() as u64));
        }
        let absent = Key::parse("b").expect("a key");
        assert!(store.get_suffix(&absent, 3).await.expect_err("nothing there").is_not_found());
    }
}
