//! The threads that SQL runs on.
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// How long a thread stays without work.
const IDLE: Duration = Duration::from_secs(10);
/// More than databases' streams together ever keep busy on a machine that still does something.
const MOST: usize = 2048;

/// Threads for SQL and nothing else, as many as there is work for: however long statements run or wait, what the server
/// reads from its disk meanwhile does not wait for them. Clones share them; with the last clone they end, each with its
/// work.
#[derive(Clone, Debug)]
pub struct Threads(Arc<Inner>);

#[derive(Debug)]
struct Inner(Option<Runtime>);

impl Threads {
    /// No thread is started before it has work.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(MOST)
            .thread_keep_alive(IDLE)
            .thread_name("sql")
            .build()?;
        Ok(Self(Arc::new(Inner(Some(runtime)))))
    }

    /// Runs `work` on one of them.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle().spawn_blocking(work)
    }

    fn handle(&self) -> &Handle {
        self.0.0.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new().expect("a runtime without I/O takes nothing that could be missing")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // To wait for statements would block whoever drops the last clone, and that may be a runtime's own thread.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
