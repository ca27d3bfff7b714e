//! The paths to one prefix: told, withdrawn, changed, and the best of them put first.

use bgp_wire::{Attributes, Family};
use ipnet::IpNet;

use super::{Core, Told};
use crate::attributes::NextHop;
use crate::decision::{self, Candidate};
use crate::import::{self, Rejected};
use crate::peer::{Counts, Peer, PeerId};
use crate::table::{Entry, NONE, Path, State};

impl Core {
    pub(crate) fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(usize::from(id.0))
    }

    pub(super) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(id.0))
    }

    /// What holds for all prefixes with these attributes, which are held; `None` when they cannot be kept.
    pub(super) fn receive(&mut self, id: PeerId, next_hop: NextHop, attributes: &Attributes) -> Option<Told> {
        let peer = self.peers.get(usize::from(id.0))?;
        let is_own = |address| self.own_addresses.contains(&address);
        let verdict = import::check(&self.settings, peer, is_own, next_hop, attributes);
        let attributes = self.attributes.hold_new(next_hop, attributes)?;
        Some(Told { peer: id, id: 0, attributes, state: state(verdict) })
    }

    pub(super) fn judge(&self, told: &Told, prefix: &IpNet) -> State {
        let Some(peer) = self.peer(told.peer).filter(|_| told.state.is_usable()) else { return told.state };
        state(import::check_prefix(&self.settings, peer, prefix, &self.attributes.summary(told.attributes)))
    }

    /// Takes note of one path. Says whether the best route is another now.
    pub(super) fn announce<const N: usize>(&mut self, entry: &mut Entry<N>, family: Family, told: Told) -> bool {
        let epoch = self.peer(told.peer).map(|peer| peer.epoch(family)).unwrap_or_default();
        let found = self.paths.list(entry.head).find(|(_, path)| path.peer == told.peer.0 && path.id == told.id);
        let before = self.best_of(entry.head);
        match found.map(|(at, path)| (at, *path)) {
            Some((at, old)) => {
                let same = old.attributes == told.attributes && old.state == told.state;
                let since = if same { old.since } else { self.now };
                let path = Path { attributes: told.attributes, state: told.state, epoch, since, ..old };
                if let Some(slot) = self.paths.get_mut(at) {
                    *slot = path;
                }
                if same {
                    return false;
                }
                self.attributes.hold(told.attributes);
                self.attributes.release(old.attributes);
                let rejected = usize::from(!path.state.is_usable());
                let was = usize::from(!old.state.is_usable());
                self.count(told.peer, family, |counts| counts.rejected = counts.rejected + rejected - was);
            }
            None => {
                let path = Path {
                    attributes: told.attributes,
                    id: told.id,
                    next: entry.head,
                    since: self.now,
                    peer: told.peer.0,
                    epoch,
                    state: told.state,
                };
                entry.head = self.paths.add(path);
                self.attributes.hold(told.attributes);
                let rejected = usize::from(!path.state.is_usable());
                self.count(told.peer, family, |counts| {
                    counts.routes += 1;
                    counts.rejected += rejected;
                });
            }
        }
        self.elect(entry);
        self.best_of(entry.head) != before
    }

    /// Takes out the paths of `peer` that fit. Says whether the best route is another now.
    pub(super) fn withdraw<const N: usize>(
        &mut self,
        entry: &mut Entry<N>,
        family: Family,
        peer: PeerId,
        fits: impl Fn(&Path) -> bool,
    ) -> bool {
        let before = self.best_of(entry.head);
        let (mut at, mut previous, mut found) = (entry.head, NONE, false);
        while let Some(path) = self.paths.get(at).copied() {
            if path.peer == peer.0 && fits(&path) {
                match self.paths.get_mut(previous) {
                    Some(previous) => previous.next = path.next,
                    None => entry.head = path.next,
                }
                self.paths.remove(at);
                self.attributes.release(path.attributes);
                let rejected = usize::from(!path.state.is_usable());
                self.count(peer, family, |counts| {
                    counts.routes -= 1;
                    counts.rejected -= rejected;
                });
                found = true;
            } else {
                previous = at;
            }
            at = path.next;
        }
        if found {
            self.elect(entry);
        }
        found && self.best_of(entry.head) != before
    }

    /// [`Rib::visit_outdated`] for one prefix.
    pub(super) fn change<const N: usize>(
        &mut self,
        entry: &mut Entry<N>,
        family: Family,
        peer: PeerId,
        epoch: u8,
        change: impl Fn(&Self, &Path) -> Option<State>,
    ) -> bool {
        let is_outdated = |path: &Path| path.peer == peer.0 && path.epoch != epoch;
        if !self.paths.list(entry.head).any(|(_, path)| is_outdated(path)) {
            return false;
        }
        let before = self.best_of(entry.head);
        let mut at = entry.head;
        let mut goes = false;
        while let Some(path) = self.paths.get(at).copied() {
            if is_outdated(&path) {
                match (change(self, &path), self.paths.get_mut(at)) {
                    (Some(state), Some(path)) => path.state = state,
                    _ => goes = true,
                }
            }
            at = path.next;
        }
        if goes {
            let keeps: Vec<u32> = self
                .paths
                .list(entry.head)
                .filter(|(_, path)| is_outdated(path) && change(self, path).is_some())
                .map(|(_, path)| path.id)
                .collect();
            self.withdraw(entry, family, peer, |path| is_outdated(path) && !keeps.contains(&path.id));
        }
        self.elect(entry);
        self.best_of(entry.head) != before
    }

    pub(super) fn count(&mut self, peer: PeerId, family: Family, change: impl FnOnce(&mut Counts)) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.count(family, change);
        }
    }

    /// What readers are told of the best path: where it is, its attributes and state.
    pub(crate) fn best_of(&self, head: u32) -> Option<(u16, u32, u32, State)> {
        let path = self.paths.get(head).filter(|path| path.state.is_usable())?;
        Some((path.peer, path.id, path.attributes, path.state))
    }

    /// The usable paths from `head` on.
    pub(crate) fn candidates(&self, head: u32) -> impl Iterator<Item = Candidate> + '_ {
        self.paths.list(head).filter(|(_, path)| path.state.is_usable()).filter_map(|(at, path)| {
            let peer = self.peers.get(usize::from(path.peer))?;
            Some(Candidate {
                at,
                summary: self.attributes.summary(path.attributes),
                llgr_stale: path.state.is_llgr_stale(),
                internal: peer.settings.internal,
                identifier: peer.identifier,
                address: peer.settings.address,
                path_id: path.id,
            })
        })
    }

    /// Puts the best path first.
    pub(super) fn elect<const N: usize>(&mut self, entry: &mut Entry<N>) {
        match self.paths.get(entry.head) {
            Some(first) if first.next != NONE => {}
            _ => return,
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates.extend(self.candidates(entry.head));
        let best = decision::best(&candidates, self.settings.always_compare_med).map(|best| best.at);
        self.candidates = candidates;
        let Some(best) = best.filter(|best| *best != entry.head) else { return };
        let behind = self.paths.get(best).map_or(NONE, |path| path.next);
        let before = self.paths.list(entry.head).find(|(_, path)| path.next == best).map(|(at, _)| at);
        if let Some(path) = before.and_then(|at| self.paths.get_mut(at)) {
            path.next = behind;
        }
        if let Some(path) = self.paths.get_mut(best) {
            path.next = entry.head;
        }
        entry.head = best;
    }
}

/// The state of a path with this verdict.
pub(super) fn state(verdict: Result<(), Rejected>) -> State {
    State(verdict.err().map_or(0, |rejected| rejected as u8))
}
