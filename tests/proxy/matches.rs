//! Rules of one host that differ in more than their path, with every way in which a request can arrive.

use std::time::Duration;

use switchyard::{
    proxy::{ProtectedFields, Settings},
    table::{
        Conditions, Expression, HostPattern, PathPattern, RouteTable, Rule, TextPattern, ValueCondition, ValueSource,
    },
};

use crate::support::*;

/// How a head arrives at the proxy.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    /// With the first segment of a connection, which the proxy reads itself.
    Whole,
    /// A few bytes at a time, which hyper reads.
    InPieces,
    /// After another request on the same connection.
    Later,
}

const ARRIVALS: [Arrival; 3] = [Arrival::Whole, Arrival::InPieces, Arrival::Later];

/// A rule whose backend includes its name in every response.
async fn named(name: &'static str) -> (Rule, Served) {
    let backend = RawBackend::bind().await;
    let rule = rule(&[backend.own_endpoint()]);
    let respond = move |head: &Head| {
        let name = format!("X-Served-By: {name}\r\n");
        let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{name}\r\n");
        if head.field("upgrade").is_some() { switching(&name) } else { plain }
    };
    (rule, backend.serve(respond))
}

/// A proxy in front of backends that are named like their matches.
async fn proxy(matches: &[(&'static str, Conditions)], settings: Settings) -> (Harness, Vec<Served>) {
    let (mut table, mut backends) = (RouteTable::default(), Vec::new());
    for (name, conditions) in matches {
        let (rule, served) = named(name).await;
        table.claim(&HostPattern::parse(HOST), conditions.clone(), rule.into());
        backends.push(served);
    }
    (Harness::start(table, settings), backends)
}

/// The backend that serves a request, or `404` if there is none.
async fn served_by(harness: &Harness, request: &str, arrival: Arrival) -> String {
    let mut client = harness.client().await;
    match arrival {
        Arrival::Whole => client.send(request).await,
        Arrival::InPieces => {
            for piece in [&request[..9], &request[9..request.len() - 3], &request[request.len() - 3..]] {
                client.send(piece).await;
                // Long enough for the proxy to see the piece alone; otherwise, the test would show less but still pass.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Arrival::Later => {
            client.send(get("/before", "")).await;
            assert_eq!(client.head().await.field("x-served-by"), Some("all"));
            client.send(request).await;
        }
    }
    let head = client.head().await;
    head.field("x-served-by").map_or_else(|| head.status().to_string(), str::to_owned)
}

async fn assert_served(harness: &Harness, target: &str, fields: &str, upgrade: &str, plain: &str) {
    for arrival in ARRIVALS {
        let found = served_by(harness, &handshake(target, fields), arrival).await;
        assert_eq!(found, upgrade, "upgrade {target} {fields:?} {arrival:?}");
        let found = served_by(harness, &get(target, fields), arrival).await;
        assert_eq!(found, plain, "plain {target} {fields:?} {arrival:?}");
    }
}

fn everything() -> Conditions {
    Conditions::new(PathPattern::prefix("/"))
}

fn header(name: &'static str, value: &str) -> ValueCondition {
    ValueCondition::header(http::HeaderName::from_static(name), value)
}

fn expression(text: &str) -> Expression {
    Expression::parse(text).unwrap()
}

#[tokio::test]
async fn requests_go_to_the_most_specific_rule_whose_match_they_meet() {
    let version = ValueCondition {
        source: ValueSource::QueryParameter("v".into()),
        text: TextPattern::Expression(expression("[0-9]+")),
    };
    let matches = [
        ("all", everything()),
        ("tenant", everything().with_values([header("x-tenant", "blue")])),
        ("version", everything().with_values([version])),
        ("mqtt", everything().with_subprotocols(["mqtt".into()])),
        ("expression", Conditions::new(PathPattern::Expression(expression("/v[0-9]+/[^/]*")))),
        ("exact", Conditions::new(PathPattern::exact("/v1/x"))),
    ];
    let (harness, _backends) = proxy(&matches, Settings::default()).await;
    let cases = [
        ("/a", "", "all", "all"),
        ("/a", "X-Tenant: blue\r\n", "tenant", "tenant"),
        ("/a", "X-TENANT:  blue \r\n", "tenant", "tenant"),
        ("/a", "X-Tenant: Blue\r\n", "all", "all"),
        ("/a", "X-Tenant: blue\r\nX-Tenant: green\r\n", "all", "all"),
        ("/a?v=2", "", "version", "version"),
        ("/a?x=1&v=%32", "", "version", "version"),
        ("/a?v=2x", "", "all", "all"),
        ("/a?v=2", "X-Tenant: blue\r\n", "tenant", "tenant"),
        ("/a", "Sec-WebSocket-Protocol: stomp, mqtt\r\n", "mqtt", "all"),
        ("/a", "Sec-WebSocket-Protocol: stomp\r\nSec-WebSocket-Protocol: mqtt\r\n", "mqtt", "all"),
        ("/a", "Sec-WebSocket-Protocol: MQTT\r\n", "all", "all"),
        ("/v1/y", "X-Tenant: blue\r\n", "expression", "expression"),
        ("/%76%31//y", "", "expression", "expression"),
        ("/v1/y/z", "", "all", "all"),
        ("/v1/x", "", "exact", "exact"),
    ];
    for (target, fields, upgrade, plain) in cases {
        assert_served(&harness, target, fields, upgrade, plain).await;
    }
}

#[tokio::test]
async fn a_request_that_meets_no_match_is_not_found() {
    let before = Conditions::new(PathPattern::exact("/before"));
    let matches = [("all", before), ("tenant", everything().with_values([header("x-tenant", "blue")]))];
    let (harness, _backends) = proxy(&matches, Settings::default()).await;
    assert_served(&harness, "/a", "X-Tenant: red\r\n", "404", "404").await;
    assert_served(&harness, "/a", "X-Tenant: blue\r\n", "tenant", "tenant").await;
}

#[tokio::test]
async fn fields_that_only_trusted_proxies_may_send_match_only_if_one_of_them_sent_them() {
    let matches = [("all", everything()), ("team", everything().with_values([header("x-team", "a")]))];
    let protected_fields = ProtectedFields::with(["x-team".to_owned()]);
    let settings = Settings { protected_fields, ..Settings::default() };
    let (open, _backends) = proxy(&matches, settings.clone()).await;
    assert_served(&open, "/a", "X-Team: a\r\n", "all", "all").await;
    let settings = Settings { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..settings };
    let (trusting, _backends) = proxy(&matches, settings).await;
    assert_served(&trusting, "/a", "X-Team: a\r\n", "team", "team").await;
}
