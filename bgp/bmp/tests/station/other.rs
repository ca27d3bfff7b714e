//! Bytes of another implementation, netgauze-bmp-pkt, for each kind of table (RFC 7854, RFC 8671, RFC 9069); and ours, read
//! by it.

use bgp_bmp::{Framer, Message, PeerKind, PeerUp, View};
use bgp_wire::Asn;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_bmp_pkt::v3::{BmpMessageValue, InitiationInformation, PeerUpNotificationMessage, RouteMonitoringMessage};
use netgauze_bmp_pkt::wire::deserializer::BmpParsingContext;
use netgauze_bmp_pkt::{BmpMessage, BmpPeerType, PeerHeader};
use netgauze_parse_utils::WritablePdu as _;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput as _;

use crate::bytes::{NEIGHBOUR, OURS, header, monitoring, open, peer_up, update};

const VIEWS: [View; 5] = [View::AdjRibInPre, View::AdjRibInPost, View::AdjRibOutPre, View::AdjRibOutPost, View::LocRib];

/// As the other names it.
fn named(view: View, ipv6: bool) -> BmpPeerType {
    let global =
        |post_policy, adj_rib_out| BmpPeerType::GlobalInstancePeer { ipv6, post_policy, asn2: false, adj_rib_out };
    match view {
        View::AdjRibInPre => global(false, false),
        View::AdjRibInPost => global(true, false),
        View::AdjRibOutPre => global(false, true),
        View::AdjRibOutPost => global(true, true),
        View::LocRib => BmpPeerType::LocRibInstancePeer { filtered: false },
    }
}

fn bgp(bytes: &[u8]) -> BgpMessage {
    BgpMessage::parse(&mut SliceReader::new(bytes), &mut BgpParsingContext::default()).unwrap()
}

fn written(value: BmpMessageValue) -> Vec<u8> {
    let mut bytes = Vec::new();
    BmpMessage::V3(value).write(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_another_writes_of_each_kind_of_table_is_read() {
    for (view, address) in
        VIEWS.into_iter().flat_map(|view| ["192.0.2.9", "2001:db8::9"].map(|address| (view, address)))
    {
        // The table of the router itself has no peer's address (RFC 9069 §4.1).
        let local = view == View::LocRib;
        let (asn, told) = if local { (OURS, None) } else { (NEIGHBOUR, Some(address.parse().unwrap())) };
        let ipv6 = address.contains(':');
        let theirs = || PeerHeader::new(named(view, ipv6), None, told, asn.0, [192, 0, 2, 9].into(), None);
        let (sent, received) = (open(OURS), open(asn));
        let table = if local { vec![InitiationInformation::VrfTableName("global".into())] } else { Vec::new() };
        let local_address = if ipv6 { "2001:db8::1" } else { "192.0.2.1" }.parse().unwrap();
        let up = PeerUpNotificationMessage::build(
            theirs(),
            (!local).then_some(local_address),
            (!local).then_some(179),
            (!local).then_some(40000),
            bgp(&sent),
            bgp(&received),
            table,
        );
        let announced = update(&["10.1.0.0/16"], &[]);
        let told = RouteMonitoringMessage::build(theirs(), bgp(&announced)).unwrap();
        let bytes = [
            written(BmpMessageValue::PeerUpNotification(up.unwrap())),
            written(BmpMessageValue::RouteMonitoring(told)),
        ]
        .concat();

        let mut framer = Framer::default();
        framer.push(&bytes);
        let first = framer.next_message().unwrap().unwrap().to_vec();
        let Message::PeerUp { peer, up } = Message::decode(&first).unwrap() else { panic!("{view:?}: Peer Up") };
        assert_eq!((peer.view, peer.asn, peer.router_id), (view, asn, [192, 0, 2, 9].into()), "{view:?}");
        assert_eq!(peer.key.kind, if local { PeerKind::LocRib } else { PeerKind::Global });
        if !local {
            assert_eq!(peer.key.address.to_string(), address);
            assert_eq!((up.local_address, up.local_port, up.remote_port), (local_address, 179, 40000));
        }
        assert_eq!((up.sent, up.received), (&sent[..], &received[..]), "{view:?}");
        assert_eq!(up.table.as_deref(), local.then_some("global"));
        let second = framer.next_message().unwrap().unwrap().to_vec();
        let Message::RouteMonitoring { peer, update } = Message::decode(&second).unwrap() else {
            panic!("{view:?}: routes")
        };
        assert_eq!((peer.view, update), (view, &announced[..]));
        assert_eq!(framer.next_message(), Ok(None));
    }
}

#[test]
fn another_reads_what_we_write_of_each_kind_of_table() {
    for (view, address) in
        VIEWS.into_iter().flat_map(|view| ["192.0.2.9", "2001:db8::9"].map(|address| (view, address)))
    {
        let local = view == View::LocRib;
        let asn: Asn = if local { OURS } else { NEIGHBOUR };
        let address = if local { "0.0.0.0" } else { address };
        let peer = header(view, address, asn);
        let mut context = BmpParsingContext::default();
        let mut read = |bytes: &[u8]| {
            let BmpMessage::V3(value) = BmpMessage::parse(&mut SliceReader::new(bytes), &mut context).unwrap() else {
                panic!("version 3")
            };
            value
        };
        // RFC 9069 §5.4 wants the table's name.
        let up = if local {
            let (sent, received) = (open(OURS), open(OURS));
            let up = PeerUp {
                local_address: [0, 0, 0, 0].into(),
                local_port: 0,
                remote_port: 0,
                sent: &sent,
                received: &received,
                table: Some("global".to_owned()),
            };
            Message::PeerUp { peer, up }.encode()
        } else {
            peer_up(peer, OURS)
        };
        let BmpMessageValue::PeerUpNotification(up) = read(&up) else { panic!("{view:?}: Peer Up") };
        assert_eq!(up.peer_header().peer_type(), named(view, address.contains(':')));
        assert_eq!(up.peer_header().peer_as(), asn.0);
        let announced = update(&["10.1.0.0/16"], &[]);
        let BmpMessageValue::RouteMonitoring(told) = read(&monitoring(peer, &announced)) else { panic!("{view:?}") };
        assert_eq!(told.peer_header().peer_type(), named(view, address.contains(':')));
        assert_eq!(told.update_message(), &bgp(&announced));
    }
}
