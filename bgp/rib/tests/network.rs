//! Six speakers in five ASes over virtual days of links that break and crashes: they converge, nothing stale stays, and
//! no guarded route crosses an AS. `SIM_SEED=…` replays one run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::needless_range_loop, reason = "a node is its index, everywhere")]
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bgp_rib::{Export, Import, PeerId, PeerSettings, ReaderId, Rib, Settings, Standing};
use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context, Family, Framer, Message, Origin, RouterId, Update, announce_v4,
    withdraw_v4,
};
use cloakway_sim::{Faults, Net, NodeId, Rng, seeds};
use ipnet::{IpNet, Ipv4Net};

/// Nodes 3 and 4 are in one AS.
const ASNS: [u32; 6] = [64501, 64502, 4_200_000_003, 64504, 64504, 64506];
const LINKS: [(NodeId, NodeId); 8] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 3), (4, 5), (5, 2)];
const TROUBLE: Duration = Duration::from_secs(2 * 24 * 3600);
const HEALING: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
enum Event {
    /// Octets of a session, on the connection of this number.
    Data {
        link: usize,
        connection: u64,
        bytes: Vec<u8>,
    },
    /// Both ends of a link connect, if they can.
    Connect(usize),
    Trouble,
}

struct Node {
    rib: Rib,
    /// By link.
    peers: BTreeMap<usize, PeerId>,
    readers: BTreeMap<usize, ReaderId>,
    /// The customer whose routes the node brings in.
    customer: PeerId,
    alive: bool,
}

struct World {
    net: Net<Event>,
    rng: Rng,
    nodes: Vec<Node>,
    /// The connection of each link that is up.
    up: BTreeMap<usize, u64>,
    framers: BTreeMap<(usize, NodeId), Framer>,
    connections: u64,
    /// Whose customer announces.
    announced: BTreeSet<NodeId>,
    troubled: bool,
    seed: u64,
    crossings: u64,
}

fn address(node: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + u8::try_from(node).unwrap())
}

fn router_id(node: NodeId) -> RouterId {
    RouterId::new(address(node)).unwrap()
}

/// Anybody may have it.
fn open_prefix(node: NodeId) -> Ipv4Net {
    Ipv4Net::new([198, 51, u8::try_from(node).unwrap(), 0].into(), 24).unwrap()
}

/// Nobody outside the AS may.
fn guarded_prefix(node: NodeId) -> Ipv4Net {
    Ipv4Net::new([203, 0, 113, u8::try_from(node).unwrap()].into(), 32).unwrap()
}

fn customer_as(node: NodeId) -> Asn {
    Asn(65001 + u32::try_from(node).unwrap())
}

fn peer(name: &str, address: Ipv4Addr, asn: Asn, internal: bool) -> PeerSettings {
    PeerSettings {
        name: name.to_owned(),
        address: IpAddr::V4(address),
        asn,
        internal,
        role: None,
        import: Import::All,
        accept_blackhole: false,
        enforce_first_as: true,
    }
}

fn new_node(node: NodeId) -> Node {
    let mut rib = Rib::new(Settings {
        local_as: Asn(ASNS[node]),
        router_id: router_id(node),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    });
    let ends = LINKS.iter().enumerate().filter_map(|(link, (a, b))| match node {
        _ if node == *a => Some((link, *b)),
        _ if node == *b => Some((link, *a)),
        _ => None,
    });
    let peers = ends
        .map(|(link, other)| {
            (link, rib.add_peer(peer("peer", address(other), Asn(ASNS[other]), ASNS[other] == ASNS[node])))
        })
        .collect();
    let customer = rib.add_peer(peer("customer", [192, 0, 2, 200].into(), customer_as(node), false));
    rib.peer_up(customer, RouterId::new([192, 0, 2, 200].into()).unwrap(), None);
    Node { rib, peers, readers: BTreeMap::new(), customer, alive: true }
}

/// What a customer says of its two prefixes.
fn customer_says(node: NodeId, announced: bool) -> Vec<Update> {
    if !announced {
        return withdraw_v4([open_prefix(node), guarded_prefix(node)], Context::default());
    }
    let attributes = |communities: Vec<Community>| Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([customer_as(node)])),
        communities,
        ..Attributes::default()
    };
    let next_hop = Ipv4Addr::new(192, 0, 2, 200);
    let open = announce_v4(&attributes(Vec::new()), next_hop, [open_prefix(node)], Context::default()).unwrap();
    let guard = attributes(vec![Community::NO_EXPORT]);
    [open, announce_v4(&guard, next_hop, [guarded_prefix(node)], Context::default()).unwrap()].concat()
}

impl World {
    fn new(seed: u64) -> Self {
        let faults = Faults { delay_max: Duration::from_millis(400), ..Faults::none() };
        let mut world = Self {
            net: Net::new(seed, faults),
            rng: Rng::new(seed),
            nodes: (0..ASNS.len()).map(new_node).collect(),
            up: BTreeMap::new(),
            framers: BTreeMap::new(),
            connections: 0,
            announced: BTreeSet::new(),
            troubled: true,
            seed,
            crossings: 0,
        };
        for node in 0..ASNS.len() {
            world.customer(node, true);
        }
        for link in 0..LINKS.len() {
            world.net.after(Duration::from_secs(1), 0, Event::Connect(link));
        }
        world.net.after(Duration::from_secs(60), 0, Event::Trouble);
        world
    }

    fn context(link: usize) -> Context {
        let (a, b) = LINKS[link];
        Context { external: ASNS[a] != ASNS[b], ..Context::default() }
    }

    fn customer(&mut self, node: NodeId, announced: bool) {
        if announced {
            self.announced.insert(node);
        } else {
            self.announced.remove(&node);
        }
        if self.nodes[node].alive {
            let customer = self.nodes[node].customer;
            for update in customer_says(node, announced) {
                self.nodes[node].rib.apply(customer, update);
            }
            self.tell(node);
        }
    }

    /// Sends what the node's peers have yet to hear.
    fn tell(&mut self, node: NodeId) {
        let readers: Vec<_> = self.nodes[node].readers.iter().map(|(link, reader)| (*link, *reader)).collect();
        for (link, reader) in readers {
            let (a, b) = LINKS[link];
            let other = if node == a { b } else { a };
            loop {
                let batch = self.nodes[node].rib.read(reader, 4096);
                if !batch.bytes.is_empty() {
                    let data = Event::Data { link, connection: self.up[&link], bytes: batch.bytes };
                    assert!(self.net.send_ordered(node, other, data));
                }
                if !batch.more {
                    break;
                }
            }
        }
    }

    fn connect(&mut self, link: usize) {
        let (a, b) = LINKS[link];
        if self.up.contains_key(&link) || !self.nodes[a].alive || !self.nodes[b].alive {
            return;
        }
        self.connections += 1;
        self.up.insert(link, self.connections);
        for (node, other) in [(a, b), (b, a)] {
            self.framers.insert((link, node), Framer::default());
            let Node { rib, peers, readers, .. } = &mut self.nodes[node];
            rib.peer_up(peers[&link], router_id(other), Some(address(node).into()));
            let export = Export {
                peer: peers[&link],
                role: None,
                context: Self::context(link),
                families: BTreeSet::from([Family::Ipv4]),
                next_hop_v4: Some(address(node)),
                next_hop_v6: None,
                llgr: false,
            };
            readers.insert(link, rib.attach(export));
        }
        self.tell(a);
        self.tell(b);
    }

    /// What is on its way is lost with the connection.
    fn cut(&mut self, link: usize) {
        if self.up.remove(&link).is_none() {
            return;
        }
        let (a, b) = LINKS[link];
        for node in [a, b] {
            let Node { rib, peers, readers, .. } = &mut self.nodes[node];
            rib.detach(readers.remove(&link).unwrap());
            rib.peer_lost(peers[&link]);
        }
        self.tell(a);
        self.tell(b);
    }

    fn crash(&mut self, node: NodeId) {
        for link in 0..LINKS.len() {
            if LINKS[link].0 == node || LINKS[link].1 == node {
                self.cut(link);
            }
        }
        self.nodes[node] = new_node(node);
        self.nodes[node].alive = false;
    }

    fn restart(&mut self, node: NodeId) {
        if !self.nodes[node].alive {
            self.nodes[node].alive = true;
            self.customer(node, self.announced.contains(&node));
        }
    }

    fn event(&mut self, node: NodeId, event: Event) {
        match event {
            Event::Connect(link) => self.connect(link),
            Event::Data { link, connection, bytes } => {
                if self.up.get(&link) == Some(&connection) {
                    self.receive(node, link, &bytes);
                }
            }
            Event::Trouble if self.troubled => self.trouble(),
            Event::Trouble => {}
        }
    }

    fn receive(&mut self, node: NodeId, link: usize, bytes: &[u8]) {
        let context = Self::context(link);
        let framer = self.framers.get_mut(&(link, node)).unwrap();
        framer.push(bytes);
        let mut updates = Vec::new();
        while let Some(frame) = framer.next_frame().unwrap() {
            let Ok(Message::Update(update)) = Message::decode(frame, context) else { panic!("SIM_SEED={}", self.seed) };
            assert!(update.flaws.is_empty(), "SIM_SEED={}: {:?}", self.seed, update.flaws);
            updates.push(update);
        }
        for update in updates {
            if context.external {
                let leaked = update.reachable().find(|prefix| guards().any(|guarded| guarded == *prefix));
                assert_eq!(leaked, None, "SIM_SEED={}: a guarded route crosses an AS", self.seed);
                self.crossings += update.reachable().count() as u64;
            }
            let Node { rib, peers, .. } = &mut self.nodes[node];
            rib.apply(peers[&link], update);
        }
        self.tell(node);
    }

    fn trouble(&mut self) {
        let link = usize::try_from(self.rng.between(0, LINKS.len() as u64 - 1)).unwrap();
        let node = usize::try_from(self.rng.between(0, ASNS.len() as u64 - 1)).unwrap();
        match self.rng.between(0, 9) {
            0..=3 => self.cut(link),
            4 => self.crash(node),
            5..=6 => self.restart(node),
            _ => {
                let announced = !self.announced.contains(&node);
                self.customer(node, announced);
            }
        }
        let soon = Duration::from_millis(self.rng.between(1, 60_000));
        self.net.after(soon, 0, Event::Connect(usize::try_from(self.rng.between(0, LINKS.len() as u64 - 1)).unwrap()));
        // Often in the middle of what the last one set off.
        let wait = if self.rng.chance(60) { self.rng.between(1, 500) } else { self.rng.between(500, 900_000) };
        self.net.after(Duration::from_millis(wait), 0, Event::Trouble);
    }

    fn run(&mut self, end: Duration) {
        while let Some((node, event)) = self.net.step_until(end) {
            self.event(node, event);
        }
    }

    fn best(&self, node: NodeId, prefix: Ipv4Net) -> bool {
        let found = self.nodes[node].rib.routes_to(&IpNet::V4(prefix));
        found.is_some_and(|found| found.paths.iter().any(|path| path.standing == Standing::Best))
    }
}

fn guards() -> impl Iterator<Item = IpNet> {
    (0..ASNS.len()).map(|node| IpNet::V4(guarded_prefix(node)))
}

#[test]
fn speakers_converge_keep_nothing_stale_and_pass_no_guarded_route_on() {
    let mut crossings = 0;
    for seed in seeds(12) {
        let mut world = World::new(seed);
        world.run(TROUBLE);
        world.troubled = false;
        for node in 0..ASNS.len() {
            world.restart(node);
        }
        for link in 0..LINKS.len() {
            world.connect(link);
        }
        world.run(TROUBLE + HEALING);
        for node in 0..ASNS.len() {
            for origin in 0..ASNS.len() {
                let announced = world.announced.contains(&origin);
                let about = format!("SIM_SEED={seed}: node {node}, of {origin}'s customer, announced: {announced}");
                assert_eq!(world.best(node, open_prefix(origin)), announced, "{about}");
                let inside = ASNS[node] == ASNS[origin];
                assert_eq!(world.best(node, guarded_prefix(origin)), announced && inside, "{about}, guarded");
                if !announced {
                    let kept = world.nodes[node].rib.routes_to(&IpNet::V4(open_prefix(origin)));
                    assert!(kept.as_ref().is_none_or(|kept| kept.paths.is_empty()), "{about}: stale: {kept:?}");
                }
            }
        }
        crossings += world.crossings;
    }
    assert!(crossings > 1000, "only {crossings} routes crossed an AS: this shows nothing");
}
