//! `object_store`'s trait, each request with its fault.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

use super::{Fault, FaultStore, Op};

/// The error of a fault before which nothing is done, or `None` for the other faults.
fn refusal(fault: Option<&Fault>, key: &str) -> Option<Error> {
    let path = || key.to_owned();
    Some(match fault? {
        Fault::Unreachable => http(HttpErrorKind::Connect, "connection refused"),
        Fault::Timeout => timeout(),
        Fault::Throttle => Error::Generic {
            store: STORE,
            source: "Server returned non-2xx status code: 503: SlowDown".into(),
        },
        Fault::Deny => Error::PermissionDenied { path: path(), source: "injected".into() },
        Fault::Conflict => Error::AlreadyExists { path: path(), source: "injected".into() },
        Fault::LoseAnswer | Fault::Torn(_) | Fault::Stale(_) | Fault::Hold(_) => return None,
    })
}

const STORE: &str = "FaultStore";

#[derive(Debug)]
struct Injected(&'static str);

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (injected)", self.0)
    }
}

impl std::error::Error for Injected {}

fn http(kind: HttpErrorKind, what: &'static str) -> Error {
    Error::Generic { store: STORE, source: Box::new(HttpError::new(kind, Injected(what))) }
}

fn timeout() -> Error {
    http(HttpErrorKind::Timeout, "operation timed out")
}

/// Replaces the answer of what was done.
fn answer<T>(fault: Option<&Fault>, result: Result<T>) -> Result<T> {
    if matches!(fault, Some(Fault::LoseAnswer)) { Err(timeout()) } else { result }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let op = if opts.mode == PutMode::Create { Op::Create } else { Op::Put };
        let fault = self.arrive(op, location.as_ref()).await;
        if let Some(error) = refusal(fault.as_ref(), location.as_ref()) {
            return Err(error);
        }
        if let Some(Fault::Torn(len)) = fault {
            let whole = Bytes::from(payload);
            self.inner.put_opts(location, whole.slice(..len.min(whole.len())).into(), opts).await?;
            return Err(timeout());
        }
        answer(fault.as_ref(), self.inner.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.arrive(Op::Multipart, location.as_ref()).await;
        if let Some(error) = refusal(fault.as_ref(), location.as_ref()) {
            return Err(error);
        }
        let upload = answer(fault.as_ref(), self.inner.put_multipart_opts(location, opts).await)?;
        Ok(Box::new(FaultUpload { store: self.clone(), key: location.to_string(), upload }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get };
        let fault = self.arrive(op, location.as_ref()).await;
        if let Some(error) = refusal(fault.as_ref(), location.as_ref()) {
            return Err(error);
        }
        let mut result = answer(fault.as_ref(), self.inner.get_opts(location, options).await)?;
        if let Some(Fault::Torn(len)) = fault {
            let (meta, range) = (result.meta.clone(), result.range.clone());
            let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
            let whole = result.bytes().await?;
            let torn = whole.slice(..len.min(whole.len()));
            let payload = GetResultPayload::Stream(stream::iter([Ok(torn)]).boxed());
            result = GetResult { payload, meta, range, attributes, extensions };
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            parts.push(self.get_range(location, range.clone()).await?);
        }
        Ok(parts)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let fault = store.arrive(Op::Delete, location.as_ref()).await;
                if let Some(error) = refusal(fault.as_ref(), location.as_ref()) {
                    return Err(error);
                }
                answer(fault.as_ref(), store.inner.delete(&location).await.map(|()| location))
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        async move { store.listed(prefix.as_ref(), None).await }.into_stream().try_flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix, offset) = (self.clone(), prefix.cloned(), offset.clone());
        async move { store.listed(prefix.as_ref(), Some(offset)).await }.into_stream().try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.map_or("", |prefix| prefix.as_ref());
        let fault = self.arrive(Op::List, key).await;
        if let Some(error) = refusal(fault.as_ref(), key) {
            return Err(error);
        }
        let mut result = answer(fault.as_ref(), self.inner.list_with_delimiter(prefix).await)?;
        if let Some(Fault::Stale(missing)) = fault {
            // A directory is there as long as one of its objects is.
            let all: Vec<_> = self.inner.list(prefix).try_collect().await?;
            let seen: Vec<_> = all.into_iter().filter(|meta| !is_missing(&missing, meta)).collect();
            result.objects.retain(|meta| !is_missing(&missing, meta));
            result.common_prefixes.retain(|dir| seen.iter().any(|m| m.location.prefix_matches(dir)));
        }
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn is_missing(missing: &[String], meta: &ObjectMeta) -> bool {
    missing.iter().any(|key| key == meta.location.as_ref())
}

impl FaultStore {
    async fn listed(
        &self,
        prefix: Option<&Path>,
        offset: Option<Path>,
    ) -> Result<BoxStream<'static, Result<ObjectMeta>>> {
        let key = prefix.map_or("", |prefix| prefix.as_ref());
        let fault = self.arrive(Op::List, key).await;
        if let Some(error) = refusal(fault.as_ref(), key) {
            return Err(error);
        }
        let listing = match &offset {
            Some(offset) => self.inner.list_with_offset(prefix, offset),
            None => self.inner.list(prefix),
        };
        Ok(match fault {
            Some(Fault::LoseAnswer) => return Err(timeout()),
            Some(Fault::Torn(n)) => listing.take(n).chain(stream::iter([Err(timeout())])).boxed(),
            Some(Fault::Stale(missing)) => {
                let missing: BTreeSet<String> = missing.into_iter().collect();
                listing
                    .try_filter(move |m| std::future::ready(!missing.contains(m.location.as_ref())))
                    .boxed()
            }
            _ => listing,
        })
    }
}

/// A multipart upload each of whose requests may fail.
#[derive(Debug)]
struct FaultUpload {
    store: FaultStore,
    key: String,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, key, part) = (self.store.clone(), self.key.clone(), self.upload.put_part(data));
        async move {
            let fault = store.arrive(Op::Multipart, &key).await;
            match refusal(fault.as_ref(), &key) {
                Some(error) => Err(error),
                None => answer(fault.as_ref(), part.await),
            }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.arrive(Op::Multipart, &self.key).await;
        match refusal(fault.as_ref(), &self.key) {
            Some(error) => Err(error),
            None => answer(fault.as_ref(), self.upload.complete().await),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        let fault = self.store.arrive(Op::Multipart, &self.key).await;
        match refusal(fault.as_ref(), &self.key) {
            Some(error) => Err(error),
            None => self.upload.abort().await,
        }
    }
}
