//! Packets byte by byte, good and bad.

use super::*;
use proptest::prelude::*;

fn packet4(words: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = usize::from(words) * 4;
    let length = u16::try_from(header + payload.len()).unwrap().to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let mut bytes = vec![0x40 | words, 0, length[0], length[1], 0, 1, f0, f1, 64, protocol, 0, 0];
    bytes.extend([198, 51, 100, 70, 203, 0, 113, 200]);
    bytes.resize(header, 1);
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    bytes[10..12].copy_from_slice(&(!u16::try_from(folded & 0xffff).unwrap()).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn packet6(first: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], first, hops];
    for address in ["2001:db8:5100:64::70", "2001:db8:c10a::200"] {
        bytes.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    bytes.extend(payload);
    bytes
}

const UDP: [u8; 8] = [0x23, 0x28, 0x01, 0xbb, 0, 8, 0, 0];

#[test]
fn a_plain_packet_says_who_whom_and_which_ports() {
    let parsed = parse(&packet4(5, 0x4000, 17, &UDP)).unwrap();
    assert_eq!(parsed.source.to_string(), "198.51.100.70");
    assert_eq!(parsed.destination.to_string(), "203.0.113.200");
    assert_eq!((parsed.protocol, parsed.ports, parsed.hops), (17, Some((9000, 443)), 64));
    assert!(!parsed.is_fragment && !parsed.has_options);
    let parsed = parse(&packet6(17, 3, &UDP)).unwrap();
    assert_eq!(parsed.source.to_string(), "2001:db8:5100:64::70");
    assert_eq!((parsed.protocol, parsed.ports, parsed.hops), (17, Some((9000, 443)), 3));
}

#[test]
fn only_the_first_fragment_shows_its_ports() {
    for (fragment, ports) in [(0x2000, Some((9000, 443))), (0x2001, None), (0x0001, None)] {
        let parsed = parse(&packet4(5, fragment, 17, &UDP)).unwrap();
        assert!(parsed.is_fragment);
        assert_eq!(parsed.ports, ports);
    }
    for (offset, ports) in [(0x0001_u16, Some((9000, 443))), (0x0009, None), (0x0000, Some((9000, 443)))] {
        let [o0, o1] = offset.to_be_bytes();
        let parsed = parse(&packet6(44, 64, &[&[17, 0, o0, o1, 0, 0, 0, 1][..], &UDP].concat())).unwrap();
        assert!(parsed.is_fragment, "even one that is whole (RFC 6946)");
        assert_eq!((parsed.protocol, parsed.ports), (17, ports));
    }
}

#[test]
fn extension_headers_are_followed_to_the_ports() {
    // Hop-by-hop, destination options of 16 octets, authentication of 24, routing of type 2.
    let hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let options = [51, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut authentication = vec![43, 4];
    authentication.resize(24, 0);
    let routing = [17, 0, 2, 0, 0, 0, 0, 0];
    let chain = [&hop[..], &options, &authentication, &routing, &UDP].concat();
    let parsed = parse(&packet6(0, 64, &chain)).unwrap();
    assert_eq!((parsed.protocol, parsed.ports, parsed.has_options), (17, Some((9000, 443)), false));
    let parsed = parse(&packet6(43, 64, &[&[17, 0, 0, 0, 0, 0, 0, 0][..], &UDP].concat())).unwrap();
    assert!(parsed.has_options, "a routing header of type 0");
    assert!(parse(&packet4(6, 0, 17, &UDP)).unwrap().has_options);
}

#[test]
fn a_long_chain_is_followed_and_behind_one_that_is_cut_off_nothing_is_known() {
    let mut chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
    let at = chain.len() - 8;
    chain[at] = 17;
    let parsed = parse(&packet6(60, 64, &[&chain[..], &UDP].concat())).unwrap();
    assert_eq!((parsed.protocol, parsed.ports), (17, Some((9000, 443))));
    for cut in [&[][..], &[17, 0, 1], &[17, 2, 1, 4, 0, 0, 0, 0]] {
        let parsed = parse(&packet6(60, 64, cut)).unwrap();
        assert_eq!((parsed.protocol, parsed.ports), (60, None));
    }
}

#[test]
fn icmp_errors_and_neighbour_discovery_are_told_from_the_rest() {
    let icmp = |kind| parse(&packet4(5, 0, 1, &[kind, 0, 0, 0])).unwrap().kind;
    assert_eq!(
        [3, 11, 12, 8, 0].map(icmp),
        [Kind::IcmpError, Kind::IcmpError, Kind::IcmpError, Kind::Other, Kind::Other]
    );
    let icmp6 = |kind, hops| parse(&packet6(58, hops, &[kind, 0, 0, 0])).unwrap().kind;
    assert_eq!(icmp6(2, 64), Kind::IcmpError);
    assert_eq!((icmp6(135, 255), icmp6(135, 254)), (Kind::Neighbour, Kind::Other));
    assert_eq!(icmp6(143, 1), Kind::MulticastReport);
    assert_eq!(icmp6(128, 64), Kind::Other);
}

#[test]
fn bytes_that_are_no_packet_name_the_field() {
    let good = packet4(5, 0, 17, &UDP);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes).unwrap_err().to_string()
    };
    assert_eq!(
        parse(&[]).unwrap_err().to_string(),
        "an IP header at octet 0 is cut off: 20 octets are needed, 0 are there"
    );
    assert!(with(0, 0x55).contains("IP version 5"));
    assert!(with(0, 0x44).contains("4 words"));
    assert!(with(8, 63).contains("checksum"));
    assert!(parse(&good[..19]).unwrap_err().to_string().contains("the IPv4 header at octet 0 is cut off"));
    assert!(parse(&good[..27]).unwrap_err().to_string().contains("a length of 28, with 27"));
    assert!(parse(&packet6(17, 64, &UDP)[..47]).unwrap_err().to_string().contains("a length of 8, with 7"));
    let cut = packet6(0, 64, &[17, 1, 0, 0, 0, 0, 0, 0]);
    assert!(parse(&cut).unwrap_err().to_string().contains("hop-by-hop options at octet 40 is cut off: 16"));
    // Padding behind the packet is none of it.
    assert!(parse(&[good, vec![0; 18]].concat()).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_packet_with_any_octets_changed_still_parses_or_is_refused(
        v6: bool, first in prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
        payload in proptest::collection::vec(any::<u8>(), 0..120), cut in 0_usize..160,
    ) {
        let bytes = if v6 { packet6(first, 64, &payload) } else { packet4(5, 0, first, &payload) };
        if let Ok(parsed) = parse(&bytes[..cut.min(bytes.len())]) {
            prop_assert!(parsed.ports.is_none() || payload.len() >= 4);
        }
    }
}
