//! Being told to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// The number of SIGTERM, with which supervisors end a program that did nothing wrong.
pub(crate) const SIGTERM: i32 = 15;

/// SIGINT and SIGTERM, as they arrive.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on the process handles them itself.
    pub(crate) fn listen() -> Result<Signals, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::Start);
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The number of the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}
