//! Dumps made by hand and by bgpkit-parser, read here and by bgpkit-parser.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::net::IpAddr;

use bgp_wire::{AsPath, Asn, Attributes, Context, Message, Origin, Update, announce_v4, announce_v6, withdraw_v4};
use bgpkit_parser::BgpkitParser;
use bgpkit_parser::models::ElemType;
use ipnet::IpNet;
use mrt_wire::{Framer, MrtError, Origins, OriginsError, Record, Summary, Whose};
use proptest::collection::vec;
use proptest::prelude::*;

fn record(kind: u16, subtype: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0; 4][..], &kind.to_be_bytes(), &subtype.to_be_bytes(), &length, body].concat()
}

/// Two peers: AS 64501 in two octets by IPv4, AS 4200000001 in four by IPv6.
fn peers() -> Vec<u8> {
    let v4 = [&[0, 192, 0, 2, 1, 192, 0, 2, 1][..], &64501_u16.to_be_bytes()].concat();
    let v6 = [&[3, 192, 0, 2, 2][..], &[0x20; 16], &4_200_000_001_u32.to_be_bytes()].concat();
    record(13, 1, &[&[192, 0, 2, 9, 0, 3][..], b"lab", &[0, 2], &v4, &v6].concat())
}

fn attributes(path: &AsPath, four_octet_as: bool) -> Vec<u8> {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(path.clone()),
        multi_exit_disc: Some(9),
        ..Attributes::default()
    };
    let mut list = Vec::new();
    let context = Context { four_octet_as, ..Context::LEAST };
    attributes.encode(Some([192, 0, 2, 1].into()), context, &mut list).unwrap();
    list
}

fn path(numbers: &[u32]) -> AsPath {
    AsPath::sequence(numbers.iter().copied().map(Asn).collect::<Vec<_>>())
}

fn nlri(prefix: &IpNet) -> Vec<u8> {
    let octets = match prefix.addr() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut nlri = vec![prefix.prefix_len()];
    nlri.extend(octets.iter().take(usize::from(prefix.prefix_len()).div_ceil(8)));
    nlri
}

/// TABLE_DUMP_V2: the paths of `prefix`, from the two peers in turn.
fn rib(prefix: &str, paths: &[AsPath], path_ids: bool) -> Vec<u8> {
    let prefix: IpNet = prefix.parse().unwrap();
    let mut body = [&[0; 4][..], &nlri(&prefix), &u16::try_from(paths.len()).unwrap().to_be_bytes()].concat();
    for (at, path) in paths.iter().enumerate() {
        let list = attributes(path, true);
        body.extend(u16::try_from(at % 2).unwrap().to_be_bytes());
        body.extend([0; 4]);
        body.extend(path_ids.then_some([0, 0, 0, 7]).iter().flatten());
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
    }
    let subtype = if prefix.addr().is_ipv4() { 2 } else { 4 } + if path_ids { 6 } else { 0 };
    record(13, subtype, &body)
}

/// TABLE_DUMP, version 1.
fn old_rib(prefix: &str, path: &AsPath) -> Vec<u8> {
    let prefix: IpNet = prefix.parse().unwrap();
    let IpAddr::V4(network) = prefix.addr() else { panic!("IPv4") };
    let list = attributes(path, false);
    let body = [
        &[0; 4][..],
        &network.octets(),
        &[prefix.prefix_len(), 1],
        &[0; 4],
        &[192, 0, 2, 1],
        &64501_u16.to_be_bytes(),
        &u16::try_from(list.len()).unwrap().to_be_bytes(),
        &list,
    ]
    .concat();
    record(12, 1, &body)
}

fn bgp4mp(update: &Update, four_octet_as: bool, microseconds: bool) -> Vec<u8> {
    let context = Context { four_octet_as, ..Context::LEAST };
    let message = Message::Update(update.clone()).encode(context).unwrap();
    let asn = |number: u32| match four_octet_as {
        true => number.to_be_bytes().to_vec(),
        false => u16::try_from(number).unwrap().to_be_bytes().to_vec(),
    };
    let extra: &[u8] = if microseconds { &[0, 0, 1, 0] } else { &[] };
    let addresses = [0, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 9];
    let body = [extra, &asn(64501), &asn(64500), &addresses, &message].concat();
    record(if microseconds { 17 } else { 16 }, if four_octet_as { 4 } else { 1 }, &body)
}

fn announcement(prefix: &str, numbers: &[u32]) -> Update {
    let attributes = Attributes { origin: Some(Origin::Igp), as_path: Some(path(numbers)), ..Attributes::default() };
    match prefix.parse().unwrap() {
        IpNet::V4(net) => announce_v4(&attributes, [192, 0, 2, 1].into(), [net], Context::default()),
        IpNet::V6(net) => announce_v6(&attributes, "2001:db8::1".parse().unwrap(), [net], Context::default()),
    }
    .unwrap()
    .remove(0)
}

fn load(dump: &[u8]) -> Result<(cloakway_types::AddressMap<Whose>, Summary), OriginsError> {
    let mut origins = Origins::default();
    // However the reads fall.
    dump.chunks(7).try_for_each(|piece| origins.push(piece))?;
    origins.finish()
}

fn whose(dump: &[u8], address: &str) -> Option<Whose> {
    load(dump).unwrap().0.find(address.parse().unwrap())
}

const AS_A: Whose = Whose::Origin(Asn(64510));
const AS_B: Whose = Whose::Origin(Asn(4_200_000_010));

#[test]
fn every_kind_of_record_says_whose_an_address_is() {
    let a = path(&[64501, 64510]);
    let b = path(&[64501, 4_200_000_010]);
    let dump = [
        peers(),
        rib("10.0.0.0/8", &[a.clone(), a.clone()], false),
        rib("10.1.0.0/16", std::slice::from_ref(&b), true),
        rib("2001:db8::/32", std::slice::from_ref(&b), false),
        rib("2001:db8:1::/48", std::slice::from_ref(&a), true),
        old_rib("11.0.0.0/8", &a),
        old_rib("11.1.0.0/16", &b),
        bgp4mp(&announcement("12.0.0.0/8", &[64501, 64510]), false, false),
        bgp4mp(&announcement("12.1.0.0/16", &[64501, 4_200_000_010]), false, true),
        bgp4mp(&announcement("12.2.0.0/16", &[64501, 4_200_000_010]), true, false),
        bgp4mp(&announcement("2001:db8:2::/48", &[64501, 64510]), true, true),
        record(99, 1, b"something else"),
    ]
    .concat();
    let (map, summary) = load(&dump).unwrap();
    assert_eq!(summary, Summary { records: 12, routes: 11, bad: 0 });
    for (address, expected) in [
        ("10.2.0.1", Some(AS_A)),
        ("10.1.0.1", Some(AS_B)),
        ("2001:db8:2222::1", Some(AS_B)),
        ("2001:db8:1::1", Some(AS_A)),
        ("11.2.0.1", Some(AS_A)),
        ("11.1.0.1", Some(AS_B)),
        ("12.0.0.1", Some(AS_A)),
        ("12.1.0.1", Some(AS_B)),
        ("12.2.0.1", Some(AS_B)),
        ("2001:db8:2::1", Some(AS_A)),
        ("13.0.0.1", None),
    ] {
        assert_eq!(map.find(address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn several_origins_or_a_set_are_disputed_and_withdrawn_routes_are_gone() {
    use bgp_wire::Segment;
    let mut set = path(&[64501]);
    set.0.push(Segment::Set(vec![Asn(64510), Asn(64511)]));
    let dump = [
        peers(),
        rib("10.0.0.0/8", &[path(&[64501, 64510]), path(&[64501, 64511])], false),
        rib("11.0.0.0/8", &[set], false),
        rib("12.0.0.0/8", &[path(&[])], false),
        bgp4mp(&announcement("13.0.0.0/8", &[64501, 64510]), true, false),
        bgp4mp(&announcement("13.0.0.0/8", &[64501, 64511]), true, false),
        bgp4mp(&announcement("14.0.0.0/8", &[64501, 64511]), true, false),
        bgp4mp(&withdraw_v4(["14.0.0.0/8".parse().unwrap()], Context::default()).remove(0), true, false),
    ]
    .concat();
    assert_eq!(whose(&dump, "10.0.0.1"), Some(Whose::Disputed));
    assert_eq!(whose(&dump, "11.0.0.1"), Some(Whose::Disputed));
    assert_eq!(whose(&dump, "12.0.0.1"), None, "the dumping router's own");
    assert_eq!(whose(&dump, "13.0.0.1"), Some(Whose::Origin(Asn(64511))), "told anew by the same peer");
    assert_eq!(whose(&dump, "14.0.0.1"), None);
}

#[test]
fn what_is_no_dump_is_refused_and_the_error_names_the_record() {
    assert_eq!(load(b"").unwrap_err(), OriginsError::Empty);
    let error = load(b"<html><body>not found</body></html>").unwrap_err();
    assert!(matches!(error, OriginsError::Record { number: 1, error: MrtError::TooLong(_) }), "{error}");
    let good = rib("10.0.0.0/8", &[path(&[64501])], false);
    let cut = [&good[..], &good[..good.len() - 1]].concat();
    let error = load(&cut).unwrap_err();
    assert!(matches!(error, OriginsError::Record { number: 2, error: MrtError::CutOff(_) }), "{error}");
    // One entry more than there is, one fewer, and a prefix that is too long.
    for (at, octet) in [(12 + 4 + 2 + 1, 2), (12 + 4 + 2 + 1, 0), (12 + 4, 33)] {
        let mut bad = good.clone();
        bad[at] = octet;
        let error = load(&[good.clone(), bad].concat()).unwrap_err();
        assert!(matches!(error, OriginsError::Record { number: 2, error: MrtError::Malformed { .. } }), "{error}");
    }
    // A path of an unknown kind costs its own route and no other.
    let mut flawed = rib("11.0.0.0/8", &[path(&[64501])], false);
    let kind = flawed.windows(5).position(|five| five == [2, 1, 0, 0, 0xfb]).unwrap();
    flawed[kind] = 9;
    let (map, summary) = load(&[good, flawed].concat()).unwrap();
    assert_eq!((map.len(), summary.bad), (1, 1));
}

/// Whose each prefix is by bgpkit-parser.
fn by_bgpkit(dump: &[u8]) -> BTreeMap<IpNet, BTreeSet<u32>> {
    let mut origins: BTreeMap<IpNet, BTreeSet<u32>> = BTreeMap::new();
    for elem in BgpkitParser::from_reader(Cursor::new(dump.to_vec())).into_elem_iter() {
        if elem.elem_type == ElemType::ANNOUNCE
            && let Some([origin]) = elem.origin_asns.as_deref()
        {
            origins.entry(elem.prefix.prefix).or_default().insert(origin.to_u32());
        }
    }
    origins
}

fn any_dump() -> impl Strategy<Value = (Vec<u8>, Vec<IpNet>)> {
    let numbers = vec(prop_oneof![1..70_000_u32, Just(4_200_000_000)], 1..5);
    let prefix = prop_oneof![
        // Multicast groups are no unicast routes, and left out of messages.
        (0..0xe000_0000_u32, 8_u8..=32)
            .prop_map(|(bits, length)| IpNet::new(IpAddr::V4(bits.into()), length).unwrap().trunc()),
        (0..0xff00_u128 << 112, 16_u8..=64)
            .prop_map(|(bits, length)| IpNet::new(IpAddr::V6(bits.into()), length).unwrap().trunc()),
    ];
    vec((prefix, vec(numbers, 1..3), 0..2_u8), 1..20).prop_map(|routes| {
        let mut dump = peers();
        let mut prefixes = Vec::new();
        let mut seen = BTreeSet::new();
        for (prefix, paths, kind) in routes {
            if !seen.insert(prefix) {
                continue;
            }
            let text = prefix.to_string();
            match kind {
                0 => dump.extend(rib(&text, &paths.iter().map(|numbers| path(numbers)).collect::<Vec<_>>(), false)),
                _ => dump.extend(bgp4mp(&announcement(&text, &paths[0]), true, true)),
            }
            prefixes.push(prefix);
        }
        (dump, prefixes)
    })
}

proptest! {
    #[test]
    fn bgpkit_parser_reads_the_same_out_of_it((dump, prefixes) in any_dump()) {
        let (map, summary) = load(&dump).unwrap();
        let oracle = by_bgpkit(&dump);
        prop_assert_eq!(oracle.keys().copied().collect::<BTreeSet<_>>(), prefixes.iter().copied().collect());
        prop_assert_eq!((summary.bad, map.len()), (0, prefixes.len()));
        for prefix in &prefixes {
            // The longest that holds the first address decides.
            let holding = prefixes.iter().filter(|other| other.contains(&prefix.network()));
            let longest = holding.max_by_key(|other| other.prefix_len()).unwrap();
            let expected = match oracle[longest].iter().collect::<Vec<_>>()[..] {
                [one] => Whose::Origin(Asn(*one)),
                _ => Whose::Disputed,
            };
            prop_assert_eq!(map.find(prefix.network()), Some(expected));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), kind in 11..18_u16, subtype in 0..12_u16) {
        let _ = load(&bytes);
        let made = record(kind, subtype, &bytes);
        let _ = load(&made);
        let mut framer = Framer::default();
        framer.push(&made);
        let found = framer.next_record().unwrap().unwrap().to_vec();
        prop_assert_eq!(&found, &made);
        if let Ok(Record::Rib(rib)) = Record::decode(&found) {
            prop_assert!(rib.count() <= usize::from(u16::MAX) + 1);
        }
    }

    #[test]
    fn a_damaged_dump_never_panics((dump, _) in any_dump(), at: prop::sample::Index, octet: u8) {
        let mut dump = dump;
        let at = at.index(dump.len());
        dump[at] = octet;
        let _ = load(&dump);
    }
}
