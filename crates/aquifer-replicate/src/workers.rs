//! Runs work that blocks (SQLite, encoding) on a bounded number of threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A bound on how much blocking work runs at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    permits: Arc<Semaphore>,
}

impl Workers {
    /// At most `n` at once.
    pub(crate) fn new(n: usize) -> Workers {
        Workers { permits: Arc::new(Semaphore::new(n.max(1))) }
    }

    /// Runs a closure on one of the threads. Not cancel-safe: dropping the future does not stop the closure, and what
    /// it returns is lost.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let span = tracing::Span::current();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            span.in_scope(work)
        });
        match done.await {
            Ok(value) => value,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Blocking work is cancelled only when the runtime shuts down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
