//! Every error of RFC 4271 §6 in every state that it can come in, as it looks on the wire: code, subcode and data, or
//! the milder thing that RFC 7606 wants. What follows one is told as well: who waits, and how long.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod bench;

use std::time::Duration;

use bench::{Bench, Seen, at, encode, hold, peer_open, router_id, settings};
use bgp_core::{Input, Options, Settings, State};
use bgp_wire::{Asn, Capability, ErrorCode, Family, Message, Notification, Open, RouteRefresh, Update};

use State::{Established, OpenConfirm, OpenSent};

const ALL: &[State] = &[OpenSent, OpenConfirm, Established];

fn in_state(state: State) -> Bench {
    match state {
        OpenSent => Bench::open_sent(settings()),
        OpenConfirm => Bench::open_confirm(),
        Established => Bench::established(),
        other => panic!("{other}"),
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// A header alone, of this length and type.
fn header(length: u16, kind: u8) -> Vec<u8> {
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind]].concat()
}

/// An OPEN of AS 64500, with one thing in it otherwise.
fn open_with(version: u8, my_as: u16, hold_time: u16, id: [u8; 4], parameters: &[u8]) -> Vec<u8> {
    let length = u8::try_from(parameters.len()).unwrap();
    frame(1, &[&[version][..], &my_as.to_be_bytes(), &hold_time.to_be_bytes(), &id, &[length], parameters].concat())
}

/// An UPDATE of these attributes for 198.51.100.0/24.
fn update(attributes: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap();
    frame(2, &[&[0, 0][..], &length.to_be_bytes(), attributes, prefixes].concat())
}

const PREFIX: &[u8] = &[24, 198, 51, 100];
const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 0];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const LOCAL_PREF: &[u8] = &[0x40, 5, 4, 0, 0, 0, 100];

/// Where, what is wrong, in which states, what comes, and the NOTIFICATION that answers.
type Row = (&'static str, &'static [State], Vec<u8>, ErrorCode, Vec<u8>);

fn rows() -> Vec<Row> {
    let mut marker = encode(Message::KeepAlive);
    marker[7] = 0;
    let id = [10, 0, 0, 9];
    let refresh = Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 });
    let end_of_rib = || Message::Update(Update::end_of_rib(Family::Ipv4));
    // One that fits, but for what the row says.
    let good = |attributes: &[&[u8]]| update(&attributes.concat(), PREFIX);
    let twice = [0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1];
    let unknown = [0x40, 50, 1, 9];
    vec![
        ("§6.1 marker", ALL, marker, ErrorCode::NOT_SYNCHRONIZED, vec![]),
        ("§6.1 shorter than a header", ALL, header(18, 4), ErrorCode::BAD_LENGTH, vec![0, 18]),
        ("§6.1 longer than the longest", &[OpenSent], header(4097, 2), ErrorCode::BAD_LENGTH, vec![16, 1]),
        ("§6.1 OPEN shorter than the shortest", ALL, frame(1, &[0; 9]), ErrorCode::BAD_LENGTH, vec![0, 28]),
        ("§6.1 UPDATE shorter than the shortest", ALL, frame(2, &[0; 3]), ErrorCode::BAD_LENGTH, vec![0, 22]),
        ("§6.1 KEEPALIVE of another length", ALL, frame(4, &[0]), ErrorCode::BAD_LENGTH, vec![0, 20]),
        ("§6.1 NOTIFICATION shorter than the shortest", ALL, frame(3, &[6]), ErrorCode::BAD_LENGTH, vec![0, 20]),
        ("§6.1 type 0", ALL, frame(0, &[]), ErrorCode::BAD_TYPE, vec![0]),
        ("§6.1 type 6", ALL, frame(6, &[]), ErrorCode::BAD_TYPE, vec![6]),
        ("§6.2 version 3", &[OpenSent], open_with(3, 64500, 90, id, &[]), ErrorCode::UNSUPPORTED_VERSION, vec![0, 4]),
        ("§6.2 version 5", &[OpenSent], open_with(5, 64500, 90, id, &[]), ErrorCode::UNSUPPORTED_VERSION, vec![0, 4]),
        ("§6.2 another AS", &[OpenSent], open_with(4, 64501, 90, id, &[]), ErrorCode::BAD_PEER_AS, vec![]),
        ("§6.2 AS 0 (RFC 7607)", &[OpenSent], open_with(4, 0, 90, id, &[]), ErrorCode::BAD_PEER_AS, vec![]),
        (
            "§6.2 AS_TRANS of nobody (RFC 6793 §4.2.3)",
            &[OpenSent],
            open_with(4, 23456, 90, id, &[]),
            ErrorCode::BAD_PEER_AS,
            vec![],
        ),
        (
            "§6.2 identifier 0 (RFC 6286)",
            &[OpenSent],
            open_with(4, 64500, 90, [0; 4], &[]),
            ErrorCode::BAD_IDENTIFIER,
            vec![],
        ),
        (
            "§6.2 identifier of our own (RFC 6286)",
            &[OpenSent],
            open_with(4, 64500, 90, [10, 0, 0, 5], &[]),
            ErrorCode::BAD_IDENTIFIER,
            vec![],
        ),
        (
            "§6.2 a parameter that nobody knows",
            &[OpenSent],
            open_with(4, 64500, 90, id, &[1, 1, 0]),
            ErrorCode::UNSUPPORTED_PARAMETER,
            vec![],
        ),
        (
            "§6.2 a parameter that is cut off",
            &[OpenSent],
            open_with(4, 64500, 90, id, &[2, 9, 1]),
            ErrorCode::OPEN_UNSPECIFIC,
            vec![],
        ),
        ("§6.2 hold time 1", &[OpenSent], open_with(4, 64500, 1, id, &[]), ErrorCode::UNACCEPTABLE_HOLD_TIME, vec![]),
        ("§6.2 hold time 2", &[OpenSent], open_with(4, 64500, 2, id, &[]), ErrorCode::UNACCEPTABLE_HOLD_TIME, vec![]),
        (
            "§6.2 no capability that we need (RFC 5492 §5)",
            &[OpenSent],
            open_with(4, 64500, 90, id, &[2, 6, 1, 4, 0, 1, 0, 128]),
            ErrorCode::UNSUPPORTED_CAPABILITY,
            vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1],
        ),
        (
            "§6.3 withdrawn routes past the end",
            &[Established],
            frame(2, &[0, 9, 0, 0]),
            ErrorCode::MALFORMED_ATTRIBUTES,
            vec![],
        ),
        (
            "§6.3 attributes past the end",
            &[Established],
            frame(2, &[0, 0, 0, 9]),
            ErrorCode::MALFORMED_ATTRIBUTES,
            vec![],
        ),
        (
            "§6.3 MP_UNREACH_NLRI twice (RFC 7606 §3 (g))",
            &[Established],
            update(&twice, &[]),
            ErrorCode::MALFORMED_ATTRIBUTES,
            vec![],
        ),
        (
            "§6.3 well-known and not known",
            &[Established],
            good(&[ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF, &unknown]),
            ErrorCode::UNRECOGNIZED_WELL_KNOWN,
            unknown.to_vec(),
        ),
        (
            "§6.3 flags, with nothing to withdraw",
            &[Established],
            update(&[0xc0, 1, 1, 0], &[]),
            ErrorCode::ATTRIBUTE_FLAGS,
            vec![0xc0, 1, 1, 0],
        ),
        (
            "§6.3 length, with nothing to withdraw",
            &[Established],
            update(&[0x40, 1, 2, 0, 0], &[]),
            ErrorCode::ATTRIBUTE_LENGTH,
            vec![0x40, 1, 2, 0, 0],
        ),
        (
            "§6.3 ORIGIN, with nothing to withdraw",
            &[Established],
            update(&[0x40, 1, 1, 3], &[]),
            ErrorCode::INVALID_ORIGIN,
            vec![0x40, 1, 1, 3],
        ),
        (
            "§6.3 NEXT_HOP, with nothing to withdraw",
            &[Established],
            update(&[0x40, 3, 4, 224, 0, 0, 1], &[]),
            ErrorCode::INVALID_NEXT_HOP,
            vec![0x40, 3, 4, 224, 0, 0, 1],
        ),
        (
            "§6.3 optional, with nothing to withdraw",
            &[Established],
            update(&[0x80, 14, 2, 0, 2], &[]),
            ErrorCode::OPTIONAL_ATTRIBUTE,
            vec![0x80, 14, 2, 0, 2],
        ),
        (
            "§6.3 a network of 33 bits",
            &[Established],
            update(&[ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF].concat(), &[33, 1, 2, 3, 4, 5]),
            ErrorCode::INVALID_NETWORK,
            vec![],
        ),
        (
            "§6.3 AS_PATH, with nothing to withdraw",
            &[Established],
            update(&[0x40, 2, 2, 9, 0], &[]),
            ErrorCode::MALFORMED_AS_PATH,
            vec![],
        ),
        ("§6.6 UPDATE", &[OpenSent], encode(end_of_rib()), ErrorCode::UNEXPECTED_IN_OPEN_SENT, vec![2]),
        ("§6.6 KEEPALIVE", &[OpenSent], encode(Message::KeepAlive), ErrorCode::UNEXPECTED_IN_OPEN_SENT, vec![4]),
        ("§6.6 ROUTE-REFRESH", &[OpenSent], encode(refresh.clone()), ErrorCode::UNEXPECTED_IN_OPEN_SENT, vec![5]),
        (
            "§6.6 OPEN",
            &[OpenConfirm],
            encode(Message::Open(peer_open())),
            ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM,
            vec![1],
        ),
        ("§6.6 UPDATE", &[OpenConfirm], encode(end_of_rib()), ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM, vec![2]),
        ("§6.6 ROUTE-REFRESH", &[OpenConfirm], encode(refresh), ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM, vec![5]),
        (
            "§6.6 OPEN",
            &[Established],
            encode(Message::Open(peer_open())),
            ErrorCode::UNEXPECTED_IN_ESTABLISHED,
            vec![1],
        ),
    ]
}

#[test]
fn every_error_gets_its_code_subcode_and_data_in_every_state_it_can_come_in() {
    for (what, states, bytes, error, data) in rows() {
        for state in states {
            let mut bench = in_state(*state);
            // What follows is never looked at.
            let seen = bench.hear_bytes(&[bytes.clone(), encode(Message::KeepAlive)].concat());
            let end = if *state == Established { Seen::Down } else { Seen::Failed };
            assert_eq!(seen, [Seen::Notification(error, data.clone()), Seen::Close, end], "{what} in {state}");
            assert_eq!(bench.state(), State::Idle, "{what} in {state}");
        }
    }
}

#[test]
fn what_rfc_7606_bears_ends_nothing() {
    let all = |attributes: &[&[u8]]| update(&attributes.concat(), PREFIX);
    let rest = [AS_PATH, NEXT_HOP, LOCAL_PREF].concat();
    // Withdrawn, or the attribute is left out.
    let rows = [
        ("§6.3 no ORIGIN", all(&[&rest]), false),
        ("§6.3 no NEXT_HOP", all(&[ORIGIN, AS_PATH, LOCAL_PREF]), false),
        ("§6.3 flags of ORIGIN", all(&[&[0xc0, 1, 1, 0], &rest]), false),
        ("§6.3 length of ORIGIN", all(&[&[0x40, 1, 2, 0, 0], &rest]), false),
        ("§6.3 value of ORIGIN", all(&[&[0x40, 1, 1, 3], &rest]), false),
        ("§6.3 value of NEXT_HOP", all(&[ORIGIN, AS_PATH, &[0x40, 3, 4, 224, 0, 0, 1], LOCAL_PREF]), false),
        ("§6.3 value of AS_PATH", all(&[ORIGIN, &[0x40, 2, 2, 9, 0], NEXT_HOP, LOCAL_PREF]), false),
        ("§6.3 length of COMMUNITIES", all(&[ORIGIN, &rest, &[0xc0, 8, 3, 0, 0, 0]]), false),
        ("§6.3 ORIGIN twice", all(&[ORIGIN, ORIGIN, &rest]), true),
        ("§6.3 ATOMIC_AGGREGATE with a value", all(&[ORIGIN, &rest, &[0x40, 6, 1, 0]]), true),
        ("§6.3 AGGREGATOR of six octets", all(&[ORIGIN, &rest, &[0xc0, 7, 6, 0, 0, 0, 0, 0, 0]]), true),
    ];
    for (what, bytes, stands) in rows {
        let mut bench = Bench::established();
        let seen = bench.hear_bytes(&bytes);
        assert!(matches!(&seen[..], [Seen::Other(bgp_core::Event::Flaw(_)), ..]), "{what}: {seen:?}");
        let counters = bench.session.status().counters;
        assert_eq!(counters.prefixes_announced, u64::from(stands), "{what}");
        assert_eq!(counters.prefixes_withdrawn, u64::from(!stands), "{what}");
        assert_eq!(bench.state(), Established, "{what}");
    }
}

#[test]
fn an_error_in_a_notification_is_not_answered() {
    for state in ALL {
        for (code, subcode) in [(0, 0), (99, 1), (6, 200), (3, 0)] {
            let mut bench = in_state(*state);
            let notification = Notification { error: ErrorCode(code, subcode), data: vec![1, 2, 3] };
            let end = if *state == Established { Seen::Down } else { Seen::Failed };
            assert_eq!(
                bench.hear(Message::Notification(notification)),
                [Seen::Close, end],
                "{code}/{subcode} in {state}"
            );
        }
    }
}

#[test]
fn silence_ends_each_state_with_4_0() {
    for (state, patience) in [(OpenSent, 240), (OpenConfirm, 30), (Established, 30)] {
        let mut bench = in_state(state);
        let before = bench.tick_at(at(patience - 1));
        assert!(before.iter().all(|seen| *seen == Seen::KeepAlive), "{state}: {before:?}");
        let end = if state == Established { Seen::Down } else { Seen::Failed };
        let silence = Seen::Notification(ErrorCode::HOLD_TIMER_EXPIRED, vec![]);
        assert_eq!(bench.tick_at(at(patience)), [silence, Seen::Close, end], "{state}");
    }
}

#[test]
fn a_stop_is_a_cease_in_each_state_and_says_why() {
    for state in ALL {
        let mut bench = in_state(*state);
        let end = if *state == Established { Seen::Down } else { Seen::Failed };
        // RFC 9003 §2: the length in front, UTF-8, cut to what fits.
        let word = Seen::Notification(ErrorCode::ADMINISTRATIVE_SHUTDOWN, b"\x04soon".to_vec());
        assert_eq!(bench.handle(Input::Stop("soon")), [word, Seen::Close, end.clone()], "{state}");
        let mut bench = in_state(*state);
        let gone = Seen::Notification(ErrorCode::PEER_DECONFIGURED, vec![]);
        assert_eq!(bench.handle(Input::Remove), [gone, Seen::Close, end], "{state}");
    }
}

#[test]
fn a_collision_is_told_with_6_7_whichever_state_the_other_is_in() {
    let open = encode(Message::Open(Open { router_id: router_id("9.0.0.1"), ..peer_open() }));
    // The first is the rival's state, the last whether the one that came second stays: ours stays with the higher id
    // (§6.8), and an Established one always.
    for rival in ALL {
        let mut bench = Bench::open_sent(settings());
        let outgoing = bench.link.unwrap();
        let incoming = bench.session.new_link();
        if *rival != OpenSent {
            bench.handle(Input::Received(outgoing, &open));
        }
        if *rival == Established {
            bench.handle(Input::Received(outgoing, &encode(Message::KeepAlive)));
        }
        assert_eq!(bench.state(), *rival);
        assert_eq!(bench.handle(Input::Accepted(incoming)), [Seen::Open], "{rival}");
        let seen = bench.handle(Input::Received(incoming, &open));
        let collision = [Seen::Notification(ErrorCode::CONNECTION_COLLISION, vec![]), Seen::Failed, Seen::Close];
        match rival {
            // Whose OPEN has not come is nobody yet: both go on, and the next OPEN decides.
            OpenSent => {
                assert_eq!(seen, [Seen::KeepAlive]);
                let seen = bench.handle(Input::Received(outgoing, &open));
                assert_eq!(seen, [&collision[..], &[Seen::KeepAlive]].concat());
            }
            _ => assert_eq!(seen, collision, "{rival}"),
        }
        if *rival != Established {
            bench.handle(Input::Received(outgoing, &encode(Message::KeepAlive)));
        }
        assert_eq!((bench.state(), bench.session.established_link()), (Established, Some(outgoing)), "{rival}");
    }
}

#[test]
fn a_delayed_open_has_no_say_in_a_collision_until_it_is_sent() {
    let options = Options { delay_open: Some(Duration::from_secs(5)), ..Options::default() };
    let mut bench = Bench::new(Settings { options, ..settings() });
    bench.handle(Input::Start);
    let outgoing = bench.link.unwrap();
    assert_eq!(bench.handle(Input::Connected(outgoing)), []);
    assert_eq!(bench.state(), State::Connect);
    // Garbage before our OPEN ends it without a word (SendNOTIFICATIONwithoutOPEN is off).
    assert_eq!(bench.hear_bytes(&[0; 19]), [Seen::Close, Seen::Failed]);
    // Again: the peer's OPEN brings ours, and both are answered at once.
    let due = bench.session.poll_timeout().unwrap();
    assert_eq!(bench.tick_at(due), [Seen::Connect]);
    let link = bench.link.unwrap();
    bench.handle(Input::Connected(link));
    assert_eq!(bench.hear(Message::Open(peer_open())), [Seen::Open, Seen::KeepAlive]);
    assert_eq!(bench.state(), OpenConfirm);
}

#[test]
fn a_peer_of_a_four_octet_as_is_as_trans_in_front_and_itself_in_the_capability() {
    let theirs = Asn(4_200_000_001);
    let settings = || Settings { remote_as: theirs, ..settings() };
    let mut bench = Bench::open_sent(settings());
    let open = Open::new(theirs, hold(30), router_id("10.0.0.9"), Family::ALL);
    assert_eq!(open.my_as, 23456);
    assert_eq!(bench.hear(Message::Open(open.clone())), [Seen::KeepAlive]);
    // Without the capability it can't be that peer, whatever it says in front.
    let without = |capability: &Capability| !matches!(capability, Capability::FourOctetAs(_));
    let capabilities: Vec<_> = open.capabilities.iter().filter(|capability| without(capability)).cloned().collect();
    let mut bench = Bench::open_sent(settings());
    let refused = [Seen::Notification(ErrorCode::BAD_PEER_AS, vec![]), Seen::Close, Seen::Failed];
    assert_eq!(bench.hear(Message::Open(Open { capabilities, ..open })), refused);
}

#[test]
fn errors_in_a_row_double_the_wait_to_a_minute_and_a_session_that_lasts_clears_it() {
    let mut bench = Bench::established();
    let mut waits = Vec::new();
    for _ in 0..9 {
        bench.hear_bytes(&[0; 19]);
        assert_eq!(bench.state(), State::Idle);
        let due = bench.session.poll_timeout().unwrap();
        waits.push((due - bench.now).as_secs_f64());
        assert_eq!(bench.tick_at(due), [Seen::Connect]);
        let link = bench.link.unwrap();
        bench.handle(Input::Connected(link));
    }
    for (wait, full) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
        assert!((full * 0.75..=full).contains(wait), "{waits:?}");
    }
    let establish = |bench: &mut Bench| {
        bench.hear(Message::Open(Open { hold_time: hold(0), ..peer_open() }));
        bench.hear(Message::KeepAlive);
    };
    let mut bench = Bench::open_sent(Settings { hold_time: hold(0), ..settings() });
    for (lasts, full) in [(0, 1.0), (59, 2.0), (60, 1.0), (0, 2.0)] {
        establish(&mut bench);
        assert_eq!(bench.state(), Established);
        bench.now = bench.now + Duration::from_secs(lasts);
        bench.hear_bytes(&[0; 19]);
        let due = bench.session.poll_timeout().unwrap();
        let wait = (due - bench.now).as_secs_f64();
        assert!((full * 0.75..=full).contains(&wait), "{wait} after {lasts} s");
        bench.tick_at(due);
        let link = bench.link.unwrap();
        bench.handle(Input::Connected(link));
    }
}
