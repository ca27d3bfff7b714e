//! Units survive a round trip and mean the same to another reader; no bytes break the reader; the table says what a
//! list of payloads says.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use bgp_rpki::{ErrorKind, Framer, MAX_PDU, Pdu, Timing, Validity, Version, Vrp, Vrps, origin};
use bgp_wire::{AsPath, Asn, Segment};
use bgpkit_parser::models::rpki::rtr::RtrPdu;
use bgpkit_parser::parser::rpki::rtr::parse_rtr_pdu;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

fn v4() -> impl Strategy<Value = IpNet> {
    // Few addresses, so that prefixes cover each other.
    (0_u32..64, 0_u8..=32)
        .prop_map(|(n, length)| IpNet::from(Ipv4Net::new((n << 26 | n).into(), length).unwrap()).trunc())
}

fn v6() -> impl Strategy<Value = IpNet> {
    (0_u128..64, 0_u8..=128)
        .prop_map(|(n, length)| IpNet::from(Ipv6Net::new((n << 122 | n).into(), length).unwrap()).trunc())
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![v4(), v6()]
}

fn vrp() -> impl Strategy<Value = Vrp> {
    (prefix(), 0_u8..=128, 0_u32..4).prop_map(|(prefix, max, asn)| Vrp {
        prefix,
        max_length: max.clamp(prefix.prefix_len(), prefix.max_prefix_len()),
        asn: Asn(asn),
    })
}

fn pdu() -> impl Strategy<Value = Pdu> {
    let seconds = || any::<u32>().prop_map(|n| Duration::from_secs(u64::from(n)));
    let timing =
        (seconds(), seconds(), seconds()).prop_map(|(refresh, retry, expire)| Timing { refresh, retry, expire });
    let both = || (any::<u16>(), any::<u32>());
    prop_oneof![
        both().prop_map(|(session, serial)| Pdu::SerialNotify { session, serial }),
        both().prop_map(|(session, serial)| Pdu::SerialQuery { session, serial }),
        Just(Pdu::ResetQuery),
        any::<u16>().prop_map(|session| Pdu::CacheResponse { session }),
        (any::<bool>(), vrp()).prop_map(|(announce, vrp)| Pdu::Prefix { announce, vrp }),
        (both(), timing).prop_map(|((session, serial), t)| Pdu::EndOfData { session, serial, timing: Some(t) }),
        Just(Pdu::CacheReset),
        (0_u16..9, proptest::collection::vec(any::<u8>(), 0..64), ".{0,40}").prop_map(|(code, about, text)| {
            let kinds = [
                ErrorKind::CorruptData,
                ErrorKind::Internal,
                ErrorKind::NoData,
                ErrorKind::InvalidRequest,
                ErrorKind::UnsupportedVersion,
                ErrorKind::UnsupportedType,
                ErrorKind::UnknownWithdrawal,
                ErrorKind::DuplicateAnnouncement,
                ErrorKind::UnexpectedVersion,
            ];
            Pdu::ErrorReport { kind: kinds[usize::from(code)], about, text }
        }),
    ]
}

/// RFC 6811 §2, word by word.
fn naive(vrps: &[Vrp], prefix: IpNet, origin: Option<Asn>) -> Validity {
    let covering: Vec<&Vrp> = vrps.iter().filter(|vrp| vrp.prefix.contains(&prefix)).collect();
    let matches = |vrp: &&Vrp| prefix.prefix_len() <= vrp.max_length && vrp.asn.0 != 0 && origin == Some(vrp.asn);
    match (covering.is_empty(), covering.iter().any(matches)) {
        (true, _) => Validity::NotFound,
        (false, true) => Validity::Valid,
        (false, false) => Validity::Invalid,
    }
}

proptest! {
    #[test]
    fn decode_inverts_encode(pdu in pdu()) {
        let bytes = pdu.encode(Version::V1);
        prop_assert_eq!(Pdu::decode(&bytes), Ok((Version::V1, pdu.clone())));
        let older = match pdu.clone() {
            Pdu::EndOfData { session, serial, .. } => Pdu::EndOfData { session, serial, timing: None },
            other => other,
        };
        prop_assert_eq!(Pdu::decode(&pdu.encode(Version::V0)), Ok((Version::V0, older)));
    }

    #[test]
    fn another_reader_reads_the_same(pdu in pdu(), version in prop_oneof![Just(Version::V0), Just(Version::V1)]) {
        let bytes = pdu.encode(version);
        let (theirs, read) = parse_rtr_pdu(&bytes).unwrap();
        prop_assert_eq!(read, bytes.len());
        prop_assert_eq!(theirs.version().to_u8(), version.octet());
        let number = |duration: Duration| u32::try_from(duration.as_secs()).unwrap();
        match (pdu, theirs) {
            (Pdu::SerialNotify { session, serial }, RtrPdu::SerialNotify(t)) => {
                prop_assert_eq!((session, serial), (t.session_id, t.serial_number));
            }
            (Pdu::SerialQuery { session, serial }, RtrPdu::SerialQuery(t)) => {
                prop_assert_eq!((session, serial), (t.session_id, t.serial_number));
            }
            (Pdu::ResetQuery, RtrPdu::ResetQuery(_)) | (Pdu::CacheReset, RtrPdu::CacheReset(_)) => {}
            (Pdu::CacheResponse { session }, RtrPdu::CacheResponse(t)) => prop_assert_eq!(session, t.session_id),
            (Pdu::Prefix { announce, vrp }, RtrPdu::IPv4Prefix(t)) => {
                let prefix = IpNet::from(Ipv4Net::new(t.prefix, t.prefix_length).unwrap());
                prop_assert_eq!((announce, vrp.prefix, vrp.max_length), (t.is_announcement(), prefix, t.max_length));
                prop_assert_eq!(vrp.asn.0, t.asn.to_u32());
            }
            (Pdu::Prefix { announce, vrp }, RtrPdu::IPv6Prefix(t)) => {
                let prefix = IpNet::from(Ipv6Net::new(t.prefix, t.prefix_length).unwrap());
                prop_assert_eq!((announce, vrp.prefix, vrp.max_length), (t.is_announcement(), prefix, t.max_length));
                prop_assert_eq!(vrp.asn.0, t.asn.to_u32());
            }
            (Pdu::EndOfData { session, serial, timing }, RtrPdu::EndOfData(t)) => {
                prop_assert_eq!((session, serial), (t.session_id, t.serial_number));
                let refresh = timing.filter(|_| version == Version::V1).map(|timing| number(timing.refresh));
                prop_assert_eq!(refresh, t.refresh_interval);
            }
            (Pdu::ErrorReport { kind, about, text }, RtrPdu::ErrorReport(t)) => {
                prop_assert_eq!((kind.code(), about, text), (t.error_code.to_u16(), t.erroneous_pdu, t.error_text));
            }
            (ours, theirs) => panic!("{ours:?} is {theirs:?} to them"),
        }
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..12) {
        let _ = Pdu::decode(&bytes);
        let length = u32::try_from(bytes.len() + 8).unwrap().to_be_bytes();
        let unit = [&[1, kind, 0, 7][..], &length, &bytes].concat();
        if let Ok((version, pdu)) = Pdu::decode(&unit) {
            prop_assert_eq!(Pdu::decode(&pdu.encode(version)), Ok((version, pdu)));
        }
    }

    #[test]
    fn however_the_reads_fall_the_same_units_come_out(pdus in proptest::collection::vec(pdu(), 0..8), size in 1_usize..40) {
        let bytes: Vec<u8> = pdus.iter().flat_map(|pdu| pdu.encode(Version::V1)).collect();
        let (mut framer, mut read) = (Framer::default(), Vec::new());
        for piece in bytes.chunks(size) {
            framer.push(piece);
            while let Some(unit) = framer.next_pdu().unwrap() {
                read.push(Pdu::decode(unit).unwrap().1);
            }
        }
        prop_assert_eq!(read, pdus);
    }

    #[test]
    fn the_table_says_what_the_rfc_says(
        vrps in proptest::collection::vec(vrp(), 0..60), asked in proptest::collection::vec((prefix(), 0_u32..5), 1..40),
    ) {
        let table: Vrps = vrps.iter().copied().collect();
        for (prefix, asn) in asked {
            let asn = (asn < 4).then_some(Asn(asn));
            prop_assert_eq!(table.validate(prefix, asn), naive(&vrps, prefix, asn), "{} {:?}", prefix, asn);
        }
        let distinct: BTreeSet<Vrp> = vrps.iter().copied().collect();
        prop_assert_eq!(table.iter().collect::<BTreeSet<_>>(), distinct.clone());
        prop_assert_eq!(table.len(), distinct.len());
        prop_assert!(vrps.iter().all(|vrp| table.contains(vrp)));
    }

    #[test]
    fn what_is_outside_the_differences_keeps_its_validity(
        old in proptest::collection::vec(vrp(), 0..30), new in proptest::collection::vec(vrp(), 0..30), asked in prefix(),
    ) {
        let (before, after): (Vrps, Vrps) = (old.iter().copied().collect(), new.iter().copied().collect());
        let differences = before.differences(&after);
        if !differences.iter().any(|prefix| prefix.contains(&asked)) {
            for asn in 0..4 {
                prop_assert_eq!(before.validate(asked, Some(Asn(asn))), after.validate(asked, Some(Asn(asn))));
            }
        }
        prop_assert!(before.differences(&before).is_empty());
    }
}

#[test]
fn a_unit_that_is_too_long_is_refused_before_it_has_come() {
    for (length, fits) in [(7, false), (8, true), (MAX_PDU, true), (MAX_PDU + 1, false), (u32::MAX as usize, false)] {
        let mut framer = Framer::default();
        framer.push(&[1, 10, 0, 0]);
        framer.push(&u32::try_from(length).unwrap().to_be_bytes());
        assert_eq!(framer.next_pdu().is_ok(), fits, "{length}");
    }
}

#[test]
fn the_examples_of_rfc_6811_come_out() {
    let vrp = |prefix: &str, max_length, asn| Vrp { prefix: prefix.parse().unwrap(), max_length, asn: Asn(asn) };
    let table =
        Vrps::from_iter([vrp("10.0.0.0/8", 24, 64500), vrp("10.1.0.0/16", 16, 64501), vrp("192.0.2.0/24", 24, 0)]);
    let cases = [
        ("10.2.0.0/16", Some(64500), Validity::Valid),
        ("10.2.0.0/25", Some(64500), Validity::Invalid),
        ("10.1.0.0/16", Some(64501), Validity::Valid),
        ("10.1.0.0/16", Some(64500), Validity::Valid),
        ("10.1.0.0/17", Some(64501), Validity::Invalid),
        ("10.0.0.0/8", None, Validity::Invalid),
        ("192.0.2.0/24", Some(0), Validity::Invalid),
        ("198.51.100.0/24", Some(64500), Validity::NotFound),
        ("8.0.0.0/6", Some(64500), Validity::NotFound),
        ("2001:db8::/32", Some(64500), Validity::NotFound),
    ];
    for (prefix, asn, expected) in cases {
        assert_eq!(table.validate(prefix.parse().unwrap(), asn.map(Asn)), expected, "{prefix} {asn:?}");
    }
}

#[test]
fn the_origin_is_the_last_of_the_path_and_a_set_has_none() {
    let (a, b, own) = (Asn(64501), Asn(64502), Asn(64500));
    assert_eq!(origin(&AsPath::sequence([a, b]), own), Some(b));
    assert_eq!(origin(&AsPath::default(), own), Some(own));
    assert_eq!(origin(&AsPath(vec![Segment::Sequence(vec![a]), Segment::Set(vec![b])]), own), None);
    assert_eq!(origin(&AsPath(vec![Segment::ConfederationSequence(vec![a])]), own), Some(own));
}
