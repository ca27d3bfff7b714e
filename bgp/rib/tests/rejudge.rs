//! A judge that changes its mind, as payloads of the RPKI do.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bgp_rib::{Again, Import, Judge, PeerSettings, Rejected, Rib, Settings, Standing, Walk};
use bgp_wire::{AsPath, Asn, Attributes, Family, Origin, RouterId, Update};
use ipnet::IpNet;

/// Refuses what this AS originated.
#[derive(Debug, Default)]
struct Refuses(AtomicU32);

impl Judge for Refuses {
    fn judge(&self, _: &IpNet, origin: Option<Asn>) -> Result<(), Rejected> {
        let refused = Asn(self.0.load(Ordering::Relaxed));
        if origin == Some(refused) { Err(Rejected::OriginInvalid) } else { Ok(()) }
    }
}

#[test]
fn what_was_told_is_held_against_the_judge_again() {
    let judge = Arc::new(Refuses::default());
    let id = |n| RouterId::new([192, 0, 2, n].into()).unwrap();
    let mut rib = Rib::new(Settings {
        local_as: Asn(64500),
        router_id: id(9),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    });
    let prefix: IpNet = "10.1.0.0/16".parse().unwrap();
    let peers = [1_u8, 2].map(|n| {
        let peer = rib.add_peer(PeerSettings {
            name: format!("peer{n}"),
            address: [192, 0, 2, n].into(),
            asn: Asn(64500 + u32::from(n)),
            internal: false,
            role: None,
            import: Import::Judged(judge.clone()),
            accept_blackhole: false,
            enforce_first_as: true,
        });
        rib.peer_up(peer, id(n), None);
        let path = vec![Asn(64500 + u32::from(n)), Asn(64510 + u32::from(n))];
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(path)),
            next_hop: Some([192, 0, 2, n].into()),
            ..Attributes::default()
        };
        let IpNet::V4(announced) = prefix else { panic!("IPv4") };
        rib.apply(peer, Update { announced: vec![announced], attributes, ..Update::default() });
        peer
    });
    let best = |rib: &Rib| {
        let found = rib.routes_to(&prefix).unwrap();
        found.paths.iter().find(|path| path.standing == Standing::Best).map(|path| path.peer)
    };
    let rejudge = |rib: &mut Rib| {
        for family in Family::ALL {
            let mut walk = Walk::default();
            while rib.rejudge(Again::Conditions, family, &mut walk, 1).is_continue() {}
        }
    };
    assert_eq!(best(&rib), Some(peers[0]));
    judge.0.store(64511, Ordering::Relaxed);
    assert_eq!(best(&rib), Some(peers[0]), "not looked at again yet");
    rejudge(&mut rib);
    assert_eq!(best(&rib), Some(peers[1]));
    assert_eq!(rib.counts(peers[0], Family::Ipv4).rejected, 1);
    let found = rib.routes_to(&prefix).unwrap();
    let refused = found.paths.iter().find(|path| path.peer == peers[0]).unwrap();
    assert_eq!(refused.standing, Standing::Rejected(Rejected::OriginInvalid));
    judge.0.store(0, Ordering::Relaxed);
    rejudge(&mut rib);
    assert_eq!(best(&rib), Some(peers[0]));
    assert_eq!(rib.counts(peers[0], Family::Ipv4).rejected, 0);
}

#[test]
fn one_peer_s_routes_are_judged_again_by_everything_and_nobody_else_s() {
    let id = |n| RouterId::new([192, 0, 2, n].into()).unwrap();
    let prefix: IpNet = "10.1.0.0/16".parse().unwrap();
    let settings = |n: u8, enforce_first_as| PeerSettings {
        name: format!("peer{n}"),
        address: [192, 0, 2, n].into(),
        asn: Asn(64500 + u32::from(n)),
        internal: false,
        role: None,
        import: Import::All,
        accept_blackhole: false,
        enforce_first_as,
    };
    let mut rib = Rib::new(Settings {
        local_as: Asn(64500),
        router_id: id(9),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    });
    // Both begin with another's AS.
    let peers = [1_u8, 2].map(|n| {
        let peer = rib.add_peer(settings(n, true));
        rib.peer_up(peer, id(n), None);
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(vec![Asn(64599)])),
            next_hop: Some([192, 0, 2, n].into()),
            ..Attributes::default()
        };
        let IpNet::V4(announced) = prefix else { panic!("IPv4") };
        rib.apply(peer, Update { announced: vec![announced], attributes, ..Update::default() });
        peer
    });
    let rejected = |rib: &Rib| peers.map(|peer| rib.counts(peer, Family::Ipv4).rejected);
    let rejudge = |rib: &mut Rib, again: Again| {
        for family in Family::ALL {
            let mut walk = Walk::default();
            while rib.rejudge(again, family, &mut walk, 1).is_continue() {}
        }
    };
    assert_eq!(rejected(&rib), [1, 1]);
    for (n, peer) in [1, 2].into_iter().zip(peers) {
        rib.set_peer(peer, settings(n, false));
    }
    rejudge(&mut rib, Again::Conditions);
    assert_eq!(rejected(&rib), [1, 1], "what the attributes decided stays");
    rejudge(&mut rib, Again::Peer(peers[1]));
    assert_eq!(rejected(&rib), [1, 0]);
    // A prefix that is private from now on.
    rib.set_own(vec!["10.0.0.0/8".parse().unwrap()], Vec::new());
    rejudge(&mut rib, Again::Conditions);
    assert_eq!(rejected(&rib), [1, 1]);
    rib.set_own(Vec::new(), Vec::new());
    rejudge(&mut rib, Again::Conditions);
    assert_eq!(rejected(&rib), [1, 0]);
    rib.set_peer(peers[1], settings(2, true));
    rejudge(&mut rib, Again::Peer(peers[1]));
    assert_eq!(rejected(&rib), [1, 1]);
}
