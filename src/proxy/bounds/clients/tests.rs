use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn v6(text: &str) -> IpAddr {
    text.parse::<Ipv6Addr>().unwrap().into()
}

fn known(clients: &Clients) -> usize {
    clients.shards.iter().map(|shard| lock(shard).len()).sum()
}

#[test]
fn an_address_gets_as_many_connections_as_the_limit_and_another_when_one_ends() {
    let clients = Clients::new(2, usize::MAX);
    let first = clients.enter(v4(1), 1).unwrap();
    let _second = clients.enter(v4(1), 2).unwrap();
    assert_eq!(clients.enter(v4(1), 3).unwrap_err(), TooMany);
    let _other = clients.enter(v4(2), 3).unwrap();
    drop(first);
    let _third = clients.enter(v4(1), 3).unwrap();
    assert_eq!(clients.enter(v4(1), 4).unwrap_err(), TooMany);
}

#[test]
fn without_a_limit_any_number_of_connections_is_counted() {
    let clients = Clients::new(0, usize::MAX);
    let seats: Vec<_> = (0..5000).map(|open| clients.enter(v4(1), open).unwrap()).collect();
    assert_eq!((seats.len(), known(&clients)), (5000, 1));
}

#[test]
fn an_ipv6_client_is_its_64_and_a_mapped_address_is_ipv4() {
    let clients = Clients::new(1, usize::MAX);
    let _first = clients.enter(v6("2001:db8:1:2::1"), 1).unwrap();
    assert_eq!(clients.enter(v6("2001:db8:1:2:ffff::9"), 2).unwrap_err(), TooMany);
    let _neighbour = clients.enter(v6("2001:db8:1:3::1"), 2).unwrap();
    let _plain = clients.enter(v4(1), 3).unwrap();
    assert_eq!(clients.enter(v6("::ffff:192.0.2.1"), 4).unwrap_err(), TooMany);
    assert_ne!(Client::from(v6("::c000:201")), Client::from(v4(1)));
}

#[test]
fn an_address_is_forgotten_with_its_last_connection_and_its_room_is_given_back() {
    let clients = Clients::new(1, usize::MAX);
    let address = |index: u32| IpAddr::from(Ipv4Addr::from(index));
    let seats: Vec<_> = (0..100_000).map(|index| clients.enter(address(index), 0).unwrap()).collect();
    assert_eq!(clients.enter(address(7), 0).unwrap_err(), TooMany);
    assert_eq!(known(&clients), 100_000);
    drop(seats);
    assert_eq!(known(&clients), 0);
    let room: usize = clients.shards.iter().map(|shard| lock(shard).capacity()).sum();
    assert!(room <= SHARDS * SMALL, "{room}");
}

#[test]
fn a_majority_is_reported_once_and_again_after_an_hour_below_and_above() {
    let (majority, start) = (Majority::default(), Instant::now());
    let [one, two] = [1, 2].map(|last| Client::from(v4(last)));
    let begins = |client, has_most, minutes: u64| {
        majority.begins(client, has_most, || start + Duration::from_secs(60 * minutes))
    };
    assert!(!begins(one, false, 0));
    assert!(begins(one, true, 1));
    assert!(!begins(one, true, 2), "already known");
    assert!(!begins(two, false, 3), "another client changes nothing");
    assert!(!begins(one, true, 4));
    assert!(!begins(one, false, 5));
    assert!(!begins(one, true, 6), "less than an hour ago");
    assert!(!begins(one, false, 7));
    assert!(begins(one, true, 61));
}

#[test]
fn a_majority_matters_only_among_many_connections() {
    for (max_connections, many) in [(usize::MAX, 1000), (384, 38), (100_000, 1000)] {
        assert_eq!(Clients::new(0, max_connections).many, many);
    }
    let clients = Clients::new(0, 40);
    let seats: Vec<_> = (1..=4).map(|open| clients.enter(v4(1), open).unwrap()).collect();
    assert_eq!(clients.majority.client.load(Ordering::Relaxed), 0, "four of four are few");
    let fifth = clients.enter(v4(1), 10).unwrap();
    assert_eq!(clients.majority.client.load(Ordering::Relaxed), 0, "five of ten are half");
    let sixth = clients.enter(v4(1), 11).unwrap();
    assert_eq!(clients.majority.client.load(Ordering::Relaxed), Client::from(v4(1)).0);
    drop((seats, fifth, sixth));
    let _again = clients.enter(v4(1), 11).unwrap();
    assert_eq!(clients.majority.client.load(Ordering::Relaxed), 0);
}

#[test]
fn one_refusal_in_a_second_is_logged_with_the_number_of_the_others() {
    let (mut refusals, start) = (OverLimit::default(), Instant::now());
    let mut line = |milliseconds| refusals.line(start + Duration::from_millis(milliseconds));
    assert_eq!([line(0), line(1), line(999), line(1000), line(1001)], [Some(0), None, None, Some(2), None]);
}
