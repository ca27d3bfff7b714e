//! The table beside a naive model of what each peer should hold.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_core::{
    Drain, Encode, FenceId, Filter, Guard, NextHop, Policy, PrefixList, Prefixes, ReaderId, Rib, RouteAttributes, Rule,
    Verdict, Walk,
};
use bgp_wire::{Attributes, Bulk, Community, Context, EncodeError, Family, Framer, Message};
use ipnet::IpNet;
use proptest::prelude::*;

/// Writes the MED, which tells attributes apart here, for the peer of this number; whether peers are told some sets
/// alone.
struct Plain(usize, bool);

/// Whether the peer is told of `set`, where peers are told some sets alone.
fn is_told(peer: usize, set: &str) -> bool {
    match peer {
        0 => true,
        1 => set != "b",
        _ => set == "b",
    }
}

/// Routes with this and more are for some peers only: for those whose bits are set above it.
const SELECTIVE: u32 = 8;

fn address(peer: usize) -> IpAddr {
    [192, 0, 2, 100 + u8::try_from(peer).unwrap()].into()
}

fn is_for(peer: usize, med: u32) -> bool {
    med < SELECTIVE || (med / SELECTIVE) & (1 << peer) != 0
}

impl Encode for Plain {
    fn tells(&self, set: &str, route: &RouteAttributes, _: Family) -> bool {
        route.is_for(address(self.0)) && (!self.1 || is_told(self.0, set))
    }

    fn announcement(&self, route: &RouteAttributes, _: Family, _: Option<u32>) -> Result<Bulk, EncodeError> {
        let attributes = Attributes { multi_exit_disc: route.med, ..Attributes::default() };
        match route.next_hop {
            NextHop::Address(IpAddr::V4(next_hop)) => Bulk::announce_v4(&attributes, next_hop, Context::default()),
            NextHop::Address(IpAddr::V6(next_hop)) => Bulk::announce_v6(&attributes, next_hop, Context::default()),
            NextHop::Own => panic!("not here"),
        }
    }

    fn withdrawal(&self, family: Family) -> Bulk {
        Bulk::withdraw(family, Context::default())
    }
}

/// What a peer holds: each prefix with its MED.
#[derive(Default)]
struct Peer {
    number: usize,
    split: bool,
    reader: Option<ReaderId>,
    families: BTreeSet<Family>,
    filter: Filter,
    held: BTreeMap<IpNet, u32>,
    fences: Vec<FenceId>,
    ended: bool,
}

impl Peer {
    fn attach(&mut self, rib: &mut Rib, families: BTreeSet<Family>) {
        self.reader = rib.attach(families.clone(), self.filter.clone());
        let Self { number, split, reader, .. } = *self;
        *self = Self { number, split, reader, families, filter: self.filter.clone(), ..Self::default() };
    }

    /// Reads once; says whether there is more.
    fn read(&mut self, rib: &mut Rib, octets: usize) -> bool {
        let Some(reader) = self.reader else { return false };
        let batch = rib.read(reader, octets, &Plain(self.number, self.split));
        let (mut framer, mut updates) = (Framer::default(), 0);
        framer.push(&batch.bytes);
        while let Some(frame) = framer.next_frame().unwrap() {
            updates += 1;
            // Attributes other than the MED are left out here, hence the flaws.
            let Ok(Message::Update(update)) = Message::decode(frame, Context::default()) else { panic!() };
            let med = update.attributes.multi_exit_disc;
            let coming = med.is_some();
            for prefix in update.unreachable() {
                match coming {
                    true => drop(self.held.insert(prefix, med.unwrap())),
                    false => drop(self.held.remove(&prefix)),
                }
            }
        }
        assert_eq!(updates, batch.updates);
        self.fences.extend(batch.fences);
        self.ended |= batch.end;
        batch.more
    }

    fn read_all(&mut self, rib: &mut Rib) {
        while self.read(rib, 1 << 14) {}
    }
}

fn prefix(n: u8) -> IpNet {
    match n % 2 {
        0 => IpNet::new([10, 0, n, 0].into(), 24).unwrap(),
        _ => IpNet::new(std::net::Ipv6Addr::new(0x2001, 0xdb8, u16::from(n), 0, 0, 0, 0, 0).into(), 48).unwrap(),
    }
}

fn attributes(prefix: &IpNet, med: u32) -> RouteAttributes {
    let next_hop = if prefix.addr().is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
    let audience = (0..3).filter(|peer| med >= SELECTIVE && is_for(*peer, med)).map(address).collect();
    RouteAttributes { med: Some(med), audience, ..RouteAttributes::new(next_hop.parse::<IpAddr>().unwrap()) }
}

fn rib() -> Rib {
    let allow = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    Rib::new(Arc::new(Policy::new(&allow, &[])))
}

/// Lets pass what a bit of `bits` stands for; all of them make no list.
fn filter(bits: u32) -> Filter {
    let rule = |n: &u8| Rule::new(prefix(*n), None, None, Verdict::Permit).unwrap();
    match bits {
        0 => Filter::Nothing,
        u32::MAX => Filter::All,
        _ => Filter::List(Arc::new(PrefixList::new(
            (0..24).filter(|n| bits & (1 << n) != 0).collect::<Vec<u8>>().iter().map(rule).collect(),
        ))),
    }
}

/// Allows one half of the prefixes, or all.
fn policy(half: bool) -> Policy {
    let v4 = if half { "10.0.0.0/21" } else { "10.0.0.0/8" };
    Policy::new(&[v4.parse().unwrap(), "2001:db8::/32".parse().unwrap()], &[])
}

const SETS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Add(usize, u8, u32),
    Remove(usize, u8),
    Replace(usize, Vec<u8>, u32),
    Show(usize, bool),
    Attach(usize, u8),
    Detach(usize),
    Refresh(usize, bool),
    Read(usize, usize),
    Filter(usize, u32),
    Policy(bool),
    Fence,
}

fn med() -> impl Strategy<Value = u32> {
    (1..4u32, prop_oneof![2 => Just(0), 1 => 1..8u32]).prop_map(|(med, audience)| SELECTIVE * audience + med)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3usize, 0..24u8, med()).prop_map(|(set, n, med)| Step::Add(set, n, med)),
        4 => (0..3usize, 0..24u8).prop_map(|(set, n)| Step::Remove(set, n)),
        1 => (0..3usize, proptest::collection::vec(0..24u8, 0..20), med()).prop_map(|(s, n, m)| Step::Replace(s, n, m)),
        1 => (0..3usize, any::<bool>()).prop_map(|(set, shown)| Step::Show(set, shown)),
        1 => (0..3usize, 1..4u8).prop_map(|(peer, families)| Step::Attach(peer, families)),
        1 => (0..3usize).prop_map(Step::Detach),
        1 => (0..3usize, any::<bool>()).prop_map(|(peer, v4)| Step::Refresh(peer, v4)),
        4 => (0..3usize, 0..200usize).prop_map(|(peer, octets)| Step::Read(peer, octets)),
        1 => (0..3usize, prop_oneof![Just(0), Just(u32::MAX), any::<u32>()]).prop_map(|(peer, bits)| Step::Filter(peer, bits)),
        1 => any::<bool>().prop_map(Step::Policy),
        1 => Just(Step::Fence),
    ]
}

/// Sets as the operator meant them, and whether they are shown.
type Model = [(BTreeMap<IpNet, u32>, bool); 3];

fn expected(model: &Model, peer: &Peer, half: bool) -> BTreeMap<IpNet, u32> {
    let policy = policy(half);
    let passes = |prefix: &IpNet, med: u32| {
        is_for(peer.number, med)
            && peer.families.contains(&Family::of(prefix))
            && peer.filter.takes(prefix)
            && policy.check(*prefix, None).is_ok()
    };
    let mut table = BTreeMap::new();
    let sets = SETS.iter().zip(model).filter(|(set, _)| !peer.split || is_told(peer.number, set));
    for (_, (routes, _)) in sets.filter(|(_, (_, shown))| *shown) {
        for (prefix, med) in routes.iter().filter(|(prefix, med)| passes(prefix, **med)) {
            table.entry(*prefix).or_insert(*med);
        }
    }
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn every_peer_ends_up_with_what_is_wanted(
        steps in proptest::collection::vec(step(), 1..120), split: bool,
    ) {
        let mut rib = rib();
        if split {
            rib.split();
        }
        let mut model: Model = [(); 3].map(|()| (BTreeMap::new(), true));
        let mut peers = [0, 1, 2].map(|number| Peer { number, split, ..Peer::default() });
        let (mut half, mut narrowed) = (false, false);
        let mut fences: Vec<(FenceId, Vec<(usize, ReaderId)>)> = Vec::new();
        for step in steps {
            match step {
                Step::Add(set, n, med) => {
                    let id = rib.set(SETS[set]);
                    let attributes = rib.intern(id, &attributes(&prefix(n), med));
                    rib.add(prefix(n), attributes, false);
                    model[set].0.insert(prefix(n), med);
                }
                Step::Remove(set, n) => {
                    let id = rib.set(SETS[set]);
                    prop_assert_eq!(rib.remove(prefix(n), id), model[set].0.remove(&prefix(n)).is_some());
                }
                Step::Replace(set, names, med) => {
                    let id = rib.set(SETS[set]);
                    let wanted: Prefixes = names.iter().map(|n| prefix(*n)).collect();
                    for prefix in wanted.iter() {
                        let attributes = rib.intern(id, &attributes(&prefix, med));
                        rib.add(prefix, attributes, true);
                    }
                    let (mut walk, mut removed) = (Walk::default(), 0);
                    while rib.sweep(id, &mut walk, 3, &mut removed).is_continue() {}
                    let before = std::mem::replace(&mut model[set].0, wanted.iter().map(|p| (p, med)).collect());
                    prop_assert_eq!(removed, before.keys().filter(|p| !model[set].0.contains_key(*p)).count());
                }
                Step::Show(set, shown) => {
                    let id = rib.set(SETS[set]);
                    rib.show(id, shown, None);
                    let mut walk = Walk::default();
                    while rib.settle_set(id, &mut walk, 3).is_continue() {}
                    model[set].1 = shown;
                }
                Step::Attach(peer, bits) => {
                    if let Some(reader) = peers[peer].reader.take() {
                        rib.detach(reader);
                    }
                    let families = Family::ALL.into_iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
                    peers[peer].attach(&mut rib, families.map(|(_, family)| family).collect());
                }
                Step::Detach(peer) => {
                    if let Some(reader) = peers[peer].reader.take() {
                        rib.detach(reader);
                    }
                }
                Step::Refresh(peer, v4) => {
                    if let Some(reader) = peers[peer].reader {
                        rib.refresh(reader, if v4 { Family::Ipv4 } else { Family::Ipv6 });
                    }
                }
                Step::Filter(peer, bits) => {
                    peers[peer].filter = filter(bits);
                    if let Some(reader) = peers[peer].reader {
                        rib.refilter(reader, peers[peer].filter.clone());
                    }
                }
                Step::Policy(to) => {
                    half = to;
                    narrowed |= half;
                    let before = rib.set_policy(Arc::new(policy(half)));
                    let mut walk = Walk::default();
                    while rib.settle_policy(&before, &mut walk, 3).is_continue() {}
                }
                Step::Read(peer, octets) => drop(peers[peer].read(&mut rib, octets)),
                Step::Fence => {
                    let waiting = peers.iter().enumerate().filter_map(|(at, peer)| Some((at, peer.reader?))).collect();
                    if let Some(fence) = rib.fence() {
                        fences.push((fence, waiting));
                    }
                }
            }
            for (set, (routes, _)) in SETS.iter().zip(&model) {
                let id = rib.set(set);
                prop_assert_eq!(rib.routes_of(id), routes.len());
            }
        }
        for peer in &mut peers {
            peer.read_all(&mut rib);
            if let Some(reader) = peer.reader {
                prop_assert_eq!(&peer.held, &expected(&model, peer, half));
                prop_assert!(peer.ended);
                // What it holds is what it gets again.
                peer.held.clear();
                for family in Family::ALL {
                    rib.refresh(reader, family);
                }
                peer.read_all(&mut rib);
                prop_assert_eq!(&peer.held, &expected(&model, peer, half));
            }
        }
        for (fence, waiting) in fences {
            for (at, reader) in waiting {
                prop_assert!(peers[at].reader != Some(reader) || peers[at].fences.contains(&fence) || reader_is_new(&peers[at], fence));
            }
        }
        prop_assert!(narrowed || rib.refused() == 0);
    }
}

/// A reader's number is given anew after a detach; the later one started behind the fence.
fn reader_is_new(peer: &Peer, fence: FenceId) -> bool {
    peer.fences.iter().all(|other| *other > fence)
}

#[test]
fn one_change_to_a_large_table_is_one_message() {
    let mut rib = rib();
    let set = rib.set("a");
    let mut peer = Peer::default();
    peer.attach(&mut rib, Family::ALL.into());
    let host = |n: u32| IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 32).unwrap();
    let common = rib.intern(set, &attributes(&host(0), 1));
    for n in 0..50_000 {
        rib.add(host(n), common, false);
    }
    let reader = peer.reader.unwrap();
    let (mut updates, mut prefixes) = (0, 0);
    loop {
        let batch = rib.read(reader, 1 << 16, &Plain(0, false));
        updates += batch.updates;
        prefixes += batch.prefixes;
        if !batch.more {
            break;
        }
    }
    assert_eq!(prefixes, 50_000);
    assert!(prefixes / updates >= 800, "{updates} messages");
    rib.remove(host(7), set);
    let batch = rib.read(reader, 1 << 16, &Plain(0, false));
    assert_eq!((batch.updates, batch.prefixes, batch.more), (1, 1, false));
    assert_eq!(rib.add(host(8), common, false), bgp_core::Change::None);
    assert_eq!(rib.read(reader, 1 << 16, &Plain(0, false)).updates, 0, "nothing changed, nothing is said");
}

#[test]
fn the_encoder_refuses_what_got_past_the_api() {
    let private = "10.0.2.0/24".parse().unwrap();
    let mut rib = Rib::new(Arc::new(Policy::new(&["10.0.0.0/8".parse().unwrap()], &[private])));
    let set = rib.set("a");
    let mut peer = Peer::default();
    peer.attach(&mut rib, Family::ALL.into());
    for prefix in [private, "192.0.2.0/24".parse().unwrap()] {
        let unguarded = rib.intern(set, &attributes(&prefix, 1));
        rib.add(prefix, unguarded, false);
    }
    peer.read_all(&mut rib);
    assert!(peer.held.is_empty());
    assert_eq!(rib.refused(), 2);
    let guarded = RouteAttributes { guard: Some(Guard::NoExport), ..attributes(&private, 1) };
    let guarded = rib.intern(set, &guarded);
    rib.add(private, guarded, false);
    peer.read_all(&mut rib);
    assert_eq!(peer.held.len(), 1);
}

#[test]
fn a_peer_that_a_route_is_not_for_hears_nothing_of_it() {
    let mut rib = rib();
    let (first, second) = (rib.set("a"), rib.set("b"));
    let mut peers = [0, 1].map(|number| Peer { number, ..Peer::default() });
    peers.iter_mut().for_each(|peer| peer.attach(&mut rib, Family::ALL.into()));
    let updates =
        |rib: &mut Rib, peer: &Peer| rib.read(peer.reader.unwrap(), 1 << 14, &Plain(peer.number, peer.split)).updates;
    peers.iter_mut().for_each(|peer| peer.read_all(&mut rib));
    let add = |rib: &mut Rib, set, med| {
        let attributes = rib.intern(set, &attributes(&prefix(0), med));
        rib.add(prefix(0), attributes, false);
    };
    // For the first alone; changed, still for it alone; then a set behind it, for the second.
    add(&mut rib, first, SELECTIVE + 1);
    assert_eq!((updates(&mut rib, &peers[0]), updates(&mut rib, &peers[1])), (1, 0));
    add(&mut rib, second, 2 * SELECTIVE + 2);
    peers.iter_mut().for_each(|peer| peer.read_all(&mut rib));
    assert_eq!(peers[1].held.get(&prefix(0)), Some(&(2 * SELECTIVE + 2)));
    assert!(rib.remove(prefix(0), second));
    peers.iter_mut().for_each(|peer| peer.read_all(&mut rib));
    assert!(peers[1].held.is_empty() && peers[0].held.len() == 1);
}

#[test]
fn a_set_that_drains_is_told_in_another_way_and_then_goes() {
    let mut rib = rib();
    let set = rib.set("a");
    let mut peer = Peer::default();
    peer.attach(&mut rib, Family::ALL.into());
    let (routes, other) = (rib.intern(set, &attributes(&prefix(0), 1)), rib.set("b"));
    rib.add(prefix(0), routes, false);
    let routes = rib.intern(other, &attributes(&prefix(2), 2));
    rib.add(prefix(2), routes, false);
    let told = |rib: &mut Rib, peer: &mut Peer, shown, drain| {
        rib.show(set, shown, drain);
        while rib.settle_set(set, &mut Walk::default(), u32::MAX).is_continue() {}
        peer.read_all(rib);
        (peer.held.get(&prefix(0)).copied(), peer.held.get(&prefix(2)).copied())
    };
    assert_eq!(told(&mut rib, &mut peer, true, None), (Some(1), Some(2)));
    assert_eq!(told(&mut rib, &mut peer, true, Some(Drain::Med(7))), (Some(7), Some(2)));
    assert_eq!(told(&mut rib, &mut peer, false, None), (None, Some(2)));
    assert_eq!(told(&mut rib, &mut peer, true, None), (Some(1), Some(2)));
    let drained = Drain::GracefulShutdown.of(&attributes(&prefix(0), 1));
    assert_eq!((drained.communities, drained.local_pref), (vec![Community::GRACEFUL_SHUTDOWN], Some(0)));
}
