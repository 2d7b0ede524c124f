//! Endpoint addresses that are refused because they lead to the proxy itself or to its node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where the proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// In a cluster, where users must not reach the proxy's own pod or node by using their addresses as endpoints.
    Cluster {
        /// The addresses at which others reach the proxy's listeners.
        own: &'static [SocketAddr],
    },
    /// On the machine of the person who writes the manifests: backends may listen on loopback, but the address of the
    /// admin port is refused.
    Machine {
        /// The address to which the admin port is bound.
        admin: SocketAddr,
    },
}

impl Surroundings {
    /// Why an endpoint must not have this address, or `None` if it may.
    pub(super) fn refusal(self, address: SocketAddr) -> Option<&'static str> {
        match (self, meaning(address.ip())) {
            (Self::Cluster { own }, special) => {
                let is_own = own.iter().any(|own| leads_to(address, *own));
                special.or(is_own.then_some("the proxy's own"))
            }
            (Self::Machine { admin }, special) => {
                let admin = leads_to(address, admin).then_some("the proxy's admin port");
                special.filter(|special| *special != LOOPBACK).or(admin)
            }
        }
    }
}

const UNSPECIFIED: &str = "unspecified";
const LOOPBACK: &str = "loopback";
const LINK_LOCAL: &str = "link-local";
const MULTICAST: &str = "multicast";
const BROADCAST: &str = "broadcast";

/// Whether a connection to an address reaches a socket that is bound to `bound`.
fn leads_to(address: SocketAddr, bound: SocketAddr) -> bool {
    let plain = |ip: IpAddr| embedded(ip).map_or(ip, IpAddr::V4);
    let (ip, own) = (plain(address.ip()), plain(bound.ip()));
    address.port() == bound.port() && (ip == own || own.is_unspecified() && ip.is_loopback())
}

/// The name of the special range that an address is in; `None` for an ordinary address.
fn meaning(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => meaning_v4(ip),
        IpAddr::V6(ip) => meaning_v6(ip).or_else(|| embedded(ip.into()).and_then(meaning_v4)),
    }
}

fn meaning_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip {
        // All of "this network" (RFC 1122 §3.2.1.3); Linux connects to loopback for 0.0.0.0.
        _ if ip.octets()[0] == 0 => Some(UNSPECIFIED),
        _ if ip.is_loopback() => Some(LOOPBACK),
        _ if ip.is_link_local() => Some(LINK_LOCAL),
        _ if ip.is_multicast() => Some(MULTICAST),
        _ if ip.is_broadcast() => Some(BROADCAST),
        _ => None,
    }
}

fn meaning_v6(ip: Ipv6Addr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some(UNSPECIFIED),
        _ if ip.is_loopback() => Some(LOOPBACK),
        _ if ip.is_unicast_link_local() => Some(LINK_LOCAL),
        _ if ip.is_multicast() => Some(MULTICAST),
        _ => None,
    }
}

/// The IPv4 address embedded in an IPv6 address, in any form that operating systems and translators recognise: mapped
/// and compatible (RFC 4291 §2.5.5), translated (RFC 2765 §2.1), NAT64 (RFC 6052 §2.1, RFC 8215) and 6to4
/// (RFC 3056 §2).
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let ([0, 0, 0, 0, 0, 0 | 0xffff, high, low]
    | [0, 0, 0, 0, 0xffff, 0, high, low]
    | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
    | [0x64, 0xff9b, 1, _, _, _, high, low]
    | [0x2002, high, low, ..]) = ip.segments()
    else {
        return None;
    };
    // The unspecified address and loopback are special in IPv6 itself.
    (!ip.is_unspecified() && !ip.is_loopback()).then(|| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Surroundings =
        Surroundings::Machine { admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090) };

    const CLUSTER: Surroundings = Surroundings::Cluster { own: &[] };

    fn refusal(surroundings: Surroundings, address: &str, port: u16) -> Option<&'static str> {
        surroundings.refusal(SocketAddr::new(address.parse().unwrap(), port))
    }

    #[test]
    fn in_a_cluster_no_special_address_is_an_endpoint_in_whatever_form() {
        let cases = [
            ("127.0.0.1", LOOPBACK),
            ("127.255.255.254", LOOPBACK),
            ("::1", LOOPBACK),
            ("::ffff:127.0.0.1", LOOPBACK),
            ("::127.0.0.1", LOOPBACK),
            ("::ffff:0:127.0.0.1", LOOPBACK),
            ("64:ff9b::7f00:1", LOOPBACK),
            ("64:ff9b:1::7f00:1", LOOPBACK),
            ("2002:7f00:1::", LOOPBACK),
            ("169.254.169.254", LINK_LOCAL),
            ("::ffff:169.254.169.254", LINK_LOCAL),
            ("64:ff9b::a9fe:a9fe", LINK_LOCAL),
            ("fe80::1", LINK_LOCAL),
            ("febf::1", LINK_LOCAL),
            ("0.0.0.0", UNSPECIFIED),
            ("0.1.2.3", UNSPECIFIED),
            ("::", UNSPECIFIED),
            ("::ffff:0.0.0.0", UNSPECIFIED),
            ("224.0.0.1", MULTICAST),
            ("239.255.255.255", MULTICAST),
            ("::ffff:224.0.0.1", MULTICAST),
            ("ff02::1", MULTICAST),
            ("255.255.255.255", BROADCAST),
            ("::ffff:255.255.255.255", BROADCAST),
        ];
        for (address, meaning) in cases {
            assert_eq!(refusal(CLUSTER, address, 80), Some(meaning), "{address}");
        }
    }

    #[test]
    fn ordinary_addresses_are_endpoints_everywhere() {
        let ordinary = [
            "10.0.0.1",
            "100.64.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "198.51.100.7",
            "240.0.0.1",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::a00:1",
            "::ffff:10.0.0.1",
        ];
        for address in ordinary {
            assert_eq!(refusal(CLUSTER, address, 9090), None, "{address}");
            assert_eq!(refusal(MACHINE, address, 9090), None, "{address}");
        }
    }

    #[test]
    fn in_a_cluster_the_proxy_is_not_its_own_backend() {
        let own = vec!["10.0.0.7:8080".parse().unwrap(), "[fd00::7]:9090".parse().unwrap()].leak();
        for (address, port, expected) in [
            ("10.0.0.7", 8080, Some("the proxy's own")),
            ("::ffff:10.0.0.7", 8080, Some("the proxy's own")),
            ("fd00::7", 9090, Some("the proxy's own")),
            ("10.0.0.7", 3000, None),
            ("10.0.0.8", 8080, None),
        ] {
            assert_eq!(refusal(Surroundings::Cluster { own }, address, port), expected, "{address}:{port}");
        }
    }

    #[test]
    fn on_a_machine_loopback_is_allowed_but_for_the_admin_port() {
        assert_eq!(refusal(MACHINE, "127.0.0.1", 8080), None);
        assert_eq!(refusal(MACHINE, "::1", 9090), None, "the admin port is bound to another address");
        for address in ["127.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(refusal(MACHINE, address, 9090), Some("the proxy's admin port"), "{address}");
        }
        let everywhere = Surroundings::Machine { admin: "[::]:9090".parse().unwrap() };
        for address in ["127.0.0.1", "127.1.2.3", "::1"] {
            assert_eq!(refusal(everywhere, address, 9090), Some("the proxy's admin port"), "{address}");
        }
        for (address, meaning) in [("169.254.169.254", LINK_LOCAL), ("0.0.0.0", UNSPECIFIED), ("ff02::1", MULTICAST)] {
            assert_eq!(refusal(MACHINE, address, 80), Some(meaning), "{address}");
        }
    }

    #[test]
    fn other_spellings_are_not_addresses() {
        for text in
            ["fe80::1%eth0", "0177.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "localhost", "127.0.0.01", " ::1"]
        {
            assert!(text.parse::<IpAddr>().is_err(), "{text}");
        }
    }
}
