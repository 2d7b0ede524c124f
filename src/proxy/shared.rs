//! State that all connections of the process share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    metrics::Metrics,
    proxy::{bounds::throttle::Throttle, settings::Settings, tunnel::Tunnels},
    table::{CurrentTable, SessionKeys},
};

/// The phases of serving and stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServingPhase {
    Serving,
    /// Still accepting, but asking clients to close.
    Leaving,
    /// No longer accepting.
    Stopping,
}

/// Waits until the process has reached a phase.
pub(crate) async fn reached(phase: &mut watch::Receiver<ServingPhase>, wanted: ServingPhase) {
    // Without a sender, the whole proxy is gone.
    let _ = phase.wait_for(|phase| *phase == wanted).await;
}

/// State that all connections share.
pub(crate) struct Shared {
    pub table: Arc<CurrentTable>,
    pub session_keys: Arc<ArcSwap<SessionKeys>>,
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
    pub tunnels: Arc<Tunnels>,
    pub phase: watch::Receiver<ServingPhase>,
    /// Shared by all threads, since what fails on one fails on the others.
    pub throttle: Throttle,
    /// Connections and tunnels: their number is limited, and stopping waits for the last of them.
    pub tasks: TaskTracker,
}

impl Shared {
    /// Whether clients should be asked to close their connections.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.phase.borrow() != ServingPhase::Serving
    }
}
