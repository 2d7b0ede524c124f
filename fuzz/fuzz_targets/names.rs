//! Hosts and paths of requests, compared with the simplest implementation.
#![no_main]

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/expression.rs"]
mod expression;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/host.rs"]
mod host;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/name.rs"]
mod name;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/normal_path.rs"]
mod normal_path;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/path.rs"]
mod path;

use std::cmp::Reverse;

use arbitrary::Arbitrary;
use expression::Expression;
use host::{Host, HostMap, HostPattern};
use libfuzzer_sys::fuzz_target;
use normal_path::NormalPath;
use path::{PathMap, PathPattern};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    authority: &'a str,
    hostnames: Vec<Option<&'a str>>,
    path: &'a str,
    paths: Vec<(bool, &'a str)>,
}

fuzz_target!(|input: Input| {
    let Input { authority, hostnames, path, paths } = input;
    if let Ok(host) = Host::parse(authority) {
        assert_eq!(Host::parse(host.as_str()), Ok(host.clone()), "read again");
        assert!(!host.as_str().bytes().any(|byte| byte.is_ascii_uppercase()));
        hosts_match(&host, &hostnames);
    }
    if let Ok(path) = NormalPath::parse(path) {
        paths_match(path.as_str(), &paths);
    }
});

fn hosts_match(host: &Host<'_>, hostnames: &[Option<&str>]) {
    let patterns: Vec<_> =
        hostnames.iter().map(|hostname| hostname.map_or(HostPattern::Any, HostPattern::parse)).collect();
    let mut map = HostMap::default();
    for pattern in &patterns {
        *map.entry(pattern) = Some(pattern.clone());
    }
    let mut expected: Vec<_> = patterns.into_iter().filter(|pattern| host_fits(pattern, host.as_str())).collect();
    expected.sort_by(|one, other| other.cmp(one));
    expected.dedup();
    assert_eq!(map.matching(host).flatten().cloned().collect::<Vec<_>>(), expected);
}

fn host_fits(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => **exact == *host,
        HostPattern::Wildcard(suffix) => {
            // A host that ends in a number is an address, or an unreachable one (WHATWG URL §3.5).
            let is_number =
                host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
            let labels = host.strip_suffix(&**suffix).and_then(|rest| rest.strip_suffix('.'));
            !is_number && labels.is_some_and(|labels| !labels.is_empty())
        }
        HostPattern::Any => true,
    }
}

fn paths_match(path: &str, paths: &[(bool, &str)]) {
    let pattern = |&(is_exact, path): &(bool, &str)| {
        // As in the schema.
        path.starts_with('/').then(|| if is_exact { PathPattern::exact(path) } else { PathPattern::prefix(path) })
    };
    let patterns: Vec<_> = paths.iter().filter_map(pattern).collect();
    let mut map = PathMap::default();
    for pattern in &patterns {
        let value = match pattern {
            PathPattern::Exact(path) => map.entry_of_exact(path),
            PathPattern::Prefix(path) => map.entry_of_prefix(path),
            PathPattern::Expression(_) => unreachable!("there are none above"),
        };
        *value = Some(pattern.clone());
    }
    let mut expected: Vec<_> = patterns.into_iter().filter(|pattern| path_fits(pattern, path)).collect();
    expected.sort_by_key(|pattern| Reverse(pattern.rank()));
    expected.dedup();
    let found: Vec<_> = map.exact(path).into_iter().chain(map.prefixes(path)).flatten().cloned().collect();
    assert!(found == expected || !path.starts_with('/'), "{found:?}, not {expected:?}");
}

fn path_fits(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => **exact == *path,
        PathPattern::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathPattern::Expression(_) => unreachable!("there are none above"),
    }
}
