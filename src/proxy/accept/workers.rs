//! The threads that serve connections. Each has a runtime of its own, and a connection stays on its thread to the end,
//! so nothing of it is moved or woken across threads.

use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::proxy::bounds::budget;

/// How many tasks run before a thread looks at its sockets again. tokio's own 61 are for tasks that are short beside a
/// look; a turn of a tunnel that is always full is fifty times as long.
const TASKS_BETWEEN_LOOKS: u32 = 8;

/// The threads.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    over: CancellationToken,
}

struct Worker {
    handle: Handle,
    thread: thread::JoinHandle<()>,
}

impl Workers {
    /// Starts as many threads as the settings say, each with this budget, in bytes.
    pub(crate) fn start(count: usize, held: usize) -> io::Result<Self> {
        let over = CancellationToken::new();
        let workers = (0..count.max(1)).map(|index| Worker::start(index, held, over.clone()));
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, over })
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// The threads, as places to run something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Handle> {
        self.workers.iter().map(|worker| &worker.handle)
    }

    /// Ends the threads, and drops what still runs there.
    pub(crate) fn stop(self) {
        self.over.cancel();
        for worker in self.workers {
            // A panic was printed when it happened, and there is nothing left to be done about it.
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
            runtime.block_on(over.cancelled());
        };
        let thread = thread::Builder::new().name(format!("serve-{index}")).spawn(work)?;
        Ok(Self { handle, thread })
    }
}
