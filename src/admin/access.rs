//! Access checks. A browser on this machine can be made to resolve the name of any site to a loopback address (DNS
//! rebinding), and to send such requests on behalf of that site's pages; the `Host` field reveals them.

use std::net::SocketAddr;

use http::{Request, header};

use crate::table::Host;

/// Whether a request comes from this machine and names it, as those of `kubectl port-forward` do.
pub(super) fn is_local<B>(request: &Request<B>, peer: SocketAddr) -> bool {
    let mut hosts = hosts(request).peekable();
    is_loopback(peer) && hosts.peek().is_some() && hosts.all(|host| host.is_some_and(|host| names_loopback(&host)))
}

/// Whether a request may read what is not secret within the network. From elsewhere it may have any `Host`: that of a
/// Service, or a pod's address. From this machine it must not name another site; addresses are allowed, and so are
/// requests without a `Host`, which no browser sends.
pub(super) fn may_scrape<B>(request: &Request<B>, peer: SocketAddr) -> bool {
    let is_harmless = |host: Host<'_>| host.address().is_some() || names_loopback(&host);
    !is_loopback(peer) || hosts(request).all(|host| host.is_some_and(is_harmless))
}

fn is_loopback(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

fn names_loopback(host: &Host<'_>) -> bool {
    host.as_str() == "localhost" || host.address().is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// The hosts that a request names: that of a target in absolute form, and each `Host` field. `None` is a malformed one.
fn hosts<B>(request: &Request<B>) -> impl Iterator<Item = Option<Host<'_>>> {
    let target = request.uri().authority().map(|authority| Host::parse(authority.as_str()).ok());
    let fields = request.headers().get_all(header::HOST).into_iter();
    target.into_iter().chain(fields.map(|host| Host::parse(host.to_str().ok()?).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, hosts: &[&str]) -> Request<()> {
        let request = hosts.iter().fold(Request::get(target), |request, host| request.header(header::HOST, *host));
        request.body(()).unwrap()
    }

    fn from(peer: &str) -> SocketAddr {
        SocketAddr::new(peer.parse().unwrap(), 4711)
    }

    const HERE: [&str; 3] = ["127.0.0.1", "::1", "::ffff:127.0.0.1"];

    #[test]
    fn this_machine_sees_metrics_under_its_own_names_and_addresses_only() {
        for peer in HERE.map(from) {
            for host in
                ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "10.0.0.1", "[2001:db8::1]:9090"]
            {
                assert!(may_scrape(&request("/metrics", &[host]), peer), "{host}");
            }
            assert!(may_scrape(&request("/metrics", &[]), peer), "no browser leaves it out");
            for host in
                ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"]
            {
                assert!(!may_scrape(&request("/metrics", &[host]), peer), "{host}");
            }
            assert!(!may_scrape(&request("/metrics", &["localhost", "evil.example"]), peer));
            assert!(!may_scrape(&request("http://evil.example/metrics", &["localhost"]), peer));
        }
    }

    #[test]
    fn from_elsewhere_metrics_are_served_under_any_name() {
        for host in ["10.0.0.7:9090", "switchyard-metrics.switchyard.svc:9090", "switchyard-metrics", "localhost"] {
            assert!(may_scrape(&request("/metrics", &[host]), from("10.0.0.1")), "{host}");
        }
    }

    #[test]
    fn only_requests_from_this_machine_that_name_it_are_local() {
        for peer in HERE.map(from) {
            for host in ["localhost:9090", "127.0.0.1", "[::1]:9090", "[::ffff:127.0.0.1]"] {
                assert!(is_local(&request("/", &[host]), peer), "{host}");
            }
            for hosts in [&[][..], &["10.0.0.1"], &["evil.example"], &["localhost", "evil.example"]] {
                assert!(!is_local(&request("/", hosts), peer), "{hosts:?}");
            }
        }
        assert!(!is_local(&request("/", &["localhost"]), from("10.0.0.1")));
    }
}
