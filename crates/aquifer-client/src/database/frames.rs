//! Pushing pages, and finding out what became of them.
//!
//! The server takes frames only with the numbers that come next. So those of one push are taken once or never, however
//! often they are sent, and whatever request comes late: what is to be known is which of both. It says `conflict` where
//! other frames have these numbers, and then it never takes them.

use roaring::RoaringBitmap;

use super::{Database, ROUNDS, Synced};
use crate::engine::{Engine, Part, Sent};
use crate::frames::{self, Frames, Place, Protocol};
use crate::remote::{Frame, FramesPulled, Remote, RemoteError};
use crate::retrying::Backoff;
use crate::sidecar::content;
use crate::{Error, Result};

/// How often frames are sent to a server that neither takes nor refuses them.
const TRIES: u32 = 6;

/// What became of frames.
enum Fate {
    /// The server has taken them.
    Taken,
    /// It has not, and never will.
    Refused,
    /// It has not, and nothing is on its way.
    NotSent(RemoteError),
    /// They may have been taken, or may yet be.
    Unknown(RemoteError),
}

/// What a server says to all frames of a push.
enum Said {
    Taken,
    Conflict,
    /// It does not have those before, or has forgotten them: again from the first.
    Again,
}

impl Database {
    /// The protocol that the server is spoken to in. It is asked where that is not known yet.
    pub(super) async fn protocol(&self) -> Result<Protocol> {
        let known = self.engine().await.protocol();
        let protocol = match known {
            Some(protocol) => protocol,
            None => frames::spoken_by(self.remote()?).await?,
        };
        self.blocking(move |engine| engine.speak(protocol)).await?;
        Ok(protocol)
    }

    /// Pulls, and pushes what differs from what was pulled, until the server has it.
    pub(super) async fn push_frames(&self, synced: &mut Synced) -> Result<()> {
        let mut backoff = Backoff::new();
        for round in 1..=ROUNDS {
            self.pull_now(synced).await?;
            self.supply().await?;
            let Some(sent) = self.blocking(Engine::outgoing_frames).await? else { return Ok(()) };
            let fate = self.send_frames(&sent, false).await?;
            if let Some(pages) = self.conclude(fate).await? {
                synced.pushed += u64::from(pages);
                return Ok(());
            }
            backoff.pause(round).await;
        }
        Err(Error::Contended)
    }

    /// Finds out what became of frames whose answer was lost.
    pub(super) async fn resolve_frames(&self) -> Result<()> {
        let Some(sent) = self.engine().await.sent_frames() else { return Ok(()) };
        let fate = self.send_frames(&sent, true).await?;
        self.conclude(fate).await.map(drop)
    }

    /// Records what became of the frames of the open attempt: how many were taken, if they were.
    async fn conclude(&self, fate: Fate) -> Result<Option<u32>> {
        match fate {
            Fate::Taken => self.note(Engine::advance).await.map(Some),
            Fate::Refused => self.blocking(|engine| engine.sent(Sent::NotApplied)).await.map(|()| None),
            Fate::NotSent(error) => {
                self.blocking(|engine| engine.sent(Sent::NotApplied)).await?;
                Err(error.into())
            }
            Fate::Unknown(error) => Err(error.into()),
        }
    }

    /// Sends the frames of the open attempt, which may be on their way already.
    ///
    /// Not cancel-safe: what became of them is found out by sending them again.
    async fn send_frames(&self, sent: &Frames, mut may_have_happened: bool) -> Result<Fate> {
        let remote = self.remote()?;
        let (mut backoff, mut failed) = (Backoff::new(), 0);
        for round in 1..=TRIES {
            let error = match self.send_all(remote, sent).await {
                Ok(Said::Taken) => return Ok(Fate::Taken),
                Ok(Said::Conflict) => match self.are_there(remote, sent).await {
                    Ok(true) => return Ok(Fate::Taken),
                    Ok(false) => return Ok(Fate::Refused),
                    Err(Error::Remote(error)) => return Ok(Fate::Unknown(error)),
                    Err(error) => return Err(error),
                },
                Ok(Said::Again) => {
                    backoff.pause(round).await;
                    continue;
                }
                // The server has another history by now, in which these numbers do not come.
                Err(Error::Remote(RemoteError::Gone { .. })) => return Ok(Fate::Refused),
                Err(Error::Remote(error)) => error,
                Err(error) => return Err(error),
            };
            may_have_happened |= error.may_have_happened();
            if let Err(error) = remote.pause(&mut failed, error).await {
                return Ok(if may_have_happened { Fate::Unknown(error) } else { Fate::NotSent(error) });
            }
        }
        let reason = "it neither takes what is pushed nor says that it does not".to_owned();
        Ok(Fate::Unknown(RemoteError::Protocol { remote: remote.url().to_owned(), reason }))
    }

    async fn send_all(&self, remote: &Remote, sent: &Frames) -> Result<Said> {
        let (mut skip, mut baton) = (0, None);
        loop {
            let Part { frames, count, is_last } = self.part(skip).await?;
            let first = sent.first + skip;
            let end = first + count;
            let answer = remote.push_frames(sent.generation, (first, end), baton.as_deref(), frames).await?;
            if answer.is_conflict() {
                return Ok(Said::Conflict);
            }
            if answer.max_frame_no >= end {
                let reason =
                    format!("it has frame {} after it was sent frames to {}", answer.max_frame_no, end - 1);
                return Err(RemoteError::Protocol { remote: remote.url().to_owned(), reason }.into());
            }
            if answer.max_frame_no < end - 1 {
                return Ok(Said::Again);
            }
            if is_last {
                return Ok(Said::Taken);
            }
            (skip, baton) = (skip + count, answer.baton);
        }
    }

    async fn part(&self, skip: u32) -> Result<Part> {
        self.blocking(move |engine| engine.frames(skip)).await
    }

    /// Whether the server's frames with the numbers of the open attempt are the attempt's: not all servers compare them.
    async fn are_there(&self, remote: &Remote, sent: &Frames) -> Result<bool> {
        let mut skip = 0;
        loop {
            let part = self.part(skip).await?;
            let first = sent.first + skip;
            let FramesPulled::Some(mut found) =
                remote.frames(sent.generation, first, first + part.count).await?
            else {
                return Ok(false);
            };
            for ours in Frame::all(&part.frames) {
                let is_same = found.next().await?.is_some_and(|found| {
                    (found.pgno, found.size) == (ours.pgno, ours.size)
                        && content(found.pgno, &found.page) == content(ours.pgno, &ours.page)
                });
                if !is_same {
                    return Ok(false);
                }
            }
            if part.is_last {
                return Ok(true);
            }
            skip += part.count;
        }
    }

    /// Fetches pages of the base that are needed and not here any more, as far as the server has them.
    pub(super) async fn supply_frames(&self, place: Place, missing: RoaringBitmap) -> Result<()> {
        for is_last in [false, true] {
            let (remote, directory) = (self.remote()?, self.directory());
            let pages = frames::base_pages(remote, place, &missing, is_last, directory).await?;
            match self.blocking(move |engine| engine.supply(&pages)).await {
                Err(Error::BasePageMissing { .. }) if !is_last => {}
                supplied => return supplied,
            }
        }
        Ok(())
    }
}
