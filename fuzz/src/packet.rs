//! IP packets as the forwarder's model reads them, and what its user data plane makes of frames.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_types::Instant;
use forwarder_core::user::{Fate, Frame, Host, Port, Ration, User, Way};
use forwarder_core::{Egress, Ingress, Kind, Malformed, Policy, Spec, SpecLink, SpecPrefix, Verdict, parse};

/// An IP packet: octets behind its length change nothing, and of what is cut off nothing is believed.
pub fn forwarder_packet(bytes: &[u8]) {
    match parse(bytes) {
        Ok(parsed) => {
            assert_eq!(parsed.source.is_ipv4(), parsed.destination.is_ipv4());
            assert!(parsed.ports.is_none() || matches!(parsed.protocol, 6 | 17 | 33 | 132 | 136));
            let padded = [bytes, &[0xff; 18]].concat();
            assert_eq!(parse(&padded), Ok(parsed), "padding was read");
            assert!(parse(&bytes[..19.min(bytes.len())]).is_err());
        }
        Err(Malformed::Short { needed, have, .. }) => assert!(have < needed),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a frame of the fuzzer comes in by, and where the routing table sends each address.
const EDGE: u32 = 3;
const LINK: u32 = 5;
const MTU: usize = 1400;

fn way(address: IpAddr) -> Way {
    match address.to_string().as_str() {
        "203.0.113.200" | "203.0.113.202" | "2001:db8:c10a::200" => {
            Way::Out { index: LINK, neighbour: address, mtu: MTU }
        }
        "203.0.113.203" => Way::Nowhere,
        text if text.starts_with("198.51.100.") || text.starts_with("2001:db8:5100:64:") => {
            Way::Out { index: EDGE, neighbour: address, mtu: MTU }
        }
        _ => Way::Elsewhere,
    }
}

fn user() -> User {
    let mut prefixes: Vec<SpecPrefix> =
        ["203.0.113.200/32", "203.0.113.202/32", "203.0.113.203/32", "2001:db8:c10a::200/128"]
            .map(|prefix| SpecPrefix::new(prefix.parse().unwrap(), "main"))
            .into();
    prefixes[1].services = vec!["udp/443".to_owned(), "icmp".to_owned()];
    let spec = Spec {
        links: vec![SpecLink { name: "main".into(), interface: "priv0".into() }],
        prefixes,
        subscriber_prefixes: ["198.51.100.64/26", "2001:db8:5100:64::/64"].map(|net| net.parse().unwrap()).into(),
        subscriber_interfaces: vec!["edge0".into()],
        live: Vec::new(),
    };
    let port = |name: &str, addresses: [&str; 2]| Port {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, 1],
        addresses: addresses.map(|address| address.parse().unwrap()).into(),
    };
    let edge = port("edge0", ["198.51.100.65/26", "2001:db8:5100:64::1/64"]);
    let link = port("priv0", ["192.0.2.249/30", "2001:db8:0:ff::1/64"]);
    let all = [&edge.addresses[..], &link.addresses].concat();
    let host = Host::new([(EDGE, edge), (LINK, link)].into(), &all);
    User::new(Arc::new(Policy::new(spec).unwrap()), host, Ration::new(Duration::ZERO, Duration::ZERO))
}

/// A frame for the user data plane, behind an octet that says where it comes in and an octet for a super-packet. What goes on
/// is what the policy allows, one hop older and no larger than the way takes; what is told is an error, to its source.
pub fn forwarder_frame(bytes: &[u8]) {
    let Some((&[port, segment], octets)) = bytes.split_first_chunk() else { return };
    let port = if port & 1 == 0 { EDGE } else { LINK };
    let segment = (segment > 0).then_some(usize::from(segment) * 8);
    let user = user();
    let before = octets.get(14..).and_then(|packet| parse(packet).ok());
    match user.step(&Frame { port, octets, segment }, Instant::ORIGIN, &mut way) {
        Fate::Forwarded(done) => {
            let before = before.expect("it was read");
            let to_link = matches!(done.verdict, Verdict::ToLink(_));
            assert!(to_link || done.verdict == Verdict::ToSubscriber);
            assert_eq!((port, done.index), if to_link { (EDGE, LINK) } else { (LINK, EDGE) });
            assert!(before.hops > 1 && !before.has_options && done.counted > 0);
            for packet in &done.packets {
                let after = parse(packet).expect("what goes on is a packet");
                assert_eq!((after.source, after.destination), (before.source, before.destination));
                assert_eq!((after.hops, after.protocol), (before.hops - 1, before.protocol));
                assert!(segment.is_some() || packet.len() <= MTU);
            }
        }
        Fate::Answered(answer) => {
            let before = before.expect("it was read");
            let told = parse(&answer.packet).expect("an error is a packet");
            assert_eq!((told.kind, told.destination), (Kind::IcmpError, before.source));
            assert_ne!(before.kind, Kind::IcmpError, "no error about an error");
            assert!(answer.packet.len() <= if told.source.is_ipv4() { 576 } else { 1280 });
        }
        Fate::Dropped(_) => assert!(before.is_some()),
        Fate::Over { .. } => panic!("nothing is limited"),
        Fate::Kernel | Fate::Nothing => {}
    }
    // The policy alone never lets a bystander to a link, whatever the packet is.
    if let Some(before) = before {
        let asked = before.packet(Ingress::Interface("up0"), Egress::Interface("priv0"), false);
        assert!(!matches!(user.policy().decide(&asked), Verdict::ToLink(_)));
    }
}
