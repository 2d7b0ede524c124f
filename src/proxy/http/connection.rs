//! One client's connection: HTTP until a tunnel takes it over, or until it closes.

use std::{pin::Pin, sync::Arc};

use http::Request;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, sync::watch, time::Instant};

use super::{
    client_io::{ClientIo, Limits, Stage, Wait},
    codec::{self, FirstOutcome},
    reply,
    service::Service,
};
use crate::proxy::{
    request::{
        account::Account,
        check::{MAX_FIELDS, MAX_HEAD, MAX_TARGET},
        peer::Peer,
        refusal::Refusal,
    },
    shared::{ServingPhase, Shared, reached},
    transport::stream::{self, Stream},
    tunnel::Tunnel,
    upstream::pool::Pool,
};

fn server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // `max_buf_size` bounds incomplete heads, `max_header_size` complete ones.
    builder.max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD).max_headers(MAX_FIELDS);
    // `ClientIo` enforces time limits, since hyper has only one for heads and idle connections together.
    builder.header_read_timeout(None).half_close(true).preserve_header_case(true).title_case_headers(true);
    builder
}

/// Serves a connection until it ends or becomes a tunnel, which then runs in its own task.
pub(crate) async fn serve(shared: Arc<Shared>, pool: Arc<Pool>, client: Stream, peer: Peer) {
    let deadline = Instant::now() + shared.settings.head_timeout;
    let mut phase = shared.phase.clone();
    // Boxed, so that what follows does not carry what this needs.
    let (client, deadline) = match Box::pin(codec::open(&shared, client, &peer, deadline, &mut phase)).await {
        FirstOutcome::Tunnel(tunnel) => return drop(shared.tasks.spawn(tunnel.run())),
        FirstOutcome::First(client) => (client, Some(deadline)),
        FirstOutcome::Next(client) => (client, None),
        FirstOutcome::Gone => return,
        FirstOutcome::Left(client) => return stream::close(client, shared.settings.linger_timeout).await,
    };
    // Boxed, so that connections that end above do not carry what hyper needs.
    Box::pin(serve_http(shared, pool, client, peer, deadline, phase)).await;
}

/// Serves requests with hyper. The first one has a deadline, unless another has been served before.
async fn serve_http(
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    client: Stream,
    peer: Peer,
    deadline: Option<Instant>,
    mut phase: watch::Receiver<ServingPhase>,
) {
    let stage = Arc::new(Stage::default());
    let io = ClientIo::new(client, stage.clone(), Limits::from(&shared.settings), deadline);
    let service = Arc::new(Service::new(shared.clone(), pool, peer, stage.clone()));
    let answer = {
        let service = service.clone();
        // What is read from now on belongs to this request. hyper reads its body before it polls this future, so the
        // stage changes here. Boxed, since hyper keeps the space for it until the connection ends.
        service_fn(move |request: Request<Incoming>| {
            let answering = stage.begin(request.body().is_end_stream());
            Box::pin(service.clone().answer(request, answering))
        })
    };
    let mut connection = server().serve_connection(TokioIo::new(io), answer);
    let stopped = tokio::select! {
        // First, so that a head that has already arrived is served even if the proxy stops at this moment.
        biased;
        served = &mut connection => Some(served),
        () = reached(&mut phase, ServingPhase::Stopping) => None,
    };
    let served = if let Some(served) = stopped {
        served
    } else {
        Pin::new(&mut connection).graceful_shutdown();
        (&mut connection).await
    };
    let parts = connection.into_parts();
    let opening = service.opening.lock().expect("no holder panics").take();
    match (served, opening) {
        (Ok(()), Some(opening)) => {
            let (mut client, ahead) = parts.io.into_inner().into_inner();
            client.unread(&[&parts.read_buf[..], &ahead].concat());
            drop((parts.read_buf, ahead));
            let tunnel = Tunnel::open(&shared.tunnels, shared.metrics.clone(), client, *opening);
            shared.tasks.spawn(tunnel.run());
        }
        (served, _) => finish(&shared, parts.io.into_inner(), &parts.read_buf, served.err()).await,
    }
}

/// Ends a connection, with a response if hyper could not read a head.
async fn finish(shared: &Arc<Shared>, io: ClientIo, unread: &[u8], error: Option<hyper::Error>) {
    let refusal = error.as_ref().and_then(|error| refusal(error, unread, &io));
    if let Some(refusal) = &refusal {
        Account::open(shared).refuse(refusal);
    }
    let answer = refusal.filter(|refusal| io.muted || !answered_by_hyper(refusal)).map(|refusal| reply::raw(&refusal));
    let (mut client, _) = io.into_inner();
    if let Some(answer) = answer {
        let write = async {
            client.write_all(&answer).await?;
            client.flush().await
        };
        let _ = tokio::time::timeout(shared.settings.linger_timeout, write).await;
    }
    stream::close(client, shared.settings.linger_timeout).await;
}

/// The response to a head that hyper could not read, if any.
fn refusal(error: &hyper::Error, unread: &[u8], io: &ClientIo) -> Option<Refusal> {
    if io.timed_out == Some(Wait::Head) && !(unread.is_empty() && io.head_start.is_empty()) {
        return Some(Refusal::HeadTimeout);
    }
    if error.is_parse_version_h2() {
        return Some(Refusal::HttpVersion);
    }
    if error.is_parse_too_large() {
        return Some(if target_is_too_long(unread) { Refusal::TargetTooLong } else { Refusal::HeadTooLarge });
    }
    if !error.is_parse() {
        return None;
    }
    // hyper reports errors in a length or a coding only in the text.
    let text = error.to_string();
    Some(match text.as_str() {
        text if text.contains("unexpected transfer-encoding") => Refusal::MalformedHead,
        text if text.contains("transfer-encoding") => Refusal::TransferCoding,
        text if text.contains("content-length") => Refusal::ContentLength,
        _ => Refusal::MalformedHead,
    })
}

fn answered_by_hyper(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::HeadTimeout | Refusal::HttpVersion)
}

/// Whether a head is too large because of its target: the target is too long, or the bytes that were read end within
/// it.
fn target_is_too_long(head: &[u8]) -> bool {
    let mut parts = head.split(|byte| matches!(byte, b' ' | b'\r'));
    let (_method, target, rest) = (parts.next(), parts.next(), parts.next());
    target.is_some_and(|target| target.len() > MAX_TARGET || rest.is_none())
}
