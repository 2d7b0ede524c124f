//! Prepares a client's request from hyper for a backend: its body, and interim responses to it.

use std::{sync::Arc, time::Duration};

use http::{
    Request, StatusCode,
    header::{EXPECT, TRAILER},
};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::{client_io::Stage, interim};
use crate::proxy::{
    body::{self, Body, Guarded, Hold},
    settings::Settings,
};

/// Prepares a request for forwarding: with a `stage`, interim responses reach the client; the body waits for the
/// backend's 100 if the client does; and trailers are filtered.
pub(crate) fn prepare(
    request: Request<Incoming>,
    settings: &Settings,
    stage: Option<&Arc<Stage>>,
) -> (Request<Body>, Option<Arc<Hold>>) {
    let (mut request, hold) = self::hold(request, settings.continue_timeout);
    if request.headers().contains_key(TRAILER) {
        let protected = settings.protected_fields.clone();
        request = request.map(|body| Body::new(body.map_frame(move |frame| protected.filter_trailers(frame))));
    }
    let opened = hold.clone();
    let stage = stage.map(|stage| (stage.clone(), stage.interim.begin()));
    hyper::ext::on_informational(&mut request, move |response| match (response.status(), &opened, &stage) {
        (StatusCode::CONTINUE, hold, _) => hold.iter().for_each(|hold| hold.open()),
        (status, _, Some((stage, number))) => stage.interim.push(*number, &interim::head(status, response.headers())),
        _ => {}
    });
    (request, hold)
}

/// Makes the body wait for the backend's 100 if the client does.
fn hold(request: Request<Incoming>, patience: Duration) -> (Request<Body>, Option<Arc<Hold>>) {
    let expects =
        request.headers().get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !expects || request.body().is_end_stream() {
        return (request.map(|body| Body::new(Guarded::new(body, ()))), None);
    }
    let hold = Arc::new(Hold::default());
    let waiting = hold.clone();
    (request.map(|body| Body::new(body::Held::new(body, waiting, patience))), Some(hold))
}
