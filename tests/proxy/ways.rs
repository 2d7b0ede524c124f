//! Every way in which a request can arrive takes the same path, so each behaviour must be the same.

use std::time::Duration;

use switchyard::{
    proxy::Settings,
    table::{EscapedSlashes, HostPattern, InsecurePolicy, ObjectName, RouteTable, Rule, Timeouts, WeightedBackend},
};
use tokio::net::TcpStream;

use crate::support::*;

/// How a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A handshake whose head arrives whole, first on its connection.
    Whole,
    /// The same in pieces.
    Pieces,
    /// A handshake after another request on its connection.
    Later,
    /// A request without an upgrade.
    Plain,
}

const WAYS: [Way; 4] = [Way::Whole, Way::Pieces, Way::Later, Way::Plain];

/// A situation, and what the client gets in it.
struct Behaviour {
    name: &'static str,
    table: fn(&RawBackend) -> RouteTable,
    path: &'static str,
    fields: &'static str,
    /// The backend's response, if the request reaches it.
    answer: Option<&'static str>,
    status: u16,
    body: &'static str,
    /// Whether the connection can be used for another request.
    is_kept: bool,
    /// The result label of a handshake.
    result: &'static str,
}

fn with(change: impl FnOnce(&mut Rule), backend: &RawBackend) -> RouteTable {
    let mut rule = rule(&[backend.own_endpoint()]);
    change(&mut rule);
    table(rule)
}

fn plain_rule(backend: &RawBackend) -> RouteTable {
    with(|_| {}, backend)
}

fn insecure(backend: &RawBackend, policy: InsecurePolicy) -> RouteTable {
    let mut table = plain_rule(backend);
    table.set_tls(&HostPattern::parse(HOST), host_tls(Err("no certificate".into()), policy));
    table
}

fn networks(network: &str) -> Box<[ipnet::IpNet]> {
    Box::new([network.parse().unwrap()])
}

/// The usual case; each behaviour changes part of it.
const USUAL: Behaviour = Behaviour {
    name: "",
    table: plain_rule,
    path: "/ws",
    fields: "",
    answer: None,
    status: 0,
    body: "",
    is_kept: true,
    result: "refused",
};

/// Responses of a backend that does not switch.
fn responses() -> Vec<Behaviour> {
    vec![
        Behaviour {
            name: "a backend's refusal with a length",
            answer: Some("HTTP/1.1 403 No Way\r\nContent-Length: 4\r\nx-CASE: 1\r\n\r\nnope"),
            status: 403,
            body: "nope",
            ..USUAL
        },
        Behaviour {
            name: "a chunked refusal",
            answer: Some(
                "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n2\r\npe\r\n0\r\n\r\n",
            ),
            status: 401,
            body: "nope",
            ..USUAL
        },
        Behaviour {
            name: "a refusal without a body",
            answer: Some("HTTP/1.1 204 No Content\r\n\r\n"),
            status: 204,
            ..USUAL
        },
        Behaviour {
            name: "a refusal for a client that closes",
            fields: "Connection: close\r\n",
            answer: Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope"),
            status: 403,
            body: "nope",
            is_kept: false,
            ..USUAL
        },
        Behaviour {
            name: "an interim response before a refusal",
            answer: Some("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
            status: 403,
            ..USUAL
        },
        Behaviour {
            name: "a response that is not HTTP",
            answer: Some("SSH-2.0-OpenSSH_9.6\r\n\r\n"),
            status: 502,
            body: "the backend's response is not valid HTTP/1.1\n",
            result: "bad_answer",
            ..USUAL
        },
        Behaviour {
            name: "equal lengths",
            answer: Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nnope"),
            status: 403,
            body: "nope",
            ..USUAL
        },
        Behaviour {
            name: "a malformed first chunk",
            answer: Some("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
            status: 502,
            body: "the body of the backend's response is malformed or incomplete\n",
            result: "bad_answer",
            ..USUAL
        },
    ]
}

/// Refusals before a rule is found, or because of the path.
fn refusals() -> Vec<Behaviour> {
    vec![
        Behaviour {
            name: "no route",
            table: |_| RouteTable::default(),
            status: 404,
            body: "no route matches\n",
            result: "no_route",
            ..USUAL
        },
        Behaviour {
            name: "no route, for a client that reads JSON",
            table: |_| RouteTable::default(),
            fields: "Accept: application/json\r\n",
            status: 404,
            body: "{\"error\":\"no route matches\"}\n",
            result: "no_route",
            ..USUAL
        },
        Behaviour {
            name: "an unreadable route",
            table: |_| {
                let mut table = RouteTable::default();
                table.claim_unreadable(&HostPattern::parse(HOST), ObjectName::new("shop", "chat").into());
                table
            },
            status: 503,
            body: "the route for this host is not valid; see its status\n",
            result: "misconfigured",
            ..USUAL
        },
        Behaviour {
            name: "an escaped slash",
            path: "/ws/a%2Fb",
            status: 400,
            body: "%2F and %5C are not allowed in this path\n",
            result: "faulty",
            ..USUAL
        },
        Behaviour {
            name: "an escaped slash that is kept",
            table: |backend| with(|rule| rule.policy.escaped_slashes = EscapedSlashes::Keep, backend),
            path: "/ws/a%2Fb",
            answer: Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
            status: 403,
            ..USUAL
        },
        Behaviour {
            name: "a dot segment",
            path: "/ws/%2e%2e/admin",
            status: 400,
            body: "the path must not contain dot segments, backslashes or NUL in any encoding\n",
            result: "faulty",
            ..USUAL
        },
        Behaviour {
            name: "plaintext that is denied",
            table: |backend| insecure(backend, InsecurePolicy::Deny),
            status: 403,
            body: "this host is served over TLS only\n",
            result: "insecure",
            ..USUAL
        },
        Behaviour {
            name: "plaintext that is redirected",
            table: |backend| insecure(backend, InsecurePolicy::Redirect),
            status: 308,
            body: "this host is served over TLS only\n",
            result: "insecure",
            ..USUAL
        },
    ]
}

/// Refusals and additions that depend on the rule.
fn rules() -> Vec<Behaviour> {
    vec![
        Behaviour {
            name: "a backend without endpoints",
            table: |_| table(rule(&[])),
            status: 503,
            body: "no endpoint is ready for this request\n",
            result: "no_endpoint",
            ..USUAL
        },
        Behaviour {
            name: "a reference that does not resolve",
            table: |backend| {
                let broken = WeightedBackend { weight: 1, target: Err("no such Service".into()) };
                with(|rule| rule.backends = Box::new([broken]), backend)
            },
            status: 503,
            body: "a backend of this route cannot be used; see the status of the route\n",
            result: "misconfigured",
            ..USUAL
        },
        Behaviour {
            name: "a rule at fault",
            table: |backend| with(|rule| rule.fault = Some("unsupported".into()), backend),
            status: 503,
            body: "the rule for this request is not valid; see the status of its route\n",
            result: "misconfigured",
            ..USUAL
        },
        Behaviour {
            name: "a client from a network that is denied",
            table: |backend| with(|rule| rule.policy.clients.deny = networks("127.0.0.0/8"), backend),
            status: 403,
            body: "clients with this address are not allowed\n",
            result: "forbidden",
            ..USUAL
        },
        Behaviour {
            name: "a client from a network that is not allowed",
            table: |backend| with(|rule| rule.policy.clients.allow = networks("10.0.0.0/8"), backend),
            status: 403,
            body: "clients with this address are not allowed\n",
            result: "forbidden",
            ..USUAL
        },
        Behaviour {
            name: "a client from a network that is allowed",
            table: |backend| with(|rule| rule.policy.clients.allow = networks("127.0.0.0/8"), backend),
            answer: Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
            status: 403,
            ..USUAL
        },
        Behaviour {
            name: "a session that gets its cookie",
            table: |backend| with(|rule| rule.policy.persistence = Some(persistence()), backend),
            answer: Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
            status: 403,
            ..USUAL
        },
        Behaviour {
            name: "no response in time",
            table: |backend| {
                let limit = Some(Duration::from_millis(50));
                let timeouts = Timeouts { handshake: limit, response: limit, ..Timeouts::default() };
                with(|rule| rule.policy.timeouts = timeouts, backend)
            },
            answer: Some(""),
            status: 504,
            result: "timeout",
            ..USUAL
        },
    ]
}

/// A response as received: status, fields in order except dates and the value of the cookie, and the body.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: String,
    fields: Vec<String>,
    body: String,
    is_kept: bool,
}

impl Behaviour {
    async fn run(&self, way: Way) -> (Response, Harness) {
        let backend = RawBackend::bind().await;
        let harness = Harness::start((self.table)(&backend), Settings::default());
        let mut client = harness.client().await;
        if way == Way::Later {
            client.send("GET / HTTP/1.1\r\nHost: other.example.org\r\n\r\n").await;
            let head = client.head().await;
            client.body(&head).await;
        }
        self.send(&mut client, way).await;
        let _peer = match self.answer {
            Some(answer) => Some(backend.answer(answer).await),
            None => None,
        };
        let response = self.response(&mut client).await;
        (response, harness)
    }

    async fn send(&self, client: &mut Peer<TcpStream>, way: Way) {
        match way {
            Way::Plain => client.send(get(self.path, self.fields)).await,
            Way::Whole | Way::Later => client.send(handshake(self.path, self.fields)).await,
            Way::Pieces => {
                let request = handshake(self.path, self.fields);
                let (first, second) = request.split_at(request.len() / 2);
                client.send(first).await;
                // Long enough for the proxy to see the piece alone; otherwise, the test would show less but still pass.
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.send(second).await;
            }
        }
    }

    async fn response(&self, client: &mut Peer<TcpStream>) -> Response {
        let head = client.head().await;
        let body = body(client, &head).await;
        let mut fields: Vec<String> = head.0.lines().skip(1).map(ToOwned::to_owned).collect();
        fields.retain(|field| !field.starts_with("Date: "));
        for field in &mut fields {
            if field.starts_with("Set-Cookie: ") {
                field.truncate("Set-Cookie: sticky=".len());
            }
        }
        fields.sort_unstable();
        client.send("GET / HTTP/1.1\r\nHost: other.example.org\r\n\r\n").await;
        let is_kept = client.try_head().await.is_some();
        Response { status: head.first().to_owned(), fields, body, is_kept }
    }
}

async fn body(client: &mut Peer<TcpStream>, head: &Head) -> String {
    if head.field("transfer-encoding").is_none() {
        return client.body(head).await;
    }
    let mut body = String::new();
    loop {
        let mut size = String::new();
        while !size.ends_with("\r\n") {
            size.push(char::from(client.bytes(1).await[0]));
        }
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        body.push_str(&String::from_utf8(client.bytes(size).await).unwrap());
        client.expect("\r\n").await;
        if size == 0 {
            return body;
        }
    }
}

#[tokio::test]
async fn every_behaviour_is_the_same_for_every_way_in_which_a_request_arrives() {
    for behaviour in [responses(), refusals(), rules()].into_iter().flatten() {
        let mut first = None;
        for way in WAYS {
            let (response, harness) = behaviour.run(way).await;
            let what = format!("{}, {way:?}: {response:?}", behaviour.name);
            assert!(response.status.starts_with(&format!("HTTP/1.1 {} ", behaviour.status)), "{what}");
            assert_eq!(response.is_kept, behaviour.is_kept, "{what}");
            if !behaviour.body.is_empty() {
                assert_eq!(response.body, behaviour.body, "{what}");
            }
            if way == Way::Plain {
                continue;
            }
            let handshakes = format!("result=\"{}\"}} 1", behaviour.result);
            let metrics = harness.metrics.encode();
            let counted = metrics.lines().filter(|line| line.starts_with("switchyard_handshakes_total"));
            let counted: Vec<_> = counted.collect();
            assert!(counted.len() == 1 && counted[0].ends_with(&handshakes), "{what}: {counted:?}");
            assert_eq!(first.get_or_insert_with(|| response_of(&response)), &response_of(&response), "{what}");
        }
    }
}

fn response_of(response: &Response) -> (String, Vec<String>, String) {
    (response.status.clone(), response.fields.clone(), response.body.clone())
}

#[tokio::test]
async fn the_client_is_the_one_that_a_trusted_proxy_names_and_refusals_are_counted() {
    for (is_trusted, expected) in [(true, 403), (false, 502)] {
        let backend = RawBackend::bind().await;
        let denied = with(|rule| rule.policy.clients.deny = networks("203.0.113.0/24"), &backend);
        let trusted = if is_trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let harness = Harness::start(denied, Settings { trusted_proxies: trusted, ..Settings::default() });
        let _backend = backend.serve(|_| "SSH-2.0\r\n\r\n".to_owned());
        for request in [handshake("/ws", FORWARDED), get("/ws", FORWARDED)] {
            assert_eq!(harness.ask(&request).await.1.status(), expected);
        }
        let refusals = r#"refusals_total{namespace="shop",route="chat",reason="clients"} 2"#;
        assert_eq!(harness.counted(refusals), is_trusted);
    }
}

const FORWARDED: &str = "X-Forwarded-For: 192.0.2.1, 203.0.113.9, 127.0.0.1\r\n";
