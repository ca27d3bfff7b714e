//! Adj-RIB-In of all peers, and the best route of each prefix.

mod paths;
mod rejudge;

use paths::state;
pub use rejudge::Again;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::ControlFlow;

use bgp_wire::{Asn, Attributes, Community, Family, MpReach, MpUnreach, RouterId, Update};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::attributes::{Interned, NextHop};
use crate::decision::Candidate;
use crate::export::Readers;
use crate::import::{self, Import};
use crate::peer::{Counts, Peer, PeerId, PeerSettings};
use crate::table::{NONE, Path, Paths, State, Table};

/// What holds for the speaker as a whole.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our AS.
    pub local_as: Asn,
    /// Our router id, which is our cluster id as well.
    pub router_id: RouterId,
    /// Prefixes that are ours alone: a peer's route inside one is never used nor passed on (A3).
    pub private: Vec<IpNet>,
    /// What is injected here: a peer's route inside one is used, and never passed on.
    pub own: Vec<IpNet>,
    /// Compare MED between neighbouring ASes too.
    pub always_compare_med: bool,
}

/// Everything but the prefixes.
#[derive(Debug, Clone)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) peers: Vec<Peer>,
    pub(crate) attributes: Interned,
    pub(crate) paths: Paths,
    /// Our addresses, as sessions have them.
    own_addresses: BTreeSet<IpAddr>,
    candidates: Vec<Candidate>,
    /// [`Rib::set_time`].
    now: u32,
}

/// The routes of all peers.
#[derive(Debug, Clone)]
pub struct Rib {
    pub(crate) core: Core,
    pub(crate) v4: Table<4>,
    pub(crate) v6: Table<16>,
    pub(crate) readers: Readers,
}

/// How far a walk over all prefixes of a family has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk(pub(crate) u32);

/// What a path was told to be.
#[derive(Debug, Clone, Copy)]
struct Told {
    peer: PeerId,
    id: u32,
    attributes: u32,
    state: State,
}

impl Rib {
    /// No peers, no routes.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let core = Core {
            settings,
            peers: Vec::new(),
            attributes: Interned::default(),
            paths: Paths::default(),
            own_addresses: BTreeSet::new(),
            candidates: Vec::new(),
            now: 0,
        };
        Self { core, v4: Table::default(), v6: Table::default(), readers: Readers::default() }
    }

    /// What is told from now on is told at this time, in seconds of the caller's clock.
    pub fn set_time(&mut self, seconds: u32) {
        self.core.now = seconds;
    }

    /// A further peer, which is not up.
    pub fn add_peer(&mut self, settings: PeerSettings) -> PeerId {
        self.core.peers.push(Peer::new(settings));
        PeerId(u16::try_from(self.core.peers.len() - 1).unwrap_or(u16::MAX))
    }

    /// Other settings for a peer. What it told stays as it was judged until [`Rib::rejudge`].
    pub fn set_peer(&mut self, peer: PeerId, settings: PeerSettings) {
        if let Some(peer) = self.core.peer_mut(peer) {
            peer.settings = settings;
        }
    }

    /// Established: the peer's router id, and our address in the session.
    pub fn peer_up(&mut self, peer: PeerId, router_id: RouterId, local: Option<IpAddr>) {
        // What was kept of another router under this address is not this one's.
        let identifier = u32::from_be_bytes(router_id.octets());
        if self.core.peer(peer).is_some_and(|known| known.identifier != identifier) {
            Family::ALL.into_iter().for_each(|family| self.sweep_all(peer, family));
        }
        if let Some(peer) = self.core.peer_mut(peer) {
            peer.up = true;
            peer.identifier = identifier;
            peer.local = local;
        }
        self.core.own_addresses = self.core.peers.iter().filter_map(|peer| peer.local).collect();
    }

    /// Established no more, and nothing is to be kept.
    pub fn peer_lost(&mut self, peer: PeerId) {
        self.peer_down(peer);
        Family::ALL.into_iter().for_each(|family| self.sweep_all(peer, family));
    }

    /// Established no more: everything is outdated, for [`Rib::sweep`] to take out in slices.
    pub fn peer_down(&mut self, peer: PeerId) {
        Family::ALL.into_iter().for_each(|family| self.outdate(peer, family));
        if let Some(peer) = self.core.peer_mut(peer) {
            peer.up = false;
        }
    }

    /// Other private prefixes and others of our own: what readers were told and should not have been is taken back.
    /// What peers have told stays as it was judged until [`Rib::rejudge`].
    pub fn set_own(&mut self, private: Vec<IpNet>, own: Vec<IpNet>) {
        let settings = &mut self.core.settings;
        if (&settings.private, &settings.own) == (&private, &own) {
            return;
        }
        (settings.private, settings.own) = (private, own);
        for family in Family::ALL {
            for at in (0..self.slots(family)).filter(|at| self.head(family, *at).is_some()).collect::<Vec<_>>() {
                self.readers.changed(family, at);
            }
        }
    }

    /// Established no more, and its routes are used on (RFC 4724 §4.2): they are outdated until it tells them again.
    /// What was outdated before goes now.
    pub fn peer_stale(&mut self, peer: PeerId, family: Family) {
        self.sweep_all(peer, family);
        self.outdate(peer, family);
        if let Some(peer) = self.core.peer_mut(peer) {
            peer.up = false;
        }
    }

    /// From now on, what the peer has told of `family` is outdated until it tells it again.
    pub fn outdate(&mut self, peer: PeerId, family: Family) {
        if let Some(peer) = self.core.peer_mut(peer) {
            peer.next_epoch(family);
        }
    }

    /// The peer tells `family` again from here (RFC 7313).
    pub fn refresh_begins(&mut self, peer: PeerId, family: Family) {
        self.outdate(peer, family);
    }

    /// It has told all of `family` again (RFC 7313), or for the first time since it was lost (RFC 4724 §4.2):
    /// what is outdated goes.
    pub fn sweep_all(&mut self, peer: PeerId, family: Family) {
        let mut walk = Walk::default();
        while self.sweep(peer, family, &mut walk, u32::MAX).is_continue() {}
    }

    /// Takes out what is outdated, in the next `slots` places; `Break` when all were seen.
    pub fn sweep(&mut self, peer: PeerId, family: Family, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        self.visit_outdated(peer, family, walk, slots, |_, _| None)
    }

    /// Outdated routes of `peer` become long-lived stale (RFC 9494 §4.2): the least preferred; those marked NO_LLGR
    /// go. In the next `slots` places; `Break` when all were seen.
    pub fn llgr_stale(&mut self, peer: PeerId, family: Family, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        self.visit_outdated(peer, family, walk, slots, |core, path| {
            let kept = !core.attributes.summary(path.attributes).marks.has(Community::NO_LLGR);
            kept.then(|| path.state.llgr_stale())
        })
    }

    /// What `peer` has told of `family`.
    #[must_use]
    pub fn counts(&self, peer: PeerId, family: Family) -> Counts {
        self.core.peer(peer).map(|peer| peer.counts(family)).unwrap_or_default()
    }

    /// Prefixes of `family` that some peer has told.
    #[must_use]
    pub fn prefixes(&self, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.v4.len(),
            Family::Ipv6 => self.v6.len(),
        }
    }

    /// Attribute sets that are kept.
    #[must_use]
    pub fn attribute_sets(&self) -> usize {
        self.core.attributes.len()
    }

    /// Takes in what an Established peer says; RFC 7606 is obeyed. Families that the session does not listen to are to
    /// be taken out before.
    pub fn apply(&mut self, peer: PeerId, mut update: Update) {
        match self.core.peer(peer) {
            Some(known) if known.up && !matches!(known.settings.import, Import::Nothing) => {}
            _ => return,
        }
        let withdraws = update.treat_as_withdraw();
        let ids = update.path_ids;
        self.withdraw_v4(peer, &update.withdrawn, &ids.withdrawn);
        match &update.mp_unreach {
            Some(MpUnreach::Ipv4(prefixes)) => self.withdraw_v4(peer, prefixes, &ids.mp_unreach),
            Some(MpUnreach::Ipv6(prefixes)) => self.withdraw_v6(peer, prefixes, &ids.mp_unreach),
            _ => {}
        }
        if withdraws {
            self.withdraw_v4(peer, &update.announced, &ids.announced);
            match &update.mp_reach {
                Some(MpReach::Ipv4 { prefixes, .. } | MpReach::Ipv4ByIpv6 { prefixes, .. }) => {
                    self.withdraw_v4(peer, prefixes, &ids.mp_reach);
                }
                Some(MpReach::Ipv6 { prefixes, .. }) => self.withdraw_v6(peer, prefixes, &ids.mp_reach),
                _ => {}
            }
            return;
        }
        if let Some(known) = self.core.peer(peer) {
            import::mark(known, &mut update.attributes);
        }
        if let Some(address) = update.attributes.next_hop.filter(|_| !update.announced.is_empty()) {
            let next_hop = NextHop { address: address.into(), link_local: None };
            self.announce_v4(peer, next_hop, &update.attributes, &update.announced, &ids.announced);
        }
        match &update.mp_reach {
            Some(MpReach::Ipv4 { next_hop, prefixes }) => {
                let next_hop = NextHop { address: (*next_hop).into(), link_local: None };
                self.announce_v4(peer, next_hop, &update.attributes, prefixes, &ids.mp_reach);
            }
            Some(MpReach::Ipv4ByIpv6 { next_hop, link_local, prefixes }) => {
                let next_hop = NextHop { address: (*next_hop).into(), link_local: *link_local };
                self.announce_v4(peer, next_hop, &update.attributes, prefixes, &ids.mp_reach);
            }
            Some(MpReach::Ipv6 { next_hop, link_local, prefixes }) => {
                let next_hop = NextHop { address: (*next_hop).into(), link_local: *link_local };
                self.announce_v6(peer, next_hop, &update.attributes, prefixes, &ids.mp_reach);
            }
            _ => {}
        }
    }

    fn announce_v4(&mut self, peer: PeerId, hop: NextHop, attributes: &Attributes, prefixes: &[Ipv4Net], ids: &[u32]) {
        let Some(told) = self.core.receive(peer, hop, attributes) else {
            return self.withdraw_v4(peer, prefixes, ids);
        };
        for (prefix, id) in prefixes.iter().zip(path_ids(ids)) {
            let state = self.core.judge(&told, &IpNet::V4(*prefix));
            let at = self.v4.place(prefix.addr().octets(), prefix.prefix_len());
            if let Some(entry) = self.v4.get_mut(at)
                && self.core.announce(entry, Family::Ipv4, Told { id, state, ..told })
            {
                self.readers.changed(Family::Ipv4, at);
            }
        }
        self.core.attributes.release(told.attributes);
    }

    fn announce_v6(&mut self, peer: PeerId, hop: NextHop, attributes: &Attributes, prefixes: &[Ipv6Net], ids: &[u32]) {
        let Some(told) = self.core.receive(peer, hop, attributes) else {
            return self.withdraw_v6(peer, prefixes, ids);
        };
        for (prefix, id) in prefixes.iter().zip(path_ids(ids)) {
            let state = self.core.judge(&told, &IpNet::V6(*prefix));
            let at = self.v6.place(prefix.addr().octets(), prefix.prefix_len());
            if let Some(entry) = self.v6.get_mut(at)
                && self.core.announce(entry, Family::Ipv6, Told { id, state, ..told })
            {
                self.readers.changed(Family::Ipv6, at);
            }
        }
        self.core.attributes.release(told.attributes);
    }

    fn withdraw_v4(&mut self, peer: PeerId, prefixes: &[Ipv4Net], ids: &[u32]) {
        for (prefix, id) in prefixes.iter().zip(path_ids(ids)) {
            let Some(at) = self.v4.find(&prefix.addr().octets(), prefix.prefix_len()) else { continue };
            let Some(entry) = self.v4.get_mut(at) else { continue };
            if self.core.withdraw(entry, Family::Ipv4, peer, |path| path.id == id) {
                self.readers.changed(Family::Ipv4, at);
            }
            self.tidy(Family::Ipv4, at);
        }
    }

    fn withdraw_v6(&mut self, peer: PeerId, prefixes: &[Ipv6Net], ids: &[u32]) {
        for (prefix, id) in prefixes.iter().zip(path_ids(ids)) {
            let Some(at) = self.v6.find(&prefix.addr().octets(), prefix.prefix_len()) else { continue };
            let Some(entry) = self.v6.get_mut(at) else { continue };
            if self.core.withdraw(entry, Family::Ipv6, peer, |path| path.id == id) {
                self.readers.changed(Family::Ipv6, at);
            }
            self.tidy(Family::Ipv6, at);
        }
    }

    /// Frees a prefix that has no path, and that no reader has to withdraw.
    pub(crate) fn tidy(&mut self, family: Family, at: u32) {
        if self.head(family, at) == Some(NONE) && !self.readers.need(family, at) {
            match family {
                Family::Ipv4 => self.v4.remove(at),
                Family::Ipv6 => self.v6.remove(at),
            }
        }
    }

    pub(crate) fn head(&self, family: Family, at: u32) -> Option<u32> {
        match family {
            Family::Ipv4 => self.v4.get(at).map(|entry| entry.head),
            Family::Ipv6 => self.v6.get(at).map(|entry| entry.head),
        }
    }

    pub(crate) fn slots(&self, family: Family) -> u32 {
        match family {
            Family::Ipv4 => self.v4.slots(),
            Family::Ipv6 => self.v6.slots(),
        }
    }

    /// Gives the outdated paths of `peer` in the next places what `change` says, or takes them out.
    fn visit_outdated(
        &mut self,
        peer: PeerId,
        family: Family,
        walk: &mut Walk,
        slots: u32,
        change: impl Fn(&Core, &Path) -> Option<State>,
    ) -> ControlFlow<()> {
        let known = self.core.peer(peer);
        let epoch = known.map(|known| known.epoch(family)).unwrap_or_default();
        // Most peers tell nothing that is kept: nothing to look for.
        let idle = known.is_none_or(|known| known.counts(family).routes == 0);
        let until = walk.0.saturating_add(slots).min(self.slots(family));
        for at in if idle { 0..0 } else { walk.0..until } {
            let changed = match family {
                Family::Ipv4 => self.v4.get_mut(at).map(|entry| self.core.change(entry, family, peer, epoch, &change)),
                Family::Ipv6 => self.v6.get_mut(at).map(|entry| self.core.change(entry, family, peer, epoch, &change)),
            };
            if changed == Some(true) {
                self.readers.changed(family, at);
            }
            self.tidy(family, at);
        }
        walk.0 = until;
        if idle || until >= self.slots(family) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Path identifiers, each for the prefix in its place; 0 where the session has none.
fn path_ids(ids: &[u32]) -> impl Iterator<Item = u32> + '_ {
    ids.iter().copied().chain(std::iter::repeat(0))
}
