//! When a route came: kept while it is told the same, set anew when it becomes another.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use bgp_rib::{Import, PeerSettings, Rib, Settings};
use bgp_wire::{AsPath, Asn, Attributes, Context, Family, Origin, RouterId, announce_v4, withdraw_v4};
use ipnet::IpNet;

const PREFIX: &str = "198.51.100.0/24";

fn id(octet: u8) -> RouterId {
    RouterId::new([10, 0, 0, octet].into()).unwrap()
}

#[test]
fn a_route_is_as_old_as_what_is_said_of_it() {
    let settings = Settings {
        local_as: Asn(64500),
        router_id: id(1),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    };
    let mut rib = Rib::new(settings);
    let peer = rib.add_peer(PeerSettings {
        name: "a".to_owned(),
        address: [192, 0, 2, 1].into(),
        asn: Asn(64501),
        internal: false,
        role: None,
        import: Import::All,
        accept_blackhole: false,
        enforce_first_as: true,
    });
    rib.peer_up(peer, id(2), None);
    let tell = |rib: &mut Rib, at: u32, med: Option<u32>| {
        rib.set_time(at);
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence([Asn(64501)])),
            multi_exit_disc: med,
            ..Attributes::default()
        };
        let prefixes = [PREFIX.parse().unwrap()];
        for update in announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, Context::default()).unwrap() {
            rib.apply(peer, update);
        }
    };
    let since = |rib: &Rib| rib.routes_to(&PREFIX.parse::<IpNet>().unwrap()).unwrap().paths[0].since;
    tell(&mut rib, 100, None);
    assert_eq!(since(&rib), 100);
    // The same once more, as after a refresh or a graceful restart.
    rib.refresh_begins(peer, Family::Ipv4);
    tell(&mut rib, 200, None);
    rib.sweep_all(peer, Family::Ipv4);
    assert_eq!(since(&rib), 100);
    tell(&mut rib, 300, Some(5));
    assert_eq!(since(&rib), 300);
    for update in withdraw_v4([PREFIX.parse().unwrap()], Context::default()) {
        rib.apply(peer, update);
    }
    tell(&mut rib, 400, Some(5));
    assert_eq!(since(&rib), 400);
}
