//! Responses written without hyper: the proxy's own or a backend's, to a handshake that the codec has read.

use std::{future::poll_fn, io, task::Poll};

use bytes::Bytes;
use http::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
    response::Parts,
};
use http_body_util::BodyExt;
use hyper::{body::Body as _, ext::ReasonPhrase};
use tokio::time::{Instant, timeout};

use crate::proxy::{
    body::{Body, BodyError, is_bodiless},
    bounds::pace::{MinRate, Pace},
    fields::NameCases,
    settings::Settings,
    transport::stream::{Departure, HEADROOM, READ, Stream, with_buffers},
    upstream::exchange::date,
};

/// How the client recognises the end of a body (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutgoingFraming {
    /// No body.
    Bodiless,
    Length(u64),
    Chunked,
}

impl OutgoingFraming {
    fn of(status: StatusCode, body: &Body) -> Self {
        if is_bodiless(status) {
            return Self::Bodiless;
        }
        body.size_hint().exact().map_or(Self::Chunked, Self::Length)
    }

    fn part(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Chunked => [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat(),
            Self::Bodiless | Self::Length(_) => data.to_vec(),
        }
    }
}

/// Writes a response to an HTTP/1.1 client. No part of the body is requested before the client has taken the previous
/// one.
///
/// # Errors
/// If the client has gone away, is too slow, or cannot recognise the end of the body. The connection is unusable then.
pub(crate) async fn respond(client: &mut Stream, response: Response<Body>, settings: &Settings) -> io::Result<()> {
    let (head, mut body) = response.into_parts();
    let framing = OutgoingFraming::of(head.status, &body);
    let mut pace = Pace::default();
    write(client, &written(head, framing), &mut pace, settings).await?;
    if framing == OutgoingFraming::Bodiless {
        return Ok(());
    }
    while let Some(data) = next_part(client, &mut body, settings).await? {
        if !data.is_empty() {
            write(client, &framing.part(&data), &mut pace, settings).await?;
        }
    }
    if framing == OutgoingFraming::Chunked { write(client, b"0\r\n\r\n", &mut pace, settings).await } else { Ok(()) }
}

/// The head, with the fields for the length of the body.
fn written(Parts { status, mut headers, extensions, .. }: Parts, framing: OutgoingFraming) -> Vec<u8> {
    let reason = extensions
        .get::<ReasonPhrase>()
        .map_or(status.canonical_reason().unwrap_or_default().as_bytes(), ReasonPhrase::as_bytes);
    let mut head = Vec::with_capacity(512);
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        head.extend_from_slice(part);
    }
    frame(&mut headers, framing);
    headers.entry(DATE).or_insert_with(|| date().try_into().expect("a date is a valid value"));
    extensions.get::<NameCases>().unwrap_or(&NameCases::default()).write(&mut head, &headers);
    head.extend_from_slice(b"\r\n");
    head
}

fn frame(headers: &mut HeaderMap, framing: OutgoingFraming) {
    match framing {
        // A 304 may contain the length that the body would have (RFC 9110 §8.6).
        OutgoingFraming::Bodiless => {}
        OutgoingFraming::Length(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        OutgoingFraming::Chunked => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
        }
    }
}

/// The next part of a body, as long as the client is there.
async fn next_part(client: &Stream, body: &mut Body, settings: &Settings) -> io::Result<Option<Bytes>> {
    let next = next_data(body);
    tokio::pin!(next);
    let part = tokio::select! {
        biased;
        part = &mut next => part,
        departure = client.left() => match departure {
            Departure::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Departure::HalfClosed => timeout(settings.half_closed_timeout, next).await?,
        },
    };
    part.map_err(io::Error::other)
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    loop {
        match body.frame().await.transpose()?.map(http_body::Frame::into_data) {
            Some(Ok(data)) => return Ok(Some(data)),
            // Trailers may be dropped (RFC 9110 §6.5.1).
            Some(Err(_)) => {}
            None => return Ok(None),
        }
    }
}

/// Sends bytes and waits until the client has taken them, at the minimum rate or faster.
async fn write(client: &mut Stream, bytes: &[u8], pace: &mut Pace, settings: &Settings) -> io::Result<()> {
    for piece in bytes.chunks(READ) {
        poll_fn(|cx| {
            Poll::Ready(with_buffers(|buffers| {
                buffers.plain[HEADROOM..HEADROOM + piece.len()].copy_from_slice(piece);
                client.send(cx, buffers, HEADROOM..HEADROOM + piece.len())
            }))
        })
        .await?;
        let least = MinRate { bytes: settings.min_rate, over: settings.stall_timeout };
        while client.unsent() > 0 {
            pace.wait(Instant::now());
            let taken = timeout(settings.stall_timeout, taken(client)).await??;
            if pace.is_too_slow(taken, least, Instant::now) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(())
}

/// Waits until the client's socket has accepted some of the unsent bytes, and returns how many.
async fn taken(client: &mut Stream) -> io::Result<usize> {
    let before = client.unsent();
    poll_fn(|cx| match client.poll_sent(cx) {
        Poll::Pending if client.unsent() == before => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Ready(Ok(before - client.unsent())),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::body;

    fn head(response: Response<()>, framing: OutgoingFraming) -> String {
        let mut response = response;
        response.headers_mut().insert(DATE, "now".parse().unwrap());
        String::from_utf8(written(response.into_parts().0, framing)).unwrap()
    }

    #[test]
    fn a_head_says_how_long_its_body_is() {
        let response = |status: u16| Response::builder().status(status).header("x-a", "1").body(()).unwrap();
        let length = head(response(403), OutgoingFraming::Length(5));
        assert_eq!(length, "HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nDate: now\r\nContent-Length: 5\r\n\r\n");
        let chunked = head(response(200), OutgoingFraming::Chunked);
        assert_eq!(chunked, "HTTP/1.1 200 OK\r\nX-A: 1\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(
            head(response(204), OutgoingFraming::Bodiless),
            "HTTP/1.1 204 No Content\r\nX-A: 1\r\nDate: now\r\n\r\n"
        );
    }

    #[test]
    fn some_statuses_have_no_body() {
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            assert_eq!(OutgoingFraming::of(status, &body::text("x".into())), OutgoingFraming::Bodiless);
        }
        assert_eq!(OutgoingFraming::of(StatusCode::OK, &body::text("x".into())), OutgoingFraming::Length(1));
    }
}
