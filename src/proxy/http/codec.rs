//! Handshakes without an HTTP connection around them: one head in, one head out, in each direction.
//!
//! Nearly all connections are for a single handshake, which is their first request. Its head is read here, takes the
//! same path as every other request, and is forwarded line by line, without hyper and its maps. Any other request is
//! left to hyper, with everything that was received.

use std::{future::poll_fn, mem::MaybeUninit, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
};
use httparse::Status;
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{client_io::MAX_AHEAD, reply, respond};
use crate::proxy::{
    body::Body,
    bounds::budget::Charge,
    fields::{Fields, Lines, end_of_head},
    request::{
        self, Arrived,
        account::Account,
        check::{MAX_FIELDS, MAX_HEAD, MAX_TARGET, TargetParts},
        denied::Denied,
        handshake::{Intent, intent},
        hop_by_hop,
        peer::Peer,
    },
    shared::{ServingPhase, Shared, reached},
    transport::stream::{Departure, READ, Stream},
    tunnel::Tunnel,
    upstream::{
        exchange::{Switched, exchange},
        upgrade::in_time,
    },
};

/// The maximum number of pieces of a head to be read here, since each piece causes it to be parsed from the start.
const MAX_PIECES: usize = 8;

/// The result of the first request of a connection.
#[expect(clippy::large_enum_variant, reason = "it is nearly always the large one")]
pub(crate) enum FirstOutcome {
    /// The client has received its 101.
    Tunnel(Tunnel),
    /// It has not been answered, and is left to hyper.
    First(Stream),
    /// It has been answered, and the next one is left to hyper.
    Next(Stream),
    /// The client has gone away.
    Gone,
    /// The connection must be closed in an orderly way.
    Left(Stream),
}

/// A handshake as received.
struct WholeHead<'a> {
    length: usize,
    target: &'a str,
    fields: Lines<'a>,
}

/// Serves a connection until it becomes a tunnel, if it begins with a handshake.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    mut client: Stream,
    peer: &Peer,
    deadline: Instant,
    phase: &mut watch::Receiver<ServingPhase>,
) -> FirstOutcome {
    let (mut received, mut charge) = (Vec::new(), Charge::default());
    let is_whole = tokio::select! {
        biased;
        is_whole = receive_head(&mut client, &mut received, &mut charge) => is_whole,
        () = reached(phase, ServingPhase::Stopping) => false,
        () = sleep_until(deadline) => false,
    };
    let Some(head) = is_whole.then(|| WholeHead::parse(&received)).flatten() else {
        client.unread(&received);
        return FirstOutcome::First(client);
    };
    serve(shared, client, peer, head, &received).await
}

/// Receives a complete head; `false` if it must be left to hyper.
async fn receive_head(client: &mut Stream, received: &mut Vec<u8>, charge: &mut Charge) -> bool {
    for _ in 0..MAX_PIECES {
        if !matches!(receive(client, received, charge, READ).await, Ok(1..)) {
            return false;
        }
        if end_of_head(received).is_some() {
            return true;
        }
        let mut room = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let is_malformed = httparse::Request::new(&mut room).parse(received).is_err();
        if is_malformed || received.len() > MAX_HEAD {
            return false;
        }
    }
    false
}

/// Receives once, and appends to what was received before.
async fn receive(
    client: &mut Stream,
    received: &mut Vec<u8>,
    charge: &mut Charge,
    most: usize,
) -> std::io::Result<usize> {
    let length = poll_fn(|cx| client.poll_append(cx, received, most)).await?;
    charge.set(charge.bytes() + length);
    Ok(length)
}

impl<'a> WholeHead<'a> {
    /// `None` for anything but a handshake that hyper would read in the same way.
    fn parse(received: &'a [u8]) -> Option<Self> {
        let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
        let mut head = httparse::Request::new(&mut []);
        let Ok(Status::Complete(length)) = head.parse_with_uninit_headers(received, &mut room) else { return None };
        if length > MAX_HEAD || head.method != Some("GET") || head.version != Some(1) {
            return None;
        }
        let fields = Lines::new(head.headers);
        let is_unusual = [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].iter().any(|name| fields.has(name));
        if is_unusual || intent(&Method::GET, Version::HTTP_11, &fields) != Intent::Upgrade {
            return None;
        }
        Some(Self { length, target: head.path.filter(|target| is_plain_target(target))?, fields })
    }
}

/// Whether a target is in origin form and contains nothing that hyper treats specially: fragments, and bytes that are
/// not ASCII.
fn is_plain_target(target: &str) -> bool {
    target.len() <= MAX_TARGET
        && target.starts_with('/')
        && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Serves a handshake. `received` is its head and what followed it.
async fn serve(
    shared: &Arc<Shared>,
    mut client: Stream,
    peer: &Peer,
    head: WholeHead<'_>,
    received: &[u8],
) -> FirstOutcome {
    let settings = &shared.settings;
    let account = Account::open(shared);
    let mut early = received[head.length..].to_vec();
    let mut charge = Charge::new(early.len());
    let (closes, json) = (head.fields.has_token(&CONNECTION, "close"), reply::wants_json(&head.fields));
    let asked = tokio::select! {
        biased;
        asked = ask(shared, peer, head, &account) => asked,
        gone = async {
            let gone = gone(&mut client, &mut early, &mut charge, settings.half_closed_timeout).await;
            // Before the endpoint is released.
            account.leave();
            gone
        } => return gone.map_or(FirstOutcome::Gone, |()| FirstOutcome::Left(client)),
    };
    match asked {
        Ok(switched) => {
            client.unread(&early);
            switch(shared, client, switched, &account).await
        }
        Err(denied) => {
            let response = reply::denied(denied, json, &account);
            let outcome = deny(shared, client, response, closes).await;
            if let FirstOutcome::Next(mut client) = outcome {
                client.unread(&early);
                return FirstOutcome::Next(client);
            }
            outcome
        }
    }
}

/// Sends the 101 and opens the tunnel.
async fn switch(
    shared: &Arc<Shared>,
    mut client: Stream,
    Switched { head, opening }: Switched,
    account: &Account,
) -> FirstOutcome {
    let Ok(Ok(())) = timeout(shared.settings.stall_timeout, client.write_all(&head)).await else {
        return FirstOutcome::Gone;
    };
    account.switch();
    FirstOutcome::Tunnel(Tunnel::open(&shared.tunnels, shared.metrics.clone(), client, opening))
}

/// Sends any other response. The connection closes after it if the client, the response or a shutdown requires it.
async fn deny(shared: &Shared, mut client: Stream, mut response: Response<Body>, client_closes: bool) -> FirstOutcome {
    if client_closes || shared.is_leaving() {
        response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
    }
    let closes = response.headers().has_token(&CONNECTION, "close");
    match respond::respond(&mut client, response, &shared.settings).await {
        Ok(()) if closes => FirstOutcome::Left(client),
        Ok(()) => FirstOutcome::Next(client),
        Err(_) => FirstOutcome::Gone,
    }
}

/// Forwards a handshake to its backend.
async fn ask(shared: &Arc<Shared>, peer: &Peer, head: WholeHead<'_>, account: &Account) -> Result<Switched, Denied> {
    let WholeHead { target, mut fields, .. } = head;
    let (method, version, intent) = (&Method::GET, Version::HTTP_11, Intent::Upgrade);
    let parts = TargetParts { scheme: None, authority: None, path_and_query: target };
    let arrived = Arrived { peer, method, version, target: parts, intent, pinned: None };
    let mut routed = request::route(shared, arrived, &mut fields, account).await?;
    let accept = hop_by_hop::handshake_fields(&mut fields, &shared.settings.protected_fields);
    let request = written(target, &fields);
    let _charge = Charge::new(request.len());
    let exchanged = in_time(routed.deadline(), exchange(&mut routed, &request, &accept)).await;
    account.tried(routed.tried.take());
    exchanged
}

/// The head as sent to the backend.
fn written(target: &str, fields: &Lines<'_>) -> Vec<u8> {
    let mut head = Vec::with_capacity(2048);
    for part in ["GET ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    fields.write(&mut head);
    head
}

/// Ready when the client has gone: it has reset its connection, which is an error, or has closed its half and received
/// nothing for `half_closed`. What it sends ahead is kept, up to a limit; beyond that, its connection is watched
/// without reading.
async fn gone(
    client: &mut Stream,
    early: &mut Vec<u8>,
    charge: &mut Charge,
    half_closed: Duration,
) -> std::io::Result<()> {
    while early.len() < MAX_AHEAD {
        if receive(client, early, charge, MAX_AHEAD).await? == 0 {
            return await_half_closed(client, half_closed).await;
        }
    }
    match client.left().await {
        Departure::Reset => Err(std::io::ErrorKind::ConnectionReset.into()),
        Departure::HalfClosed => await_half_closed(client, half_closed).await,
    }
}

/// Ready when a client that has closed its half has received nothing for `patience`, or has reset the connection.
async fn await_half_closed(client: &Stream, patience: Duration) -> std::io::Result<()> {
    match timeout(patience, client.broken()).await {
        Ok(()) => Err(std::io::ErrorKind::ConnectionReset.into()),
        Err(_) => Ok(()),
    }
}
