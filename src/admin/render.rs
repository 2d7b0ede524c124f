//! A thread that renders responses, one at a time. All requests for a document that wait when it starts get the same
//! bytes.

use std::{
    collections::HashMap,
    io, iter, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::admin::tunnels::Filter;

/// The maximum number of queued requests.
const QUEUE: usize = 256;

/// The documents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AdminDocument {
    Metrics,
    Routes,
    Tunnels(Filter),
}

/// Why a document is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    /// Too much is waiting: requests for the thread, or responses for their clients.
    Busy,
    /// The renderer panicked; see the log.
    Failed,
}

type RenderResult = Result<Bytes, Unavailable>;

struct Job {
    document: AdminDocument,
    reply: oneshot::Sender<RenderResult>,
}

/// The handle for requesting documents.
pub(super) struct Renderer(SyncSender<Job>);

impl Renderer {
    /// The current document, never one from before this call; but while `unread` bytes are waiting for clients, the
    /// newest of those responses.
    pub(super) async fn bytes(&self, document: AdminDocument) -> RenderResult {
        let (reply, outcome) = oneshot::channel();
        match self.0.try_send(Job { document, reply }) {
            Ok(()) => outcome.await.unwrap_or(Err(Unavailable::Failed)),
            Err(TrySendError::Full(_)) => Err(Unavailable::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Unavailable::Failed),
        }
    }
}

/// Starts the thread. It pauses rendering a kind while more than `unread` bytes of its responses wait for their
/// clients.
pub(super) fn start(unread: usize, render: impl Fn(&AdminDocument) -> String + Send + 'static) -> io::Result<Renderer> {
    let (sender, jobs) = sync_channel(QUEUE);
    let desk = Desk { unread, render, live: Vec::new() };
    thread::Builder::new().name("admin-render".into()).spawn(move || desk.run(&jobs))?;
    Ok(Renderer(sender))
}

struct Desk<F> {
    unread: usize,
    render: F,
    /// Renderings that clients have not read completely, oldest first.
    live: Vec<Live>,
}

struct Live {
    document: AdminDocument,
    bytes: Weak<Box<[u8]>>,
}

impl<F: Fn(&AdminDocument) -> String> Desk<F> {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut asked: HashMap<_, Vec<_>> = HashMap::new();
            for Job { document, reply } in iter::once(first).chain(jobs.try_iter().take(QUEUE)) {
                asked.entry(document).or_default().push(reply);
            }
            for (document, replies) in asked {
                // If all of their connections have ended, the rendering is skipped.
                if !replies.iter().all(oneshot::Sender::is_closed) {
                    self.reply(document, replies);
                }
            }
        }
    }

    fn reply(&mut self, document: AdminDocument, replies: Vec<oneshot::Sender<RenderResult>>) {
        let outcome = self.bytes(document);
        for reply in replies {
            let _ = reply.send(outcome.clone());
        }
    }

    fn bytes(&mut self, document: AdminDocument) -> RenderResult {
        self.live.retain(|live| live.bytes.strong_count() > 0);
        if self.unread_of(&document) > self.unread {
            let mut same = self.live.iter().rev().filter(|live| live.document == document);
            let newest = same.find_map(|live| live.bytes.upgrade());
            return newest.map(shared).ok_or(Unavailable::Busy);
        }
        // One failure must not end all metrics.
        let text = catch_unwind(AssertUnwindSafe(|| (self.render)(&document))).map_err(|_| Unavailable::Failed)?;
        let bytes = Arc::new(text.into_bytes().into_boxed_slice());
        self.live.push(Live { document, bytes: Arc::downgrade(&bytes) });
        Ok(shared(bytes))
    }

    /// The bytes of this kind of document that wait for their clients.
    fn unread_of(&self, document: &AdminDocument) -> usize {
        let is_kin = |live: &&Live| mem::discriminant(&live.document) == mem::discriminant(document);
        self.live.iter().filter(is_kin).filter_map(|live| live.bytes.upgrade()).map(|bytes| bytes.len()).sum()
    }
}

/// The bytes of a rendering, shared by all readers.
fn shared(bytes: Arc<Box<[u8]>>) -> Bytes {
    struct HeldRendering(Arc<Box<[u8]>>);
    impl AsRef<[u8]> for HeldRendering {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(HeldRendering(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    /// A renderer whose documents are increasing numbers.
    fn counting(unread: usize) -> Renderer {
        let count = AtomicUsize::new(0);
        start(unread, move |_| format!("{:08}", count.fetch_add(1, Ordering::Relaxed))).unwrap()
    }

    fn tunnels(query: &str) -> AdminDocument {
        AdminDocument::Tunnels(Filter::parse(query).unwrap())
    }

    #[tokio::test]
    async fn everyone_who_waits_when_a_rendering_begins_shares_it() {
        let (begun, begins) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let renderer = start(usize::MAX, move |_| {
            begun.send(()).unwrap();
            gone.lock().unwrap().recv().unwrap();
            "metrics".into()
        });
        let renderer = renderer.unwrap();
        let first = renderer.bytes(AdminDocument::Metrics);
        let rest = futures::future::join_all((0..40).map(|_| renderer.bytes(AdminDocument::Metrics)));
        let steer = async {
            // The others ask while the first is rendered, so they share the second.
            begins.recv().unwrap();
            tokio::task::yield_now().await;
            go.send(()).unwrap();
            go.send(()).unwrap();
        };
        let (first, (), rest) = tokio::join!(biased; first, steer, rest);
        let pointers: Vec<_> = rest.iter().map(|bytes| bytes.as_ref().unwrap().as_ptr()).collect();
        assert!(pointers.iter().all(|pointer| *pointer == pointers[0]));
        assert_ne!(first.unwrap().as_ptr(), pointers[0]);
        assert_eq!(begins.try_iter().count(), 1, "41 requests, two renderings");
    }

    #[tokio::test]
    async fn a_response_is_never_older_than_its_request() {
        let renderer = counting(usize::MAX);
        let mut held = Vec::new();
        for number in 0..20 {
            held.push(renderer.bytes(AdminDocument::Metrics).await.unwrap());
            assert_eq!(held[number], format!("{number:08}"));
        }
    }

    #[tokio::test]
    async fn over_the_limit_of_unread_bytes_clients_get_the_newest_response_that_is_still_read() {
        let renderer = counting(8);
        let get = || renderer.bytes(AdminDocument::Metrics);
        let first = get().await.unwrap();
        let second = get().await.unwrap();
        assert_eq!((&first[..], &second[..]), (&b"00000000"[..], &b"00000001"[..]));
        let third = get().await.unwrap();
        assert_eq!(third.as_ptr(), second.as_ptr(), "8 bytes are the limit, and 16 are unread");
        drop(first);
        assert_eq!(get().await.unwrap(), "00000002");
        drop((second, third));
        assert_eq!(get().await.unwrap(), "00000003");
    }

    #[tokio::test]
    async fn each_kind_has_a_limit_of_its_own_and_refuses_what_nobody_reads() {
        let renderer = counting(0);
        let held = renderer.bytes(tunnels("")).await.unwrap();
        assert_eq!(renderer.bytes(tunnels("")).await.unwrap().as_ptr(), held.as_ptr());
        assert_eq!(renderer.bytes(tunnels("route=shop/chat")).await, Err(Unavailable::Busy));
        assert!(renderer.bytes(AdminDocument::Metrics).await.is_ok());
        drop(held);
        assert!(renderer.bytes(tunnels("route=shop/chat")).await.is_ok());
    }

    #[tokio::test]
    async fn a_rendering_that_panics_fails_alone() {
        let renderer = start(usize::MAX, |document| match document {
            AdminDocument::Routes => panic!("wanted by the test"),
            _ => "fine".into(),
        });
        let renderer = renderer.unwrap();
        assert_eq!(renderer.bytes(AdminDocument::Routes).await, Err(Unavailable::Failed));
        assert_eq!(renderer.bytes(AdminDocument::Metrics).await.unwrap(), "fine");
    }
}
