//! The bucket: S3's operations over a map under one lock, which makes every condition atomic.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag,
    ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::Conditions;

/// What S3 demands of all parts but the last.
const MIN_PART: usize = 5 << 20;
/// What S3 lists at most at a time.
const MAX_KEYS: usize = 1000;

#[derive(Clone)]
pub(super) struct Objects {
    bucket: &'static str,
    conditions: Conditions,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Upload>,
    /// Makes entity tags and upload ids.
    counter: u64,
}

#[derive(Clone)]
struct Stored {
    content: Bytes,
    tag: String,
    modified: SystemTime,
}

struct Upload {
    key: String,
    parts: BTreeMap<i32, (String, Bytes)>,
}

impl State {
    fn next(&mut self) -> String {
        self.counter += 1;
        format!("{:016x}", self.counter)
    }

    fn store(&mut self, key: String, content: Bytes) -> String {
        let tag = self.next();
        self.objects.insert(key, Stored { content, tag: tag.clone(), modified: SystemTime::now() });
        tag
    }
}

impl Objects {
    pub(super) fn new(bucket: &'static str, conditions: Conditions) -> Objects {
        Objects { bucket, conditions, state: Arc::default() }
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|object| object.content.clone())
    }

    pub(super) fn put(&self, key: &str, content: Bytes) {
        self.state().store(key.to_owned(), content);
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        self.check_bucket(bucket)?;
        self.state().objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// Checks a put's conditions against what is there. The caller holds the lock until it has put.
    fn check(
        &self,
        there: Option<&Stored>,
        if_none_match: Option<&ETagCondition>,
        if_match: Option<&ETagCondition>,
    ) -> S3Result<()> {
        if self.conditions == Conditions::Ignored {
            return Ok(());
        }
        let matches = |condition: &ETagCondition, there: &Stored| {
            condition.is_any() || condition.as_etag().is_some_and(|tag| tag.value() == there.tag)
        };
        match (if_none_match, if_match, there) {
            (Some(condition), _, Some(there)) if matches(condition, there) => {
                Err(s3_error!(PreconditionFailed))
            }
            (_, Some(_), None) => Err(s3_error!(NoSuchKey)),
            (_, Some(condition), Some(there)) if !matches(condition, there) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(()),
        }
    }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let chunks: Vec<Bytes> = body.try_collect().await.map_err(|_| s3_error!(IncompleteBody))?;
    Ok(chunks.concat().into())
}

#[async_trait]
impl S3 for Objects {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let content = collect(input.body).await?;
        let mut state = self.state();
        let there = state.objects.get(&input.key);
        self.check(there, input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let tag = state.store(input.key, content);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(tag)), ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let object = self.find(&input.bucket, &input.key)?;
        let len = object.content.len() as u64;
        let (content, content_range) = match input.range {
            None => (object.content, None),
            Some(range) => {
                let range = range.check(len).map_err(|_| s3_error!(InvalidRange))?;
                if range.is_empty() {
                    return Err(s3_error!(InvalidRange));
                }
                let header = format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1));
                (object.content.slice(range.start as usize..range.end as usize), Some(header))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(content.len() as i64),
            content_range,
            e_tag: Some(ETag::Strong(object.tag)),
            last_modified: Some(object.modified.into()),
            body: Some(StreamingBlob::from(s3s::Body::from(content))),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.find(&req.input.bucket, &req.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.content.len() as i64),
            e_tag: Some(ETag::Strong(object.tag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&req.input.bucket)?;
        self.state().objects.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.check_bucket(&req.input.bucket)?;
        if req.input.delete.objects.len() > MAX_KEYS {
            return Err(s3_error!(MalformedXML));
        }
        let mut state = self.state();
        let deleted = req.input.delete.objects.into_iter().map(|object| {
            state.objects.remove(&object.key);
            DeletedObject { key: Some(object.key), ..Default::default() }
        });
        let deleted = deleted.collect();
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let prefix = input.prefix.as_deref().unwrap_or("");
        let delimiter = input.delimiter.as_deref().filter(|d| !d.is_empty());
        let max = input.max_keys.map_or(MAX_KEYS, |max| (max.max(0) as usize).min(MAX_KEYS));
        // The token is the last name told: a key, or a common prefix whose keys are all told with it.
        let told = input.continuation_token.as_deref();
        let start = told.or(input.start_after.as_deref()).unwrap_or("");

        let state = self.state();
        let (mut contents, mut prefixes) = (Vec::new(), Vec::<String>::new());
        let mut last = None;
        let mut truncated = false;
        // Every key with the prefix is the prefix itself or sorts after it.
        let from = if start < prefix { Bound::Included(prefix) } else { Bound::Excluded(start) };
        for (key, object) in state.objects.range::<str, _>((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let common = delimiter.and_then(|d| rest.find(d).map(|at| &key[..prefix.len() + at + d.len()]));
            if let Some(common) = common
                && (prefixes.last().is_some_and(|p| p == common) || told == Some(common))
            {
                continue;
            }
            if contents.len() + prefixes.len() == max {
                truncated = true;
                break;
            }
            last = Some(common.unwrap_or(key).to_owned());
            match common {
                Some(common) => prefixes.push(common.to_owned()),
                None => contents.push(Object {
                    key: Some(key.clone()),
                    size: Some(object.content.len() as i64),
                    e_tag: Some(ETag::Strong(object.tag.clone())),
                    last_modified: Some(object.modified.into()),
                    ..Default::default()
                }),
            }
        }
        let common_prefixes: Vec<_> =
            prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            key_count: Some((contents.len() + common_prefixes.len()) as i32),
            max_keys: Some(max as i32),
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: input.delimiter,
            prefix: input.prefix,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.check_bucket(&req.input.bucket)?;
        let mut state = self.state();
        let id = state.next();
        state.uploads.insert(id.clone(), Upload { key: req.input.key.clone(), parts: BTreeMap::new() });
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(req.input.bucket),
            key: Some(req.input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let content = collect(input.body).await?;
        let mut state = self.state();
        let tag = state.next();
        let upload = state.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, (tag.clone(), content));
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(tag)), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let mut guard = self.state();
        let state = &mut *guard;
        let upload = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if upload.key != input.key {
            return Err(s3_error!(NoSuchUpload));
        }
        let there = state.objects.get(&input.key);
        self.check(there, input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut content = Vec::new();
        for (position, part) in named.iter().enumerate() {
            let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
            let (tag, bytes) = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_none_or(|named| named.value() != tag) {
                return Err(s3_error!(InvalidPart));
            }
            if bytes.len() < MIN_PART && position + 1 < named.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            content.extend_from_slice(bytes);
        }
        state.uploads.remove(&input.upload_id);
        let tag = state.store(input.key.clone(), content.into());
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(tag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let removed = self.state().uploads.remove(&req.input.upload_id);
        removed.ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
