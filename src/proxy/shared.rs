//! What all connections of the process share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    metrics::Metrics,
    proxy::{bounds::throttle::Throttle, settings::Settings, tunnel::Tunnels},
    table::{CurrentTable, SessionKeys},
};

/// How far the process is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Still accepting, but asking clients to go.
    Leaving,
    /// No longer accepting.
    Stopping,
}

/// Waits until the process has reached a phase.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // Without a sender, the process is gone altogether.
    let _ = phase.wait_for(|phase| *phase == wanted).await;
}

/// What all connections share.
pub(crate) struct Shared {
    pub table: Arc<CurrentTable>,
    pub session_keys: Arc<ArcSwap<SessionKeys>>,
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
    pub tunnels: Arc<Tunnels>,
    pub phase: watch::Receiver<Phase>,
    /// What fails on one thread fails on the others.
    pub throttle: Throttle,
    /// Connections and tunnels: their number is limited, and the last of them is waited for.
    pub tasks: TaskTracker,
}

impl Shared {
    /// Whether clients are to be asked to close their connections.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }
}
