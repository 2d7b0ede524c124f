//! The test bed: a control plane, the chart's RBAC, controllers, backends and clients.
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

/// Runs a future to completion.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Runs a future in the background, at most until the test program ends.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    RUNTIME.spawn(future)
}

/// Waits until `look` returns a value; panics with its last error if that takes too long. It polls, because other
/// processes are involved.
pub fn eventually<T>(look: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(Duration::from_secs(40), look)
}

/// The same with a longer limit.
pub fn eventually_within<T>(patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if Instant::now() > deadline => panic!("timed out: {reason}"),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}
