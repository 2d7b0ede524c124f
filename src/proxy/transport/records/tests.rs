use proptest::{collection::vec, prelude::*};
use rustls::{AlertDescription, ClientConnection, SupportedCipherSuite};

use super::{
    super::role::KEY_UPDATE_REQUESTED,
    peer::{Ends, Forger, SUITES, hear, say, wire},
    *,
};

const TLS13: usize = 0;
const TLS12: usize = 3;

/// Opens all complete records, and returns their payload.
fn open(records: &mut Records, wire: &[u8]) -> (Vec<u8>, Opened) {
    let mut room = vec![0; wire.len()];
    let opened = records.open(wire, &mut room);
    room.truncate(opened.payload);
    (room, opened)
}

/// Opens records, all of which must be complete and none of which may be the last.
fn open_all(records: &mut Records, wire: &[u8]) -> Vec<u8> {
    let (payload, opened) = open(records, wire);
    assert_eq!((opened.consumed, opened.payload, opened.end), (wire.len(), payload.len(), None));
    payload
}

fn end(records: &mut Records, wire: &[u8]) -> Option<Result<(), Fault>> {
    let (payload, opened) = open(records, wire);
    assert_eq!(payload, b"");
    opened.end
}

fn seal(records: &mut Records, payload: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut room = vec![0; sealed_length(payload.len())];
    let length = records.seal(payload, &mut room)?;
    room.truncate(length);
    Ok(room)
}

fn connect(suite: usize) -> (ClientConnection, Records) {
    Ends::new(SUITES[suite]).connect()
}

fn forge(suite: usize) -> (Forger, Records) {
    let (client, records) = connect(suite);
    (Forger::new(client), records)
}

fn is_tls13(suite: &SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[test]
fn payload_of_any_length_passes_both_ways_with_every_suite() {
    for suite in &SUITES {
        let (mut client, mut records) = Ends::new(*suite).connect();
        assert_eq!(records.version(), if is_tls13(suite) { "TLSv1.3" } else { "TLSv1.2" });
        for length in [0, 1, 16_383, 16_384, 16_385, 1 << 20, 2] {
            let payload = payload(length);
            assert!(open_all(&mut records, &say(&mut client, &payload)) == payload, "{suite:?} {length} in");
            let sealed = seal(&mut records, &payload).unwrap();
            assert!(hear(&mut client, &sealed).unwrap() == payload, "{suite:?} {length} out");
        }
    }
}

#[test]
fn no_record_without_payload_is_made() {
    let (_, mut records) = connect(TLS13);
    assert_eq!(seal(&mut records, b"").unwrap(), b"");
}

#[test]
fn keys_that_the_client_changes_are_followed_and_answered_with_the_next_payload() {
    for suite in SUITES.iter().filter(|suite| is_tls13(suite)) {
        let (mut client, mut records) = Ends::new(*suite).connect();
        for round in 0..5 {
            for _ in 0..round {
                client.refresh_traffic_keys().unwrap();
                let update = wire(&mut client);
                assert_eq!(open_all(&mut records, &update), b"");
            }
            client.refresh_traffic_keys().unwrap();
            assert_eq!(open_all(&mut records, &say(&mut client, b"behind it")), b"behind it");
            let first = seal(&mut records, b"answer").unwrap();
            let again = seal(&mut records, b"answer").unwrap();
            assert_eq!(first.len() - again.len(), HEADER + KEY_UPDATE.len() + 1 + TAG, "one for all of them");
            assert_eq!(hear(&mut client, &[first, again].concat()).unwrap(), b"answeranswer");
        }
    }
}

#[test]
fn a_key_that_has_done_enough_is_changed() {
    for suite in SUITES.iter().filter(|suite| is_tls13(suite)) {
        let (mut client, mut records) = Ends::new(*suite).connect();
        for _ in 0..3 {
            records.sealed = KEY_LIMIT - 1;
            let last = seal(&mut records, b"last").unwrap();
            assert!(records.sealed >= KEY_LIMIT);
            let first = seal(&mut records, b"first").unwrap();
            assert!(records.sealed < 100);
            assert_eq!(hear(&mut client, &[last, first].concat()).unwrap(), b"lastfirst");
            assert_eq!(open_all(&mut records, &say(&mut client, b"answer")), b"answer");
        }
    }
}

#[test]
fn in_tls_1_2_a_key_that_has_done_enough_is_the_end() {
    let (mut client, mut records) = connect(TLS12);
    records.sealed = KEY_LIMIT;
    assert_eq!(seal(&mut records, b"payload"), Err(Fault::Exhausted));
    let alert = records.seal_fault(Fault::Exhausted).unwrap();
    let error = hear(&mut client, &alert).unwrap_err();
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::InternalError));
}

#[test]
fn close_notify_ends_what_the_client_says() {
    for suite in SUITES {
        let (mut client, mut records) = Ends::new(suite).connect();
        client.send_close_notify();
        let mut bytes = say(&mut client, b"");
        let consumed = bytes.len();
        bytes.extend(b"what is behind it is nobody's business");
        let expected = Opened { consumed, payload: 0, records: 1, end: Some(Ok(())) };
        assert_eq!(open(&mut records, &bytes).1, expected);
        let last = seal(&mut records, b"last words").unwrap();
        assert_eq!(hear(&mut client, &last).unwrap(), b"last words", "one direction is closed, not both");
    }
}

#[test]
fn payload_before_an_end_is_given_with_it() {
    let (mut client, mut records) = connect(TLS13);
    let mut bytes = say(&mut client, b"last words");
    client.send_close_notify();
    bytes.extend(wire(&mut client));
    let (payload, opened) = open(&mut records, &bytes);
    assert_eq!((&payload[..], opened.end), (&b"last words"[..], Some(Ok(()))));
}

#[test]
fn a_client_hears_our_close_notify() {
    for suite in SUITES {
        let (mut client, mut records) = Ends::new(suite).connect();
        let mut bytes = seal(&mut records, b"last words").unwrap();
        bytes.extend(records.seal_close_notify().unwrap());
        client.read_tls(&mut &bytes[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn a_client_hears_what_was_wrong() {
    let cases = [
        (Fault::BadMac, AlertDescription::BadRecordMac),
        (Fault::Overflow, AlertDescription::RecordOverflow),
        (Fault::Unexpected, AlertDescription::UnexpectedMessage),
    ];
    for suite in SUITES {
        for (fault, description) in cases {
            let (mut client, mut records) = Ends::new(suite).connect();
            let alert = records.seal_fault(fault).unwrap();
            assert_eq!(hear(&mut client, &alert).unwrap_err(), rustls::Error::AlertReceived(description));
        }
    }
    assert_eq!(connect(TLS13).1.seal_fault(Fault::Alert(40)), None, "an alert is not answered");
}

#[test]
fn alerts_of_the_client_end_the_connection() {
    for suite in 0..SUITES.len() {
        let (mut forger, mut records) = forge(suite);
        assert_eq!(end(&mut records, &forger.record(ALERT, &[FATAL, 40], 0)), Some(Err(Fault::Alert(40))));
        let warned = end(&mut records, &forger.record(ALERT, &[WARNING, 100], 0));
        assert_eq!(warned, if forger.is_tls13 { Some(Err(Fault::Alert(100))) } else { None });
        assert_eq!(end(&mut records, &forger.record(ALERT, &[WARNING, USER_CANCELED], 0)), None);
        for not_one in [&[][..], &[2], &[1, 0, 1, 0]] {
            assert_eq!(end(&mut records, &forger.record(ALERT, not_one, 0)), Some(Err(Fault::Unexpected)));
        }
    }
}

#[test]
fn a_bit_that_is_flipped_anywhere_is_noticed() {
    for (suite, name) in SUITES.iter().enumerate() {
        let length = forge(suite).0.record(APPLICATION_DATA, b"payload", 0).len();
        let ends = Ends::new(*name);
        for at in 0..length {
            let (client, mut records) = ends.connect();
            let mut bytes = Forger::new(client).record(APPLICATION_DATA, b"payload", 0);
            bytes[at] ^= 1 << (at % 8);
            let end = end(&mut records, &bytes);
            match at {
                0 if suite < TLS12 => assert_eq!(end, Some(Err(Fault::Unexpected))),
                // The rest of a longer record has not arrived, or never may.
                3 => assert_eq!(end, None),
                4 => assert!(end.is_none_or(|end| end == Err(Fault::BadMac))),
                _ => assert_eq!(end, Some(Err(Fault::BadMac)), "{suite} {at}"),
            }
        }
    }
}

#[test]
fn a_length_that_no_record_has_is_refused_at_once() {
    for suite in 0..SUITES.len() {
        let (_, mut records) = connect(suite);
        assert_eq!(end(&mut records, &[APPLICATION_DATA, 3, 3, 0x48, 0]), None);
        assert_eq!(end(&mut records, &[APPLICATION_DATA, 3, 3, 0x48, 1]), Some(Err(Fault::Overflow)));
    }
}

#[test]
fn no_record_carries_more_than_it_may() {
    for suite in 0..SUITES.len() {
        let (mut forger, mut records) = forge(suite);
        let longest = payload(MAX_FRAGMENT);
        assert!(open_all(&mut records, &forger.record(APPLICATION_DATA, &longest, 0)) == longest);
        let longer = forger.record(APPLICATION_DATA, &payload(MAX_FRAGMENT + 1), 0);
        assert_eq!(end(&mut records, &longer), Some(Err(Fault::Overflow)));
    }
    let (mut forger, mut records) = forge(TLS13);
    let padded = forger.record(APPLICATION_DATA, b"x", MAX_FRAGMENT);
    assert_eq!(end(&mut records, &padded), Some(Err(Fault::Overflow)), "padding counts (RFC 8446 §5.4)");
}

#[test]
fn a_record_that_is_too_short_is_refused() {
    for suite in 0..SUITES.len() {
        for length in 0..24_u8 {
            let (_, mut records) = connect(suite);
            let record = [&[APPLICATION_DATA, 3, 3, 0, length][..], &vec![0; usize::from(length)]].concat();
            assert_eq!(end(&mut records, &record), Some(Err(Fault::BadMac)));
        }
    }
}

#[test]
fn records_in_the_clear_have_no_place_behind_a_handshake() {
    for record in [&[ALERT, 3, 3, 0, 2, 1, 0][..], &[CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1], &[HANDSHAKE, 3, 3, 0, 0]] {
        for suite in 0..SUITES.len() {
            let (_, mut records) = connect(suite);
            let end = end(&mut records, record);
            let sealed_alike = suite >= TLS12 && record[0] != CHANGE_CIPHER_SPEC;
            assert_eq!(end, Some(Err(if sealed_alike { Fault::BadMac } else { Fault::Unexpected })));
        }
    }
}

#[test]
fn no_handshake_may_follow_but_new_keys_of_tls_1_3() {
    let hello = [1, 0, 0, 38, 3, 3];
    for suite in 0..SUITES.len() {
        let misplaced = [&hello[..], &[], &KEY_UPDATE[..4], &[24, 0, 0, 1, 2], &[KEY_UPDATE, KEY_UPDATE].concat()];
        for message in misplaced {
            let (mut forger, mut records) = forge(suite);
            assert_eq!(end(&mut records, &forger.record(HANDSHAKE, message, 0)), Some(Err(Fault::Unexpected)));
        }
        let (mut forger, mut records) = forge(suite);
        let expected = if forger.is_tls13 { None } else { Some(Err(Fault::Unexpected)) };
        assert_eq!(end(&mut records, &forger.record(HANDSHAKE, &KEY_UPDATE_REQUESTED, 3)), expected);
    }
}

#[test]
fn other_content_has_no_place() {
    for suite in 0..SUITES.len() {
        for content in [CHANGE_CIPHER_SPEC, 24, 0x7f] {
            let (mut forger, mut records) = forge(suite);
            assert_eq!(end(&mut records, &forger.record(content, &[1], 0)), Some(Err(Fault::Unexpected)));
        }
    }
}

#[test]
fn padding_is_taken_off() {
    for suite in 0..TLS12 {
        let (mut forger, mut records) = forge(suite);
        for (payload, padding) in [(&b"payload"[..], 1), (b"zeros \0\0\0", 3), (b"", 5), (b"\0", 16_000), (b"x", 0)] {
            assert_eq!(open_all(&mut records, &forger.record(APPLICATION_DATA, payload, padding)), payload);
        }
        for zeros in [0, 1, 100] {
            let nothing = forger.seal(APPLICATION_DATA, vec![0; zeros]);
            assert_eq!(end(&mut records, &nothing), Some(Err(Fault::Unexpected)), "not even a type");
        }
    }
}

#[test]
fn records_without_payload_are_skipped() {
    for suite in 0..SUITES.len() {
        let (mut forger, mut records) = forge(suite);
        let wire = [&b""[..], b"one", b"", b"", b"two", b""].map(|part| forger.record(APPLICATION_DATA, part, 0));
        assert_eq!(open_all(&mut records, &wire.concat()), b"onetwo");
    }
}

#[test]
fn records_without_payload_are_not_taken_forever() {
    let limit = usize::from(MAX_WITHOUT_PAYLOAD);
    let kinds: [(u8, &[u8]); 3] =
        [(APPLICATION_DATA, b""), (ALERT, &[WARNING, USER_CANCELED]), (ALERT, &[WARNING, 100])];
    for suite in 0..SUITES.len() {
        for (content, message) in kinds.iter().take(if suite < TLS12 { 2 } else { 3 }) {
            let (mut forger, mut records) = forge(suite);
            for _ in 0..2 {
                let idle: Vec<_> = (0..limit).flat_map(|_| forger.record(*content, message, 0)).collect();
                assert_eq!(open_all(&mut records, &idle), b"");
                assert_eq!(open_all(&mut records, &forger.record(APPLICATION_DATA, b"payload", 0)), b"payload");
            }
            let more: Vec<_> = (0..=limit).flat_map(|_| forger.record(*content, message, 0)).collect();
            assert_eq!(end(&mut records, &more), Some(Err(Fault::Unexpected)));
        }
    }
}

#[test]
fn new_keys_are_not_made_forever() {
    let (mut client, mut records) = connect(TLS13);
    for updates in [MAX_WITHOUT_PAYLOAD, MAX_WITHOUT_PAYLOAD, MAX_WITHOUT_PAYLOAD + 1] {
        let mut bytes = Vec::new();
        for _ in 0..updates {
            client.refresh_traffic_keys().unwrap();
            bytes.extend(wire(&mut client));
        }
        let expected = if updates > MAX_WITHOUT_PAYLOAD { Some(Err(Fault::Unexpected)) } else { None };
        assert_eq!(end(&mut records, &bytes), expected);
        if expected.is_none() {
            assert_eq!(open_all(&mut records, &say(&mut client, b"payload")), b"payload");
        }
    }
}

#[test]
fn a_record_cannot_come_twice_or_out_of_turn() {
    for suite in 0..SUITES.len() {
        let (mut forger, mut records) = forge(suite);
        let [one, two, three] = [b"1", b"2", b"3"].map(|payload| forger.record(APPLICATION_DATA, payload, 0));
        assert_eq!(open_all(&mut records, &one), b"1");
        assert_eq!(end(&mut records, &one), Some(Err(Fault::BadMac)));
        assert_eq!(end(&mut records, &three), Some(Err(Fault::BadMac)));
        assert_eq!(open_all(&mut records, &two), b"2");
    }
}

#[test]
fn the_room_for_sealing_is_as_long_as_promised() {
    for suite in 0..SUITES.len() {
        let (mut client, mut records) = connect(suite);
        for length in [0, 1, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 100_000] {
            records.owes_key_update = records.is_tls13;
            let payload = payload(length);
            let sealed = seal(&mut records, &payload).unwrap();
            assert!(hear(&mut client, &sealed).unwrap() == payload);
        }
    }
}

/// The next step of a client.
#[derive(Clone, Debug)]
enum Step {
    Say(usize),
    NewKeys,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![0..100_usize, 16_000..17_000_usize, Just(40_000)];
    vec(prop_oneof![8 => length.prop_map(Step::Say), 2 => Just(Step::NewKeys), 1 => Just(Step::Close)], 0..12)
}

/// The expected result of a record with known content.
fn judged(is_tls13: bool, content: u8, message: &[u8]) -> Option<Result<(), Fault>> {
    match (content, message) {
        (APPLICATION_DATA, _) | (ALERT, [_, USER_CANCELED]) => None,
        (ALERT, [_, CLOSE_NOTIFY]) => Some(Ok(())),
        (ALERT, [WARNING, _]) if !is_tls13 => None,
        (ALERT, [_, description]) => Some(Err(Fault::Alert(*description))),
        (HANDSHAKE, [24, 0, 0, 1, 0 | 1]) if is_tls13 => None,
        _ => Some(Err(Fault::Unexpected)),
    }
}

proptest! {
    // Each case performs a TLS handshake.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn payload_comes_out_however_the_records_are_split(
        suite in 0..SUITES.len(), steps in steps(), sizes in vec(prop_oneof![1..30_usize, 1..20_000_usize], 1..10),
    ) {
        let (mut client, mut records) = connect(suite);
        let (mut bytes, mut said, mut closed) = (Vec::new(), Vec::new(), false);
        for step in steps {
            match step {
                Step::Say(length) if !closed => {
                    said.extend(payload(length));
                    bytes.extend(say(&mut client, &payload(length)));
                }
                Step::NewKeys if !closed && suite < TLS12 => client.refresh_traffic_keys().unwrap(),
                Step::Close => {
                    client.send_close_notify();
                    closed = true;
                }
                Step::Say(_) | Step::NewKeys => {}
            }
            bytes.extend(wire(&mut client));
        }
        let (mut held, mut heard, mut ended) = (Vec::new(), Vec::new(), None);
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            let (chunk, behind) = rest.split_at_checked(*size).unwrap_or((rest, &[]));
            if chunk.is_empty() || ended.is_some() {
                break;
            }
            rest = behind;
            held.extend(chunk);
            let (payload, opened) = open(&mut records, &held);
            heard.extend(payload);
            held.drain(..opened.consumed);
            prop_assert!(opened.end.is_some() || held.len() < MAX_RECORD, "only what is not whole is left");
            ended = opened.end;
        }
        prop_assert!(heard == said);
        prop_assert_eq!(ended, closed.then_some(Ok(())));
        prop_assert!(held.is_empty() && rest.is_empty());
    }

    #[test]
    fn forged_content_is_judged_by_its_kind(
        suite in 0..SUITES.len(), padding in 0..64_usize,
        content in prop_oneof![4 => 20..25_u8, 1 => 1..=u8::MAX],
        message in prop_oneof![vec(0..3_u8, 0..6), vec(any::<u8>(), 0..6), Just(KEY_UPDATE.to_vec()), Just(vec![1, 90])],
    ) {
        // In plaintext, it would be another record.
        prop_assume!(suite < TLS12 || content != CHANGE_CIPHER_SPEC);
        let (mut forger, mut records) = forge(suite);
        let (payload, opened) = open(&mut records, &forger.record(content, &message, padding));
        let expected = judged(forger.is_tls13, content, &message);
        prop_assert_eq!(opened.end, expected);
        prop_assert_eq!(payload, if content == APPLICATION_DATA { message } else { Vec::new() });
    }

    #[test]
    fn any_bytes_are_survived(suite in 0..SUITES.len(), bytes in vec(any::<u8>(), 0..400), length in 0..400_u16) {
        let (_, mut records) = connect(suite);
        let (_, opened) = open(&mut records, &bytes);
        prop_assert!(opened.consumed <= bytes.len() && opened.payload == 0);
        let (_, mut records) = connect(suite);
        let record = [&[APPLICATION_DATA, 3, 3][..], &length.to_be_bytes(), &bytes].concat();
        let (_, opened) = open(&mut records, &record);
        let whole = usize::from(length) <= bytes.len();
        prop_assert_eq!(opened.end, whole.then_some(Err(Fault::BadMac)));
    }
}
