//! Which pages of the base local work has changed, and what they were before.
//!
//! While the database is open here, its WAL is pinned ([`PinnedDatabase`]): checkpoints of others stop at the place up
//! to which has been looked, so that a page's old content is still there to be kept. While it is not, only equal salts
//! and checksums prove that all that was written can still be read; otherwise all pages are compared with the page map.
//! Pre-images that are gone by then are fetched from the server.

use std::time::{Duration, Instant};

use aquifer_format::Pgno;
use aquifer_sqlite::{Advance, Continuity, PinnedDatabase};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use super::{Engine, PATIENCE, Point};
use crate::sidecar::{FileStamp, PageMap, PreImages, Sidecar, Tracked, hash_of};
use crate::{Error, Result, now};

/// Below this share of pages that are what they were, a file of another identity is another database.
const RELATED: f64 = 0.5;
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(2);
/// From so many times the bytes at which the WAL is moved into the database, writers are kept out for it.
const MUCH: u64 = 8;
/// How long somebody who checkpoints finds the pin in his way: several times what SQLite waits between two tries.
const IN_THE_WAY: Duration = Duration::from_millis(400);
/// How long is tried to keep them out.
const FREEZE: Duration = Duration::from_millis(500);

impl Engine {
    /// Looks at what was committed since the last time.
    pub(crate) fn track(&mut self) -> Result<()> {
        if self.pinned.was_replaced() {
            return Err(Error::Replaced { path: self.path.clone() });
        }
        self.settle()?;
        loop {
            match patiently(|| self.pinned.look()) {
                Ok(None) => return Ok(()),
                Ok(Some(advance)) => self.record(advance)?,
                // The frames are not those that were to be there: the pages tell.
                Err(aquifer_sqlite::Error::Wal { .. }) => {
                    let (pinned, _) = patiently(|| PinnedDatabase::open(&self.path, None))?;
                    self.pinned = pinned;
                    self.compare_all()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Decides what is known of a database that was just opened.
    pub(super) fn resume(&mut self, continuity: Continuity) -> Result<()> {
        if let Continuity::Broken(reason) = continuity {
            // All that was committed then is in the file, and nobody has written to it since: so nothing that came
            // later is in the file, and no WAL was reset that had any of it.
            let is_file_unchanged = self.state().tracked.as_ref().is_some_and(|tracked| {
                FileStamp::of(&self.path).is_ok_and(|stamp| tracked.has_all_in(&stamp))
            });
            if !is_file_unchanged || !self.go_back_to_file()? {
                tracing::debug!(path = %self.path.display(), reason, "all pages are compared");
                return self.compare_all();
            }
        }
        self.changed = self.sidecar.changed()?;
        Ok(())
    }

    /// Takes all that is in the WAL for what has come. False: it was reset meanwhile.
    fn go_back_to_file(&mut self) -> Result<bool> {
        let now = *self.pinned.position();
        if now.frame == 0 {
            return Ok(true);
        }
        // The pin that there is keeps the WAL until there is the other one.
        let (pinned, continuity) = patiently(|| PinnedDatabase::open(&self.path, Some(&now.start())))?;
        self.pinned = pinned;
        Ok(continuity == Continuity::Proven)
    }

    fn record(&mut self, advance: Advance) -> Result<()> {
        let base = self.state().base.clone();
        let pre_images = PreImages::of(base.number);
        let mut changed = self.changed.clone();
        let tracked = self.tracked(&advance.to, false)?;
        let (pinned, size) = (&self.pinned, self.pinned.page_size());
        let cut_off = (advance.pages.saturating_add(1)..=base.pages).filter_map(Pgno::new);
        let mut failure = None;
        let saved = self.sidecar.update(|db, state| {
            let mut map = PageMap::new(db);
            let mut page = vec![0; size.bytes()];
            for (at, &(pgno, _)) in advance.changed.iter().enumerate() {
                if pgno.get() > base.pages || changed.contains(pgno.get()) {
                    continue;
                }
                let hash = map.get(pgno)?;
                let is_base = match pinned.read_new(&advance, at, &mut page) {
                    Ok(content) => hash == Some(hash_of(pgno, content)),
                    Err(error) => {
                        failure = Some(error);
                        return Err(rusqlite::Error::QueryReturnedNoRows);
                    }
                };
                if !is_base {
                    keep(db, pinned, pre_images, &mut map, pgno, &mut page)?;
                    changed.insert(pgno.get());
                }
            }
            for pgno in cut_off {
                if changed.insert(pgno.get()) {
                    keep(db, pinned, pre_images, &mut map, pgno, &mut page)?;
                }
            }
            Sidecar::put_changed(db, &changed)?;
            state.tracked = Some(tracked);
            Ok(())
        });
        match (saved, failure) {
            (Ok(()), _) => {}
            (Err(_), Some(error)) => return Err(error.into()),
            (Err(error), None) => return Err(error.into()),
        }
        self.changed = changed;
        // Something was written, even where no commit could be counted.
        self.commits += advance.commits.max(u64::from(!advance.is_empty()));
        self.pinned.accept(advance)?;
        Ok(())
    }

    /// Compares all pages with those of the base.
    pub(super) fn compare_all(&mut self) -> Result<()> {
        let base = self.state().base.clone();
        let pre_images = PreImages::of(base.number);
        let mut changed = RoaringBitmap::new();
        let pages = self.pinned.pages()?;
        let db = self.sidecar.db();
        let failed = |e| Error::Sidecar(self.sidecar.error(e));
        let mut map = PageMap::new(db);
        self.pinned.scan::<Error>(|pgno, page| {
            if pgno.get() <= base.pages && map.get(pgno).map_err(failed)? != Some(hash_of(pgno, page)) {
                changed.insert(pgno.get());
            }
            Ok(())
        })?;
        let differing = changed.len();
        if base.pages > pages {
            changed.insert_range(pages + 1..=base.pages);
        }
        changed.remove(self.page_size().lock_page().get());
        let stamp = self.stamp()?;
        let is_other = self.state().tracked.as_ref().is_some_and(|known| !known.file.is_same_file(&stamp));
        let compared = pages.min(base.pages);
        if is_other && compared > 0 && (differing as f64) > f64::from(compared) * (1.0 - RELATED) {
            return Err(Error::OtherDatabase { path: self.path.clone(), differing, pages: compared });
        }
        let tracked = self.tracked(self.pinned.position(), false)?;
        let (pinned, size) = (&self.pinned, self.pinned.page_size());
        self.sidecar.update(|db, state| {
            let mut map = PageMap::new(db);
            let mut page = vec![0; size.bytes()];
            for pgno in changed.iter().filter_map(Pgno::new) {
                keep(db, pinned, pre_images, &mut map, pgno, &mut page)?;
            }
            Sidecar::put_changed(db, &changed)?;
            state.tracked = Some(tracked);
            Ok(())
        })?;
        self.changed = changed;
        // More than the one that may have been our own.
        self.commits += 2;
        Ok(())
    }

    /// Does not stand in the way of others who checkpoint. They copy no more than the pin lets them, and some keep
    /// writers out while they wait for it: it is moved on for them, and let go when all is copied.
    pub(crate) fn ease(&mut self) -> Result<()> {
        let backfill = match self.pinned.backfill() {
            Ok(backfill) => backfill,
            Err(error) if error.is_transient() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let frame = self.pinned.position().frame;
        if self.pinned.is_loose() {
            if self.pinned.may_have_changed() {
                self.track()?;
            }
        } else if backfill.backfilled >= frame {
            self.track()?;
            self.let_go()?;
        } else if self.pinned.is_checkpointing()? {
            if backfill.frames == frame {
                return self.step_aside();
            }
            self.track()?;
        }
        self.in_the_way = None;
        Ok(())
    }

    /// Who checkpoints waits for a place among the readers, by its number: it is the one that the pin has got, though
    /// all may be copied that is in the WAL. Where he does not come on, there is no other way than to give it up.
    fn step_aside(&mut self) -> Result<()> {
        let since = *self.in_the_way.get_or_insert_with(Instant::now);
        if since.elapsed() < IN_THE_WAY {
            return Ok(());
        }
        self.in_the_way = None;
        let at = *self.pinned.position();
        self.pinned.give_up()?;
        self.reach(Point::GivenUp);
        let deadline = Instant::now() + IN_THE_WAY;
        while self.pinned.is_checkpointing()? && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        let (pinned, continuity) = patiently(|| PinnedDatabase::open(&self.path, Some(&at)))?;
        self.pinned = pinned;
        match continuity {
            Continuity::Proven => {}
            Continuity::Broken(reason) => {
                tracing::debug!(path = %self.path.display(), reason, "all pages are compared");
                self.compare_all()?;
            }
        }
        self.track()
    }

    /// Does what others may keep from being done for a moment, perhaps since they wait for us.
    pub(super) fn yielding<T>(
        &mut self,
        mut work: impl FnMut(&mut Engine) -> aquifer_sqlite::Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match work(self) {
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    self.ease()?;
                    std::thread::sleep(PAUSE);
                }
                done => return Ok(done?),
            }
        }
    }

    /// Where the database file has everything, lets others reset the WAL.
    fn let_go(&mut self) -> Result<()> {
        if self.pinned.is_loose() {
            return Ok(());
        }
        match self.pinned.let_go() {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.is_transient() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let (stamp, is_certain) = self.lasting_stamp()?;
        let tracked = Tracked::new(self.pinned.position(), stamp, is_certain);
        if self.state().tracked.as_ref() != Some(&tracked) {
            self.sidecar.update(|_, state| {
                state.tracked = Some(tracked);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Moves what is in the WAL into the database file, as far as readers allow. The base is not lost by it.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.track()?;
        match self.pinned.checkpoint() {
            Ok(_) => self.let_go(),
            // Somebody else is at it.
            Err(error) if error.is_transient() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the WAL into the database file if more than these bytes of it cannot be reset; where somebody writes all
    /// the time and there are very many, keeps him out for that.
    pub(crate) fn tidy(&mut self, bytes: u64) -> Result<()> {
        self.ease()?;
        if self.held_bytes() > bytes {
            self.checkpoint()?;
        }
        if self.held_bytes() > MUCH * bytes {
            let deadline = Instant::now() + FREEZE;
            while !self.pinned.try_freeze()? {
                if Instant::now() > deadline {
                    return Ok(());
                }
                std::thread::sleep(PAUSE / 20);
            }
            let done = self.checkpoint();
            self.pinned.thaw();
            return done;
        }
        Ok(())
    }

    /// Bytes of the WAL that stay because of the pin.
    fn held_bytes(&self) -> u64 {
        if self.pinned.is_loose() {
            return 0;
        }
        u64::from(self.pinned.position().frame) * u64::from(self.page_size().get())
    }

    /// Bytes in the WAL.
    pub(crate) fn wal_bytes(&self) -> u64 {
        let wal = crate::sidecar::with_suffix(&self.path, "-wal");
        std::fs::metadata(wal).map_or(0, |file| file.len())
    }

    fn stamp(&self) -> Result<FileStamp> {
        FileStamp::of(&self.path).map_err(Error::file("read", &self.path))
    }

    /// What the file is known by while the pin is loose, so that nobody writes to it; and whether any change of it will
    /// show.
    fn lasting_stamp(&self) -> Result<(FileStamp, bool)> {
        let stamp = self.stamp()?;
        if stamp.is_settled(now()) {
            return Ok((stamp, true));
        }
        // A change within the same tick of the clock would not show: the file gets a time that the clock has left behind.
        if let Err(error) = stamp.set_back(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "its time of modification stays");
        }
        let now = self.stamp()?;
        Ok((now, now.is_older_than(&stamp)))
    }

    fn tracked(&self, to: &aquifer_sqlite::WalPosition, is_whole: bool) -> Result<Tracked> {
        Ok(Tracked::new(to, self.stamp()?, is_whole))
    }
}

/// Tries again while others are at it for a moment: recovering or checkpointing.
pub(super) fn patiently<T>(mut work: impl FnMut() -> aquifer_sqlite::Result<T>) -> aquifer_sqlite::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match work() {
            Err(error) if error.is_transient() && Instant::now() < deadline => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// Keeps a page of the base, if it can still be read here: at the pin, or in the database file.
fn keep(
    db: &Connection,
    pinned: &PinnedDatabase,
    pre_images: PreImages,
    map: &mut PageMap<'_>,
    pgno: Pgno,
    page: &mut [u8],
) -> rusqlite::Result<()> {
    let Some(hash) = map.get(pgno)? else { return Ok(()) };
    if pre_images.has(db, pgno)? {
        return Ok(());
    }
    match pinned.read_old(pgno, page) {
        Ok(content) if hash_of(pgno, content) == hash => return pre_images.put(db, pgno, content),
        _ => {}
    }
    if pinned.read_file(pgno, page).is_ok() && hash_of(pgno, page) == hash {
        return pre_images.put(db, pgno, page);
    }
    Ok(())
}
