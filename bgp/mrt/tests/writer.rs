//! What is written is read again, by us, by bgpkit-parser, and by bgpdump where it is installed.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Cursor, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use bgp_wire::{AsPath, Asn, Attributes, Context, Message, Origin, announce_v4};
use bgpkit_parser::BgpkitParser;
use bgpkit_parser::models::{ElemType, MrtMessage};
use ipnet::IpNet;
use mrt_wire::writer::{self, Direction, Ends, RouteEntry, Style, Time};
use mrt_wire::{Framer, PeerEntry, Record};
use proptest::prelude::*;

const AT: Time = Time { seconds: 1_700_000_000, microseconds: 123_456 };

fn ends(peer: &str, local: &str) -> Ends {
    Ends {
        peer_asn: Asn(64501),
        local_asn: Asn(4_200_000_001),
        peer: peer.parse().unwrap(),
        local: local.parse().unwrap(),
    }
}

fn attributes() -> Attributes {
    let as_path = Some(AsPath::sequence([Asn(64501), Asn(4_200_000_002)]));
    Attributes { origin: Some(Origin::Igp), as_path, ..Attributes::default() }
}

fn update(prefixes: &[&str]) -> Vec<u8> {
    let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    let updates = announce_v4(&attributes(), [192, 0, 2, 1].into(), prefixes, Context::default()).unwrap();
    Message::Update(updates[0].clone()).encode(Context::default()).unwrap()
}

fn table() -> Vec<u8> {
    let peers = [
        PeerEntry { router_id: [192, 0, 2, 1].into(), address: "192.0.2.1".parse().unwrap(), asn: Asn(64501) },
        PeerEntry {
            router_id: [192, 0, 2, 2].into(),
            address: "2001:db8::2".parse().unwrap(),
            asn: Asn(4_200_000_002),
        },
    ];
    let list = |next_hop: Option<[u8; 4]>| {
        let mut list = Vec::new();
        attributes().encode(next_hop.map(Into::into), Context::default(), &mut list).unwrap();
        list
    };
    let mut mp_reach = vec![0x80, 14, 17, 16];
    mp_reach.extend_from_slice(&"2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
    mp_reach.extend_from_slice(&list(None));
    let entry = |peer_index, attributes| RouteEntry { peer_index, originated: AT.seconds, path_id: 0, attributes };
    [
        writer::peer_index(AT.seconds, [198, 51, 100, 2].into(), "", &peers),
        writer::rib(AT.seconds, 0, "10.1.0.0/16".parse().unwrap(), &[entry(0, list(Some([192, 0, 2, 1])))]),
        writer::rib(AT.seconds, 1, "2001:db8:1::/48".parse().unwrap(), &[entry(1, mp_reach)]),
    ]
    .concat()
}

fn elements(bytes: &[u8]) -> Vec<(ElemType, IpNet, IpAddr, u32, String)> {
    let read = BgpkitParser::from_reader(Cursor::new(bytes.to_vec())).into_elem_iter();
    read.map(|elem| {
        let path = elem.as_path.map(|path| path.to_string()).unwrap_or_default();
        (elem.elem_type, elem.prefix.prefix, elem.peer_ip, elem.peer_asn.to_u32(), path)
    })
    .collect()
}

#[test]
fn another_reader_reads_the_table() {
    let path = "64501 4200000002".to_owned();
    let expected = [
        (ElemType::ANNOUNCE, "10.1.0.0/16".parse().unwrap(), "192.0.2.1".parse().unwrap(), 64501, path.clone()),
        (ElemType::ANNOUNCE, "2001:db8:1::/48".parse().unwrap(), "2001:db8::2".parse().unwrap(), 4_200_000_002, path),
    ];
    assert_eq!(elements(&table()), expected);
}

#[test]
fn another_reader_reads_the_messages() {
    let style = Style { four_octet_as: true, path_ids: false };
    let bytes = [
        writer::state_change(AT, &ends("192.0.2.1", "192.0.2.2"), 5, 6),
        writer::message(AT, &ends("192.0.2.1", "192.0.2.2"), Direction::Received, style, &update(&["10.1.0.0/16"])),
        writer::message(AT, &ends("2001:db8::1", "2001:db8::2"), Direction::Sent, style, &update(&["10.2.0.0/16"])),
    ]
    .concat();
    let read: Vec<_> = BgpkitParser::from_reader(Cursor::new(bytes.clone())).into_record_iter().collect();
    assert_eq!(read.len(), 3);
    assert!(read.iter().all(|record| matches!(record.message, MrtMessage::Bgp4Mp(_))));
    assert_eq!(read[1].common_header.microsecond_timestamp, Some(AT.microseconds));
    let prefixes: Vec<String> = elements(&bytes).iter().map(|element| element.1.to_string()).collect();
    assert_eq!(prefixes, ["10.1.0.0/16", "10.2.0.0/16"]);
}

#[test]
fn bgpdump_reads_both() {
    let path = "64501 4200000002";
    let style = Style { four_octet_as: true, path_ids: false };
    let message =
        writer::message(AT, &ends("192.0.2.1", "192.0.2.2"), Direction::Received, style, &update(&["10.3.0.0/16"]));
    let folder = tempfile::tempdir().unwrap();
    for (bytes, expected) in [
        (
            table(),
            vec![
                format!("|192.0.2.1|64501|10.1.0.0/16|{path}|IGP"),
                format!("|2001:db8::2|4200000002|2001:db8:1::/48|{path}|IGP"),
            ],
        ),
        (message, vec![format!("|A|192.0.2.1|64501|10.3.0.0/16|{path}|IGP|192.0.2.1")]),
    ] {
        let file = folder.path().join("dump");
        std::fs::File::create(&file).unwrap().write_all(&bytes).unwrap();
        let Ok(read) = Command::new("bgpdump").arg("-m").arg(&file).stderr(Stdio::null()).output() else {
            cloakway_testing::skip("there is no bgpdump here (Debian: apt install bgpdump)");
            return;
        };
        let text = String::from_utf8_lossy(&read.stdout);
        for expected in expected {
            assert!(text.contains(&expected), "{expected} is not in:\n{text}");
        }
    }
}

proptest! {
    #[test]
    fn we_read_what_we_write(
        four_octet_as: bool, path_ids: bool, sent: bool, v6: bool, peer_asn: u32, body in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let direction = if sent { Direction::Sent } else { Direction::Received };
        let (peer, local) = if v6 { ("2001:db8::1", "192.0.2.2") } else { ("192.0.2.1", "192.0.2.2") };
        let between = Ends { peer_asn: Asn(peer_asn), ..ends(peer, local) };
        let written = writer::message(AT, &between, direction, Style { four_octet_as, path_ids }, &body);
        let mut framer = Framer::default();
        framer.push(&written);
        let record = framer.next_record().unwrap().unwrap().to_vec();
        let Record::Message(read) = Record::decode(&record).unwrap() else { panic!("a message") };
        let asn = if four_octet_as { peer_asn } else { u32::from(Asn(peer_asn).two_octets()) };
        prop_assert_eq!((read.peer, read.peer_asn, read.bytes), (between.peer, Asn(asn), body.as_slice()));
        prop_assert_eq!(read.context.four_octet_as, four_octet_as);
        prop_assert_eq!(read.context.path_ids != bgp_wire::Families::NONE, path_ids);
    }

    #[test]
    fn we_read_the_table_that_we_write(bits in 0_u8..=128, address: u128, path_id in 0_u32..3, lists in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4)) {
        let prefix: IpNet = ipnet::Ipv6Net::new(address.into(), bits).unwrap().trunc().into();
        let routes: Vec<RouteEntry> = (0..).zip(lists).map(|(peer_index, attributes)| RouteEntry { peer_index, originated: u32::MAX - u32::from(peer_index), path_id: path_id * u32::from(peer_index), attributes }).collect();
        let written = writer::rib(AT.seconds, 7, prefix, &routes);
        let Record::Rib(read) = Record::decode(&written).unwrap() else { panic!("a table") };
        prop_assert_eq!(read.prefix, prefix);
        let read: Vec<_> = read.map(|entry| { let entry = entry.unwrap(); (entry.peer_index.unwrap(), entry.originated, entry.path_id.unwrap_or(0), entry.attributes.to_vec()) }).collect();
        let expected: Vec<_> = routes.into_iter().map(|route| (route.peer_index, route.originated, route.path_id, route.attributes)).collect();
        prop_assert_eq!(read, expected);
    }
}
