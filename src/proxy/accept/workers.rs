//! The threads that serve connections. Each has its own runtime, and a connection stays on its thread until it ends, so
//! it is never moved or woken across threads.

use std::{io, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::proxy::bounds::budget;

/// How many tasks run before a thread polls its sockets again. tokio's default of 61 suits tasks that are short
/// compared with a poll; a turn of a tunnel that is always full takes fifty times as long.
const TASKS_BETWEEN_LOOKS: u32 = 8;

/// How often a thread wakes up in any case. tokio wakes a thread whose new timer precedes all others, even if it is the
/// thread itself, at the cost of two system calls. While this timer runs, the timers of handshakes are never the first.
const TICK: Duration = Duration::from_secs(1);

/// The serving threads.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    over: CancellationToken,
}

struct Worker {
    handle: Handle,
    thread: thread::JoinHandle<()>,
}

impl Workers {
    /// Starts `count` threads, each with a budget of `held` bytes.
    pub(crate) fn start(count: usize, held: usize) -> io::Result<Self> {
        let over = CancellationToken::new();
        let workers = (0..count.max(1)).map(|index| Worker::start(index, held, over.clone()));
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, over })
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// The runtimes of the threads, to spawn tasks on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Handle> {
        self.workers.iter().map(|worker| &worker.handle)
    }

    /// Stops the threads, and drops tasks that are still running.
    pub(crate) fn stop(self) {
        self.over.cancel();
        for worker in self.workers {
            // A panic has already been printed, and nothing more can be done about it.
            let _ = worker.thread.join();
        }
    }
}

impl Worker {
    fn start(index: usize, held: usize, over: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().event_interval(TASKS_BETWEEN_LOOKS).enable_all().build()?;
        let handle = runtime.handle().clone();
        let work = move || {
            budget::limit_thread(held);
            runtime.block_on(async { while timeout(TICK, over.cancelled()).await.is_err() {} });
        };
        let thread = thread::Builder::new().name(format!("serve-{index}")).spawn(work)?;
        Ok(Self { handle, thread })
    }
}
