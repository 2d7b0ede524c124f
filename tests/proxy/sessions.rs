//! Sessions stay with their endpoint.

use std::sync::Arc;

use switchyard::table::{Rule, SessionKeys};
use tokio::io::AsyncWriteExt;

use crate::support::*;

fn sticky(mut rule: Rule) -> Rule {
    rule.policy.persistence = Some(persistence());
    rule
}

/// A backend that answers plain requests and handshakes with its name.
async fn named(name: &'static str) -> Served {
    RawBackend::bind().await.serve(move |head| match head.field("upgrade") {
        Some(_) => switching(&format!("X-Name: {name}\r\n")),
        None => format!(
            "HTTP/1.1 200 OK\r\nX-Name: {name}\r\nX-Cookie: {}\r\nContent-Length: 0\r\n\r\n",
            head.field("cookie").unwrap_or("none")
        ),
    })
}

fn cookie(head: &Head) -> Option<String> {
    head.field("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_session_stays_over_a_thousand_requests_and_handshakes() {
    let backends = [named("a").await, named("b").await, named("c").await];
    let endpoints: Vec<_> =
        backends.iter().zip(["a", "b", "c"]).map(|(backend, name)| endpoint(name, backend.address)).collect();
    let harness = Harness::with_rule(sticky(rule(&endpoints)));
    let (mut client, first) = harness.ask(&get("/", "")).await;
    let (name, cookie) = (first.field("x-name").unwrap().to_owned(), cookie(&first).unwrap());
    let attributes = first.field("set-cookie").unwrap().split_once(';').unwrap().1;
    assert_eq!(attributes, " Path=/; HttpOnly");
    let field = format!("Cookie: other=1; {cookie}\r\n");
    for number in 0..1000 {
        let head = if number % 10 == 0 {
            harness.ask(&handshake("/ws", &field)).await.1
        } else {
            client.send(get("/", &field)).await;
            let head = client.head().await;
            assert_eq!(head.field("x-cookie"), Some("other=1"), "the backend does not see the session cookie");
            head
        };
        assert_eq!((head.field("x-name"), head.field("set-cookie")), (Some(name.as_str()), None));
    }
}

#[tokio::test]
async fn what_the_backends_connection_names_does_not_remove_our_cookie() {
    let backend = RawBackend::bind().await.serve(|head| match head.field("upgrade") {
        Some(_) => switching("Connection: Set-Cookie\r\nSet-Cookie: theirs=1\r\n"),
        None => "HTTP/1.1 200 OK\r\nConnection: Set-Cookie\r\nSet-Cookie: theirs=1\r\nContent-Length: 0\r\n\r\n".into(),
    });
    let harness = Harness::with_rule(sticky(rule(&[endpoint("a", backend.address)])));
    for request in [get("/", ""), handshake("/ws", "")] {
        let (_client, head) = harness.ask(&request).await;
        assert!(cookie(&head).unwrap().starts_with("sticky="), "{}", head.0);
    }
}

#[tokio::test]
async fn the_cookie_comes_with_the_101_too() {
    let backend = named("a").await;
    let harness = Harness::with_rule(sticky(rule(&[endpoint("a", backend.address)])));
    let (_client, head) = harness.ask(&handshake("/ws", "")).await;
    assert_eq!(head.status(), 101);
    assert!(cookie(&head).unwrap().starts_with("sticky="));
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_or_refuses_gets_another_and_a_new_cookie() {
    let (one, other) = (named("a").await, named("b").await);
    let endpoints = [endpoint("a", one.address), endpoint("b", other.address)];
    let harness = Harness::with_rule(sticky(rule(&endpoints[..1])));
    let (_, head) = harness.ask(&get("/", "")).await;
    let field = format!("Cookie: {}\r\n", cookie(&head).unwrap());
    harness.table.publish(table(sticky(rule(&endpoints[1..]))).into());
    let (_, gone) = harness.ask(&get("/", &field)).await;
    assert_eq!(gone.field("x-name"), Some("b"));
    let moved = format!("Cookie: {}\r\n", cookie(&gone).unwrap());
    let (_, kept) = harness.ask(&get("/", &moved)).await;
    assert_eq!((kept.field("x-name"), kept.field("set-cookie")), (Some("b"), None));
    let refusing = endpoint("a", refusing().await);
    harness.table.publish(table(sticky(rule(&[refusing, endpoints[1].clone()]))).into());
    let (_, refused) = harness.ask(&handshake("/ws", &field)).await;
    assert_eq!(refused.field("x-name"), Some("b"));
    assert!(cookie(&refused).is_some());
}

#[tokio::test]
async fn forged_cookies_are_ignored_and_keys_can_be_rotated() {
    let backend = named("a").await;
    let harness = Harness::with_rule(sticky(rule(&[endpoint("a", backend.address)])));
    let (_, forged) = harness.ask(&get("/", "Cookie: sticky=forged\r\n")).await;
    assert_eq!((forged.status(), forged.field("x-cookie")), (200, Some("none")));
    let (old, new) = ("b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=", "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=");
    harness.keys.store(Arc::new(SessionKeys::parse(old).unwrap()));
    let (_, head) = harness.ask(&get("/", "")).await;
    let field = format!("Cookie: {}\r\n", cookie(&head).unwrap());
    harness.keys.store(Arc::new(SessionKeys::parse(&format!("{new}\n{old}")).unwrap()));
    let (mut client, head) = harness.ask(&get("/", &field)).await;
    assert!(cookie(&head).is_some(), "signed with the new key");
    client.stream.shutdown().await.unwrap();
}
