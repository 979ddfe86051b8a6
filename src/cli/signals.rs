//! Stopping on SIGTERM and SIGINT.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that a second signal aborts, before the signal's number is added.
const SIGNAL_EXIT_BASE: i32 = 128;

/// Both stop signals.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes both signals over from the system's default.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them and returns its name.
    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupt",
        }
    }

    /// Runs `stop` to its end, unless another signal arrives: then the process ends at once.
    pub(crate) async fn abortable(&mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            name = self.wait() => {
                tracing::warn!(signal = name, "second signal, stopping at once");
                let number = if name == "interrupt" { 2 } else { 15 };
                std::process::exit(SIGNAL_EXIT_BASE + number);
            }
        }
    }
}
