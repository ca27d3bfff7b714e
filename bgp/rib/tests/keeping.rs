//! What is passed on to a peer that keeps routes while we are down (RFC 9494): nothing of it is to be kept.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};

use bgp_rib::{Export, Import, PeerSettings, Rib, Settings};
use bgp_wire::{AsPath, Asn, Attributes, Community, Context, Family, Framer, Message, Origin, RouterId, announce_v4};

fn id(octet: u8) -> RouterId {
    RouterId::new([10, 0, 0, octet].into()).unwrap()
}

/// The communities with which a route of one peer comes to another.
fn told(communities: Vec<Community>, keeps: bool) -> Vec<Community> {
    let settings = Settings {
        local_as: Asn(64500),
        router_id: id(1),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    };
    let mut rib = Rib::new(settings);
    let peers = [64501, 64502].map(|asn| {
        rib.add_peer(PeerSettings {
            name: asn.to_string(),
            address: IpAddr::V4([192, 0, 2, (asn % 100) as u8].into()),
            asn: Asn(asn),
            internal: false,
            role: None,
            import: Import::All,
            accept_blackhole: false,
            enforce_first_as: true,
        })
    });
    rib.peer_up(peers[0], id(2), None);
    let context = Context { external: true, ..Context::default() };
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([Asn(64501)])),
        communities,
        ..Attributes::default()
    };
    let prefixes = ["198.51.100.0/24".parse().unwrap()];
    for update in announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, context).unwrap() {
        rib.apply(peers[0], update);
    }
    let reader = rib.attach(Export {
        peer: peers[1],
        role: None,
        context,
        families: [Family::Ipv4].into(),
        next_hop_v4: Some(Ipv4Addr::new(192, 0, 2, 9)),
        next_hop_v6: None,
        llgr: false,
        stale_inside: false,
        keeps,
    });
    let mut framer = Framer::default();
    framer.push(&rib.read(reader, 4096).bytes);
    let frame = framer.next_frame().unwrap().unwrap();
    let Message::Update(update) = Message::decode(frame, context).unwrap() else { panic!() };
    update.attributes.communities
}

#[test]
fn what_is_passed_on_is_marked_for_who_keeps_and_for_nobody_else() {
    let own = Community(7);
    assert_eq!(told(vec![own], false), [own]);
    assert_eq!(told(vec![own], true), [own, Community::NO_LLGR]);
    assert_eq!(told(vec![Community::NO_LLGR], true), [Community::NO_LLGR]);
}
