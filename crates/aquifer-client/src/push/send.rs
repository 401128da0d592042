//! Sending a push, and finding out what became of it.
//!
//! What fits goes in one request; more than [`PIECE`] bytes in several, on one stream, whose last one commits. Each step
//! runs only if the one before it did, so nothing after a guard that failed is run, and nothing is committed.

use aquifer_sqlite::btree::Value;

use super::exact::Question;
use super::kept::Kept;
use super::{Bookkeeping, Result, Step};
use crate::remote::{Batch, BatchAnswer, Condition, Remote, RemoteError, SqlFailure, StepOutcome};

/// Bytes of one request, about. A larger value makes a larger one.
const PIECE: usize = 4 << 20;
/// The same where all must be in one.
const WHOLE: usize = 32 << 20;

/// What became of a push.
#[derive(Debug)]
pub enum Outcome {
    /// It is on the server.
    Applied,
    /// The server has a push of this client with this number, or a later one, or was told not to apply it.
    Late,
    /// The server does not have what the push is about as this client knows it. Nothing was applied.
    Clashed {
        /// The statement that said so.
        statement: String,
        /// What the server says.
        message: String,
    },
    /// The server will not run a statement, however often it is sent. Nothing was applied.
    Refused {
        /// The statement.
        statement: String,
        /// What the server says.
        message: String,
    },
    /// The server reads reals as others, so that they must be [written in another way](super::Reals). Nothing was applied.
    Misread,
    /// It may have been applied, or may yet be: [`resolve`] finds out.
    Unknown(RemoteError),
}

/// A request in the making: each step runs if the one before it did.
#[derive(Default)]
struct Request {
    batch: Batch,
    steps: Vec<Named>,
    last: Option<usize>,
}

/// A step of a request.
struct Named {
    /// What it is, for people.
    name: String,
    /// Whether the rest does not wait for it.
    is_optional: bool,
    /// What is asked by it.
    question: Option<Question>,
}

impl Request {
    fn add(&mut self, step: &Step, want_rows: bool) -> Result<(), RemoteError> {
        let condition = self.last.map(|step| Condition::Ok { step });
        let at = self.batch.step(condition.as_ref(), &step.sql, &step.args, want_rows)?;
        self.name(format!("{}: {}", step.about, step.sql), step.is_optional);
        if !step.is_optional {
            self.last = Some(at);
        }
        Ok(())
    }

    fn name(&mut self, name: String, is_optional: bool) {
        self.steps.push(Named { name, is_optional, question: None });
    }

    fn ask(&mut self, question: Question) -> Result<(), RemoteError> {
        self.add(&question.step(), false)?;
        if let Some(step) = self.steps.last_mut() {
            step.question = Some(question);
        }
        Ok(())
    }

    /// `COMMIT`, if all went well, and else `ROLLBACK`. Which step the first one is.
    fn end(&mut self) -> Result<usize, RemoteError> {
        let condition = self.last.map(|step| Condition::Ok { step });
        let commit = self.batch.step(condition.as_ref(), "COMMIT", [], false)?;
        self.name("COMMIT".to_owned(), false);
        let is_open = Condition::Not { cond: Box::new(Condition::IsAutocommit) };
        self.batch.step(Some(&is_open), "ROLLBACK", [], false)?;
        self.name("ROLLBACK".to_owned(), true);
        Ok(commit)
    }

    /// The first step that the rest waits for and that failed.
    fn failure(&self, answer: &BatchAnswer) -> Option<(&Named, SqlFailure)> {
        self.steps.iter().zip(&answer.steps).find_map(|(named, step)| match step {
            StepOutcome::Failed(failure) if !named.is_optional => Some((named, failure.clone())),
            _ => None,
        })
    }
}

/// Sends a push under a number that this client has not used before. Sent once, whatever becomes of it.
///
/// Not cancel-safe: the push may have been applied, or may yet be; [`resolve`] finds out.
///
/// # Errors
/// The server was not asked, or said before it did anything that it will not; the statements that were kept cannot be
/// read.
pub async fn send(remote: &Remote, push: &Bookkeeping, kept: &Kept) -> Result<Outcome> {
    let mut request = Request::default();
    for step in &push.begin() {
        request.add(step, false)?;
    }
    for question in kept.questions() {
        if *question == Question::Texts || !remote.is_asked_of_reals() {
            request.ask(*question)?;
        }
    }
    let mut stream = None;
    for step in kept.steps()? {
        let step = step?;
        let bytes = request.batch.bytes() + step.bytes();
        if bytes > PIECE && (stream.is_some() || remote.keeps_streams().await?) {
            // A request is sent when there is more to come: the last one commits.
            let piece = std::mem::take(&mut request);
            let stream = stream.get_or_insert_with(|| remote.sql_stream());
            let answer = match stream.batch(&piece.batch).await {
                Ok(answer) => answer,
                Err(error) => return lost(error),
            };
            if let Some((step, failure)) = piece.failure(&answer) {
                // The server rolls back by itself, only later.
                let _ = std::mem::replace(stream, remote.sql_stream()).close().await;
                return Ok(judged(remote, step, &failure));
            }
        } else if bytes > WHOLE {
            let message = format!(
                "this server takes a transaction in one request only, and this one has more than {} MiB: push \
                 fewer rows at a time (--push-batch-rows, Builder::push_batch_rows)",
                WHOLE >> 20
            );
            return Ok(Outcome::Refused { statement: step.about.to_string(), message });
        }
        request.add(&step, false)?;
    }
    let commit = request.end()?;
    let answered = match &mut stream {
        None => remote.batch(&request.batch).await,
        Some(stream) => stream.batch(&request.batch).await,
    };
    let answer = match answered {
        Ok(answer) => answer,
        Err(error) => return lost(error),
    };
    if let Some(stream) = stream {
        // It is done, whether the server hears of it now or later.
        let _ = stream.close().await;
    }
    if answer.steps.get(commit).is_some_and(|step| step.done().is_some()) {
        if kept.questions().contains(&Question::Reals) {
            remote.reads_reals(true);
        }
        return Ok(Outcome::Applied);
    }
    Ok(match request.failure(&answer) {
        Some((step, failure)) => judged(remote, step, &failure),
        None => Outcome::Unknown(RemoteError::Protocol {
            remote: remote.url().to_owned(),
            reason: "it ran neither the push to its end nor a step that failed".to_owned(),
        }),
    })
}

/// Whether a push was applied. If it was not, it never will be: so a request that is still on its way does nothing.
///
/// Cancel-safe: it may be asked again.
///
/// # Errors
/// What keeps the server from answering.
pub async fn resolve(remote: &Remote, push: &Bookkeeping) -> Result<bool, RemoteError> {
    let mut request = Request::default();
    let mut read = 0;
    for (i, step) in push.fence().iter().enumerate() {
        let is_read = step.sql.starts_with("SELECT");
        request.add(step, is_read)?;
        if is_read {
            read = i;
        }
    }
    let answer = remote.batch(&request.batch).await?;
    let url = || remote.url().to_owned();
    if let Some((_, failure)) = request.failure(&answer) {
        return Err(unavailable(remote, &failure).unwrap_or(RemoteError::Sql { remote: url(), failure }));
    }
    // Only what was committed keeps the push away.
    let is_committed = answer.steps.last().is_some_and(|step| step.done().is_some());
    let row = answer.steps.get(read).and_then(StepOutcome::done).and_then(|result| result.rows.first());
    let said = row.filter(|_| is_committed).and_then(|row: &Vec<Value>| push.was_applied(row));
    said.ok_or_else(|| RemoteError::Protocol {
        remote: url(),
        reason: "it does not say which push was applied".to_owned(),
    })
}

/// The answer to a request is not there.
fn lost(error: RemoteError) -> Result<Outcome> {
    match error {
        RemoteError::StreamLost { .. } => Ok(Outcome::Unknown(error)),
        error if error.may_have_happened() => Ok(Outcome::Unknown(error)),
        error => Err(error.into()),
    }
}

/// What it means that a statement failed.
fn judged(remote: &Remote, step: &Named, failure: &SqlFailure) -> Outcome {
    if Bookkeeping::is_late(&failure.message) {
        return Outcome::Late;
    }
    if let Some(error) = unavailable(remote, failure) {
        return Outcome::Unknown(error);
    }
    let statement = step.name.clone();
    match step.question {
        Some(Question::Reals) => {
            remote.reads_reals(false);
            return Outcome::Misread;
        }
        Some(Question::Texts) => {
            let message = "it changes texts that are not UTF-8, and some are to be pushed".to_owned();
            return Outcome::Refused { statement, message };
        }
        None => {}
    }
    let code = failure.code.as_deref().unwrap_or_default();
    let for_good =
        ["AUTH", "READONLY", "PERM", "TOOBIG", "FULL", "CORRUPT", "NOTADB", "CANTOPEN", "INTERRUPT", "NOMEM"];
    let is_refused =
        code.strip_prefix("SQLITE_").is_some_and(|code| for_good.iter().any(|c| code.starts_with(c)));
    let message = failure.to_string();
    if is_refused { Outcome::Refused { statement, message } } else { Outcome::Clashed { statement, message } }
}

/// Somebody else has the lock for longer than the server waits.
fn unavailable(remote: &Remote, failure: &SqlFailure) -> Option<RemoteError> {
    let code = failure.code.as_deref()?;
    (code.starts_with("SQLITE_BUSY") || code.starts_with("SQLITE_LOCKED")).then(|| RemoteError::Unavailable {
        remote: remote.url().to_owned(),
        status: 503,
        retry_after: None,
        message: failure.to_string(),
    })
}
