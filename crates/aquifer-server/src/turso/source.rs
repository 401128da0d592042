//! What a hosted database has to offer for its pages to be pulled.

use std::error::Error;

use aquifer_format::{PageSize, Pgno, Revision, Txid};
use tokio::sync::watch;

use super::shared::Answers;

/// Whatever went wrong inside a host.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// A database whose pages can be pulled. Shared by all requests for it.
pub trait PageHost: Send + Sync + 'static {
    /// One revision of it.
    type Source: PageSource;

    /// Holds on to a revision, the latest durable one if none is named. `None` if that revision is not of this
    /// database or is not kept any more. If it is what the client has, none of its pages are read.
    ///
    /// Does not block, so that thousands of clients who were told of a commit may wait for one view of it without a
    /// thread each. Cancel-safe.
    fn pin(
        &self,
        at: Option<Revision>,
        client: Option<Revision>,
    ) -> impl Future<Output = Result<Option<Self::Source>, SourceError>> + Send;

    /// The latest durable revision, and news of it. What it says is never ahead of what [`PageHost::pin`] finds. `None`
    /// while it is not known.
    fn revisions(&self) -> watch::Receiver<Option<Revision>>;

    /// Answers that many of its clients get.
    fn answers(&self) -> &Answers;
}

/// One revision of a database, unchanged while this value lives, whatever is written meanwhile.
///
/// It lives as long as its client takes to read the answer. A host that cannot hold a revision for that long lets
/// [`PageSource::read`] fail: the answer is then cut off, which clients notice.
///
/// Methods may block: they are called on threads for that, one at a time.
pub trait PageSource: Send + 'static {
    /// Which revision this is.
    fn revision(&self) -> Revision;

    /// Of every page.
    fn page_size(&self) -> PageSize;

    /// Size of the database, in pages.
    fn pages(&self) -> u32;

    /// The txid of this revision's history at which a client stands that has `client`: what changed after it is what
    /// the client lacks. `None` when the client's image is none of this history's, and has to be replaced.
    fn base(&self, client: Revision) -> Option<Txid> {
        let own = self.revision();
        (client.generation == own.generation && client.txid <= own.txid).then_some(client.txid)
    }

    /// The pages, `from` and later ones, that a batch after `since` changed and that are part of this revision;
    /// ascending. Called again for every part of an answer, so it should find its way to `from` quickly. A page too
    /// many does no harm, one too few is a corrupt client.
    fn changed_since(&self, since: Txid, from: Pgno) -> impl Iterator<Item = Pgno>;

    /// The pages that running this SQL reads; `None` when the host cannot or does not want to tell, and the client
    /// gets all pages.
    fn touched_by(&mut self, sql: &str) -> Result<Option<Vec<Pgno>>, SourceError> {
        let _ = sql;
        Ok(None)
    }

    /// Fills `page`, which has the size of a page, with the content of one of the pages up to [`PageSource::pages`].
    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<(), SourceError>;
}
