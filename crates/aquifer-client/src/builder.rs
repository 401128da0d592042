//! How a synced database is opened.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_format::{PageSize, Pgno};
use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::adopt::Adopting;
use crate::bootstrap::Bootstrapping;
use crate::database::Database;
use crate::engine::{Engine, Opened, Settings};
use crate::frames::{Place, Protocol, has_frame, image_at, instead};
use crate::push::Transform;
use crate::rebase::Resolver;
use crate::remote::{Export, Pull, PullQuery, Remote, RemoteError, RemoteOptions, Secret};
use crate::retrying::Backoff;
use crate::{Error, Result, joined};

/// How often a first fetch goes on that is interrupted without having brought anything new.
const ROUNDS: u32 = 5;
/// Pages handed to the thread that writes them at once.
const PIECE: usize = 64;

/// How far a first fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapProgress {
    /// Pages that are here.
    pub received: u64,
    /// Pages that there are.
    pub pages: u64,
    /// Bytes of a page.
    pub page_size: u32,
}

/// Where pages of a first fetch come from.
enum Source {
    Pull(Pull),
    File(Export),
}

impl Source {
    async fn next_page(&mut self) -> Result<Option<(Pgno, Bytes)>, RemoteError> {
        match self {
            Source::Pull(pull) => pull.next_page().await,
            Source::File(export) => export.next_page().await,
        }
    }
}

type Listener = Arc<dyn Fn(BootstrapProgress) + Send + Sync>;

/// How a synced database is opened.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let db = aquifer_client::Builder::new("app.db").remote("http://127.0.0.1:8080/db/app").open().await?;
/// let conn = db.connect()?; // or open the file with anything else
/// conn.execute_batch("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text)")?;
/// let synced = db.sync().await?;
/// if let Some(why) = &synced.offline {
///     println!("the server cannot be reached for now: {why}");
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is opened before `open` is called"]
pub struct Builder {
    path: PathBuf,
    remote: Option<String>,
    options: RemoteOptions,
    is_deferred: bool,
    settings: Settings,
    listener: Option<Listener>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("path", &self.path)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// The database in this file, which need not be there yet.
    pub fn new(path: impl AsRef<Path>) -> Builder {
        Builder {
            path: path.as_ref().to_owned(),
            remote: None,
            options: RemoteOptions::default(),
            is_deferred: false,
            settings: Settings::default(),
            listener: None,
        }
    }

    /// The remote database, such as `https://example.com/db/app`; `libsql://` and `turso://` mean https. Without one the
    /// database can be worked with, and be given one when it is opened the next time.
    pub fn remote(mut self, url: impl Into<String>) -> Builder {
        self.remote = Some(url.into());
        self
    }

    /// What the server lets this client in by.
    pub fn auth_token(mut self, token: impl Into<String>) -> Builder {
        self.options.auth_token = Some(Secret::from(token.into()));
        self
    }

    /// The key by which the server decrypts the database, in base64; it is passed on with each request.
    pub fn encryption_key(mut self, key: impl Into<String>) -> Builder {
        self.options.encryption_key = Some(Secret::from(key.into()));
        self
    }

    /// How the server is talked to: timeouts, retries, proxies. Replaces what was said of token and key.
    pub fn remote_options(mut self, options: RemoteOptions) -> Builder {
        self.options = options;
        self
    }

    /// Where there is no database yet, begins with an empty one at once instead of fetching the server's: the first sync
    /// brings the server's rows under those that were written until then.
    pub fn deferred(mut self) -> Builder {
        self.is_deferred = true;
        self.settings.merge = true;
        self
    }

    /// Lets a database with content of its own be attached to a remote one that has content too: its rows are added to
    /// those, and where both have a row of the same key, that is a conflict. Without this it is an error.
    pub fn merge(mut self) -> Builder {
        self.settings.merge = true;
        self
    }

    /// Takes the remote database for the one that this is a copy of, though it has another URL than before.
    pub fn moved(mut self) -> Builder {
        self.settings.is_moved = true;
        self
    }

    /// Tables that stay here: they are not pushed.
    pub fn tables_ignore(mut self, tables: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        self.settings.ignored.extend(tables.into_iter().map(Into::into));
        self
    }

    /// Pushes about so many rows in one transaction of the server's, and more of them in several. They are cut where no
    /// foreign key is broken, not where the application committed. Without this, all is one transaction.
    pub fn push_batch_rows(mut self, rows: NonZeroU64) -> Builder {
        self.settings.push_batch_rows = Some(rows.get());
        self
    }

    /// How the server is spoken to; without this it is found out.
    pub fn protocol(mut self, protocol: Protocol) -> Builder {
        self.settings.protocol = protocol;
        self
    }

    /// Decides conflicts otherwise than the default does.
    pub fn resolver(mut self, resolver: impl Resolver + Send + Sync + 'static) -> Builder {
        self.settings.resolver = Some(Arc::new(resolver));
        self
    }

    /// Looks at each row before it is pushed.
    pub fn transform(mut self, transform: impl Transform + 'static) -> Builder {
        self.settings.transform = Some(Arc::new(transform));
        self
    }

    /// Is told how far the first fetch is.
    pub fn on_bootstrap(mut self, listener: impl Fn(BootstrapProgress) + Send + Sync + 'static) -> Builder {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Opens the database. Where there is none, the server's is fetched, and a fetch that was interrupted goes on; an
    /// existing one is opened without any request.
    ///
    /// Cancel-safe: a fetch goes on the next time.
    ///
    /// # Errors
    /// When a database is to be fetched and the server cannot be reached; when what is on disk does not fit together.
    /// Nothing is overwritten.
    pub async fn open(self) -> Result<Database> {
        let remote = match &self.remote {
            Some(url) => Some(Remote::new(url, self.options.clone())?),
            None => None,
        };
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let opened = joined(spawn_blocking(move || Engine::open(&path, settings)).await)?;
        let is_fetched = !matches!(opened, Opened::Ready(_) | Opened::OfLibsql(_));
        let engine = match (opened, &remote) {
            (Opened::Ready(engine), _) => *engine,
            (Opened::Absent, Some(remote)) if !self.is_deferred => {
                let begun = self.begin(remote).await?;
                self.bootstrap(remote, begun).await?
            }
            (Opened::Absent, _) => self.create().await?,
            (Opened::Bootstrapping(begun), Some(remote)) => self.bootstrap(remote, Some(*begun)).await?,
            (Opened::OfLibsql(adopting), Some(remote)) => self.adopt(remote, *adopting).await?,
            (Opened::Bootstrapping(_) | Opened::OfLibsql(_), None) => {
                return Err(Error::NoRemote { path: self.path });
            }
        };
        let fetched = if is_fetched { engine.state().base.pages } else { 0 };
        let mut engine = engine;
        // A file is what the server had when its generation began.
        let is_old = is_fetched && engine.is_beginning();
        let protocol = self.settings.protocol;
        if let Some(remote) = &remote {
            engine = joined(
                spawn_blocking({
                    let url = remote.url().to_owned();
                    move || {
                        engine.attach(&url)?;
                        let protocol = Some(protocol).filter(|named| *named != Protocol::Auto);
                        if let Some(protocol) = protocol.or(engine.protocol()) {
                            engine.speak(protocol)?;
                        }
                        Ok::<_, Error>(engine)
                    }
                })
                .await,
            )?;
        }
        let database = Database::new(engine, remote, fetched);
        if is_old {
            database.pull().await?;
        }
        Ok(database)
    }

    /// Takes over what a client of libSQL's has kept until now, with its work that is not on the server.
    async fn adopt(&self, remote: &Remote, mut adopting: Adopting) -> Result<Engine> {
        if self.settings.protocol == Protocol::Turso {
            return Err(adopting.refused("it is of libSQL's protocol, and Turso's is wanted".to_owned()));
        }
        for place in adopting.places() {
            if !has_frame(remote, place).await? {
                continue;
            }
            let Some(image) = image_at(remote, place, adopting.directory()).await? else { continue };
            let url = remote.url().to_owned();
            let settled = spawn_blocking(move || {
                let is_settled = adopting.settle(place, &image, &url)?;
                Ok::<_, Error>((adopting, is_settled))
            });
            let is_settled;
            (adopting, is_settled) = joined(settled.await)?;
            if is_settled {
                let (path, settings) = (self.path.clone(), self.settings.clone());
                let opened = spawn_blocking(move || {
                    adopting.finish()?;
                    match Engine::open(&path, settings)? {
                        Opened::Ready(engine) => Ok(*engine),
                        _ => Err(Error::DatabaseMissing { path, unpushed: "" }),
                    }
                });
                return joined(opened.await);
            }
        }
        let reason = format!("{} does not have what is in it as of that frame", remote.url());
        Err(adopting.refused(reason))
    }

    async fn create(&self) -> Result<Engine> {
        let (path, settings) = (self.path.clone(), self.settings.clone());
        joined(spawn_blocking(move || Engine::create(&path, settings)).await)
    }

    /// `None`: the remote database is empty.
    async fn begin(&self, remote: &Remote) -> Result<Option<Bootstrapping>> {
        if self.settings.protocol == Protocol::Libsql {
            return self.begin_with_file(remote).await;
        }
        let mut pull = match remote.pull(&PullQuery::default()).await {
            Ok(pull) => pull,
            Err(error) if self.settings.protocol == Protocol::Auto => {
                instead(remote, error).await?;
                return self.begin_with_file(remote).await;
            }
            Err(error) => return Err(error.into()),
        };
        if pull.pages == 0 {
            return Ok(None);
        }
        // Of the same answer; what comes after it is asked for by whoever goes on.
        let first = pull.next_page().await?;
        let size = first.as_ref().and_then(|(_, page)| PageSize::new(page.len() as u32).ok());
        let (path, url) = (self.path.clone(), remote.url().to_owned());
        let (revision, pages) = (pull.revision.clone(), pull.pages);
        let size = size.unwrap_or(PageSize::DEFAULT);
        let begun = spawn_blocking(move || {
            let mut begun = Bootstrapping::begin(&path, &url, &revision, pages, size, Protocol::Turso)?;
            if let Some((pgno, page)) = first {
                begun.put(pgno, &page)?;
            }
            Ok::<_, Error>(begun)
        });
        let begun = joined(begun.await)?;
        match self.receive(&mut Source::Pull(pull), begun).await? {
            (begun, Ok(())) => Ok(Some(begun)),
            (begun, Err(error)) if error.passes() => Ok(Some(begun)),
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// As [`begin`](Builder::begin), with the file that the server's generation of frames begins with.
    async fn begin_with_file(&self, remote: &Remote) -> Result<Option<Bootstrapping>> {
        let generation = remote.frames_generation().await?;
        let export = remote.export(generation).await?;
        if export.pages == 0 {
            return Ok(None);
        }
        let (path, url) = (self.path.clone(), remote.url().to_owned());
        let revision = Place { generation, frame: 0 }.to_string();
        let (pages, size) = (export.pages, export.page_size);
        let begun = spawn_blocking(move || {
            Bootstrapping::begin(&path, &url, &revision, pages, size, Protocol::Libsql)
        });
        let begun = joined(begun.await)?;
        match self.receive(&mut Source::File(export), begun).await? {
            (begun, Ok(())) => Ok(Some(begun)),
            (begun, Err(error)) if error.passes() => Ok(Some(begun)),
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// Asks for what has not come yet. A file comes from its beginning.
    async fn source(&self, remote: &Remote, begun: &Bootstrapping) -> Result<Source, RemoteError> {
        if let Some(place) = Place::of(begun.revision()) {
            return remote.export(place.generation).await.map(Source::File);
        }
        let server_revision = Some(begun.revision().to_owned());
        let query = PullQuery { server_revision, pages: begun.wanted(), ..PullQuery::default() };
        remote.pull(&query).await.map(Source::Pull)
    }

    /// What is there now, after the server has forgotten what was begun with: its revision and its pages.
    async fn anew(&self, remote: &Remote, begun: &Bootstrapping) -> Result<(String, u32), RemoteError> {
        if Place::of(begun.revision()).is_some() {
            let generation = remote.frames_generation().await?;
            let export = remote.export(generation).await?;
            return Ok((Place { generation, frame: 0 }.to_string(), export.pages));
        }
        let pull = remote.pull(&PullQuery::default()).await?;
        Ok((pull.revision.clone(), pull.pages))
    }

    /// Goes on until all is here.
    async fn bootstrap(&self, remote: &Remote, begun: Option<Bootstrapping>) -> Result<Engine> {
        let Some(mut begun) = begun else { return self.create().await };
        if begun.remote() != Some(remote.url()) {
            let (path, remote) = (self.path.clone(), begun.remote().unwrap_or_default().to_owned());
            return Err(Error::OtherRemote { path, remote });
        }
        let mut backoff = Backoff::new();
        let mut fruitless = 0;
        loop {
            if begun.wanted().is_some_and(|wanted| wanted.is_empty()) {
                break;
            }
            let before = begun.received();
            let failure = match self.source(remote, &begun).await {
                Ok(mut source) => {
                    let received;
                    (begun, received) = self.receive(&mut source, begun).await?;
                    received.err()
                }
                Err(error) => Some(error),
            };
            match failure {
                None => {}
                Some(RemoteError::Gone { .. }) => {
                    // The server has forgotten the revision that it was begun with.
                    let (revision, pages) = self.anew(remote, &begun).await?;
                    let restarted = spawn_blocking(move || begun.restart(&revision, pages).map(|()| begun));
                    begun = joined(restarted.await)?;
                }
                Some(error) if !error.passes() => return Err(error.into()),
                Some(error) => {
                    fruitless = if begun.received() > before { 0 } else { fruitless + 1 };
                    if fruitless == ROUNDS {
                        return Err(error.into());
                    }
                    backoff.pause(10).await;
                }
            }
        }
        let (path, settings) = (self.path.clone(), self.settings.clone());
        joined(
            spawn_blocking(move || {
                begun.finish()?;
                match Engine::open(&path, settings)? {
                    Opened::Ready(engine) => Ok(*engine),
                    _ => Err(Error::DatabaseMissing { path, unpushed: "" }),
                }
            })
            .await,
        )
    }

    /// Takes all pages of an answer; and says how that ended. What came is recorded in any case.
    async fn receive(
        &self,
        source: &mut Source,
        mut begun: Bootstrapping,
    ) -> Result<(Bootstrapping, Result<(), RemoteError>)> {
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            let next = source.next_page().await;
            let ended = match next {
                Ok(Some(page)) => {
                    piece.push(page);
                    None
                }
                Ok(None) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
            if piece.len() < PIECE && ended.is_none() {
                continue;
            }
            let pages = std::mem::take(&mut piece);
            let is_last = ended.is_some();
            let written = spawn_blocking(move || {
                for (pgno, page) in &pages {
                    if !begun.has(*pgno) {
                        begun.put(*pgno, page)?;
                    }
                }
                if is_last {
                    begun.record()?;
                }
                Ok::<_, Error>(begun)
            });
            begun = joined(written.await)?;
            if let Some(listener) = &self.listener {
                let (received, pages) = (begun.received(), u64::from(begun.pages()));
                listener(BootstrapProgress { received, pages, page_size: begun.page_size().get() });
            }
            if let Some(ended) = ended {
                return Ok((begun, ended));
            }
        }
    }
}
