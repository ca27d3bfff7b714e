//! Two speakers over virtual hours of crossing connections, broken and black-holed links, crashes and
//! forwarders that come and go. `SIM_SEED=…` replays one run.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bgp_core::{
    Export, Guard, HealthInput, Injector, Input, LinkId, Options, Output, PrivateRoute, Session, Settings, State,
};
use bgp_wire::{Asn, Context, Framer, HoldTime, Message, RouterId};
use cloakway_sim::{Faults, Net, NodeId, seeds};
use cloakway_types::Instant;
use ipnet::IpNet;

const HOLD: Duration = Duration::from_secs(30);
const LONGEST_WAY: Duration = Duration::from_millis(80);
const HEARTBEAT: Duration = Duration::from_millis(250);
const TROUBLE: Duration = Duration::from_secs(2 * 3600);
const HEALING: Duration = Duration::from_secs(900);

type ConnId = usize;

#[derive(Debug, Clone)]
enum Event {
    Tick,
    Syn(ConnId),
    SynAck(ConnId),
    Data(ConnId, Vec<u8>),
    Fin(ConnId),
    Heartbeat { life: u32 },
    Trouble,
}

struct Node {
    session: Session,
    injector: Injector,
    life: u32,
    forwarder: bool,
    sequence: u64,
    ticks_at: BTreeSet<Instant>,
    announced_changed: Instant,
}

/// One end of a connection: the link it is to its session, and what the other end announced on it.
#[derive(Default)]
struct End {
    link: Option<LinkId>,
    framer: Framer,
    rib: BTreeSet<IpNet>,
}

struct Conn {
    opener: NodeId,
    ends: [End; 2],
    /// Since when nothing passes any more.
    dead: Option<Instant>,
}

struct World {
    net: Net<Event>,
    nodes: Vec<Node>,
    conns: Vec<Conn>,
    cut: bool,
    troubled: bool,
    ups: u64,
    seed: u64,
}

fn prefixes(node: NodeId) -> Vec<PrivateRoute> {
    let route = |prefix: String, next_hop: &str| {
        PrivateRoute::new(prefix.parse().unwrap(), next_hop.parse().unwrap(), Guard::NoExport, Vec::new()).unwrap()
    };
    vec![
        route(format!("203.0.113.{}/32", 200 + node), "198.51.100.2"),
        route(format!("203.0.113.{}/32", 210 + node), "198.51.100.3"),
        route(format!("2001:db8:c10a::{node}/128"), "2001:db8:5100:1::2"),
    ]
}

fn new_session(node: NodeId, seed: u64, now: Instant) -> Session {
    let settings = Settings {
        local_as: Asn(64500),
        router_id: RouterId::new([10, 0, 0, 1 + u8::try_from(node).unwrap()].into()).unwrap(),
        remote_as: Asn(64500),
        hold_time: HoldTime::from_secs(30).unwrap(),
        passive: false,
        private: prefixes(node).iter().map(PrivateRoute::prefix).collect(),
        export: Export::Private,
        options: Options::default(),
    };
    Session::new(settings, seed, now)
}

impl World {
    fn new(seed: u64) -> Self {
        let faults = Faults { delay_max: LONGEST_WAY, ..Faults::none() };
        let mut world = Self {
            net: Net::new(seed, faults),
            nodes: Vec::new(),
            conns: Vec::new(),
            cut: false,
            troubled: true,
            ups: 0,
            seed,
        };
        for node in 0..2 {
            world.nodes.push(Node {
                session: new_session(node, seed, Instant::ORIGIN),
                injector: Injector::new(prefixes(node)),
                life: 0,
                forwarder: false,
                sequence: 0,
                ticks_at: BTreeSet::new(),
                announced_changed: Instant::ORIGIN,
            });
            world.start_forwarder(node);
            world.session(node, Input::Start);
        }
        world.net.after(Duration::from_secs(20), 0, Event::Trouble);
        world
    }

    fn now(&self) -> Instant {
        Instant::after_origin(self.net.now())
    }

    fn run(&mut self, end: Duration) {
        while let Some((node, event)) = self.net.step_until(end) {
            self.event(node, event);
            self.check();
        }
    }

    fn event(&mut self, node: NodeId, event: Event) {
        let now = self.now();
        match event {
            Event::Tick => {
                self.nodes[node].ticks_at.retain(|at| *at > now);
                self.session(node, Input::Tick);
                self.health(node, &HealthInput::Tick);
            }
            Event::Syn(conn) => {
                let link = self.nodes[node].session.new_link();
                self.end(conn, node).link = Some(link);
                if self.transmit(node, conn, Event::SynAck(conn)) {
                    self.session(node, Input::Accepted(link));
                }
            }
            Event::SynAck(conn) => match self.end(conn, node).link {
                Some(link) => self.session(node, Input::Connected(link)),
                None => self.reset(node, conn),
            },
            Event::Data(conn, bytes) => match self.end(conn, node).link {
                Some(link) => {
                    self.note_routes(node, conn, &bytes);
                    self.session(node, Input::Received(link, &bytes));
                }
                None => self.reset(node, conn),
            },
            Event::Fin(conn) => {
                if let Some(link) = self.close_end(node, conn) {
                    self.session(node, Input::Closed(link));
                }
            }
            Event::Heartbeat { life } => {
                if self.nodes[node].forwarder && self.nodes[node].life == life {
                    self.heartbeat(node);
                }
            }
            Event::Trouble => self.trouble(),
        }
    }

    fn end(&mut self, conn: ConnId, node: NodeId) -> &mut End {
        &mut self.conns[conn].ends[node]
    }

    /// Closes this end; what came on it is forgotten.
    fn close_end(&mut self, node: NodeId, conn: ConnId) -> Option<LinkId> {
        let now = self.now();
        self.conns[conn].dead.get_or_insert(now);
        std::mem::take(self.end(conn, node)).link
    }

    fn reset(&mut self, node: NodeId, conn: ConnId) {
        if !self.cut {
            self.net.send_ordered(node, 1 - node, Event::Fin(conn));
        }
    }

    /// Sends on a connection, as TCP would: in order or never again.
    fn transmit(&mut self, from: NodeId, conn: ConnId, event: Event) -> bool {
        let now = self.now();
        if self.troubled && self.net.rng.between(0, 999) < 2 {
            self.conns[conn].dead.get_or_insert(now);
        }
        if self.conns[conn].dead.is_none() && self.net.send_ordered(from, 1 - from, event) {
            return true;
        }
        self.conns[conn].dead.get_or_insert(now);
        if !self.cut {
            // The far end knows nothing of it any more, or the path broke it: both hear so.
            let back = self.net.rng.between(1, 80);
            self.net.after(Duration::from_millis(back), from, Event::Fin(conn));
            self.reset(from, conn);
        }
        false
    }

    fn session(&mut self, node: NodeId, input: Input<'_>) {
        let now = self.now();
        self.nodes[node].session.handle(input, now);
        while let Some(output) = self.nodes[node].session.poll_output() {
            match output {
                Output::Connect(link) => {
                    let conn = self.conns.len();
                    self.conns.push(Conn { opener: node, ends: Default::default(), dead: None });
                    self.end(conn, node).link = Some(link);
                    self.net.send_ordered(node, 1 - node, Event::Syn(conn));
                }
                Output::Send(link, bytes) => {
                    if let Some(conn) = self.conn_of(node, link) {
                        self.transmit(node, conn, Event::Data(conn, bytes));
                    }
                }
                Output::Close(link) => {
                    if let Some(conn) = self.conn_of(node, link) {
                        self.reset(node, conn);
                        self.close_end(node, conn);
                    }
                }
                Output::Event(bgp_core::Event::Up(_)) => self.ups += 1,
                Output::Event(_) | Output::Heard(_) => {}
            }
        }
        self.plan_tick(node);
    }

    fn conn_of(&self, node: NodeId, link: LinkId) -> Option<ConnId> {
        // The newest are at the end; a session holds a handful at once.
        self.conns.iter().rposition(|conn| conn.ends[node].link == Some(link))
    }

    fn plan_tick(&mut self, node: NodeId) {
        let now = self.now();
        let due = [self.nodes[node].session.poll_timeout(), self.nodes[node].injector.poll_timeout()];
        if let Some(at) = due.into_iter().flatten().min()
            && self.nodes[node].ticks_at.first().is_none_or(|first| at < *first)
        {
            self.nodes[node].ticks_at.insert(at);
            self.net.after(at - now, node, Event::Tick);
        }
    }

    fn health(&mut self, node: NodeId, input: &HealthInput<'_>) {
        let now = self.now();
        let before = self.nodes[node].injector.announced();
        self.nodes[node].injector.handle(input, now);
        let after = self.nodes[node].injector.announced();
        if before != after {
            self.nodes[node].announced_changed = now;
            self.session(node, Input::Routes(after));
        }
        self.plan_tick(node);
    }

    fn heartbeat(&mut self, node: NodeId) {
        self.nodes[node].sequence += 1;
        let (sequence, life) = (self.nodes[node].sequence, self.nodes[node].life);
        self.health(node, &HealthInput::Heartbeat { sequence });
        self.net.after(HEARTBEAT, node, Event::Heartbeat { life });
    }

    fn start_forwarder(&mut self, node: NodeId) {
        self.nodes[node].forwarder = true;
        self.nodes[node].life += 1;
        self.nodes[node].sequence = 0;
        self.health(node, &HealthInput::Connected);
        self.heartbeat(node);
        for route in prefixes(node) {
            self.health(node, &HealthInput::Word { prefix: route.prefix(), healthy: true, reason: "" });
        }
    }

    fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
        self.net.set_cut(0, 1, cut);
        if cut {
            // What is on the way is lost, and with it the streams that it belonged to.
            let now = self.now();
            for conn in &mut self.conns {
                conn.dead.get_or_insert(now);
            }
            self.net.discard(|_, event| {
                matches!(event, Event::Syn(_) | Event::SynAck(_) | Event::Data(..) | Event::Fin(_))
            });
        }
    }

    fn crash(&mut self, node: NodeId) {
        let (now, seed) = (self.now(), self.net.rng.next_u64());
        for conn in 0..self.conns.len() {
            if self.conns[conn].ends[node].link.is_some() {
                self.reset(node, conn);
                self.close_end(node, conn);
            }
        }
        self.nodes[node].session = new_session(node, seed, now);
        self.nodes[node].injector = Injector::new(prefixes(node));
        self.nodes[node].announced_changed = now;
        self.nodes[node].ticks_at.clear();
        self.start_forwarder(node);
        self.session(node, Input::Start);
    }

    /// Something goes wrong, or gets better, every half minute or so.
    fn trouble(&mut self) {
        if !self.troubled {
            return;
        }
        let next = self.net.rng.between(1, 60);
        self.net.after(Duration::from_secs(next), 0, Event::Trouble);
        let node = usize::from(self.net.rng.chance(50));
        match self.net.rng.between(0, 9) {
            0 => self.set_cut(!self.cut),
            1 | 2 => self.set_cut(false),
            3 => self.crash(node),
            4 => {
                self.session(node, Input::Stop(""));
                self.session(node, Input::Start);
            }
            // The forwarder hangs: silence.
            5 => self.nodes[node].forwarder = false,
            6 => {
                self.nodes[node].forwarder = false;
                self.health(node, &HealthInput::Disconnected("end of stream"));
            }
            7 => self.start_forwarder(node),
            _ => {
                let all = prefixes(node);
                let prefix = self.net.rng.pick(&all).unwrap().prefix();
                let healthy = self.net.rng.chance(50);
                self.health(node, &HealthInput::Word { prefix, healthy, reason: "" });
            }
        }
    }

    fn heal(&mut self) {
        self.troubled = false;
        self.set_cut(false);
        for node in 0..2 {
            self.start_forwarder(node);
        }
    }

    /// What a router at this end would hold; every announcement must carry its guard.
    fn note_routes(&mut self, node: NodeId, conn: ConnId, bytes: &[u8]) {
        let seed = self.seed;
        let end = self.end(conn, node);
        end.framer.push(bytes);
        while let Some(frame) = end.framer.next_frame().unwrap() {
            if let Message::Update(update) = Message::decode(frame, Context::default()).unwrap() {
                assert!(update.flaws.is_empty(), "SIM_SEED={seed}");
                for prefix in update.unreachable() {
                    assert!(end.rib.remove(&prefix), "withdrawn but never announced, SIM_SEED={seed}");
                }
                for prefix in update.reachable() {
                    let guard = Guard::NoExport.community();
                    assert!(update.attributes.communities.contains(&guard), "unguarded, SIM_SEED={seed}");
                    end.rib.insert(prefix);
                }
            }
        }
    }

    /// No route outlives its health or its session.
    fn check(&self) {
        let (now, seed) = (self.now(), self.seed);
        for (index, node) in self.nodes.iter().enumerate() {
            let announced = node.injector.announced();
            let advertised = node.session.advertised();
            assert!(advertised.keys().all(|prefix| announced.contains_key(prefix)), "SIM_SEED={seed} node {index}");
            if node.session.status().state != State::Established {
                assert!(advertised.is_empty(), "routes without a session, SIM_SEED={seed}");
            }
        }
        for conn in self.conns.iter().rev().take(16) {
            for (receiver, end) in conn.ends.iter().enumerate().filter(|(_, end)| !end.rib.is_empty()) {
                let sender = &self.nodes[1 - receiver];
                match conn.dead {
                    Some(dead) => assert!(
                        now - dead <= HOLD + LONGEST_WAY,
                        "a route outlives its session, SIM_SEED={seed} opener {} at {now:?}",
                        conn.opener
                    ),
                    None if now - sender.announced_changed > LONGEST_WAY => {
                        let announced = sender.injector.announced();
                        assert!(
                            end.rib.iter().all(|p| announced.contains_key(p)),
                            "a route outlives its health, SIM_SEED={seed}"
                        );
                    }
                    None => {}
                }
            }
        }
    }

    /// What the other end holds from `node`, over all connections.
    fn held_from(&self, node: NodeId) -> BTreeSet<IpNet> {
        self.conns.iter().flat_map(|conn| conn.ends[1 - node].rib.iter().copied()).collect()
    }
}

#[test]
fn two_speakers_converge_and_no_route_outlives_its_session_or_its_health() {
    let mut states: BTreeMap<State, u32> = BTreeMap::new();
    let mut ups = 0;
    for seed in seeds(12) {
        let mut world = World::new(seed);
        world.run(TROUBLE);
        for node in &world.nodes {
            *states.entry(node.session.status().state).or_default() += 1;
        }
        world.heal();
        world.run(TROUBLE + HEALING);
        for node in 0..2 {
            let status = world.nodes[node].session.status();
            assert_eq!(status.state, State::Established, "SIM_SEED={seed}: {:?}", status.last_down);
            let expected: BTreeSet<IpNet> = prefixes(node).iter().map(PrivateRoute::prefix).collect();
            assert_eq!(world.held_from(node), expected, "SIM_SEED={seed} node {node}");
        }
        ups += world.ups;
    }
    // The trouble was real: sessions came up again and again.
    assert!(ups > 100, "{ups} sessions, states {states:?}");
}
