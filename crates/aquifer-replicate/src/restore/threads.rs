//! CPU work beside the async runtime.

use tokio::task::JoinError;

/// The result of work that ran on a thread of its own; a panic there goes on here.
///
/// # Panics
/// If the work did, or if the runtime was shut down before it began.
pub(crate) fn finished<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => panic!("the runtime was shut down while work was waiting: {cancelled}"),
    })
}
