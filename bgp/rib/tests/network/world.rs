//! The network between the speakers, and what goes wrong in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bgp_core::{Down, Event as Said, Heard, Input, LinkId, Output, State};
use bgp_rib::Standing;
use bgp_wire::{Community, ErrorCode, Notification};
use cloakway_sim::{Faults, Net, NodeId};
use cloakway_types::Instant;
use ipnet::IpNet;

use super::Seen;
use super::node::{
    ASNS, HOLD_S, LINKS, Node, guarded_by, guarded_prefix, kept_prefix, open_prefix, other_end, private_prefix,
};

const LONGEST_WAY: Duration = Duration::from_millis(400);
/// Within that of its end a private route is with nobody: a hold time, and the second of a restart that nobody minds.
const PRIVATE_STAYS: Duration = Duration::from_secs(HOLD_S as u64 + 5);
const CHECK: Duration = Duration::from_secs(20);

type ConnId = u64;

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Tick { link: usize },
    Syn(ConnId),
    SynAck(ConnId),
    Data(ConnId, Vec<u8>),
    Fin(ConnId),
    Check,
    Wake,
    Trouble,
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Works,
    /// What is sent vanishes, and nobody is told.
    Swallows,
}

struct Conn {
    link: usize,
    /// What each end calls it, by node; gone when the end has closed.
    ends: BTreeMap<NodeId, LinkId>,
    path: Path,
}

pub(crate) struct World {
    net: Net<Event>,
    pub(crate) nodes: Vec<Node>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    /// Links that swallow everything.
    cut: BTreeSet<usize>,
    ticks: BTreeMap<(NodeId, usize), Instant>,
    /// What has come for each node while it sleeps.
    missed: Vec<Vec<Event>>,
    troubled: bool,
    seed: u64,
    seen: Seen,
}

pub(crate) fn are_neighbours(a: NodeId, b: NodeId) -> bool {
    LINKS.iter().any(|ends| *ends == (a, b) || *ends == (b, a))
}

/// Whether somebody in the AS of `node`, other than `gone`, has a session with `origin`.
pub(crate) fn is_near(node: NodeId, origin: NodeId, gone: NodeId) -> bool {
    (0..ASNS.len()).any(|one| one != gone && ASNS[one] == ASNS[node] && are_neighbours(one, origin))
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut net = Net::new(seed, Faults { delay_max: LONGEST_WAY, ..Faults::none() });
        let nodes = (0..ASNS.len()).map(|node| Node::new(node, || net.rng.next_u64(), Instant::ORIGIN)).collect();
        let mut world = Self {
            net,
            nodes,
            conns: BTreeMap::new(),
            next_conn: 0,
            cut: BTreeSet::new(),
            ticks: BTreeMap::new(),
            missed: vec![Vec::new(); ASNS.len()],
            troubled: true,
            seed,
            seen: Seen::default(),
        };
        for node in 0..ASNS.len() {
            world.nodes[node].born_again(|| world.net.rng.next_u64(), Instant::ORIGIN);
            for prefix in [open_prefix(node), kept_prefix(node), guarded_prefix(node)] {
                world.change(node, prefix, true);
            }
            world.health(node, true);
            world.start(node);
        }
        world.net.after(Duration::from_secs(60), 0, Event::Trouble);
        world.net.after(CHECK, 0, Event::Check);
        world
    }

    fn now(&self) -> Instant {
        Instant::after_origin(self.net.now())
    }

    pub(crate) fn run(&mut self, end: Duration) {
        while let Some((node, event)) = self.net.step_until(end) {
            self.event(node, event);
        }
    }

    fn event(&mut self, node: NodeId, event: Event) {
        let now = self.now();
        match event {
            Event::Check => {
                self.check();
                self.net.after(CHECK, 0, Event::Check);
            }
            Event::Trouble => {
                if self.troubled {
                    self.trouble();
                }
            }
            Event::Wake if !self.sleeps(node) => self.wake(node),
            Event::Wake => {}
            event if self.sleeps(node) => self.missed[node].push(event),
            // One that was planned for later than another is void.
            Event::Tick { link } => {
                let due = self.ticks.get(&(node, link)).is_some_and(|planned| *planned <= now);
                if due && self.nodes[node].alive {
                    self.ticks.remove(&(node, link));
                    self.session(node, link, Input::Tick);
                }
            }
            Event::Syn(conn) => self.syn(node, conn),
            Event::SynAck(conn) => match self.id(conn, node) {
                Some((link, id)) => self.session(node, link, Input::Connected(id)),
                None => self.refuse(node, conn),
            },
            Event::Data(conn, bytes) => match self.id(conn, node) {
                Some((link, id)) => self.session(node, link, Input::Received(id, &bytes)),
                None => self.refuse(node, conn),
            },
            Event::Fin(conn) => {
                if let Some((link, id)) = self.id(conn, node) {
                    self.forget(node, conn);
                    self.session(node, link, Input::Closed(id));
                }
            }
        }
    }

    fn id(&self, conn: ConnId, node: NodeId) -> Option<(usize, LinkId)> {
        let conn = self.conns.get(&conn)?;
        Some((conn.link, *conn.ends.get(&node)?))
    }

    fn conn(&self, node: NodeId, link: usize, id: LinkId) -> Option<ConnId> {
        let found = self.conns.iter().rev().find(|(_, conn)| conn.link == link && conn.ends.get(&node) == Some(&id));
        found.map(|(conn, _)| *conn)
    }

    /// An end knows nothing of the connection any more.
    fn forget(&mut self, node: NodeId, conn: ConnId) {
        let Some(known) = self.conns.get_mut(&conn) else { return };
        known.ends.remove(&node);
        if known.ends.is_empty() {
            self.conns.remove(&conn);
        }
    }

    fn syn(&mut self, node: NodeId, conn: ConnId) {
        let Some(link) = self.conns.get(&conn).map(|conn| conn.link) else { return };
        if !self.nodes[node].alive {
            self.refuse(node, conn);
            return;
        }
        let id = self.nodes[node].neighbours.get_mut(&link).unwrap().session.new_link();
        self.conns.get_mut(&conn).unwrap().ends.insert(node, id);
        self.transmit(node, conn, Event::SynAck(conn));
        self.session(node, link, Input::Accepted(id));
    }

    /// The other end hears that there is no such connection here, unless the host is off.
    fn refuse(&mut self, node: NodeId, conn: ConnId) {
        if self.nodes[node].alive || self.net.rng.chance(50) {
            self.transmit(node, conn, Event::Fin(conn));
        }
    }

    /// As TCP does: in order, or not at all.
    fn transmit(&mut self, from: NodeId, conn: ConnId, event: Event) {
        let Some(known) = self.conns.get_mut(&conn) else { return };
        let (link, to) = (known.link, other_end(known.link, from));
        if self.cut.contains(&link) || (self.troubled && self.net.rng.between(0, 4999) == 0) {
            known.path = Path::Swallows;
        }
        if known.path == Path::Works {
            self.net.send_ordered(from, to, event);
        }
    }

    /// Hands an input to a session, and carries out what comes of it.
    fn session(&mut self, node: NodeId, link: usize, input: Input<'_>) {
        let now = self.now();
        let neighbour = self.nodes[node].neighbours.get_mut(&link).unwrap();
        neighbour.session.handle(input, now);
        let mut stirred = false;
        while let Some(output) = self.nodes[node].neighbours.get_mut(&link).unwrap().session.poll_output() {
            match output {
                Output::Connect(id) => {
                    self.next_conn += 1;
                    let conn = self.next_conn;
                    self.conns.insert(conn, Conn { link, ends: BTreeMap::from([(node, id)]), path: Path::Works });
                    self.transmit(node, conn, Event::Syn(conn));
                }
                Output::Send(id, bytes) => {
                    if let Some(conn) = self.conn(node, link, id) {
                        self.transmit(node, conn, Event::Data(conn, bytes));
                    }
                }
                Output::Close(id) => {
                    if let Some(conn) = self.conn(node, link, id) {
                        self.transmit(node, conn, Event::Fin(conn));
                        self.forget(node, conn);
                    }
                }
                Output::Heard(heard) => {
                    self.note_heard(node, link, &heard);
                    self.nodes[node].hear(link, heard);
                    stirred = true;
                }
                Output::Event(said) => {
                    self.note_said(&said);
                    match said {
                        Said::Up(_) => self.nodes[node].up(link),
                        Said::Down(_) => {
                            self.nodes[node].down(link);
                            stirred = true;
                        }
                        _ => {}
                    }
                }
            }
        }
        if stirred {
            self.tell(node);
        } else {
            self.tell_on(node, link);
        }
    }

    /// Every session sends what it has to.
    fn tell(&mut self, node: NodeId) {
        let links: Vec<usize> = self.nodes[node].neighbours.keys().copied().collect();
        links.into_iter().for_each(|link| self.tell_on(node, link));
    }

    fn tell_on(&mut self, node: NodeId, link: usize) {
        for (id, bytes) in self.nodes[node].pull(link) {
            if let Some(conn) = self.conn(node, link, id) {
                self.transmit(node, conn, Event::Data(conn, bytes));
            }
        }
        let now = self.now();
        let due = self.nodes[node].neighbours[&link].session.poll_timeout();
        if let Some(due) = due
            && self.ticks.get(&(node, link)).is_none_or(|planned| due < *planned)
        {
            self.ticks.insert((node, link), due);
            self.net.after(due.since(now), node, Event::Tick { link });
        }
    }

    fn start(&mut self, node: NodeId) {
        let links: Vec<usize> = self.nodes[node].neighbours.keys().copied().collect();
        let routes = self.nodes[node].private_routes();
        for link in links {
            self.session(node, link, Input::Routes(routes.clone()));
            self.session(node, link, Input::Start);
        }
    }

    /// Announces a prefix from now on, or no more. The process may die between the journal and the table, and while it
    /// writes: then nobody was told that it was accepted.
    fn change(&mut self, node: NodeId, prefix: IpNet, wanted: bool) {
        let change = self.nodes[node].accept(prefix, wanted);
        if self.troubled && self.net.rng.chance(5) {
            if self.net.rng.chance(50) {
                self.nodes[node].journal.pop();
            }
            self.seen.lost_changes += 1;
            self.crash(node);
            return;
        }
        self.nodes[node].apply(&change);
        self.tell(node);
    }

    fn health(&mut self, node: NodeId, healthy: bool) {
        let now = self.now();
        self.nodes[node].set_healthy(healthy, now);
        let routes = self.nodes[node].private_routes();
        let links: Vec<usize> = self.nodes[node].neighbours.keys().copied().collect();
        for link in links {
            self.session(node, link, Input::Routes(routes.clone()));
        }
    }

    /// The process dies: its connections with it, and the neighbours hear so, unless the host dies too.
    fn crash(&mut self, node: NodeId) {
        if !self.nodes[node].alive {
            return;
        }
        let now = self.now();
        let host = self.net.rng.chance(40);
        let conns: Vec<ConnId> =
            self.conns.iter().filter(|(_, conn)| conn.ends.contains_key(&node)).map(|(conn, _)| *conn).collect();
        for conn in conns {
            if !host {
                self.transmit(node, conn, Event::Fin(conn));
            }
            self.forget(node, conn);
        }
        self.nodes[node].set_healthy(false, now);
        self.nodes[node].alive = false;
        self.nodes[node].asleep_until = None;
        self.missed[node].clear();
    }

    fn revive(&mut self, node: NodeId) {
        if self.nodes[node].alive {
            return;
        }
        let now = self.now();
        self.nodes[node].born_again(|| self.net.rng.next_u64(), now);
        self.ticks.retain(|(of, _), _| *of != node);
        let healthy = self.net.rng.chance(80);
        self.nodes[node].set_healthy(healthy, now);
        self.start(node);
    }

    /// Connections that are there now are lost: for one end, for the other, or for both; or they swallow what is sent.
    fn break_conns(&mut self, link: usize) {
        let conns: Vec<ConnId> = self.conns.iter().filter(|(_, conn)| conn.link == link).map(|(id, _)| *id).collect();
        for conn in conns {
            let (a, b) = LINKS[link];
            match self.net.rng.between(0, 3) {
                0 => self.net.after(LONGEST_WAY, a, Event::Fin(conn)),
                1 => self.net.after(LONGEST_WAY, b, Event::Fin(conn)),
                2 => [a, b].into_iter().for_each(|end| self.net.after(LONGEST_WAY, end, Event::Fin(conn))),
                _ => {}
            }
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.path = Path::Swallows;
            }
        }
    }

    fn cut(&mut self, link: usize) {
        self.cut.insert(link);
        for conn in self.conns.values_mut().filter(|conn| conn.link == link) {
            conn.path = Path::Swallows;
        }
    }

    fn trouble(&mut self) {
        let node = self.net.rng.between(0, ASNS.len() as u64 - 1) as NodeId;
        let link = self.net.rng.between(0, LINKS.len() as u64 - 1) as usize;
        match self.net.rng.between(0, 15) {
            0 => self.cut(link),
            1 | 2 => self.cut.clear(),
            3 | 4 => self.break_conns(link),
            5 => self.crash(node),
            6 | 7 => self.revive(node),
            8 if self.awake(node) => {
                // From a hiccup to a night in a bag.
                let seconds = [2, 20, 100, 3600, 8 * 3600][self.net.rng.between(0, 4) as usize];
                self.nodes[node].asleep_until = Some(self.now() + Duration::from_secs(seconds));
                self.net.after(Duration::from_secs(seconds), node, Event::Wake);
            }
            9 if self.awake(node) => {
                let (a, b) = LINKS[link];
                let node = if self.net.rng.chance(50) { a } else { b };
                if self.awake(node) {
                    self.session(node, link, Input::Stop("maintenance"));
                    self.session(node, link, Input::Start);
                }
            }
            // Both ends at once, as after a power cut.
            10 => {
                let (a, b) = LINKS[link];
                for node in [a, b].into_iter().filter(|node| self.awake(*node)).collect::<Vec<_>>() {
                    self.session(node, link, Input::Stop(""));
                    self.session(node, link, Input::Start);
                }
            }
            11 | 12 if self.awake(node) => {
                let healthy = !self.nodes[node].announces_private();
                self.health(node, healthy);
            }
            _ if self.awake(node) => {
                let prefixes = [open_prefix(node), kept_prefix(node), guarded_prefix(node)];
                let prefix = *self.net.rng.pick(&prefixes).unwrap();
                self.change(node, prefix, !self.nodes[node].wants(prefix));
            }
            _ => {}
        }
        // Often in the middle of what the last one set off.
        let wait =
            if self.net.rng.chance(50) { self.net.rng.between(1, 500) } else { self.net.rng.between(500, 600_000) };
        self.net.after(Duration::from_millis(wait), 0, Event::Trouble);
    }

    fn sleeps(&self, node: NodeId) -> bool {
        self.nodes[node].asleep_until.is_some_and(|until| self.now() < until)
    }

    fn awake(&self, node: NodeId) -> bool {
        self.nodes[node].alive && !self.sleeps(node)
    }

    /// It hears all at once of what it has missed; its timers may be heard first.
    fn wake(&mut self, node: NodeId) {
        let mut missed = std::mem::take(&mut self.missed[node]);
        if self.net.rng.chance(50) {
            missed.sort_by_key(|event| !matches!(event, Event::Tick { .. }));
        }
        missed.into_iter().for_each(|event| self.event(node, event));
    }

    /// Everything works again, but for one speaker, which never comes back.
    pub(crate) fn heal(&mut self) -> NodeId {
        self.troubled = false;
        self.cut.clear();
        let gone = self.net.rng.between(0, ASNS.len() as u64 - 1) as NodeId;
        self.crash(gone);
        for node in (0..ASNS.len()).filter(|node| *node != gone) {
            self.nodes[node].asleep_until = None;
            self.wake(node);
            self.revive(node);
        }
        gone
    }

    fn note_heard(&mut self, node: NodeId, link: usize, heard: &Heard) {
        match heard {
            Heard::Update(update) => {
                let (from, seed) = (other_end(link, node), self.seed);
                let external = ASNS[from] != ASNS[node];
                for prefix in update.reachable() {
                    self.seen.crossings += u64::from(external);
                    let Some(of) = guarded_by(&prefix) else { continue };
                    let crosses = external && of != from;
                    assert!(!crosses, "SIM_SEED={seed}: node {from} passes {prefix} of {of} on to {node}");
                    let guarded = update.attributes.communities.contains(&Community::NO_EXPORT);
                    assert!(guarded, "SIM_SEED={seed}: {prefix} comes to {node} without its guard");
                }
            }
            Heard::Stale(_) => self.seen.kept += 1,
            _ => {}
        }
    }

    fn note_said(&mut self, said: &Said) {
        let sent = |down: &Down, wanted: ErrorCode| matches!(down, Down::Sent { notification: Notification { error, .. }, .. } if *error == wanted);
        match said {
            Said::Up(_) => self.seen.sessions += 1,
            Said::Down(down) | Said::Failed(down) => {
                self.seen.collisions += u64::from(sent(down, ErrorCode::CONNECTION_COLLISION));
                self.seen.expired += u64::from(sent(down, ErrorCode::HOLD_TIMER_EXPIRED));
            }
            flaw => panic!("SIM_SEED={}: {flaw:?}", self.seed),
        }
    }

    /// What is never so, whatever has gone wrong.
    fn check(&self) {
        let (now, seed) = (self.now(), self.seed);
        for origin in 0..ASNS.len() {
            // It may go by way of another speaker of the same AS.
            let stays = PRIVATE_STAYS * 2;
            let Some(gone) = self.nodes[origin].private_gone.filter(|gone| now.since(*gone) > stays) else { continue };
            // Who sleeps, or slept until now, does not know yet.
            for node in (0..ASNS.len()).filter(|node| *node != origin && self.awake_for(*node, stays)) {
                let held = self.holds(node, private_prefix(origin));
                assert!(
                    !held,
                    "SIM_SEED={seed}: at {now:?} node {node} has the private route of {origin}, gone at {gone:?}"
                );
            }
        }
    }

    fn awake_for(&self, node: NodeId, span: Duration) -> bool {
        self.nodes[node].alive && self.nodes[node].asleep_until.is_none_or(|until| self.now() > until + span)
    }

    fn holds(&self, node: NodeId, prefix: IpNet) -> bool {
        let found = self.nodes[node].rib.routes_to(&prefix);
        found.is_some_and(|found| found.paths.iter().any(|path| path.standing == Standing::Best))
    }

    pub(crate) fn assert_held(&self, node: NodeId, prefix: IpNet, held: bool, about: &str) {
        assert_eq!(self.holds(node, prefix), held, "{about}: {prefix}");
        if !held {
            let kept = self.nodes[node].rib.routes_to(&prefix);
            assert!(kept.as_ref().is_none_or(|kept| kept.paths.is_empty()), "{about}: stale: {kept:?}");
        }
    }

    pub(crate) fn assert_established(&self, link: usize) {
        let (a, b) = LINKS[link];
        for node in [a, b] {
            let status = self.nodes[node].neighbours[&link].session.status();
            let about = format!("SIM_SEED={}: node {node} on {:?}: {:?}", self.seed, LINKS[link], status.last_down);
            assert_eq!(status.state, State::Established, "{about}");
        }
    }

    pub(crate) fn add_to(&self, seen: &mut Seen) {
        let of = &self.seen;
        seen.sessions += of.sessions;
        seen.collisions += of.collisions;
        seen.expired += of.expired;
        seen.kept += of.kept;
        seen.crossings += of.crossings;
        seen.lost_changes += of.lost_changes;
    }
}
