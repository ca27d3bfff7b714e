//! Bytes as a router sends them.

use bgp_bmp::{Message, PeerHeader, PeerKey, PeerKind, PeerUp, View};
use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context, Family, HoldTime, Message as Bgp, Open, Origin, RouterId, Update,
    announce_v4, announce_v6, withdraw_v4,
};
use ipnet::IpNet;

pub(crate) const OURS: Asn = Asn(64500);
pub(crate) const NEIGHBOUR: Asn = Asn(64510);

pub(crate) fn header(view: View, address: &str, asn: Asn) -> PeerHeader {
    let kind = if view == View::LocRib { PeerKind::LocRib } else { PeerKind::Global };
    let key = PeerKey { kind, distinguisher: [0; 8], address: address.parse().unwrap() };
    PeerHeader { key, view, two_octet_as: false, asn, router_id: [192, 0, 2, 9].into(), time: (1, 2) }
}

pub(crate) fn open(asn: Asn) -> Vec<u8> {
    let router_id = RouterId::new([192, 0, 2, 1].into()).unwrap();
    let open = Open::new(asn, HoldTime::from_secs(90).unwrap(), router_id, Family::ALL);
    Bgp::Open(open).encode(Context::default()).unwrap()
}

pub(crate) fn peer_up(header: PeerHeader, own: Asn) -> Vec<u8> {
    let (sent, received) = (open(own), open(header.asn));
    let local_address = if header.key.address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
    let up =
        PeerUp { local_address, local_port: 179, remote_port: 40000, sent: &sent, received: &received, table: None };
    Message::PeerUp { peer: header, up }.encode()
}

pub(crate) fn update(prefixes: &[&str], communities: &[Community]) -> Vec<u8> {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([OURS])),
        communities: communities.to_vec(),
        ..Attributes::default()
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        match prefix.parse().unwrap() {
            IpNet::V4(prefix) => v4.push(prefix),
            IpNet::V6(prefix) => v6.push(prefix),
        }
    }
    let context = Context::default();
    let updates = if v6.is_empty() {
        announce_v4(&attributes, "192.0.2.7".parse().unwrap(), v4, context)
    } else {
        announce_v6(&attributes, "2001:db8::7".parse().unwrap(), v6, context)
    };
    let [update] = &updates.unwrap()[..] else { panic!("one UPDATE") };
    Bgp::Update(update.clone()).encode(context).unwrap()
}

pub(crate) fn withdrawal(prefix: &str) -> Vec<u8> {
    let [update] = &withdraw_v4(vec![prefix.parse().unwrap()], Context::default())[..] else { panic!("one UPDATE") };
    Bgp::Update(update.clone()).encode(Context::default()).unwrap()
}

pub(crate) fn end_of_rib(family: Family) -> Vec<u8> {
    Bgp::Update(Update::end_of_rib(family)).encode(Context::default()).unwrap()
}

pub(crate) fn monitoring(peer: PeerHeader, update: &[u8]) -> Vec<u8> {
    Message::RouteMonitoring { peer, update }.encode()
}
