//! The table of peers' routes, under any order of what peers say and do, beside one that is as plain as can be.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;

use bgp_rib::{Export, Import, Match, PeerId, PeerSettings, ReaderId, Rib, Settings, Standing, Walk};
use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context, Family, Framer, Message, Origin, RouterId, Update, announce_v4,
    withdraw_v4,
};
use ipnet::Ipv4Net;

use crate::bytes::Choices;

const OURS: u32 = 64500;
const PEERS: [u32; 3] = [64501, 64502, 64503];
/// What is ours alone, and what is injected here.
const PRIVATE: &str = "10.1.0.0/16";
const OWN: &str = "10.2.0.0/16";

/// What a peer says of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    length: usize,
    looped: bool,
    no_export: bool,
    outdated: bool,
}

struct World {
    rib: Rib,
    peers: [PeerId; 3],
    reader: ReaderId,
    /// By prefix and peer.
    routes: BTreeMap<(Ipv4Net, usize), Told>,
    /// What the reader, the last of the peers, was told and not told otherwise.
    held: BTreeMap<Ipv4Net, usize>,
    /// Whether it is to be told anything.
    told: bool,
}

fn external() -> Context {
    Context { external: true, ..Context::default() }
}

fn id(octet: u8) -> RouterId {
    RouterId::new([10, 0, 0, octet].into()).expect("not zero")
}

fn net(text: &str) -> Ipv4Net {
    text.parse().expect("a prefix")
}

fn touches(prefix: &Ipv4Net, text: &str) -> bool {
    net(text).contains(prefix)
}

/// Few addresses, so that prefixes hold one another, of any length.
fn prefix(choices: &mut Choices<'_>) -> Ipv4Net {
    let (high, low, bits) = (choices.byte() % 4, choices.byte(), choices.byte() % 33);
    Ipv4Net::new([10, high, low & 0xc3, low].into(), bits).expect("at most 32").trunc()
}

/// Any sequence: after each step both tables say the same of an address, and in the end of all and of the reader.
pub fn bgp_rib(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut world = World::new();
    while !choices.is_empty() {
        world.step(&mut choices);
        let address = Ipv4Addr::new(10, choices.byte() % 4, choices.byte(), choices.byte());
        world.look_up(address);
    }
    world.read(usize::MAX);
    world.all();
}

/// The peer is there, for the first time or again.
fn up(rib: &mut Rib, peer: PeerId, index: usize) {
    let octet = 11 + u8::try_from(index).unwrap_or_default();
    rib.peer_up(peer, id(octet), Some(Ipv4Addr::new(192, 0, 2, 1).into()));
}

/// How the last of the peers is told, if it is told anything.
fn export(peer: PeerId, told: bool) -> Export {
    Export {
        peer,
        role: None,
        context: external(),
        families: told.then_some(Family::Ipv4).into_iter().collect(),
        next_hop_v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        next_hop_v6: None,
        llgr: false,
        stale_inside: false,
        keeps: false,
    }
}

impl World {
    fn new() -> Self {
        let mut rib = Rib::new(Settings {
            local_as: Asn(OURS),
            router_id: id(1),
            private: vec![net(PRIVATE).into()],
            own: vec![net(OWN).into()],
            always_compare_med: false,
        });
        let peers = [0, 1, 2].map(|peer: usize| {
            let octet = 11 + u8::try_from(peer).unwrap_or_default();
            let settings = PeerSettings {
                name: peer.to_string(),
                address: Ipv4Addr::new(192, 0, 2, octet).into(),
                asn: Asn(PEERS[peer]),
                internal: false,
                role: None,
                import: Import::All,
                accept_blackhole: false,
                enforce_first_as: true,
            };
            let added = rib.add_peer(settings);
            up(&mut rib, added, peer);
            added
        });
        let reader = rib.attach(export(peers[2], true));
        Self { rib, peers, reader, routes: BTreeMap::new(), held: BTreeMap::new(), told: true }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let (kind, peer) = (choices.byte() % 13, usize::from(choices.byte() % 3));
        let id = self.peers[peer];
        match kind {
            0..=4 => {
                let (prefix, flags) = (prefix(choices), choices.byte());
                let told = Told {
                    length: usize::from(flags % 3),
                    looped: flags & 0x80 != 0,
                    no_export: flags & 0x40 != 0,
                    outdated: false,
                };
                self.announce(peer, prefix, told);
            }
            5..=6 => {
                let prefix = prefix(choices);
                for update in withdraw_v4([prefix], external()) {
                    self.rib.apply(id, update);
                }
                self.routes.remove(&(prefix, peer));
            }
            7 => {
                self.rib.peer_lost(id);
                up(&mut self.rib, id, peer);
                self.routes.retain(|(_, of), _| *of != peer);
            }
            8 => {
                self.rib.peer_stale(id, Family::Ipv4);
                up(&mut self.rib, id, peer);
                // What was outdated before goes now.
                self.routes.retain(|(_, of), told| *of != peer || !told.outdated);
                self.outdate(peer);
            }
            9 => {
                self.rib.refresh_begins(id, Family::Ipv4);
                self.outdate(peer);
            }
            10 => {
                // In small slices, which is nobody's business.
                let mut walk = Walk::default();
                while let ControlFlow::Continue(()) = self.rib.sweep(id, Family::Ipv4, &mut walk, 3) {}
                self.routes.retain(|(_, of), told| *of != peer || !told.outdated);
            }
            11 => self.read(usize::from(choices.byte()) + 1),
            _ => {
                self.told = !self.told;
                self.rib.tell_otherwise(self.reader, export(self.peers[2], self.told));
            }
        }
    }

    fn outdate(&mut self, peer: usize) {
        self.routes.iter_mut().filter(|((_, of), _)| *of == peer).for_each(|(_, told)| told.outdated = true);
    }

    fn announce(&mut self, peer: usize, prefix: Ipv4Net, told: Told) {
        let mut path = vec![Asn(PEERS[peer])];
        path.extend(std::iter::repeat_n(Asn(65001), told.length));
        path.extend(told.looped.then_some(Asn(OURS)));
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(path)),
            communities: told.no_export.then_some(Community::NO_EXPORT).into_iter().collect(),
            ..Attributes::default()
        };
        let next_hop = Ipv4Addr::new(192, 0, 2, 11);
        let updates: Vec<Update> = announce_v4(&attributes, next_hop, [prefix], external()).expect("it is short");
        for update in updates {
            self.rib.apply(self.peers[peer], update);
        }
        self.routes.insert((prefix, peer), told);
    }

    /// RFC 4271 §9.1.2.2, as far as these routes differ: the shorter path, then the lower router id.
    fn best(&self, prefix: &Ipv4Net) -> Option<usize> {
        let usable = |peer: &usize| {
            let told = self.routes.get(&(*prefix, *peer))?;
            (!told.looped && !touches(prefix, PRIVATE)).then_some((told.length, *peer))
        };
        (0..PEERS.len()).filter_map(|peer| usable(&peer)).min().map(|(_, peer)| peer)
    }

    fn prefixes(&self) -> Vec<Ipv4Net> {
        let mut all: Vec<Ipv4Net> = self.routes.keys().map(|(prefix, _)| *prefix).collect();
        all.dedup();
        all
    }

    fn same(&self, prefix: &Ipv4Net, found: &Match<'_>) {
        let told = (0..PEERS.len()).filter(|peer| self.routes.contains_key(&(*prefix, *peer)));
        assert_eq!(found.paths.len(), told.count(), "{prefix}");
        let best = found.paths.iter().find(|path| path.standing == Standing::Best);
        assert_eq!(
            best.map(|path| path.peer_name.to_owned()),
            self.best(prefix).map(|peer| peer.to_string()),
            "{prefix}"
        );
        for path in &found.paths {
            let peer: usize = path.peer_name.parse().expect("a number");
            assert_eq!(path.outdated, self.routes[&(*prefix, peer)].outdated, "{prefix} of {peer}");
        }
    }

    fn look_up(&self, address: Ipv4Addr) {
        let mut holding: Vec<Ipv4Net> =
            self.prefixes().into_iter().filter(|prefix| prefix.contains(&address)).collect();
        holding.sort_by_key(|prefix| std::cmp::Reverse(prefix.prefix_len()));
        let found: Vec<Match<'_>> =
            self.rib.look_up(IpAddr::V4(address)).into_iter().filter(|found| !found.paths.is_empty()).collect();
        let prefixes: Vec<_> = found.iter().map(|found| found.prefix).collect();
        assert_eq!(prefixes, holding.iter().map(|prefix| (*prefix).into()).collect::<Vec<_>>(), "{address}");
        holding.iter().zip(&found).for_each(|(prefix, found)| self.same(prefix, found));
        let longest = holding.iter().find(|prefix| self.best(prefix).is_some());
        let origin = self.rib.origin(IpAddr::V4(address)).map(|origin| origin.prefix);
        assert_eq!(origin, longest.map(|prefix| (*prefix).into()), "{address}");
    }

    /// Reads for the last peer, and takes note of what it is told.
    fn read(&mut self, octets: usize) {
        loop {
            let batch = self.rib.read(self.reader, octets);
            let mut framer = Framer::default();
            framer.push(&batch.bytes);
            while let Some(frame) = framer.next_frame().expect("what we write") {
                let Ok(Message::Update(update)) = Message::decode(frame, external()) else { panic!("no UPDATE") };
                assert!(update.flaws.is_empty(), "{:?}", update.flaws);
                for prefix in &update.withdrawn {
                    assert!(self.held.remove(prefix).is_some(), "{prefix} is taken back, and was never told");
                }
                let length = update.attributes.as_path.as_ref().map_or(0, |path| match path.0.first() {
                    Some(bgp_wire::Segment::Sequence(numbers)) => numbers.len(),
                    _ => 0,
                });
                assert!(!update.attributes.communities.contains(&Community::NO_EXPORT), "passed on");
                for prefix in &update.announced {
                    self.held.insert(*prefix, length);
                }
            }
            if !batch.more || octets < usize::MAX {
                return;
            }
        }
    }

    /// Every prefix, and what the reader holds: the best of the others, unless it may not have it.
    fn all(&self) {
        let mut due: BTreeMap<Ipv4Net, usize> = BTreeMap::new();
        for prefix in self.prefixes() {
            let found = self.rib.routes_to(&prefix.into()).expect("it was told");
            self.same(&prefix, &found);
            let Some(best) = self.best(&prefix) else { continue };
            let told = &self.routes[&(prefix, best)];
            if self.told && best != 2 && !told.no_export && !touches(&prefix, OWN) && !touches(&prefix, PRIVATE) {
                // Ours in front, then theirs.
                due.insert(prefix, 2 + told.length);
            }
        }
        assert_eq!(self.held, due);
        let routes: usize = self.peers.iter().map(|peer| self.rib.counts(*peer, Family::Ipv4).routes).sum();
        assert_eq!(routes, self.routes.len());
    }
}
