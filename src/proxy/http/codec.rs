//! Handshakes without an HTTP connection around them: one head in, one head out, each way.
//!
//! Nearly all connections are for one handshake, which comes first and whole, and is answered by a whole 101. Such a
//! head is passed on line by line, without hyper and its maps. Whatever is not so, on either side, is put back and left
//! to hyper, down to the answers to what is refused: nothing here has an answer of its own but the 101. So whoever gets
//! a head in pieces gets the same from hyper, which tests hold against this.

use std::{
    cell::Cell,
    future::poll_fn,
    mem::MaybeUninit,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use http::{
    Method, Version,
    header::{CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING},
};
use httparse::Status;
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{client_io::MAX_AHEAD, service::Handshake};
use crate::{
    proxy::{
        bounds::budget::Charge,
        fields::{Fields, Lines},
        request::{
            admitted::Routed,
            check::{self, MAX_FIELDS, MAX_HEAD, MAX_TARGET, TargetParts},
            handshake::{Intent, check_switch, intent},
            hop_by_hop,
            match_request::{self, Asked},
            peer::Peer,
            refusal::{BadResponse, Refusal},
        },
        shared::{Phase, Shared, reached},
        transport::stream::{Departure, HEADROOM, READ, Stream, with_buffers},
        tunnel::{Tunnel, frames::Extensions},
        upstream::{
            dial::{self, Connected},
            upgrade::{self, Begun, Sent},
        },
    },
    table::ObjectName,
};

/// What became of the first bytes of a connection.
pub(crate) enum Opened {
    /// The client has its 101.
    Tunnel(Tunnel),
    /// It is hyper's, with what has been done of its first request.
    Http(Stream, Option<Begun>),
    /// The client went away.
    Gone,
    /// The client is to be left, in an orderly way.
    Left(Stream),
}

/// A client's handshake, and what goes to the backend for it.
struct Asking {
    routed: Routed,
    /// The head as it came.
    head: Box<[u8]>,
    /// What came behind it.
    early: Vec<u8>,
    request: Vec<u8>,
    accept: String,
}

/// A handshake that is refused: the route that it was for, where there is one, and why.
type Refused = (Option<ObjectName>, Refusal);

/// The 101 for the client, and what it says of extensions.
type Head = (Vec<u8>, Extensions);

/// A backend's 101.
struct Switch {
    connected: Connected,
    extensions: Extensions,
    /// The 101 for the client.
    head: Vec<u8>,
}

/// What a backend made of a handshake.
enum Answer {
    Switch(Switch),
    /// Something else, all of which is still to be read.
    Other(Connected),
}

/// Serves a connection up to its tunnel, if it begins with a handshake.
pub(crate) async fn open(
    proxy: &Arc<Shared>,
    mut client: Stream,
    peer: &Peer,
    deadline: Instant,
    phase: &mut watch::Receiver<Phase>,
) -> Opened {
    let first = tokio::select! {
        biased;
        first = poll_fn(|cx| poll_handshake(cx, proxy, &mut client, peer)) => first,
        () = reached(phase, Phase::Stopping) => Err(None),
        () = sleep_until(deadline) => Err(None),
    };
    let Asking { mut routed, head, mut early, request, accept } = match first {
        Ok(asking) => asking,
        Err(refused) => {
            let begun = refused.map(|(route, refusal)| Begun { route, endpoint: None, sent: Err(refusal) });
            return Opened::Http(client, begun);
        }
    };
    let mut charge = Charge::new(head.len() + early.len() + request.len());
    let route = Some(routed.rule.route.clone());
    let mut pending = Handshake::of(&proxy.metrics);
    pending.result = Some((route.clone(), "client_gone"));
    let answered = tokio::select! {
        biased;
        answered = upgrade::in_time(routed.deadline(), exchange(&mut routed, &request, &accept)) => answered,
        gone = async {
            let gone = gone(&mut client, &mut early, &mut charge, proxy.settings.half_closed_timeout).await;
            // Counted before the endpoint is given up.
            pending.count();
            gone
        } => return gone.map_or(Opened::Gone, |()| Opened::Left(client)),
    };
    client.unread(&early);
    let endpoint = routed.tried.clone();
    let sent = match answered {
        Ok(Answer::Switch(Switch { connected, extensions, head })) => {
            let Ok(Ok(())) = timeout(proxy.settings.stall_timeout, client.write_all(&head)).await else {
                return Opened::Gone;
            };
            pending.result = Some((route.clone(), "switched"));
            proxy.metrics.request(route.as_ref(), 101);
            proxy.metrics.handshake_duration(routed.started.elapsed());
            let opening = upgrade::opening(&routed, connected, extensions);
            return Opened::Tunnel(Tunnel::open(&proxy.tunnels, proxy.metrics.clone(), client, opening));
        }
        Ok(Answer::Other(connected)) => Ok(Sent { routed, accept, connected }),
        Err(refusal) => Err(refusal),
    };
    // It is counted where it is answered.
    pending.result = None;
    client.unread(&head);
    Opened::Http(client, Some(Begun { route, endpoint, sent }))
}

/// Receives once. Everything is put back if that is not a handshake that can be served here.
fn poll_handshake(
    cx: &mut Context<'_>,
    proxy: &Arc<Shared>,
    client: &mut Stream,
    peer: &Peer,
) -> Poll<Result<Asking, Option<Refused>>> {
    with_buffers(|buffers| {
        let Ok(length) = ready!(client.poll_receive(cx, buffers, READ)) else { return Poll::Ready(Err(None)) };
        let received = &buffers.plain[HEADROOM..HEADROOM + length];
        let asking = understand(proxy, peer, received);
        if asking.is_err() {
            client.unread(received);
        }
        Poll::Ready(asking)
    })
}

/// Makes of a client's head the one that goes to the backend. Where that is refused it stays so: hyper does not route it
/// again, since the choice of a backend is a matter of chance and has been made.
fn understand(proxy: &Arc<Shared>, peer: &Peer, received: &[u8]) -> Result<Asking, Option<Refused>> {
    let started = Instant::now();
    let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let Ok(Status::Complete(length)) = head.parse_with_uninit_headers(received, &mut room) else { return Err(None) };
    if length > MAX_HEAD || head.method != Some("GET") || head.version != Some(1) {
        return Err(None);
    }
    let (method, version) = (Method::GET, Version::HTTP_11);
    let mut fields = Lines::new(head.headers);
    let is_unusual = [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].iter().any(|name| fields.has(name));
    if is_unusual || intent(&method, version, &fields) != Intent::Upgrade {
        return Err(None);
    }
    let path_and_query = head.path.filter(|target| is_plain_target(target)).ok_or(None)?;
    let parts = TargetParts { scheme: None, authority: None, path_and_query };
    let target = check::check(&method, version, parts, &fields).map_err(|_| None)?;
    let asked = Asked { target: &target, intent: Intent::Upgrade, started, pinned: None };
    let mut route = None;
    let routed =
        match_request::route(proxy, peer, asked, &mut fields, &mut route).map_err(|refusal| Some((route, refusal)))?;
    let accept = hop_by_hop::handshake_fields(&mut fields, &proxy.settings.protected_fields);
    let mut request = Vec::with_capacity(length + 512);
    for part in ["GET ", path_and_query, " HTTP/1.1\r\n"] {
        request.extend_from_slice(part.as_bytes());
    }
    fields.write(&mut request);
    Ok(Asking { routed, head: received[..length].into(), early: received[length..].into(), request, accept })
}

/// Whether a target is in origin form and free of what hyper reads in a way of its own: fragments, and bytes that are
/// not ASCII.
fn is_plain_target(target: &str) -> bool {
    target.len() <= MAX_TARGET
        && target.starts_with('/')
        && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Sends a handshake to the first endpoint that takes the connection, and receives the answer.
async fn exchange(routed: &mut Routed, request: &[u8], accept: &str) -> Result<Answer, Refusal> {
    let mut connected = dial::connect(routed).await?;
    connected.backend.write_all(request).await.map_err(|_| BadResponse::Closed)?;
    let switch = poll_fn(|cx| poll_answer(cx, routed, &mut connected, accept)).await?;
    Ok(match switch {
        Some((head, extensions)) => Answer::Switch(Switch { connected, extensions, head }),
        None => Answer::Other(connected),
    })
}

/// Receives once. Nothing, with everything put back, if that is not a 101 that can be passed on here.
fn poll_answer(
    cx: &mut Context<'_>,
    routed: &Routed,
    connected: &mut Connected,
    accept: &str,
) -> Poll<Result<Option<Head>, Refusal>> {
    with_buffers(|buffers| {
        let Connected { endpoint, backend, .. } = connected;
        let Ok(length @ 1..) = ready!(backend.poll_receive(cx, buffers, READ)) else {
            return Poll::Ready(Err(BadResponse::Closed.into()));
        };
        let received = &buffers.plain[HEADROOM..HEADROOM + length];
        let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
        let mut head = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, received, &mut room);
        let switch = match parsed {
            Ok(Status::Complete(end)) if head.code == Some(101) && head.version == Some(1) => {
                let mut fields = Lines::new(head.headers);
                switch(&mut fields, head.reason, accept, |fields| routed.sign(fields, endpoint)).map(|made| (made, end))
            }
            _ => None,
        };
        backend.unread(&received[switch.as_ref().map_or(0, |(_, end)| *end)..]);
        Poll::Ready(Ok(switch.map(|(made, _)| made)))
    })
}

/// Makes of a backend's 101 the one for the client.
fn switch<'a>(
    fields: &mut Lines<'a>,
    reason: Option<&str>,
    accept: &str,
    sign: impl FnOnce(&mut Lines<'a>),
) -> Option<Head> {
    let is_framed = fields.has(&CONTENT_LENGTH) || fields.has(&TRANSFER_ENCODING);
    if is_framed || check_switch(Version::HTTP_11, fields, accept).is_err() {
        return None;
    }
    hop_by_hop::strip(fields, |_| false);
    upgrade::switched(fields, accept);
    sign(fields);
    if !fields.has(&DATE) {
        fields.add(DATE, date());
    }
    let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or("Switching Protocols");
    let mut head = Vec::with_capacity(512);
    for part in ["HTTP/1.1 101 ", reason, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    fields.write(&mut head);
    Some((head, upgrade::extensions(fields)))
}

/// The current date as a field's value (RFC 9110 §5.6.7), made once a second.
fn date() -> Vec<u8> {
    thread_local! {
        static DATE: Cell<(u64, [u8; 29])> = const { Cell::new((0, [0; 29])) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (made, mut date) = DATE.get();
    if made != second {
        let text = httpdate::fmt_http_date(now);
        date.copy_from_slice(text.as_bytes());
        DATE.set((second, date));
    }
    date.to_vec()
}

/// Ready when the client has gone: reset its connection, which is an error, or closed its half and got nothing for so
/// long. What it sends ahead is kept, up to a limit; behind that its connection is watched and no longer read.
async fn gone(
    client: &mut Stream,
    early: &mut Vec<u8>,
    charge: &mut Charge,
    half_closed: Duration,
) -> std::io::Result<()> {
    while early.len() < MAX_AHEAD {
        let received = poll_fn(|cx| {
            with_buffers(|buffers| {
                let length = ready!(client.poll_receive(cx, buffers, MAX_AHEAD))?;
                early.extend_from_slice(&buffers.plain[HEADROOM..HEADROOM + length]);
                Poll::Ready(std::io::Result::Ok(length))
            })
        });
        let received = received.await?;
        charge.set(charge.bytes() + received);
        if received == 0 {
            return await_half_closed(client, half_closed).await;
        }
    }
    match client.left().await {
        Departure::Reset => Err(std::io::ErrorKind::ConnectionReset.into()),
        Departure::HalfClosed => await_half_closed(client, half_closed).await,
    }
}

/// Ready when a client that has closed its half has got nothing for so long, or has reset the connection.
async fn await_half_closed(client: &Stream, patience: Duration) -> std::io::Result<()> {
    match timeout(patience, client.broken()).await {
        Ok(()) => Err(std::io::ErrorKind::ConnectionReset.into()),
        Err(_) => Ok(()),
    }
}
