//! A store in a local directory: an object is a file.
//!
//! `object_store` has one as well. This one differs in what a backup needs: files being written live in
//! `.aquifer/tmp`, each locked by its writer, so that no listing shows them and what a crash left behind is
//! told from what is in use; a create that meets an object does not answer before that object is durable;
//! listings come in key order; a directory that does not exist is an error and not an empty store.

mod files;
mod staging;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;
use object_store::PutPayload;

use files::{Root, info};
use staging::{Publish, Staged};

use super::{Backend, BackendUpload, Fetched, Page, Part, Position};
use crate::store::ObjectInfo;
use crate::store::error::{Failure, FailureKind};
use crate::store::key::{Key, Prefix};

#[derive(Debug)]
pub(crate) struct Directory(Arc<Root>);

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Directory {
        Directory(Arc::new(Root::new(path)))
    }

    /// Runs file work where it may block. Dropping the future does not stop work that has begun.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let root = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .unwrap_or_else(|panic| Err(Failure::new(FailureKind::Unknown, panic)))
    }
}

#[async_trait]
impl Backend for Directory {
    fn is_local(&self) -> bool {
        true
    }

    async fn put(&self, key: &Key, payload: PutPayload) -> Result<(), Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let mut staged = root.staging.stage()?;
            staged.write(&payload)?;
            root.staging.publish(staged, &root.path_of(&key), Publish::Replace)
        })
        .await
    }

    async fn create(&self, key: &Key, payload: PutPayload) -> Result<(), Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let mut staged = root.staging.stage()?;
            staged.write(&payload)?;
            root.staging.publish(staged, &root.path_of(&key), Publish::IfAbsent)
        })
        .await
    }

    async fn get(&self, key: &Key, part: Part) -> Result<Fetched, Failure> {
        let key = key.clone();
        self.blocking(move |root| root.get(&key, &part)).await
    }

    fn get_now(&self, key: &Key, part: &Part) -> Option<Result<Fetched, Failure>> {
        Some(self.0.get(key, part))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let path = root.path_of(&key);
            let metadata = fs::metadata(&path).map_err(|e| root.failure("look up", &path, e))?;
            if metadata.is_dir() {
                return Err(Failure::new(
                    FailureKind::NotFound,
                    format!("{} is a directory", path.display()),
                ));
            }
            Ok(info(key, &metadata))
        })
        .await
    }

    async fn list(&self, prefix: &Prefix, from: Position) -> Result<Page<ObjectInfo>, Failure> {
        let prefix = prefix.clone();
        self.blocking(move |root| {
            root.check_exists()?;
            let after = match &from {
                Position::After(key) => Some(key),
                Position::Start | Position::Token { .. } => None,
            };
            let mut items = Vec::new();
            root.walk(&prefix, after, &mut items)?;
            Ok(Page { items, next: None })
        })
        .await
    }

    async fn list_dirs(
        &self,
        prefix: &Prefix,
        _from: Position,
        limit: usize,
    ) -> Result<Page<String>, Failure> {
        let prefix = prefix.clone();
        self.blocking(move |root| {
            root.check_exists()?;
            let entries = root.entries(&root.path_of_prefix(&prefix))?;
            let items = entries.into_iter().filter(|e| e.is_dir).map(|e| e.name).take(limit).collect();
            Ok(Page { items, next: None })
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let keys = keys.to_vec();
        self.blocking(move |root| keys.iter().try_for_each(|key| root.delete(key))).await
    }

    async fn upload(&self, key: &Key) -> Result<Arc<dyn BackendUpload>, Failure> {
        let key = key.clone();
        let root = Arc::clone(&self.0);
        let staged = self.blocking(|root| root.staging.stage()).await?;
        Ok(Arc::new(FileUpload {
            root,
            key,
            staged: Mutex::new(Some(staged)),
            parts: Mutex::new(Vec::new()),
        }))
    }
}

#[derive(Debug)]
struct FileUpload {
    root: Arc<Root>,
    key: Key,
    staged: Mutex<Option<Staged>>,
    /// Where each part starts, and after them where the next one will.
    parts: Mutex<Vec<u64>>,
}

#[async_trait]
impl BackendUpload for FileUpload {
    fn part(self: Arc<Self>, number: usize, payload: PutPayload) -> BoxFuture<'static, Result<(), Failure>> {
        let offset = {
            let mut parts = lock(&self.parts);
            if parts.is_empty() {
                parts.push(0);
            }
            let offset = parts[number];
            if parts.len() == number + 1 {
                parts.push(offset + payload.content_length() as u64);
            }
            offset
        };
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || {
                let mut staged = lock(&self.staged);
                let staged = staged.as_mut().ok_or_else(|| Failure::new(FailureKind::Refused, OVER))?;
                staged.write_at(offset, &payload)
            });
            written.await.unwrap_or_else(|panic| Err(Failure::new(FailureKind::NotSent, panic)))
        })
    }

    async fn complete(&self) -> Result<(), Failure> {
        let staged = lock(&self.staged).take().ok_or_else(|| Failure::new(FailureKind::Refused, OVER))?;
        let (root, path) = (Arc::clone(&self.root), self.root.path_of(&self.key));
        let published =
            tokio::task::spawn_blocking(move || root.staging.publish(staged, &path, Publish::Replace));
        published.await.unwrap_or_else(|panic| Err(Failure::new(FailureKind::Unknown, panic)))
    }

    async fn abort(&self) -> Result<(), Failure> {
        lock(&self.staged).take();
        Ok(())
    }
}

const OVER: &str = "the upload has ended";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
