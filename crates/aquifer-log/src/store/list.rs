//! Listings, in key order whatever the store's own order is.

use std::future::Future;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::backend::{Page, Position};
use super::counts::Request;
use super::{Key, ObjectInfo, Prefix, Store, StoreError};

/// Names asked for at a time when all are wanted: what S3 gives at most.
const ALL: usize = 1000;

/// A listing whose pages are fetched as it is read. It ends at its first error.
pub type Listing<T> = BoxStream<'static, Result<T, StoreError>>;

impl Store {
    /// The objects under a prefix at any depth whose key is greater than `after`, ascending by key.
    ///
    /// Pages are fetched as the stream is read. Objects that appear or vanish meanwhile may or may not show.
    pub fn list(&self, prefix: &Prefix, after: Option<&Key>) -> Listing<ObjectInfo> {
        let start = after.map_or(Position::Start, |key| Position::After(key.clone()));
        let (store, prefix) = (self.clone(), prefix.clone());
        pages(start, move |from| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let backend = &store.shared.backend;
                store
                    .retrying(Request::List, prefix.as_str(), || {
                        store.attempt(Request::List, 0, 0, backend.list(&prefix, from.clone()))
                    })
                    .await
            }
        })
    }

    /// The names that follow a prefix up to the next slash, ascending: the "directories" directly below it.
    pub fn list_dirs(&self, prefix: &Prefix) -> Listing<String> {
        self.dirs(prefix, ALL)
    }

    /// The first of [`Store::list_dirs`]: one request for one name on the clouds, if no object stands before it.
    pub async fn first_dir(&self, prefix: &Prefix) -> Result<Option<String>, StoreError> {
        self.dirs(prefix, 1).try_next().await
    }

    fn dirs(&self, prefix: &Prefix, limit: usize) -> Listing<String> {
        let (store, prefix) = (self.clone(), prefix.clone());
        pages(Position::Start, move |from| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let backend = &store.shared.backend;
                store
                    .retrying(Request::List, prefix.as_str(), || {
                        store.attempt(Request::List, 0, 0, backend.list_dirs(&prefix, from.clone(), limit))
                    })
                    .await
            }
        })
    }
}

/// The items of page after page.
fn pages<T: Send + 'static, F>(start: Position, fetch: impl Fn(Position) -> F + Send + 'static) -> Listing<T>
where
    F: Future<Output = Result<Page<T>, StoreError>> + Send + 'static,
{
    stream::try_unfold(Some(start), move |from| {
        let page = from.map(&fetch);
        async move {
            let Some(page) = page else { return Ok::<_, StoreError>(None) };
            let Page { items, next } = page.await?;
            Ok(Some((stream::iter(items.into_iter().map(Ok::<_, StoreError>)), next)))
        }
    })
    .try_flatten()
    .boxed()
}
