use super::*;
use crate::table::{EndpointId, Phase};

fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        id: EndpointId::new(&ObjectName::new("shop", "chat"), 80, &name),
        name: name.into(),
        addresses: Box::new([([127, 0, 0, 1], 80).into()]),
        phase: Phase::Ready,
        state: Arc::default(),
    }
}

fn close() -> TunnelClose {
    TunnelClose { closer: "client", cause: "closed", duration: Duration::from_secs(3) }
}

#[test]
fn every_metric_has_the_prefix_and_counters_end_in_total_once() {
    let metrics = Metrics::new();
    let (route, service) = (RouteState::new(ObjectName::new("shop", "chat")), ObjectName::new("shop", "chat-svc"));
    metrics.request(Some(&route), 200);
    metrics.request(None, 404);
    metrics.handshake(Some(&route), "switched");
    let endpoint = endpoint("chat-0");
    metrics.tunnel_opened(&route, &service, &endpoint);
    metrics.passed(Direction::ToClient, 5, 1);
    metrics.tls_handshake("ok", "TLSv1.3");
    metrics.table_published(3, 2);
    let text = metrics.encode();
    for line in [
        r#"switchyard_requests_total{namespace="shop",route="chat",code="200"} 1"#,
        r#"switchyard_requests_total{namespace="",route="",code="404"} 1"#,
        r#"switchyard_handshakes_total{namespace="shop",route="chat",result="switched"} 1"#,
        r#"switchyard_tunnels_open{namespace="shop",route="chat"} 1"#,
        r#"switchyard_endpoint_tunnels_open{namespace="shop",service="chat-svc",endpoint="chat-0"} 1"#,
        r#"switchyard_bytes_total{direction="to_client"} 5"#,
        r#"switchyard_tls_handshakes_total{result="ok",version="TLSv1.3"} 1"#,
        "switchyard_table_generation 3",
        "switchyard_table_routes 2",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("total_total"));
    assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("switchyard_")));
}

#[test]
fn series_go_away_with_what_they_describe() {
    let metrics = Metrics::new();
    let (route, service) = (RouteState::new(ObjectName::new("shop", "chat")), ObjectName::new("shop", "chat-svc"));
    let endpoint = endpoint("chat-0");
    metrics.tunnel_opened(&route, &service, &endpoint);
    assert!(metrics.encode().contains("endpoint=\"chat-0\""));
    metrics.tunnel_closed(&route, &endpoint, close());
    assert!(!metrics.encode().contains("endpoint=\"chat-0\""));
    assert!(metrics.encode().contains("closer=\"client\",cause=\"closed\"} 1"));
    drop(route);
    assert!(!metrics.encode().contains("route=\"chat\""));
}

#[test]
fn codes_that_are_not_registered_share_a_series_for_each_class() {
    let metrics = Metrics::new();
    let route = RouteState::new(ObjectName::new("shop", "chat"));
    for code in 100..=999 {
        metrics.request(Some(&route), code);
    }
    let text = metrics.encode();
    let codes: Vec<_> = text.lines().filter(|line| line.starts_with("switchyard_requests_total{")).collect();
    assert!(codes.len() < 70, "{codes:#?}");
    let has = |code: &str, count: u32| {
        let line = format!(r#"switchyard_requests_total{{namespace="shop",route="chat",code="{code}"}} {count}"#);
        assert!(codes.contains(&line.as_str()), "{line} is not in {codes:#?}");
    };
    for code in ["100", "101", "103", "200", "207", "226", "308", "404", "418", "425", "429", "451", "500", "511"] {
        has(code, 1);
    }
    has("other", 400);
    for class in ["1xx", "2xx", "3xx", "4xx", "5xx"] {
        assert!(codes.iter().any(|line| line.contains(&format!("code=\"{class}\""))), "{class}: {codes:#?}");
    }
}

#[test]
fn refusals_are_counted_by_reason_without_a_route_where_there_is_none() {
    let metrics = Metrics::new();
    metrics.refusal(None, "connections_per_client");
    metrics.refusal(None, "connections_per_client");
    let line = r#"switchyard_refusals_total{namespace="",route="",reason="connections_per_client"} 2"#;
    assert!(metrics.encode().lines().any(|there| there == line), "{}", metrics.encode());
}

#[test]
fn no_label_value_leaves_its_quotes() {
    let metrics = Metrics::new();
    let name = "a\"} 1\nforged{x=\"\\\u{1b}[2J\r\u{2028}";
    let (route, service) = (RouteState::new(ObjectName::new("shop", name)), ObjectName::new("shop", name));
    metrics.request(Some(&route), 200);
    let endpoint = endpoint(name);
    metrics.tunnel_opened(&route, &service, &endpoint);
    let text = metrics.encode();
    assert!(text.split('\n').all(|line| line.is_empty() || line.starts_with('#') || line.starts_with("switchyard_")));
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let line =
        format!(r#"switchyard_endpoint_tunnels_open{{namespace="shop",service="{escaped}",endpoint="{escaped}"}} 1"#);
    assert!(text.split('\n').any(|there| there == line), "{line} is not in\n{text}");
}
