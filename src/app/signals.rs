//! SIGTERM and SIGINT: the first stops the process gracefully, the second at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// The signals that stop the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Exits on the next signal.
    pub(super) fn exit_at_next(mut self) {
        tokio::spawn(async move {
            self.next().await;
            warn!("second signal: exiting at once, open connections are aborted");
            std::process::exit(1);
        });
    }
}
