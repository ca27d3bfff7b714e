//! Messages survive a round trip and mean the same to another reader; no bytes break the station.

use std::sync::Arc;

use bgp_bmp::{
    Down, Framer, Limits, MAX_MESSAGE, Message, PeerHeader, PeerKey, PeerKind, PeerUp, Private, Report, Router,
    Statistic, View,
};
use bgp_wire::{Asn, Community};
use bgpkit_parser::parser::bmp::messages::{BmpMessageBody, BmpPeerType, PerPeerFlags};
use bgpkit_parser::parser::bmp::parse_bmp_msg;
use bytes::Bytes;
use proptest::prelude::*;

fn header() -> impl Strategy<Value = PeerHeader> {
    let kind = prop_oneof![
        Just(PeerKind::Global),
        Just(PeerKind::Distinguished),
        Just(PeerKind::Local),
        Just(PeerKind::LocRib)
    ];
    let view = prop_oneof![
        Just(View::AdjRibInPre),
        Just(View::AdjRibInPost),
        Just(View::AdjRibOutPre),
        Just(View::AdjRibOutPost),
    ];
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from)
    ];
    let rest = (any::<u32>(), any::<[u8; 4]>(), any::<(u32, u32)>(), any::<bool>(), any::<[u8; 8]>());
    (kind, view, address, rest).prop_map(|(kind, view, address, (asn, id, time, two, distinguisher))| {
        let loc_rib = kind == PeerKind::LocRib;
        let address = if loc_rib { [0, 0, 0, 0].into() } else { address };
        PeerHeader {
            key: PeerKey { kind, distinguisher, address },
            view: if loc_rib { View::LocRib } else { view },
            two_octet_as: two && !loc_rib,
            asn: Asn(asn),
            router_id: id.into(),
            time,
        }
    })
}

fn router() -> Router {
    let private = |prefix: &str| Private { prefix: prefix.parse().unwrap(), guard: Community::NO_EXPORT };
    Router::new(Arc::new([private("203.0.113.0/24"), private("2001:db8:c10a::/48")]), Limits { peers: 4 })
}

fn reports(router: &mut Router) -> Vec<Report> {
    std::iter::from_fn(|| router.poll_output()).collect()
}

/// A stream of valid messages of every kind.
fn stream(headers: &[PeerHeader]) -> Vec<u8> {
    let update = crate::bytes::update(&["203.0.113.7/32", "198.51.100.0/24"], &[]);
    let mut bytes =
        Message::Initiation { name: Some("edge".to_owned()), description: Some("a router".to_owned()) }.encode();
    for header in headers {
        bytes.extend(crate::bytes::peer_up(*header, Asn(64500)));
        bytes.extend(crate::bytes::monitoring(*header, &update));
        bytes.extend(Message::Statistics { peer: *header, statistics: numbers(7) }.encode());
        bytes.extend(Message::Mirroring { peer: *header, message: Some(&update), errored: true, lost: true }.encode());
        bytes.extend(Message::PeerDown { peer: *header, reason: Down::Lost }.encode());
    }
    bytes
}

/// One number of each kind, and of one that nobody knows.
fn numbers(value: u32) -> Vec<Statistic> {
    let by_family = |kind| matches!(kind, 9 | 10 | 16 | 17);
    let one = |kind| Statistic { kind, family: by_family(kind).then_some((2, 1)), value: value.into() };
    (0..=18).map(one).collect()
}

proptest! {
    #[test]
    fn decode_inverts_encode(peer in header(), reason in any::<u16>(), text in "[a-z ]{0,40}") {
        let mirrored = text.clone().into_bytes();
        let (update, open) = (crate::bytes::update(&["10.0.0.0/8"], &[]), crate::bytes::open(Asn(64500)));
        let local_address = if peer.key.address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
        let up = PeerUp { local_address, local_port: 1, remote_port: 2, sent: &open, received: &open, table: Some(text.clone()) };
        let messages = [
            Message::RouteMonitoring { peer, update: &update },
            Message::Statistics { peer, statistics: numbers(u32::from(reason)) },
            Message::Statistics { peer, statistics: Vec::new() },
            Message::Mirroring { peer, message: Some(&update), errored: false, lost: false },
            Message::Mirroring { peer, message: Some(&mirrored), errored: true, lost: false },
            Message::Mirroring { peer, message: None, errored: false, lost: true },
            Message::PeerUp { peer, up },
            Message::PeerDown { peer, reason: Down::Sent(&update) },
            Message::PeerDown { peer, reason: Down::Event(reason) },
            Message::PeerDown { peer, reason: Down::Received(&[]) },
            Message::PeerDown { peer, reason: Down::Unmonitored },
            Message::Initiation { name: Some(text.clone()), description: Some(text.clone()) },
            Message::Termination { reason: Some(reason), text: Some(text) },
        ];
        for message in messages {
            let bytes = message.encode();
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn another_reader_reads_the_same(peer in header()) {
        let update = crate::bytes::update(&["203.0.113.7/32"], &[]);
        let theirs = parse_bmp_msg(&mut Bytes::from(crate::bytes::monitoring(peer, &update))).unwrap();
        prop_assert!(matches!(theirs.message_body, BmpMessageBody::RouteMonitoring(_)));
        let header = theirs.per_peer_header.unwrap();
        // The other reader takes the A flag, which is about AS_PATHs, for the header's AS too.
        let asn = if peer.two_octet_as { peer.asn.0 & 0xffff } else { peer.asn.0 };
        prop_assert_eq!(header.peer_asn.to_u32(), asn);
        prop_assert_eq!(header.peer_bgp_id, peer.router_id);
        if peer.key.kind == PeerKind::LocRib {
            prop_assert!(matches!(header.peer_type, BmpPeerType::LocalRib));
        } else {
            prop_assert_eq!(header.peer_ip, peer.key.address);
            let PerPeerFlags::PeerFlags(flags) = header.peer_flags else { panic!("{:?}", header.peer_flags) };
            prop_assert_eq!(flags.is_adj_rib_out(), peer.view.is_out());
            prop_assert_eq!(flags.is_post_policy(), matches!(peer.view, View::AdjRibInPost | View::AdjRibOutPost));
        }
        let up = parse_bmp_msg(&mut Bytes::from(crate::bytes::peer_up(peer, Asn(64500)))).unwrap();
        prop_assert!(matches!(up.message_body, BmpMessageBody::PeerUpNotification(_)));
    }

    #[test]
    fn no_bytes_break_the_station(kind in 0_u8..9, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let length = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
        let message = [&[3][..], &length, &[kind], &body].concat();
        let _ = Message::decode(&message);
        let mut router = router();
        router.received(&message);
        router.received(&body);
        prop_assert!(router.peers().count() <= 4);
    }

    #[test]
    fn a_damaged_stream_is_borne_or_closed(
        headers in proptest::collection::vec(header(), 1..4), at in any::<prop::sample::Index>(), byte: u8, size in 1_usize..400,
    ) {
        let mut bytes = stream(&headers);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (mut whole, mut pieces) = (router(), router());
        whole.received(&bytes);
        bytes.chunks(size).for_each(|piece| pieces.received(piece));
        prop_assert_eq!(reports(&mut whole), reports(&mut pieces));
    }
}

#[test]
fn a_length_that_cannot_be_is_refused_before_the_message_has_come() {
    for (length, fits) in [(5, false), (6, true), (MAX_MESSAGE, true), (MAX_MESSAGE + 1, false)] {
        let mut framer = Framer::default();
        framer.push(&[3]);
        framer.push(&u32::try_from(length).unwrap().to_be_bytes());
        framer.push(&[200]);
        assert_eq!(framer.next_message().is_ok(), fits, "{length}");
    }
    let mut framer = Framer::default();
    framer.push(b"G");
    assert!(framer.next_message().is_err(), "HTTP is no BMP");
}
