//! Judging again what was told already, when the word may be another now: payloads of the RPKI that have changed, what the
//! operator says of a peer, private prefixes.

use std::ops::ControlFlow;

use bgp_wire::Family;
use ipnet::IpNet;

use super::{Core, Rib, Walk, state};
use crate::import::{self, Rejected};
use crate::peer::PeerId;
use crate::table::{Entry, Path, State};

/// Whose routes are judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Everybody's, by what holds for a prefix: the judges, and what is private. What the attributes alone decided stays
    /// decided.
    Conditions,
    /// One peer's, by everything.
    Peer(PeerId),
}

impl Rib {
    /// Judges the routes to the prefixes of `family` in the next `slots` places again; `Break` when all were seen.
    pub fn rejudge(&mut self, again: Again, family: Family, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        let until = walk.0.saturating_add(slots).min(self.slots(family));
        for at in walk.0..until {
            let Some(prefix) = self.prefix(family, at) else { continue };
            let changed = match family {
                Family::Ipv4 => self.v4.get_mut(at).map(|entry| self.core.rejudge(again, entry, family, &prefix)),
                Family::Ipv6 => self.v6.get_mut(at).map(|entry| self.core.rejudge(again, entry, family, &prefix)),
            };
            if changed == Some(true) {
                self.readers.changed(family, at);
            }
        }
        walk.0 = until;
        if until >= self.slots(family) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Core {
    /// Says whether the best route is another now.
    fn rejudge<const N: usize>(&mut self, again: Again, entry: &mut Entry<N>, family: Family, prefix: &IpNet) -> bool {
        let before = self.best_of(entry.head);
        let (mut at, mut any) = (entry.head, false);
        while let Some(path) = self.paths.get(at).copied() {
            let verdict = match again {
                Again::Conditions => self.by_conditions(&path, prefix),
                Again::Peer(peer) if path.peer == peer.0 => self.by_everything(&path, prefix),
                Again::Peer(_) => None,
            };
            let verdict =
                verdict.map(|verdict| if path.state.is_llgr_stale() { verdict.llgr_stale() } else { verdict });
            if let (Some(verdict), Some(slot)) =
                (verdict.filter(|verdict| *verdict != path.state), self.paths.get_mut(at))
            {
                slot.state = verdict;
                any = true;
                let (rejected, was) = (usize::from(!verdict.is_usable()), usize::from(!path.state.is_usable()));
                self.count(PeerId(path.peer), family, |counts| counts.rejected = counts.rejected + rejected - was);
            }
            at = path.next;
        }
        if !any {
            return false;
        }
        self.elect(entry);
        self.best_of(entry.head) != before
    }

    fn by_conditions(&self, path: &Path, prefix: &IpNet) -> Option<State> {
        let conditions = [0, Rejected::Private as u8, Rejected::NotListed as u8, Rejected::OriginInvalid as u8];
        let peer = self.peer(PeerId(path.peer)).filter(|_| conditions.contains(&path.state.code()))?;
        let summary = self.attributes.summary(path.attributes);
        Some(state(import::check_prefix(&self.settings, peer, prefix, &summary)))
    }

    fn by_everything(&self, path: &Path, prefix: &IpNet) -> Option<State> {
        let peer = self.peer(PeerId(path.peer))?;
        let (next_hop, attributes) = self.attributes.get(path.attributes)?;
        let is_own = |address| self.own_addresses.contains(&address);
        let summary = self.attributes.summary(path.attributes);
        let verdict = import::check(&self.settings, peer, is_own, next_hop, &attributes)
            .and_then(|()| import::check_prefix(&self.settings, peer, prefix, &summary));
        Some(state(verdict))
    }
}
