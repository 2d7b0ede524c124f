use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::{prelude::*, sample::select};

use super::*;
use crate::table::{Expression, ObjectName, TextPattern, ValueCondition};

fn rule(name: &str) -> Arc<Rule> {
    Arc::new(Rule::new(ObjectName::new("shop", name), "0"))
}

fn rules(all: &[Conditions]) -> HostRules {
    let mut rules = HostRules::default();
    for (position, conditions) in all.iter().enumerate() {
        rules.add(conditions.clone(), rule(&position.to_string()));
    }
    rules
}

/// The position of the match for a request.
fn found(all: &[Conditions], request: &RequestView<'_, HeaderMap>) -> Option<usize> {
    rules(all).find(request).map(|rule| rule.route.name.name.parse().unwrap())
}

fn prefix(path: &str) -> Conditions {
    Conditions::new(PathPattern::prefix(path))
}

fn header(name: &'static str, value: &str) -> ValueCondition {
    ValueCondition::header(HeaderName::from_static(name), value)
}

fn parameter(name: &str, text: TextPattern) -> ValueCondition {
    ValueCondition { source: ValueSource::QueryParameter(name.into()), text }
}

fn expression(text: &str) -> Expression {
    Expression::parse(text).unwrap()
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let line =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    lines.iter().map(line).collect()
}

fn get<'a>(path: &'a str, query: &'a str, headers: &'a HeaderMap) -> RequestView<'a, HeaderMap> {
    RequestView { path, query, is_upgrade: false, headers }
}

#[test]
fn where_a_match_is_not_met_the_next_one_is_tried() {
    let all = [
        prefix("/"),
        prefix("/ws").with_values([header("x-tenant", "blue")]),
        prefix("/ws").with_values([header("x-tenant", "blue"), header("x-beta", "1")]),
        Conditions::new(PathPattern::exact("/ws")).with_values([header("x-tenant", "red")]),
    ];
    let served = |lines: &[(&'static str, &str)]| found(&all, &get("/ws", "", &headers(lines)));
    assert_eq!(served(&[]), Some(0));
    assert_eq!(served(&[("x-tenant", "blue")]), Some(1));
    assert_eq!(served(&[("x-tenant", "Blue")]), Some(0));
    assert_eq!(served(&[("x-tenant", "blue"), ("x-beta", "1")]), Some(2));
    assert_eq!(served(&[("x-tenant", "red")]), Some(3));
}

#[test]
fn lines_of_one_field_are_one_value() {
    let all = [prefix("/").with_values([header("x", "a,b")])];
    let served = |lines: &[(&'static str, &str)]| found(&all, &get("/", "", &headers(lines))).is_some();
    assert!(served(&[("x", "a,b")]) && served(&[("x", " a"), ("y", "c"), ("x", "b ")]));
    assert!(!served(&[("x", "a")]) && !served(&[("x", "b"), ("x", "a")]));
    let long = "a".repeat(3000);
    assert!(!served(&[("x", &long), ("x", &long)]));
}

#[test]
fn the_first_parameter_of_a_name_counts_decoded() {
    let all = [prefix("/").with_values([parameter("a b", TextPattern::Exact("1 ä".into()))])];
    let served = |query: &str| found(&all, &get("/", query, &HeaderMap::new())).is_some();
    assert!(served("a+b=1+%c3%a4") && served("x&a%20b=1%20%C3%A4&a+b=2"));
    assert!(!served("") && !served("a+b=2&a+b=1+%c3%a4") && !served("A+b=1+%c3%a4") && !served("a+b=1+%c3%a4%20"));
    assert!(!served(&format!("{}a+b=1+%c3%a4", "x&".repeat(100))));
}

#[test]
fn a_subprotocol_is_offered_by_upgrades_only() {
    let all = [prefix("/").with_subprotocols(["graphql-ws".into(), "graphql-transport-ws".into()])];
    let headers = headers(&[("sec-websocket-protocol", "a, b"), ("sec-websocket-protocol", "b,graphql-ws")]);
    let plain = get("/", "", &headers);
    assert_eq!(found(&all, &RequestView { is_upgrade: true, ..plain }), Some(0));
    assert_eq!(found(&all, &plain), None);
    assert_eq!(found(&all, &RequestView { is_upgrade: true, headers: &HeaderMap::new(), ..plain }), None);
}

#[test]
fn expressions_come_between_exact_paths_and_prefixes() {
    let of = |text| Conditions::new(PathPattern::Expression(expression(text)));
    let all = [prefix("/a/b"), of("/a/[a-z]"), of("/a/.*"), Conditions::new(PathPattern::exact("/a/b"))];
    let served = |path| found(&all, &get(path, "", &HeaderMap::new()));
    assert_eq!(
        [served("/a/b"), served("/a/c"), served("/a/1"), served("/a/b/c")],
        [Some(3), Some(1), Some(2), Some(2)]
    );
    assert_eq!([served("/a"), served("/x/a/b")], [None, None]);
}

fn paths() -> impl Strategy<Value = PathPattern> {
    select(vec![
        PathPattern::prefix("/"),
        PathPattern::prefix("/a"),
        PathPattern::exact("/a"),
        PathPattern::Expression(expression("/a|/b")),
        PathPattern::Expression(expression("/[ab]")),
    ])
}

fn values() -> impl Strategy<Value = ValueCondition> {
    let text = || {
        select(vec![
            TextPattern::Exact("1".into()),
            TextPattern::Exact("2".into()),
            TextPattern::Expression(expression("[12]")),
        ])
    };
    let header = (select(vec!["x", "y"]), text());
    let header = header
        .prop_map(|(name, text)| ValueCondition { source: ValueSource::Header(HeaderName::from_static(name)), text });
    prop_oneof![header, text().prop_map(|text| parameter("v", text))]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let subprotocols = proptest::collection::vec(select(vec![Box::from("a"), Box::from("b")]), 0..2);
    (paths(), proptest::collection::vec(values(), 0..3), subprotocols).prop_map(|(path, values, subprotocols)| {
        Conditions::new(path).with_values(values).with_subprotocols(subprotocols)
    })
}

/// Whether a request matches the path, without any index.
fn fits(path: &PathPattern, sent: &str) -> bool {
    match path {
        PathPattern::Exact(path) => **path == *sent,
        PathPattern::Prefix(path) => {
            sent.strip_prefix(&**path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathPattern::Expression(expression) => expression.is_match(sent.as_bytes()),
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_trying_one_match_after_the_other_finds(
        all in proptest::collection::vec(conditions(), 0..12),
        path in select(vec!["/", "/a", "/b", "/a/b"]),
        query in select(vec!["", "v=1", "v=2"]),
        x in select(vec![None, Some("1"), Some("2")]),
        y in select(vec![None, Some("1")]),
        offered in select(vec![None, Some("a")]),
    ) {
        let lines = [("x", x), ("y", y), ("sec-websocket-protocol", offered)];
        let lines: Vec<_> = lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let headers = headers(&lines);
        let request = RequestView { path, query, is_upgrade: true, headers: &headers };
        let mut ranked: Vec<_> =
            all.iter().cloned().enumerate().map(|(earlier, conditions)| Match { conditions, earlier }).collect();
        ranked.sort_by(|one, other| other.cmp(one));
        let expected = ranked.iter().find(|one| fits(one.conditions.path(), path) && one.conditions.are_met_by(&request));
        prop_assert_eq!(found(&all, &request), expected.map(|one| one.earlier));
    }
}
