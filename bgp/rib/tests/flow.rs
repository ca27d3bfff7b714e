//! Received flow rules against the unicast table (RFC 8955 §6, RFC 9117), rule by rule.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use bgp_rib::{FlowClaim, Import, Infeasible, PeerId, PeerSettings, Rib, Settings, Walk};
use bgp_wire::{AsPath, Asn, Attributes, Family, MpReach, Origin, RouterId, Update};
use ipnet::IpNet;

const OURS: u32 = 64500;

fn id(n: u8) -> RouterId {
    RouterId::new([192, 0, 2, n].into()).unwrap()
}

/// Peer 1 of AS 64501, 2 of AS 64502, and 3 of our own.
fn rib() -> (Rib, [PeerId; 3]) {
    let mut rib = Rib::new(Settings {
        local_as: Asn(OURS),
        router_id: id(9),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    });
    let peers = [(1, 64501), (2, 64502), (3, OURS)].map(|(n, asn)| {
        let peer = rib.add_peer(PeerSettings {
            name: format!("peer{n}"),
            address: [192, 0, 2, n].into(),
            asn: Asn(asn),
            internal: asn == OURS,
            role: None,
            import: Import::All,
            accept_blackhole: false,
            enforce_first_as: false,
        });
        rib.peer_up(peer, id(n), None);
        peer
    });
    (rib, peers)
}

fn tell(rib: &mut Rib, peer: PeerId, prefix: &str, path: &[u32], originator: Option<[u8; 4]>) {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(path.iter().copied().map(Asn).collect::<Vec<_>>())),
        originator_id: originator.map(Into::into),
        ..Attributes::default()
    };
    let update = match prefix.parse().unwrap() {
        IpNet::V4(prefix) => Update {
            announced: vec![prefix],
            attributes: Attributes { next_hop: Some([192, 0, 2, 77].into()), ..attributes },
            ..Update::default()
        },
        IpNet::V6(prefix) => Update {
            mp_reach: Some(MpReach::Ipv6 {
                next_hop: "2001:db8::77".parse().unwrap(),
                link_local: None,
                prefixes: vec![prefix],
            }),
            attributes,
            ..Update::default()
        },
    };
    rib.apply(peer, update);
}

fn claim(peer: PeerId, destination: &str, path: &[u32]) -> FlowClaim {
    FlowClaim {
        peer,
        destination: (!destination.is_empty()).then(|| destination.parse().unwrap()),
        neighbour: path.first().copied().map(Asn),
        local: path.is_empty(),
        originator: None,
    }
}

fn verdicts(rib: &Rib, claims: &[FlowClaim]) -> Vec<Result<(), Infeasible>> {
    let mut check = rib.check_flows(claims);
    for family in Family::ALL {
        let mut walk = Walk::default();
        while check.walk(rib, family, &mut walk, 1).is_continue() {}
    }
    check.verdicts()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_rule_is_taken_from_whoever_is_the_way_to_its_destination() {
    let (mut rib, [a, b, _]) = rib();
    tell(&mut rib, a, "10.0.0.0/8", &[64501, 64510], None);
    tell(&mut rib, b, "10.0.0.0/8", &[64502, 64502, 64510], None);
    tell(&mut rib, a, "2001:db8::/32", &[64501], None);
    let found = verdicts(
        &rib,
        &[
            claim(a, "10.1.0.0/16", &[64501, 64510]),
            claim(a, "10.0.0.0/8", &[64501]),
            claim(b, "10.1.0.0/16", &[64502, 64510]),
            claim(a, "", &[64501]),
            claim(a, "11.0.0.0/8", &[64501]),
            // What covers it is asked for: 10.0.0.0/8 is only a part.
            claim(a, "10.0.0.0/7", &[64501]),
            claim(a, "2001:db8:1::/48", &[64501]),
            claim(b, "2001:db8:1::/48", &[64502]),
        ],
    );
    let (ten, six) = (net("10.0.0.0/8"), net("2001:db8::/32"));
    let expected = [
        Ok(()),
        Ok(()),
        Err(Infeasible::Originator(ten)),
        Err(Infeasible::NoDestination),
        Err(Infeasible::NoRoute),
        Err(Infeasible::NoRoute),
        Ok(()),
        Err(Infeasible::Originator(six)),
    ];
    assert_eq!(found, expected);
    // The way is another now.
    rib.peer_lost(a);
    let found = verdicts(&rib, &[claim(a, "10.1.0.0/16", &[64501]), claim(b, "10.1.0.0/16", &[64502])]);
    assert_eq!(found, [Err(Infeasible::Originator(ten)), Ok(())]);
}

#[test]
fn the_path_begins_with_the_as_of_the_best_route() {
    let (mut rib, [a, ..]) = rib();
    // A route server: the first AS is not its own.
    tell(&mut rib, a, "10.0.0.0/8", &[64510], None);
    let found = verdicts(
        &rib,
        &[claim(a, "10.0.0.0/8", &[64510]), claim(a, "10.0.0.0/8", &[64511]), claim(a, "10.0.0.0/8", &[])],
    );
    let ten = net("10.0.0.0/8");
    assert_eq!(found, [Ok(()), Err(Infeasible::Neighbour(ten)), Err(Infeasible::Neighbour(ten))]);
}

#[test]
fn what_starts_in_our_own_as_needs_no_route_and_its_originator_may_be_anybody() {
    let (mut rib, [a, _, internal]) = rib();
    tell(&mut rib, a, "10.0.0.0/8", &[64501], None);
    let reflected = |originator: [u8; 4]| FlowClaim {
        originator: Some(originator.into()),
        ..claim(internal, "12.0.0.0/8", &[64501])
    };
    tell(&mut rib, internal, "12.0.0.0/8", &[64501], Some([192, 0, 2, 50]));
    let found = verdicts(
        &rib,
        &[
            claim(internal, "10.0.0.0/8", &[]),
            claim(internal, "99.0.0.0/8", &[]),
            claim(internal, "10.0.0.0/8", &[64501]),
            reflected([192, 0, 2, 50]),
            reflected([192, 0, 2, 51]),
        ],
    );
    let expected = [
        Ok(()),
        Ok(()),
        Err(Infeasible::Originator(net("10.0.0.0/8"))),
        Ok(()),
        Err(Infeasible::Originator(net("12.0.0.0/8"))),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_part_of_the_destination_that_somebody_else_is_the_way_to_spoils_it() {
    let (mut rib, [a, b, internal]) = rib();
    tell(&mut rib, a, "10.0.0.0/8", &[64501, 64510], None);
    tell(&mut rib, a, "10.1.0.0/16", &[64501, 64511], None);
    let claims = [
        claim(a, "10.0.0.0/8", &[64501]),
        claim(a, "10.2.0.0/16", &[64501]),
        claim(internal, "10.0.0.0/8", &[]),
        claim(internal, "11.0.0.0/8", &[]),
    ];
    assert_eq!(verdicts(&rib, &claims), [Ok(()), Ok(()), Ok(()), Ok(())], "more specific, and of the same neighbour");
    tell(&mut rib, b, "10.3.0.0/16", &[64502], None);
    tell(&mut rib, b, "11.3.0.0/16", &[64502], None);
    let spoilt = Err(Infeasible::MoreSpecific(net("10.3.0.0/16")));
    let eleven = Err(Infeasible::MoreSpecific(net("11.3.0.0/16")));
    assert_eq!(verdicts(&rib, &claims), [spoilt, Ok(()), spoilt, eleven]);
    assert_eq!(verdicts(&rib, &[]), []);
}
