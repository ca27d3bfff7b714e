//! The user data plane on packets made by hand and at random.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::parse::sums_up;
use crate::policy::tests::example;

const EDGE: u32 = 3;
const LINK: u32 = 5;

fn user() -> User {
    let mut spec = example();
    let services = vec!["udp/5000".to_owned()];
    let mut limited = spec.prefixes[0].clone();
    (limited.prefix, limited.services) = ("203.0.113.202/32".parse().unwrap(), services);
    spec.prefixes.push(limited);
    let port = |name: &str, last, addresses: &[&str]| Port {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, last],
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let host = Host {
        ports: [
            (EDGE, port("edge0", 3, &["fe80::3/64", "198.51.100.65/26", "2001:db8:5100:64::1/64"])),
            (LINK, port("priv0", 5, &["fe80::5/64", "192.0.2.249/30", "2001:db8:0:ff::1/64"])),
        ]
        .into(),
        own: ["198.51.100.65", "192.0.2.249", "2001:db8:5100:64::1"].map(|own| own.parse().unwrap()).into(),
        shared: ["198.51.100.127".parse().unwrap()].into(),
    };
    User::new(Arc::new(Policy::new(spec).unwrap()), host, Ration::new(Duration::ZERO, Duration::ZERO))
}

fn way(address: IpAddr) -> Way {
    let text = address.to_string();
    match text.as_str() {
        "203.0.113.200" | "203.0.113.202" | "2001:db8:c10a::200" => {
            Way::Out { index: LINK, neighbour: address, mtu: 1400 }
        }
        _ if text.starts_with("198.51.100.") || text.starts_with("2001:db8:5100:64:") => {
            Way::Out { index: EDGE, neighbour: address, mtu: 1500 }
        }
        "203.0.113.203" => Way::Nowhere,
        _ => Way::Elsewhere,
    }
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A frame to the port, with UDP of `length` octets of IP.
fn frame(port: u32, from: &str, to: &str, hops: u8, length: u16, flags: u16) -> Vec<u8> {
    let v4 = from.contains('.');
    let mac = [2, 0, 0, 0, 0, u8::try_from(port).unwrap()];
    let mut frame = [&mac[..], &[2, 0, 0, 0, 0, 9], if v4 { &[8, 0] } else { &[0x86, 0xdd] }].concat();
    let udp = |header: u16| {
        let size = length - header;
        let head = [4000_u16.to_be_bytes(), 5000_u16.to_be_bytes(), size.to_be_bytes(), [0, 0]].concat();
        head.into_iter().chain((0..=u8::MAX).cycle()).take(size.into()).collect::<Vec<u8>>()
    };
    if v4 {
        let mut packet =
            [&[0x45, 0][..], &length.to_be_bytes(), &[0, 7], &flags.to_be_bytes(), &[hops, 17, 0, 0]].concat();
        packet.extend([octets(from), octets(to)].concat());
        edit::seal(&mut packet, 20).unwrap();
        frame.extend([packet, udp(20)].concat());
    } else {
        let head = [&[0x60, 0, 0, 0][..], &(length - 40).to_be_bytes(), &[17, hops]].concat();
        frame.extend([head, octets(from), octets(to), udp(40)].concat());
    }
    frame
}

fn fate(port: u32, octets: &[u8]) -> Fate {
    user().step(&Frame { port, octets, segment: None }, Instant::ORIGIN, &mut way)
}

const SUB: [&str; 2] = ["198.51.100.70", "2001:db8:5100:64::70"];
const FAR: [&str; 2] = ["203.0.113.200", "2001:db8:c10a::200"];

#[test]
fn an_allowed_packet_is_one_hop_older_and_else_the_same() {
    for (from, to) in SUB.into_iter().zip(FAR) {
        for (port, from, to) in [(EDGE, from, to), (LINK, to, from)] {
            let sent = frame(port, from, to, 64, 100, 0x4000);
            let Fate::Forwarded(done) = fate(port, &[&sent[..], &[0; 9]].concat()) else { panic!("{from} > {to}") };
            assert_eq!((done.index, done.neighbour), (EDGE + LINK - port, to.parse().unwrap()));
            assert_eq!((done.counted, done.bytes), (1, 100));
            assert_eq!(done.packets, [frame(port, from, to, 63, 100, 0x4000)[14..].to_vec()]);
        }
    }
}

#[test]
fn what_the_policy_refuses_is_dropped_by_its_reason_and_not_answered() {
    for (port, from, to, hops, reason) in [
        (EDGE, "203.0.113.10", FAR[0], 1, Reason::SpoofedSource),
        (EDGE, "198.51.100.65", FAR[0], 64, Reason::OwnSource),
        (EDGE, "198.51.100.127", FAR[0], 64, Reason::OwnSource),
        (EDGE, "127.0.0.1", FAR[0], 64, Reason::OwnSource),
        (LINK, FAR[0], "192.0.2.18", 64, Reason::FromPrivateOther),
        (LINK, FAR[0], "192.0.2.249", 64, Reason::ToHostFromPrivate),
        (LINK, FAR[0], FAR[0], 1, Reason::Hairpin),
        (LINK, SUB[0], SUB[0], 1, Reason::FromPrivateForeignSource),
    ] {
        let sent = frame(port, from, to, hops, 100, 0);
        assert_eq!(fate(port, &sent), Fate::Dropped(reason), "{from} > {to}");
    }
    assert_eq!(fate(EDGE, &frame(EDGE, SUB[0], "192.0.2.18", 64, 100, 0)), Fate::Kernel, "a bystander");
    assert_eq!(fate(9, &frame(3, SUB[0], FAR[0], 64, 100, 0)), Fate::Kernel, "another interface");
    let mut everybody = frame(EDGE, SUB[0], FAR[0], 64, 100, 0);
    everybody[..6].fill(0xff);
    assert_eq!(fate(EDGE, &everybody), Fate::Nothing);
}

#[test]
fn an_error_comes_from_the_side_that_asked_and_quotes_what_it_may() {
    for (index, (from, to)) in SUB.into_iter().zip(FAR).enumerate() {
        let v4 = index == 0;
        for (sent, kind, mtu) in [
            (frame(EDGE, from, to, 1, 1300, 0), if v4 { [11, 0] } else { [3, 0] }, 0),
            (frame(EDGE, from, to, 64, 1401, 0x4000), if v4 { [3, 4] } else { [2, 0] }, 1400),
        ] {
            let Fate::Answered(answer) = fate(EDGE, &sent) else { panic!("{from}") };
            assert_eq!((answer.index, answer.neighbour), (EDGE, from.parse().unwrap()));
            let parsed = parse(&answer.packet).unwrap();
            let ours = if v4 { "198.51.100.65" } else { "2001:db8:5100:64::1" };
            assert_eq!((parsed.source, parsed.destination), (ours.parse().unwrap(), from.parse().unwrap()));
            let (header, most) = if v4 { (20, 576) } else { (40, 1280) };
            assert_eq!(answer.packet.len(), most);
            let body = &answer.packet[header..];
            assert_eq!(body[..2], kind);
            assert_eq!(u16::from_be_bytes([body[6], body[7]]), mtu);
            assert_eq!(body[8..], sent[14..14 + most - header - 8]);
        }
    }
    let later = frame(EDGE, SUB[0], FAR[0], 1, 100, 5);
    assert_eq!(fate(EDGE, &later), Fate::Nothing, "a later fragment");
}

#[test]
fn a_packet_that_may_be_cut_is_cut_and_whole_again_together() {
    let sent = frame(EDGE, SUB[0], FAR[0], 64, 1500, 0);
    let Fate::Forwarded(done) = fate(EDGE, &sent) else { panic!() };
    assert_eq!((done.packets.len(), done.counted, done.bytes), (2, 1, 1500));
    let mut payload: Vec<u8> = Vec::new();
    for packet in &done.packets {
        assert!(packet.len() <= 1400 && sums_up(&packet[..20]));
        let field = u16::from_be_bytes([packet[6], packet[7]]);
        assert_eq!(usize::from(field & 0x1fff) * 8, payload.len());
        payload.extend(&packet[20..]);
        assert_eq!(field & 0x2000 == 0, payload.len() == 1480);
    }
    assert_eq!(payload, sent[34..]);
}

#[test]
fn a_super_packet_counts_as_what_it_is_on_the_wire() {
    let mut sent = frame(EDGE, SUB[0], FAR[0], 64, 20 + 20 + 3000, 0x4000);
    sent[14 + 9] = 6;
    sent[14 + 32] = 5 << 4;
    edit::seal(&mut sent[14..], 20).unwrap();
    let of =
        |segment| user().step(&Frame { port: EDGE, octets: &sent, segment: Some(segment) }, Instant::ORIGIN, &mut way);
    let Fate::Forwarded(done) = of(1360) else { panic!() };
    assert_eq!((done.packets.len(), done.counted, done.bytes), (1, 3, 3040 + 80));
    assert!(matches!(of(1361), Fate::Answered(_)), "its packets are too big");
}

/// A frame with a TCP segment of these flags and options, behind `behind` of extension headers.
fn segment(from: &str, to: &str, behind: &[u8], flags: u8, options: &[u8]) -> Vec<u8> {
    let (v4, words) = (from.contains('.'), u8::try_from(5 + options.len() / 4).unwrap());
    let mut tcp = [&[0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, words << 4, flags, 1, 0, 0, 0, 0, 0], options].concat();
    let length = u8::try_from(tcp.len()).unwrap();
    let pseudo = [octets(from), octets(to), vec![0, 0, 0, length, 0, 0, 0, 6]].concat();
    let sum = checksum(&[pseudo, tcp.clone()].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let size = u16::try_from(behind.len() + tcp.len()).unwrap();
    let mut frame = frame(EDGE, from, to, 64, if v4 { 20 } else { 40 } + size.max(8), 0x4000);
    if v4 {
        frame[14 + 9] = 6;
        edit::seal(&mut frame[14..], 20).unwrap();
    } else {
        frame[14 + 6] = if behind.is_empty() { 6 } else { 60 };
    }
    frame.truncate(frame.len() - usize::from(size.max(8)));
    [&frame, behind, &tcp].concat()
}

/// What comes out of it at the far end, where segments of connections are clamped.
fn clamped(sent: &[u8]) -> Vec<u8> {
    let before = user();
    let policy = Arc::new(Policy::new(example()).unwrap().clamping_mss());
    let user = before.follow(&policy, before.host().clone());
    let fate = user.step(&Frame { port: EDGE, octets: sent, segment: None }, Instant::ORIGIN, &mut way);
    let Fate::Forwarded(done) = fate else { panic!("{fate:?}") };
    done.packets[0].clone()
}

#[test]
fn what_begins_a_connection_asks_for_no_more_than_fits_both_ways() {
    const SYN: u8 = 2;
    for ((from, to), (header, most)) in SUB.into_iter().zip(FAR).zip([(20, 1360_u16), (40, 1340)]) {
        let extension: &[u8] = if header == 40 { &[6, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
        let with = |size: u16| [&[1, 1, 4, 2, 2, 4][..], &size.to_be_bytes()].concat();
        for behind in [&[][..], extension] {
            let sent = |size| segment(from, to, behind, SYN, &with(size));
            let came = clamped(&sent(1460));
            assert_eq!(came, clamped(&sent(most)), "and the checksum is right");
            assert_eq!(came[header + behind.len() + 26..][..2], most.to_be_bytes());
            let smaller = sent(most - 1);
            assert_eq!(clamped(&smaller)[header..], smaller[14 + header..], "never more");
        }
        let kept = |flags, options: &[u8]| {
            let sent = segment(from, to, &[], flags, options);
            assert_eq!(clamped(&sent)[header..], sent[14 + header..], "{options:?}");
        };
        kept(16, &with(1460));
        kept(SYN, &[]);
        kept(SYN, &[1, 1, 2, 4]);
        kept(SYN, &[2, 0, 5, 180]);
        kept(SYN, &[2, 3, 5, 180]);
        kept(SYN, &[2, 5, 5, 180]);
        kept(SYN, &[4, 3, 2, 4]);
        kept(SYN, &[4, 200, 2, 4, 5, 180, 0, 0]);
        // The first that is there, behind what looks like the end.
        assert_eq!(
            clamped(&segment(from, to, &[], SYN, &[0, 0, 2, 4, 255, 255, 2, 4]))[header + 24..][..2],
            most.to_be_bytes()
        );
    }
    let cut = frame(EDGE, SUB[0], FAR[0], 64, 40, 0);
    let mut cut = cut[..14 + 20 + 14].to_vec();
    (cut[14 + 3], cut[14 + 9], cut[14 + 20 + 13]) = (34, 6, SYN);
    edit::seal(&mut cut[14..], 20).unwrap();
    assert_eq!(clamped(&cut)[20..], cut[14 + 20..], "a header that is cut off");
}

#[test]
fn a_silent_neighbour_is_told_of() {
    let sent = frame(EDGE, SUB[1], FAR[1], 64, 100, 0);
    let frame = Frame { port: EDGE, octets: &sent, segment: None };
    let Fate::Answered(answer) = user().unreachable(&frame, Instant::ORIGIN, &mut way) else { panic!() };
    assert_eq!(answer.packet[40..42], [1, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn whatever_comes_in_only_what_the_policy_allows_goes_on(
        port in prop_oneof![Just(EDGE), Just(LINK)],
        v6 in any::<bool>(),
        turned in any::<bool>(),
        hops in prop_oneof![Just(64_u8), 0..3_u8],
        length in 60_u16..1600,
        flags in prop_oneof![Just(0_u16), Just(0x4000), any::<u16>()],
        damage in prop::collection::vec((0..80_usize, any::<u8>()), 0..4),
        segment in prop::option::weighted(0.1, 0..2000_usize),
    ) {
        let ends = (SUB[usize::from(v6)], FAR[usize::from(v6)]);
        let (from, to) = if turned == (port == EDGE) { (ends.1, ends.0) } else { ends };
        let mut sent = frame(port, from, to, hops, length, flags);
        for (at, octet) in damage {
            let at = at % sent.len();
            sent[at] = octet;
        }
        let user = user();
        match user.step(&Frame { port, octets: &sent, segment }, Instant::ORIGIN, &mut way) {
            Fate::Forwarded(done) => {
                let parsed = parse(&sent[14..]).unwrap();
                let host = user.host().clone();
                let Way::Out { index, mtu, .. } = way(parsed.destination) else { panic!("no way") };
                let (name, out) = (&host.ports[&port].name, &host.ports[&index].name);
                let asked = parsed.packet(Ingress::Interface(name), Egress::Interface(out), false);
                prop_assert_eq!(user.policy.decide(&asked), done.verdict);
                prop_assert!(parsed.hops > 1);
                for packet in &done.packets {
                    let aged = parse(packet).unwrap();
                    prop_assert_eq!(aged.hops, parsed.hops - 1);
                    prop_assert_eq!((aged.source, aged.destination), (parsed.source, parsed.destination));
                    prop_assert!(segment.is_some() || packet.len() <= mtu);
                }
            }
            Fate::Answered(answer) => {
                let parsed = parse(&answer.packet).unwrap();
                prop_assert_eq!(parsed.kind, crate::decide::Kind::IcmpError);
                let most = if parsed.source.is_ipv4() { 576 } else { 1280 };
                prop_assert!(answer.packet.len() <= most);
            }
            Fate::Kernel | Fate::Nothing | Fate::Dropped(_) => {}
            Fate::Over { .. } => panic!("nothing is limited"),
        }
    }
}

#[test]
fn what_a_limit_refuses_is_dropped_by_it_and_what_was_used_stays_used() {
    use crate::meter::{Limit, Limits, Metering, Over, Quota};

    let limits = |packets| Limits {
        per_source: Limit { quota: Quota::new(Some(packets), None, Some(60)).unwrap(), ..Limit::default() },
        v6_source: 64,
        sources: 2,
        answers: true,
        ..Limits::default()
    };
    let policy = |packets| {
        let policy = Policy::new(example()).unwrap().in_user_space();
        Arc::new(policy.with_limits(limits(packets), Metering::User).unwrap())
    };
    let before = user();
    let mut user = before.follow(&policy(3), before.host().clone());
    let fate = |user: &User, port, source: &str, destination: &str, seconds| {
        let now = Instant::after_origin(Duration::from_secs(seconds));
        user.step(&Frame { port, octets: &frame(port, source, destination, 64, 100, 0), segment: None }, now, &mut way)
    };
    let over = |fate: &Fate| match fate {
        Fate::Over { over, counted: 1, .. } => Some(*over),
        _ => None,
    };
    for _ in 0..2 {
        assert!(matches!(fate(&user, EDGE, SUB[0], FAR[0], 1), Fate::Forwarded(_)));
    }
    assert!(matches!(fate(&user, LINK, FAR[0], SUB[0], 1), Fate::Forwarded(_)), "answers are charged too");
    assert_eq!(over(&fate(&user, EDGE, SUB[0], FAR[0], 1)), Some(Over::SourceQuota));
    // What is dropped for another reason costs nothing; what is answered has gone nowhere.
    assert!(matches!(fate(&user, EDGE, SUB[1], FAR[1], 1), Fate::Forwarded(_)));
    assert_eq!(over(&fate(&user, EDGE, "198.51.100.99", FAR[0], 1)), Some(Over::SourcesFull));
    user = user.follow(&policy(4), user.host().clone());
    assert!(matches!(fate(&user, EDGE, SUB[0], FAR[0], 1), Fate::Forwarded(_)), "one more");
    assert_eq!(over(&fate(&user, EDGE, SUB[0], FAR[0], 1)), Some(Over::SourceQuota));
    let uses = user.uses(Instant::after_origin(Duration::from_secs(1)));
    let row = uses.iter().find(|used| used.who.to_string() == format!("{}/32", SUB[0])).unwrap();
    assert_eq!((row.packets, row.refused, row.left.quota_packets), (Some(4), Some(2), Some(0)));
    // The period is over: both are forgotten, and there is room.
    assert!(matches!(fate(&user, EDGE, "198.51.100.99", FAR[0], 70), Fate::Forwarded(_)));
}
