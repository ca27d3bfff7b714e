//! A speaker of the simulation: what the shell puts together, without its sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp_core::record::{self, Record};
use bgp_core::{
    Ends, Export, Group, Guard, Heard, Helper, LinkId, NextHop, Options, Others, Policy, Prefixes, PrivateRoute,
    RouteAttributes, Routes, Session, SetChange, Settings, apply,
};
use bgp_rib::{Import, PeerId, PeerSettings, ReaderId, Rib, Walk};
use bgp_wire::{Asn, Family, HoldTime, RouterId};
use cloakway_sim::NodeId;
use cloakway_types::Instant;
use ipnet::{IpNet, Ipv4Net};

/// Nodes 3 and 4 are in one AS.
pub(crate) const ASNS: [u32; 6] = [64501, 64502, 4_200_000_003, 64504, 64504, 64506];
pub(crate) const LINKS: [(NodeId, NodeId); 8] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 3), (4, 5), (5, 2)];
pub(crate) const HOLD_S: u16 = 90;
/// How long a set that is kept stays at neighbours.
const KEEP_S: u32 = 1800;
/// The set that is kept.
const KEPT: &str = "kept";

pub(crate) fn address(node: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + u8::try_from(node).unwrap())
}

pub(crate) fn router_id(node: NodeId) -> RouterId {
    RouterId::new(address(node)).unwrap()
}

fn injected(node: NodeId, third: u8) -> IpNet {
    Ipv4Net::new([10, u8::try_from(node).unwrap(), third, 0].into(), 24).unwrap().into()
}

/// Anybody may have it.
pub(crate) fn open_prefix(node: NodeId) -> IpNet {
    injected(node, 0)
}

/// The same, and neighbours keep it while the node is down.
pub(crate) fn kept_prefix(node: NodeId) -> IpNet {
    injected(node, 1)
}

/// Injected under guard.
pub(crate) fn guarded_prefix(node: NodeId) -> IpNet {
    injected(node, 2)
}

/// Configured, and follows health.
pub(crate) fn private_prefix(node: NodeId) -> IpNet {
    Ipv4Net::new([203, 0, 113, u8::try_from(node).unwrap()].into(), 32).unwrap().into()
}

/// Whose guarded or private prefix it is.
pub(crate) fn guarded_by(prefix: &IpNet) -> Option<NodeId> {
    (0..ASNS.len()).find(|node| *prefix == guarded_prefix(*node) || *prefix == private_prefix(*node))
}

fn allowed(node: NodeId) -> IpNet {
    Ipv4Net::new([10, u8::try_from(node).unwrap(), 0, 0].into(), 16).unwrap().into()
}

/// The neighbour at the other end of a link.
pub(crate) fn other_end(link: usize, node: NodeId) -> NodeId {
    let (a, b) = LINKS[link];
    if node == a { b } else { a }
}

fn settings(node: NodeId, other: NodeId) -> Settings {
    Settings {
        local_as: Asn(ASNS[node]),
        router_id: router_id(node),
        remote_as: Asn(ASNS[other]),
        hold_time: HoldTime::from_secs(HOLD_S).unwrap(),
        passive: false,
        private: BTreeSet::from([private_prefix(node)]),
        export: Export::All,
        options: Options {
            import: true,
            pass_on: true,
            keep: Some(KEEP_S),
            helper: Some(Helper { restart: Duration::from_secs(120), long_lived: Duration::from_secs(3600) }),
            // Some ends wait for the other's OPEN.
            delay_open: (node == 2).then_some(Duration::from_secs(5)),
            ..Options::default()
        },
    }
}

/// One neighbour of a node.
pub(crate) struct Neighbour {
    pub(crate) session: Session,
    peer: PeerId,
    reader: Option<ReaderId>,
    /// Families whose routes stay while the neighbour is gone.
    stale: BTreeSet<Family>,
}

/// A speaker.
pub(crate) struct Node {
    node: NodeId,
    pub(crate) alive: bool,
    /// It runs again at that time: until then nothing reaches it.
    pub(crate) asleep_until: Option<Instant>,
    /// Records that were on disk when they were acknowledged: all that survives.
    pub(crate) journal: Vec<Vec<u8>>,
    table: bgp_core::Rib,
    pub(crate) rib: Rib,
    /// By link.
    pub(crate) neighbours: BTreeMap<usize, Neighbour>,
    healthy: bool,
    /// Since when nobody is to have the private route.
    pub(crate) private_gone: Option<Instant>,
}

impl Node {
    pub(crate) fn new(node: NodeId, mut seed: impl FnMut() -> u64, now: Instant) -> Self {
        let rib = Rib::new(bgp_rib::Settings {
            local_as: Asn(ASNS[node]),
            router_id: router_id(node),
            private: vec![private_prefix(node)],
            own: vec![allowed(node)],
            always_compare_med: false,
        });
        let policy = Policy::new(&[allowed(node)], &[private_prefix(node)]);
        let mut new = Self {
            node,
            alive: true,
            asleep_until: None,
            journal: Vec::new(),
            table: bgp_core::Rib::new(Arc::new(policy)),
            rib,
            neighbours: BTreeMap::new(),
            healthy: false,
            private_gone: Some(now),
        };
        for link in (0..LINKS.len()).filter(|link| LINKS[*link].0 == node || LINKS[*link].1 == node) {
            let other = other_end(link, node);
            let peer = new.rib.add_peer(PeerSettings {
                name: format!("node {other}"),
                address: IpAddr::V4(address(other)),
                asn: Asn(ASNS[other]),
                internal: ASNS[other] == ASNS[node],
                role: None,
                import: Import::All,
                accept_blackhole: false,
                enforce_first_as: true,
            });
            let session = Session::new(settings(node, other), seed(), now).with_table();
            new.neighbours.insert(link, Neighbour { session, peer, reader: None, stale: BTreeSet::new() });
        }
        new
    }

    /// The process starts again, with its journal and nothing else.
    pub(crate) fn born_again(&mut self, seed: impl FnMut() -> u64, now: Instant) {
        let (journal, private_gone) = (std::mem::take(&mut self.journal), self.private_gone);
        let mut new = Self::new(self.node, seed, now);
        let kept = new.table.set(KEPT);
        new.table.keep(kept, Some(KEEP_S));
        for record in &journal {
            let Ok(Record::Change { change, .. }) = record::decode(record) else { panic!("a record") };
            apply(&change, &mut new.table);
        }
        (new.journal, new.private_gone) = (journal, private_gone);
        if new.table.keeps_anything() {
            let restart = |(link, neighbour): (usize, Neighbour)| {
                (link, Neighbour { session: neighbour.session.restarted(), ..neighbour })
            };
            new.neighbours = std::mem::take(&mut new.neighbours).into_iter().map(restart).collect();
        }
        *self = new;
    }

    /// Writes down that `prefix` is announced from now on, or no more: accepted with that.
    pub(crate) fn accept(&mut self, prefix: IpNet, wanted: bool) -> SetChange {
        let node = self.node;
        let set = if prefix == kept_prefix(node) { KEPT } else { "plain" };
        let mut attributes = RouteAttributes::new(NextHop::Own);
        attributes.guard = (prefix == guarded_prefix(node)).then_some(Guard::NoExport);
        let prefixes: Prefixes = std::iter::once(prefix).collect();
        let (add, remove) = match wanted {
            true => (vec![Group { attributes, prefixes }], Prefixes::default()),
            false => (Vec::new(), prefixes),
        };
        let change = SetChange { set: set.to_owned(), others: Others::Stay, remove, add };
        let checked = change.check(self.table.policy()).unwrap();
        self.journal.push(record::encode_change(None, checked.change()));
        checked.change().clone()
    }

    /// Puts what was accepted into the table.
    pub(crate) fn apply(&mut self, change: &SetChange) {
        apply(change, &mut self.table);
    }

    /// What the journal says of a prefix: it alone decides what is accepted.
    pub(crate) fn wants(&self, prefix: IpNet) -> bool {
        let said = self.journal.iter().rev().find_map(|record| {
            let Ok(Record::Change { change, .. }) = record::decode(record) else { panic!("a record") };
            let added = change.add.iter().any(|group| group.prefixes.iter().any(|added| added == prefix));
            let removed = change.remove.iter().any(|removed| removed == prefix);
            (added || removed).then_some(added)
        });
        said.unwrap_or(false)
    }

    pub(crate) fn announces_private(&self) -> bool {
        self.alive && self.healthy
    }

    /// The forwarder's word.
    pub(crate) fn set_healthy(&mut self, healthy: bool, now: Instant) {
        self.healthy = healthy;
        self.private_gone = (!healthy).then(|| self.private_gone.unwrap_or(now));
    }

    /// The private routes to announce.
    pub(crate) fn private_routes(&self) -> Arc<Routes> {
        let route =
            |node| PrivateRoute::new(private_prefix(node), address(node).into(), Guard::NoExport, Vec::new()).unwrap();
        let routes = self.healthy.then(|| (private_prefix(self.node), route(self.node)));
        Arc::new(routes.into_iter().collect())
    }

    /// Established: as the shell tells the table.
    pub(crate) fn up(&mut self, link: usize) {
        let peer = self.neighbours[&link].peer;
        self.rib.peer_up(peer, router_id(other_end(link, self.node)), Some(address(self.node).into()));
    }

    /// Established no more.
    pub(crate) fn down(&mut self, link: usize) {
        let neighbour = self.neighbours.get_mut(&link).unwrap();
        if let Some(reader) = neighbour.reader.take() {
            self.rib.detach(reader);
        }
        self.rib.peer_down(neighbour.peer);
        for family in Family::ALL.into_iter().filter(|family| !neighbour.stale.contains(family)) {
            self.rib.sweep_all(neighbour.peer, family);
        }
    }

    pub(crate) fn hear(&mut self, link: usize, heard: Heard) {
        let Neighbour { peer, reader, stale, .. } = self.neighbours.get_mut(&link).unwrap();
        match heard {
            Heard::Update(update) => self.rib.apply(*peer, *update),
            Heard::Stale(family) => {
                self.rib.peer_stale(*peer, family);
                stale.insert(family);
            }
            Heard::LongLived(family) => {
                let mut walk = Walk::default();
                while self.rib.llgr_stale(*peer, family, &mut walk, u32::MAX).is_continue() {}
            }
            Heard::Sweep(family) => {
                self.rib.sweep_all(*peer, family);
                stale.remove(&family);
            }
            Heard::EndOfRib(family) | Heard::RefreshEnds(family) => self.rib.sweep_all(*peer, family),
            // Says when to look things up, and changes nothing of the table.
            Heard::Settled(_) => {}
            Heard::RefreshBegins(family) => self.rib.refresh_begins(*peer, family),
            Heard::Wants(family) => {
                if let Some(reader) = reader {
                    self.rib.tell_again(*reader, family);
                }
            }
        }
    }

    /// What a session has to send of the two tables now.
    pub(crate) fn pull(&mut self, link: usize) -> Vec<(LinkId, Vec<u8>)> {
        let ends = Ends { local: address(self.node).into(), remote: address(other_end(link, self.node)).into() };
        let Neighbour { session, peer, reader, .. } = self.neighbours.get_mut(&link).unwrap();
        let mut out = Vec::new();
        while let Some((id, batch)) = session.pull(&mut self.table, 4096, |_| Some(ends)) {
            out.push((id, batch.bytes));
            if !batch.more {
                break;
            }
        }
        while let Some(teller) = session.teller() {
            let at = *reader.get_or_insert_with(|| {
                self.rib.attach(bgp_rib::Export {
                    peer: *peer,
                    role: teller.role,
                    context: teller.context,
                    families: teller.families.clone(),
                    next_hop_v4: Some(address(self.node)),
                    next_hop_v6: None,
                    llgr: teller.long_lived,
                    stale_inside: teller.stale_inside,
                    keeps: teller.keeps,
                })
            });
            let batch = self.rib.read(at, 4096);
            let ends = session.passed_on(batch.updates, batch.end);
            out.push((teller.link, [batch.bytes, ends].concat()));
            if !batch.more {
                break;
            }
        }
        out.retain(|(_, bytes)| !bytes.is_empty());
        out
    }
}
