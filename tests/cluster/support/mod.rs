//! The test bed: a control plane, the chart's rights, controllers, backends and clients.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "the tests and the benchmarks use different parts")]

mod assets;
mod backend;
mod bed;
mod control_plane;
mod controller;
mod fill;
pub mod objects;
mod programmed;

use std::{
    future::Future,
    sync::LazyLock,
    thread::sleep,
    time::{Duration, Instant},
};

pub use assets::Assets;
pub use backend::{Backend, Client, certificate_sent};
pub use bed::{Bed, RELEASE, SYSTEM, chart};
pub use control_plane::{ControlPlane, Process};
pub use controller::Controller;
pub use fill::create;
pub use programmed::programmed;
use tokio::task::JoinHandle;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Runs a future beside the test, for as long as the test program runs at most.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    RUNTIME.spawn(future)
}

/// Waits until `look` finds something; panics with what it said last when that takes too long. Other processes are
/// involved, so this polls.
pub fn eventually<T>(look: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(Duration::from_secs(40), look)
}

/// The same for what may take longer.
pub fn eventually_within<T>(patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if Instant::now() > deadline => panic!("waited in vain: {reason}"),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}
