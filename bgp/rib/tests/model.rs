//! Random updates from several peers beside a model that keeps everything in the plainest way and computes the best
//! route anew each time; a reader's view beside what it should hold; look-ups beside a linear search.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_rib::{Export, Import, PeerId, PeerSettings, ReaderId, Rib, Settings, Standing, Walk};
use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context, Families, Family, Framer, Message, MpReach, MpUnreach, Origin,
    PathIds, RouterId, Segment, Update,
};
use ipnet::{IpNet, Ipv4Net};
use proptest::collection::vec;
use proptest::prelude::*;

const LOCAL_AS: u32 = 64500;
/// Two neighbours in one AS, one in another, one in ours.
const PEERS: [u32; 4] = [64501, 64501, 64502, LOCAL_AS];
const PREFIXES: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "203.0.113.200/32",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::1/128",
];

#[derive(Debug, Clone)]
enum Op {
    Announce { peer: usize, prefix: usize, id: u32, attributes: Box<Attributes> },
    Withdraw { peer: usize, prefix: usize, id: u32 },
    Lost(usize),
    Up(usize),
    Stale(usize),
    Sweep(usize),
    Llgr(usize),
    RefreshBegins(usize),
    Read { octets: usize },
    TellAgain,
}

#[derive(Debug, Clone, PartialEq)]
struct Told {
    attributes: Attributes,
    outdated: bool,
    llgr: bool,
}

type Key = (IpNet, usize, u32);

#[derive(Default)]
struct Model {
    routes: BTreeMap<Key, Told>,
    up: [bool; 4],
}

fn prefix(at: usize) -> IpNet {
    PREFIXES[at].parse().unwrap()
}

fn address(peer: usize) -> IpAddr {
    format!("192.0.2.{}", peer + 10).parse().unwrap()
}

/// Not in the order of the addresses, and the last two alike.
fn identifier(peer: usize) -> u32 {
    [9, 7, 8, 8][peer]
}

fn router_id(number: u32) -> RouterId {
    RouterId::new(number.into()).unwrap()
}

impl Model {
    fn outdate(&mut self, peer: usize) {
        self.routes.iter_mut().filter(|((_, of, _), _)| *of == peer).for_each(|(_, told)| told.outdated = true);
    }

    fn sweep(&mut self, peer: usize) {
        self.routes.retain(|(_, of, _), told| *of != peer || !told.outdated);
    }

    fn usable(key: &Key, told: &Told) -> bool {
        let (prefix, peer, _) = key;
        let path = told.attributes.as_path.clone().unwrap_or_default();
        let internal = *peer == 3;
        let own: std::net::Ipv4Addr = 1.into();
        let first = path.0.iter().find(|s| matches!(s, Segment::Sequence(_) | Segment::Set(_)));
        let first_is_peer = matches!(first, Some(Segment::Sequence(numbers)) if numbers[0] == Asn(PEERS[*peer]));
        !path.contains(Asn(LOCAL_AS))
            && (internal || first_is_peer)
            && !(internal && told.attributes.originator_id == Some(own))
            && !(internal && told.attributes.cluster_list.contains(&own))
            && !told.attributes.communities.contains(&Community::BLACKHOLE)
            && *prefix != "203.0.113.200/32".parse::<IpNet>().unwrap()
    }

    /// RFC 4271 §9.1.2.2 word by word: routes are removed from consideration, step by step.
    fn best(&self, prefix: IpNet, always: bool) -> Option<(usize, u32)> {
        let mut left: Vec<(&Key, &Told)> =
            self.routes.iter().filter(|(key, told)| key.0 == prefix && Self::usable(key, told)).collect();
        let has = |told: &Told, community| told.attributes.communities.contains(&community);
        let keep_least = |left: &mut Vec<(&Key, &Told)>, of: &dyn Fn(&Key, &Told) -> u64| {
            let least = left.iter().map(|(key, told)| of(key, told)).min();
            left.retain(|(key, told)| Some(of(key, told)) == least);
        };
        keep_least(&mut left, &|_, told| u64::from(told.llgr || has(told, Community::LLGR_STALE)));
        keep_least(&mut left, &|_, told| {
            let preference = told.attributes.local_pref.unwrap_or(100);
            let preference = if has(told, Community::GRACEFUL_SHUTDOWN) { 0 } else { preference };
            u64::from(u32::MAX - preference)
        });
        keep_least(&mut left, &|_, told| {
            let segments = &told.attributes.as_path.as_ref().unwrap().0;
            segments
                .iter()
                .map(|segment| match segment {
                    Segment::Sequence(numbers) => numbers.len() as u64,
                    Segment::Set(_) => 1,
                    Segment::ConfederationSequence(_) | Segment::ConfederationSet(_) => 0,
                })
                .sum()
        });
        keep_least(&mut left, &|_, told| told.attributes.origin.unwrap() as u64);
        let neighbour = |told: &Told| match told.attributes.as_path.as_ref().unwrap().0.first() {
            Some(Segment::Sequence(numbers)) => numbers[0].0,
            _ => 0,
        };
        let med = |told: &Told| told.attributes.multi_exit_disc.unwrap_or(0);
        let all = left.clone();
        left.retain(|(_, told)| {
            !all.iter().any(|(_, other)| (always || neighbour(other) == neighbour(told)) && med(other) < med(told))
        });
        keep_least(&mut left, &|(_, peer, _), _| u64::from(*peer == 3));
        keep_least(&mut left, &|(_, peer, _), told| {
            told.attributes.originator_id.map_or(u64::from(identifier(*peer)), |id| u64::from(u32::from(id)))
        });
        keep_least(&mut left, &|_, told| told.attributes.cluster_list.len() as u64);
        keep_least(&mut left, &|(_, peer, _), _| *peer as u64);
        keep_least(&mut left, &|(_, _, id), _| u64::from(*id));
        left.first().map(|(key, _)| (key.1, key.2))
    }
}

fn any_attributes() -> impl Strategy<Value = (Attributes, usize)> {
    let path = vec(prop_oneof![Just(64502_u32), Just(64503), Just(64510), Just(LOCAL_AS)], 0..3);
    let community = prop_oneof![
        4 => Just(Community(1)),
        1 => Just(Community::NO_EXPORT),
        1 => Just(Community::NO_ADVERTISE),
        1 => Just(Community::NO_PEER),
        1 => Just(Community::BLACKHOLE),
        1 => Just(Community::GRACEFUL_SHUTDOWN),
        1 => Just(Community::LLGR_STALE),
        1 => Just(Community::NO_LLGR),
    ];
    let origin = prop_oneof![3 => Just(Origin::Igp), 1 => Just(Origin::Incomplete)];
    let id = proptest::option::weighted(0.2, (1_u32..4).prop_map(std::net::Ipv4Addr::from));
    let clusters = vec((1_u32..4).prop_map(std::net::Ipv4Addr::from), 0..2);
    (0..4_usize, path, vec(community, 0..2), origin, proptest::option::of(0..3_u32), 99..102_u32, id, clusters, 0..8_u8)
        .prop_map(|(peer, path, communities, origin, med, local_pref, originator_id, cluster_list, odd)| {
            let internal = peer == 3;
            let mut numbers: Vec<Asn> = path.into_iter().map(Asn).collect();
            if !internal && odd > 0 {
                numbers.insert(0, Asn(PEERS[peer]));
            }
            let mut path = AsPath::sequence(numbers);
            if odd == 1 {
                path.0.push(Segment::Set(vec![Asn(64511), Asn(64512)]));
            }
            let attributes = Attributes {
                origin: Some(origin),
                as_path: Some(path),
                multi_exit_disc: med,
                local_pref: internal.then_some(local_pref),
                originator_id: originator_id.filter(|_| internal),
                cluster_list: if internal { cluster_list } else { Vec::new() },
                communities,
                ..Attributes::default()
            };
            (attributes, peer)
        })
}

fn any_op() -> impl Strategy<Value = Op> {
    let place = || (0..4_usize, 0..PREFIXES.len(), 0..2_u32);
    prop_oneof![
        12 => (any_attributes(), 0..PREFIXES.len(), 0..2_u32).prop_map(|((attributes, peer), prefix, id)| Op::Announce {
            peer,
            prefix,
            id,
            attributes: Box::new(attributes)
        }),
        5 => place().prop_map(|(peer, prefix, id)| Op::Withdraw { peer, prefix, id }),
        1 => (0..4_usize).prop_map(Op::Lost),
        2 => (0..4_usize).prop_map(Op::Up),
        1 => (0..4_usize).prop_map(Op::Stale),
        1 => (0..4_usize).prop_map(Op::Sweep),
        1 => (0..4_usize).prop_map(Op::Llgr),
        1 => (0..4_usize).prop_map(Op::RefreshBegins),
        4 => (1..200_usize).prop_map(|octets| Op::Read { octets }),
        1 => Just(Op::TellAgain),
    ]
}

fn update(prefix: IpNet, id: u32, attributes: Option<&Attributes>) -> Update {
    let mut update = Update::default();
    match (prefix, attributes) {
        (IpNet::V4(net), None) => {
            update.withdrawn = vec![net];
            update.path_ids = PathIds { withdrawn: vec![id], ..PathIds::default() };
        }
        (IpNet::V6(net), None) => {
            update.mp_unreach = Some(MpUnreach::Ipv6(vec![net]));
            update.path_ids = PathIds { mp_unreach: vec![id], ..PathIds::default() };
        }
        (IpNet::V4(net), Some(attributes)) => {
            update.attributes = Attributes { next_hop: Some([192, 0, 2, 99].into()), ..attributes.clone() };
            update.announced = vec![net];
            update.path_ids = PathIds { announced: vec![id], ..PathIds::default() };
        }
        (IpNet::V6(net), Some(attributes)) => {
            let next_hop = "2001:db8::99".parse().unwrap();
            update.attributes = attributes.clone();
            update.mp_reach = Some(MpReach::Ipv6 { next_hop, link_local: None, prefixes: vec![net] });
            update.path_ids = PathIds { mp_reach: vec![id], ..PathIds::default() };
        }
    }
    update
}

fn rib(always_compare_med: bool) -> (Rib, Vec<PeerId>) {
    let mut rib = Rib::new(Settings {
        local_as: Asn(LOCAL_AS),
        router_id: router_id(1),
        private: vec!["203.0.113.200/32".parse().unwrap()],
        own: vec!["10.1.2.3/32".parse().unwrap()],
        always_compare_med,
    });
    let settings = |peer: usize| PeerSettings {
        name: format!("peer{peer}"),
        address: address(peer),
        asn: Asn(PEERS[peer]),
        internal: peer == 3,
        role: None,
        import: Import::All,
        accept_blackhole: false,
        enforce_first_as: true,
    };
    let peers = (0..4).map(|peer| rib.add_peer(settings(peer))).collect();
    (rib, peers)
}

fn export(peer: PeerId, external: bool) -> Export {
    Export {
        peer,
        role: None,
        context: Context { external, ..Context::default() },
        families: Family::ALL.into(),
        next_hop_v4: Some([192, 0, 2, 1].into()),
        next_hop_v6: Some("2001:db8::1".parse().unwrap()),
        llgr: false,
        stale_inside: false,
        keeps: false,
    }
}

/// What a peer holds after it has read `bytes`.
fn hold(held: &mut BTreeMap<IpNet, Attributes>, bytes: &[u8], context: Context) {
    let mut framer = Framer::default();
    framer.push(bytes);
    while let Some(frame) = framer.next_frame().unwrap() {
        let Ok(Message::Update(update)) = Message::decode(frame, context) else { panic!("no UPDATE") };
        assert!(update.flaws.is_empty(), "{:?}", update.flaws);
        for prefix in update.unreachable() {
            assert!(held.remove(&prefix).is_some(), "{prefix} was never told");
        }
        for prefix in update.reachable() {
            held.insert(prefix, update.attributes.clone());
        }
    }
}

fn holds_what_it_should(rib: &Rib, model: &Model, reader: (&Export, &BTreeMap<IpNet, Attributes>), always: bool) {
    let (export, held) = reader;
    for prefix in (0..PREFIXES.len()).map(prefix) {
        let told = rib.tells(export, &prefix).is_ok();
        assert_eq!(held.contains_key(&prefix), told, "{prefix}: {:?}", rib.tells(export, &prefix));
        let Some(attributes) = held.get(&prefix) else { continue };
        let (peer, id) = model.best(prefix, always).unwrap();
        let best = &model.routes[&(prefix, peer, id)];
        assert!(!best.llgr && prefix.to_string() != "10.1.2.3/32");
        for (community, everybody) in [
            (Community::NO_ADVERTISE, true),
            (Community::BLACKHOLE, true),
            (Community::LLGR_STALE, true),
            (Community::NO_EXPORT, false),
            (Community::NO_PEER, false),
        ] {
            let guarded = best.attributes.communities.contains(&community);
            assert!(!guarded || (!everybody && !export.context.external), "{community} went out");
        }
        let path = best.attributes.as_path.clone().unwrap();
        if export.context.external {
            assert_eq!(attributes.as_path, Some(path.prepended(Asn(LOCAL_AS))));
            assert_eq!((attributes.local_pref, attributes.multi_exit_disc), (None, None));
        } else {
            assert_ne!(peer, 3, "from one internal peer to another");
            assert_eq!(attributes.as_path, Some(path));
            assert!(attributes.local_pref.is_some());
            assert_eq!(attributes.multi_exit_disc, best.attributes.multi_exit_disc);
        }
    }
}

fn is_as_the_model(rib: &Rib, peers: &[PeerId], model: &Model, always: bool) {
    let mut shown = BTreeMap::new();
    for family in Family::ALL {
        for found in rib.list(family, 0, rib.places(family)) {
            let best: Vec<_> = found.paths.iter().filter(|path| path.standing == Standing::Best).collect();
            assert!(best.len() <= 1, "{found:?}");
            let expected = model.best(found.prefix, always);
            assert_eq!(best.first().map(|path| (path.peer, path.path_id)), expected.map(|(p, id)| (peers[p], id)));
            assert!(expected.is_none() || found.paths[0].standing == Standing::Best, "the best comes first");
            for path in &found.paths {
                let peer = peers.iter().position(|peer| *peer == path.peer).unwrap();
                let key = (found.prefix, peer, path.path_id);
                let usable = !matches!(path.standing, Standing::Rejected(_));
                assert_eq!(usable, Model::usable(&key, &model.routes[&key]), "{path:?}");
                let told = Told { attributes: path.attributes.clone(), outdated: path.outdated, llgr: path.llgr_stale };
                shown.insert(key, told);
            }
        }
    }
    assert_eq!(shown, model.routes);
    for (at, peer) in peers.iter().enumerate() {
        let counts = Family::ALL.map(|family| rib.counts(*peer, family));
        let of = |usable: bool| {
            model.routes.iter().filter(|(key, told)| key.1 == at && (usable || !Model::usable(key, told))).count()
        };
        assert_eq!(counts[0].routes + counts[1].routes, of(true));
        assert_eq!(counts[0].rejected + counts[1].rejected, of(false));
    }
    let sets: BTreeSet<_> =
        model.routes.iter().map(|((prefix, _, _), told)| (Family::of(prefix), &told.attributes)).collect();
    assert_eq!(rib.attribute_sets(), sets.len(), "attribute sets are let go");
    for address in
        ["10.1.2.3", "10.1.2.4", "10.9.9.9", "8.8.8.8", "2001:db8:1::1", "2001:db8:2::", "2001::", "::ffff:10.1.2.3"]
    {
        let address: IpAddr = address.parse().unwrap();
        let holding = model.routes.keys().map(|key| key.0).filter(|prefix| prefix.contains(&address.to_canonical()));
        let all: BTreeSet<IpNet> = holding.collect();
        let mut all: Vec<IpNet> = all.into_iter().collect();
        all.sort_by_key(|prefix| std::cmp::Reverse(prefix.prefix_len()));
        let found: Vec<IpNet> = rib.look_up(address).iter().map(|found| found.prefix).collect();
        assert_eq!(found, all);
        let longest = all.into_iter().find(|prefix| model.best(*prefix, always).is_some());
        assert_eq!(rib.origin(address).map(|origin| origin.prefix), longest);
    }
}

struct Listener {
    reader: ReaderId,
    export: Export,
    held: BTreeMap<IpNet, Attributes>,
}

impl Listener {
    fn read(&mut self, rib: &mut Rib, octets: usize) {
        let batch = rib.read(self.reader, octets);
        hold(&mut self.held, &batch.bytes, self.export.context);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_rib_is_what_a_slow_recomputation_says(ops in vec(any_op(), 0..60), always: bool) {
        let (mut rib, peers) = rib(always);
        let mut model = Model::default();
        let mut listeners: Vec<Listener> = [(2, true), (3, false)]
            .into_iter()
            .map(|(peer, external)| {
                let export = export(peers[peer], external);
                Listener { reader: rib.attach(export.clone()), export, held: BTreeMap::new() }
            })
            .collect();
        for (at, peer) in peers.iter().enumerate() {
            rib.peer_up(*peer, router_id(identifier(at)), None);
            model.up[at] = true;
        }
        for op in ops {
            match op {
                Op::Announce { peer, prefix: at, id, attributes } => {
                    rib.apply(peers[peer], update(prefix(at), id, Some(&attributes)));
                    if model.up[peer] {
                        let told = Told { attributes: *attributes, outdated: false, llgr: false };
                        model.routes.insert((prefix(at), peer, id), told);
                    }
                }
                Op::Withdraw { peer, prefix: at, id } => {
                    rib.apply(peers[peer], update(prefix(at), id, None));
                    if model.up[peer] {
                        model.routes.remove(&(prefix(at), peer, id));
                    }
                }
                Op::Lost(peer) => {
                    rib.peer_lost(peers[peer]);
                    model.outdate(peer);
                    model.sweep(peer);
                    model.up[peer] = false;
                }
                Op::Up(peer) => {
                    rib.peer_up(peers[peer], router_id(identifier(peer)), None);
                    model.up[peer] = true;
                }
                Op::Stale(peer) => {
                    Family::ALL.into_iter().for_each(|family| rib.peer_stale(peers[peer], family));
                    model.sweep(peer);
                    model.outdate(peer);
                    model.up[peer] = false;
                }
                Op::Sweep(peer) => {
                    Family::ALL.into_iter().for_each(|family| rib.sweep_all(peers[peer], family));
                    model.sweep(peer);
                }
                Op::Llgr(peer) => {
                    for family in Family::ALL {
                        let mut walk = Walk::default();
                        while rib.llgr_stale(peers[peer], family, &mut walk, 3).is_continue() {}
                    }
                    model.routes.retain(|(_, of, _), told| {
                        *of != peer || !told.outdated || !told.attributes.communities.contains(&Community::NO_LLGR)
                    });
                    let outdated = model.routes.iter_mut().filter(|((_, of, _), told)| *of == peer && told.outdated);
                    outdated.for_each(|(_, told)| told.llgr = true);
                }
                Op::RefreshBegins(peer) => {
                    Family::ALL.into_iter().for_each(|family| rib.refresh_begins(peers[peer], family));
                    model.outdate(peer);
                }
                Op::Read { octets } => listeners.iter_mut().for_each(|listener| listener.read(&mut rib, octets)),
                Op::TellAgain => {
                    for listener in &listeners {
                        Family::ALL.into_iter().for_each(|family| rib.tell_again(listener.reader, family));
                    }
                }
            }
            is_as_the_model(&rib, &peers, &model, always);
        }
        for listener in &mut listeners {
            while rib.has_more(listener.reader) {
                listener.read(&mut rib, 100);
            }
            holds_what_it_should(&rib, &model, (&listener.export, &listener.held), always);
            prop_assert_eq!(rib.told(listener.reader), listener.held.len());
        }
        for peer in &peers {
            rib.peer_lost(*peer);
        }
        for listener in &mut listeners {
            while rib.has_more(listener.reader) {
                listener.read(&mut rib, 100);
            }
            prop_assert!(listener.held.is_empty());
            rib.detach(listener.reader);
        }
        prop_assert_eq!((rib.prefixes(Family::Ipv4), rib.prefixes(Family::Ipv6), rib.attribute_sets()), (0, 0, 0));
        prop_assert_eq!((rib.places(Family::Ipv4), rib.places(Family::Ipv6)), (0, 0));
    }

    #[test]
    fn a_look_up_is_a_linear_search(
        prefixes in vec((any::<u32>(), 0_u8..=32), 0..40), addresses in vec(any::<u32>(), 1..20),
    ) {
        let (mut rib, peers) = rib(false);
        rib.peer_up(peers[0], router_id(9), None);
        let prefixes: Vec<Ipv4Net> = prefixes
            .into_iter()
            .map(|(bits, length)| Ipv4Net::new((bits & 0x0f0f_ffff).into(), length).unwrap().trunc())
            .collect();
        for (n, prefix) in prefixes.iter().enumerate() {
            let path = AsPath::sequence(vec![Asn(64501), Asn(n as u32 + 1)]);
            let attributes =
                Attributes { origin: Some(Origin::Igp), as_path: Some(path), ..Attributes::default() };
            rib.apply(peers[0], update(IpNet::V4(*prefix), 0, Some(&attributes)));
        }
        let near = prefixes.iter().map(|prefix| u32::from(prefix.broadcast()));
        for address in addresses.into_iter().map(|address| address & 0x0f0f_ffff).chain(near) {
            let address = std::net::Ipv4Addr::from(address);
            // Told twice, the last counts.
            let holding = prefixes.iter().enumerate().filter(|(_, prefix)| prefix.contains(&address));
            let expected = holding.max_by_key(|(n, prefix)| (prefix.prefix_len(), *n));
            let expected = expected.map(|(n, prefix)| (IpNet::V4(*prefix), Some(Asn(n as u32 + 1))));
            prop_assert_eq!(rib.origin(address.into()).map(|origin| (origin.prefix, origin.asn)), expected);
        }
    }
}

#[test]
fn path_identifiers_keep_paths_of_one_peer_apart_and_are_written_where_the_reader_has_them() {
    let (mut rib, peers) = rib(false);
    rib.peer_up(peers[0], router_id(9), None);
    let path = |asns: &[u32]| AsPath::sequence(asns.iter().copied().map(Asn).collect::<Vec<_>>());
    let attributes =
        |asns| Attributes { origin: Some(Origin::Igp), as_path: Some(path(asns)), ..Attributes::default() };
    rib.apply(peers[0], update(prefix(1), 1, Some(&attributes(&[64501, 64510]))));
    rib.apply(peers[0], update(prefix(1), 2, Some(&attributes(&[64501]))));
    let found = rib.routes_to(&prefix(1)).unwrap();
    assert_eq!(found.paths.iter().map(|path| path.path_id).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(rib.origin("10.0.0.1".parse().unwrap()).unwrap().asn, None, "two origins are nobody's");
    let context = Context { path_ids: Families { ipv4: true, ipv6: true }, ..Context::default() };
    let reader = rib.attach(Export { context, ..export(peers[3], false) });
    let mut held = BTreeMap::new();
    let batch = rib.read(reader, 1000);
    hold(&mut held, &batch.bytes, context);
    assert!(batch.end && !batch.more);
    assert_eq!(held[&prefix(1)].as_path, Some(path(&[64501])));
}

#[test]
fn a_prefix_that_becomes_ours_is_taken_back_from_whom_it_was_told_to() {
    let (mut rib, peers) = rib(false);
    rib.peer_up(peers[0], router_id(9), None);
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(vec![Asn(64501)])),
        ..Attributes::default()
    };
    for at in [1, 2, 3] {
        rib.apply(peers[0], update(prefix(at), 0, Some(&attributes)));
    }
    let told = export(peers[2], true);
    let reader = rib.attach(told.clone());
    let mut held = BTreeMap::new();
    hold(&mut held, &rib.read(reader, 1000).bytes, told.context);
    assert_eq!(held.len(), 3);
    rib.set_own(vec![prefix(3)], vec![prefix(2)]);
    hold(&mut held, &rib.read(reader, 1000).bytes, told.context);
    assert_eq!(held.keys().copied().collect::<Vec<_>>(), [prefix(1)]);
    assert_eq!(rib.tells(&told, &prefix(3)), Err(bgp_rib::NotTold::Private));
    rib.set_own(Vec::new(), Vec::new());
    hold(&mut held, &rib.read(reader, 1000).bytes, told.context);
    assert_eq!(held.len(), 3);
}
