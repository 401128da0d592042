use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response as HttpResponse};

use super::error::Failure;
use super::request::{PipelineBody, Request, SqlOrId, sql};
use super::response::{
    BatchResult, Collector, DescribeResult, Outcome, Response, Room, StmtResult, WireError,
};
use super::streams::Baton;
use super::{Database, Hrana, REVISION_HEADER, StopOnDrop};
use crate::sql::{Access, Bookkeeping, OnPushConflict, Session, SqlError, Step, is_of_sync_client};

/// Answers `POST …/v2/pipeline` and `…/v3/pipeline`: runs the requests in `body` in order, each whatever became of
/// those before. The answer leaves when all that it wrote or could have seen is durable.
///
/// Dropping the future stops what runs and rolls it back; when it is dropped while it waits for durability, what was
/// committed stays.
pub async fn pipeline<D: Database>(hrana: &Arc<Hrana<D>>, access: Access, body: &[u8]) -> HttpResponse {
    answer(hrana, access, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer<D: Database>(
    hrana: &Arc<Hrana<D>>,
    access: Access,
    body: &[u8],
) -> Result<HttpResponse, Failure> {
    let PipelineBody { baton, requests } = serde_json::from_slice(body)?;
    let mut stream = hrana.stream(baton.as_deref(), access).await?;
    let mut stop = StopOnDrop(Some(stream.session().interrupter()));
    let (new, policy) = (baton.is_none(), hrana.settings.on_push_conflict);
    let session = stream.session();
    let will_write = requests.iter().any(|request| request.wants_lock(session));
    let (stream, (ran, results)) = hrana
        .run(stream, will_write, move |session| {
            let ran = run(session, requests, new, policy);
            let results = serde_json::to_string(&ran.outcomes);
            (ran, results)
        })
        .await?;
    let results = results?;
    hrana.rejected.fetch_add(ran.kept, Ordering::Relaxed);
    let revision = hrana.database.durable().await?;
    if let Some(client) = &ran.pushed {
        hrana.database.pushed(client);
    }
    stop.disarm();

    let baton = if ran.closed {
        hrana.streams.end(stream);
        "null".to_owned()
    } else {
        let baton = Baton::for_stream(&stream)?;
        hrana.streams.park(stream, &baton);
        format!("\"{}\"", baton.text())
    };
    Ok((
        [(CONTENT_TYPE.as_str(), "application/json".to_owned()), (REVISION_HEADER, revision.to_string())],
        format!(r#"{{"baton":{baton},"base_url":null,"results":{results}}}"#),
    )
        .into_response())
}

/// What the requests of one answer have come to so far.
pub(super) struct Ran {
    outcomes: Vec<Outcome>,
    /// Whether the stream ends here.
    closed: bool,
    /// Statements of a push that were refused and kept.
    pub(super) kept: u64,
    /// Who pushed.
    pushed: Option<String>,
    /// What the answer may still take.
    room: Room,
    /// Whether this may be the lone batch of a sync client, which takes no baton.
    lone: bool,
    policy: OnPushConflict,
}

impl Ran {
    /// Nothing has run yet on this session.
    pub(super) fn nothing(session: &Session, policy: OnPushConflict) -> Ran {
        let limits = session.limits();
        let room = Room::new(limits.rows, limits.result_bytes);
        Ran { outcomes: Vec::new(), closed: false, kept: 0, pushed: None, room, lone: false, policy }
    }
}

/// Runs the requests on a session that is `new` or was parked.
fn run(session: &mut Session, requests: Vec<Request>, new: bool, policy: OnPushConflict) -> Ran {
    let mut ran = Ran { lone: new && requests.len() == 1, ..Ran::nothing(session, policy) };
    for request in requests {
        let outcome = match respond(session, request, &mut ran) {
            Ok(response) => Outcome::Ok { response },
            Err(error) => Outcome::Error { error },
        };
        ran.outcomes.push(outcome);
    }
    ran
}

fn malformed(error: SqlOrId) -> WireError {
    Failure::Statement(error).wire()
}

/// Runs one request.
pub(super) fn respond(session: &mut Session, request: Request, ran: &mut Ran) -> Result<Response, WireError> {
    if ran.closed {
        let message = "the stream was closed before this request".into();
        return Err(WireError { message, code: "STREAM_CLOSED" });
    }
    Ok(match request {
        Request::Close => {
            ran.closed = true;
            Response::Close
        }
        Request::Batch { batch } => {
            let steps = batch.into_steps().map_err(malformed)?;
            // It would never come back: an open transaction would only keep everyone else waiting.
            ran.closed = ran.lone && is_of_sync_client(&steps);
            Response::Batch { result: run_batch(session, &steps, ran)? }
        }
        Request::Execute { stmt } => Response::Execute {
            result: execute(session, &stmt.try_into().map_err(malformed)?, &mut ran.room)?,
        },
        Request::Sequence { sql: text, sql_id } => {
            session.sequence(&sql(text, sql_id).map_err(malformed)?)?;
            Response::Sequence
        }
        Request::Describe { sql: text, sql_id } => {
            let description = session.describe(&sql(text, sql_id).map_err(malformed)?)?;
            Response::Describe { result: DescribeResult::from(description) }
        }
        Request::StoreSql { sql_id, sql } => {
            session.store_sql(sql_id, sql)?;
            Response::StoreSql
        }
        Request::CloseSql { sql_id } => {
            session.close_sql(sql_id);
            Response::CloseSql
        }
        Request::GetAutocommit => Response::GetAutocommit { is_autocommit: session.is_autocommit() },
    })
}

fn execute(
    session: &Session,
    statement: &crate::sql::Statement,
    room: &mut Room,
) -> Result<StmtResult, SqlError> {
    let mut collector = Collector::new(1, room);
    let summary = session.execute(statement, &mut collector)?;
    Ok(collector.finish(summary))
}

fn run_batch(session: &Session, steps: &[Step], ran: &mut Ran) -> Result<BatchResult, SqlError> {
    let mut collector = Collector::new(steps.len(), &mut ran.room);
    match Bookkeeping::of(steps) {
        Some(bookkeeping) => {
            ran.pushed = bookkeeping.client().map(str::to_owned);
            ran.kept += session.push(steps, &bookkeeping, ran.policy, &mut collector)?;
        }
        None => session.batch(steps, &mut collector)?,
    }
    Ok(collector.results)
}
