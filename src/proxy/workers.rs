//! The threads that serve connections. Each has a runtime of its own, and a connection stays on its thread to the end,
//! so nothing of it is moved or woken across threads.

use std::{io, sync::Arc, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::Shared;

/// The threads.
pub(super) struct Workers {
    workers: Vec<Worker>,
    over: CancellationToken,
}

struct Worker {
    handle: Handle,
    thread: thread::JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Workers {
    /// Starts as many threads as the settings say, each with what `share` makes for it.
    pub(super) fn start(count: usize, share: impl Fn() -> Shared) -> io::Result<Self> {
        let over = CancellationToken::new();
        let workers = (0..count.max(1)).map(|index| Worker::start(index, share(), over.clone()));
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, over })
    }

    /// How many connections are being served.
    pub(super) fn connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.shared.tasks.len()).sum()
    }

    /// Serves a connection where there are the fewest. Sockets live long: where one starts is where it weighs.
    pub(super) fn serve<F>(&self, serve: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let least = self.workers.iter().min_by_key(|worker| worker.shared.tasks.len());
        let Worker { handle, shared, .. } = least.expect("there is at least one");
        shared.tasks.spawn_on(shared.cut.clone().run_until_cancelled_owned(serve(shared.clone())), handle);
    }

    /// Waits until all connections have ended.
    pub(super) async fn drained(&self) {
        for Worker { shared, .. } in &self.workers {
            shared.tasks.close();
            shared.tasks.wait().await;
        }
    }

    /// Ends the threads, and drops what still runs there.
    pub(super) fn stop(self) {
        self.over.cancel();
        for worker in self.workers {
            // A panic was printed when it happened, and there is nothing left to be done about it.
            let _ = worker.thread.join();
        }
    }
}

impl Worker {
    fn start(index: usize, shared: Shared, over: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let work = move || runtime.block_on(over.cancelled());
        let thread = thread::Builder::new().name(format!("serve-{index}")).spawn(work)?;
        Ok(Self { handle, thread, shared: Arc::new(shared) })
    }
}
