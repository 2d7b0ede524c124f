//! The exchange of a handshake without hyper: one head out, one head in, on a dedicated connection.

use std::{cell::Cell, future::poll_fn, mem::MaybeUninit, time::SystemTime};

use http::{
    Response, StatusCode, Version,
    header::{DATE, TRANSFER_ENCODING},
};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWriteExt;

use super::{
    dial::{self, Connected},
    pool::{MAX_FIELDS, MAX_HEAD},
    response_body::{IncomingFraming, ResponseBody},
    upgrade,
};
use crate::{
    proxy::{
        bounds::budget::Charge,
        fields::{Fields, Lines, end_of_head},
        request::{
            denied::Denied,
            handshake::check_switch,
            hop_by_hop,
            refusal::{BadResponse, Refusal},
            routed::Routed,
        },
        transport::stream::{READ, Stream},
        tunnel::Opening,
    },
    table::InUse,
};

/// A handshake that was answered with a valid 101.
pub(crate) struct Switched {
    /// The 101 for the client.
    pub head: Vec<u8>,
    pub opening: Opening,
}

/// Sends a handshake to the first endpoint that accepts the connection, and reads the response.
///
/// # Errors
/// If the client does not get a 101: with the backend's response, if it is valid.
pub(crate) async fn exchange(routed: &mut Routed, request: &[u8], accept: &str) -> Result<Switched, Denied> {
    let mut connected = dial::connect(routed).await?;
    // From here on, part of the request may have been sent: no other endpoint may receive it.
    connected.backend.write_all(request).await.map_err(|_| BadResponse::Closed)?;
    let (mut bytes, mut charge) = (Vec::new(), Charge::default());
    receive_head(&mut connected.backend, &mut bytes, &mut charge).await?;
    match answer(routed, &bytes, connected, accept)? {
        HandshakeResponse::Switched(switched) => Ok(switched),
        HandshakeResponse::Other(response) => Err(upgrade::answered(response).await),
    }
}

enum HandshakeResponse {
    Switched(Switched),
    Other(Response<ResponseBody<InUse>>),
}

/// Turns a backend's response into the one for the client.
fn answer(routed: &Routed, bytes: &[u8], mut connected: Connected, accept: &str) -> Result<HandshakeResponse, Refusal> {
    let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
    let head = ResponseHead::parse(bytes, &mut room)?;
    connected.backend.unread(&bytes[head.length..]);
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(routed, head, accept, connected).map(HandshakeResponse::Switched);
    }
    Ok(HandshakeResponse::Other(respond(routed, head, connected)?))
}

/// Receives the complete head of a response that is not an interim one.
async fn receive_head(backend: &mut Stream, bytes: &mut Vec<u8>, charge: &mut Charge) -> Result<(), BadResponse> {
    let mut searched = 0;
    while !has_final_head(bytes, &mut searched) {
        if bytes.len() > MAX_HEAD {
            return Err(BadResponse::Head);
        }
        let received = poll_fn(|cx| backend.poll_append(cx, bytes, READ)).await;
        if received.map_err(|_| BadResponse::Closed)? == 0 {
            return Err(if bytes.is_empty() { BadResponse::Closed } else { BadResponse::Head });
        }
        charge.set(bytes.len());
    }
    Ok(())
}

/// Removes complete interim heads; whether the complete final head is there. However slowly a head arrives, no byte is
/// searched or moved more than a few times: `searched` is where the next search starts.
fn has_final_head(bytes: &mut Vec<u8>, searched: &mut usize) -> bool {
    let mut begin = 0;
    let is_final = loop {
        match end_of_head(&bytes[*searched..]) {
            // The final response follows it.
            Some(length) if is_interim(&bytes[begin..]) => {
                *searched += length;
                begin = *searched;
            }
            end => break end.is_some(),
        }
    };
    bytes.drain(..begin);
    // The last two bytes may begin the end of a head: `\n\r\n`, or `\n\n`.
    *searched = bytes.len().saturating_sub(2);
    is_final
}

/// Whether another head follows this one (RFC 9110 §15.2). Not so for a 101: the protocol changes after it.
fn is_interim(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.") && head.get(9) == Some(&b'1') && head.get(9..12) != Some(b"101")
}

/// The head of a response as received.
struct ResponseHead<'a> {
    length: usize,
    version: Version,
    status: StatusCode,
    reason: &'a str,
    fields: Lines<'a>,
}

impl<'a> ResponseHead<'a> {
    fn parse(bytes: &'a [u8], room: &mut [MaybeUninit<httparse::Header<'a>>; MAX_FIELDS]) -> Result<Self, BadResponse> {
        let mut head = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, room);
        let Ok(Status::Complete(length)) = parsed else { return Err(BadResponse::Head) };
        let status = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadResponse::Head)?;
        let version = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
        Ok(Self { length, version, status, reason: head.reason.unwrap_or_default(), fields: Lines::new(head.headers) })
    }
}

/// Turns a backend's 101 into the one for the client.
fn switch(routed: &Routed, head: ResponseHead<'_>, accept: &str, connected: Connected) -> Result<Switched, Refusal> {
    let ResponseHead { version, reason, mut fields, .. } = head;
    check_switch(version, &fields, accept)?;
    hop_by_hop::response_fields(&mut fields)?;
    upgrade::switched(&mut fields, accept);
    routed.finish(&mut fields, &connected.endpoint);
    if !fields.has(&DATE) {
        fields.add(DATE, date());
    }
    let mut head = Vec::with_capacity(512);
    for part in ["HTTP/1.1 101 ", if reason.is_empty() { "Switching Protocols" } else { reason }, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    fields.write(&mut head);
    let extensions = upgrade::extensions(&fields);
    Ok(Switched { head, opening: upgrade::opening(routed, connected, extensions) })
}

fn respond(
    routed: &Routed,
    head: ResponseHead<'_>,
    connected: Connected,
) -> Result<Response<ResponseBody<InUse>>, BadResponse> {
    let ResponseHead { status, reason, mut fields, .. } = head;
    let Connected { endpoint, in_use, backend } = connected;
    let is_chunked = fields.has(&TRANSFER_ENCODING);
    hop_by_hop::response_fields(&mut fields)?;
    let framing = IncomingFraming::of(status, is_chunked, &fields);
    routed.finish(&mut fields, &endpoint);
    let mut response = Response::new(ResponseBody::new(backend, framing, in_use));
    *response.status_mut() = status;
    if let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes()) {
        response.extensions_mut().insert(reason);
    }
    let (fields, cases) = fields.into_map();
    *response.headers_mut() = fields;
    response.extensions_mut().insert(cases);
    Ok(response)
}

/// The current date as a field value (RFC 9110 §5.6.7), formatted once per second.
pub(crate) fn date() -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_heads_that_others_follow_are_interim() {
        assert!(is_interim(b"HTTP/1.1 103 Early Hints") && is_interim(b"HTTP/1.1 100"));
        assert!(!is_interim(b"HTTP/1.1 101 x") && !is_interim(b"HTTP/1.1 200") && !is_interim(b"HTTP/1.1"));
    }

    #[test]
    fn the_final_head_is_found_in_pieces_of_any_size() {
        for end in ["\r\n", "\n"] {
            let last = format!("HTTP/1.1 101 x{end}A: b{end}{end}");
            let whole = format!("HTTP/1.1 100 x{end}{end}HTTP/1.1 103 x{end}A: b{end}{end}{last}");
            for size in 1..=whole.len() {
                let (mut bytes, mut searched, mut found) = (Vec::new(), 0, false);
                for piece in whole.as_bytes().chunks(size) {
                    assert!(!found, "too early in pieces of {size}");
                    bytes.extend_from_slice(piece);
                    found = has_final_head(&mut bytes, &mut searched);
                }
                assert!(found && bytes == last.as_bytes(), "{size}: {}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}
