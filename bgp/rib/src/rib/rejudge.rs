//! The judges' word on what was told already, when it may be another now: payloads of the RPKI that have changed.

use std::ops::ControlFlow;

use bgp_wire::Family;
use ipnet::IpNet;

use super::{Core, Rib, Walk, state};
use crate::import::{self, Rejected};
use crate::peer::PeerId;
use crate::table::{Entry, State};

impl Rib {
    /// Holds the prefixes of `family` in the next `slots` places against their judges again; `Break` when all were seen.
    pub fn rejudge(&mut self, family: Family, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        let until = walk.0.saturating_add(slots).min(self.slots(family));
        for at in walk.0..until {
            let Some(prefix) = self.prefix(family, at) else { continue };
            let changed = match family {
                Family::Ipv4 => self.v4.get_mut(at).map(|entry| self.core.rejudge(entry, family, &prefix)),
                Family::Ipv6 => self.v6.get_mut(at).map(|entry| self.core.rejudge(entry, family, &prefix)),
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
    fn rejudge<const N: usize>(&mut self, entry: &mut Entry<N>, family: Family, prefix: &IpNet) -> bool {
        // What the attributes alone decided stays decided.
        let judged =
            |state: State| [0, Rejected::NotListed as u8, Rejected::OriginInvalid as u8].contains(&state.code());
        let before = self.best_of(entry.head);
        let (mut at, mut any) = (entry.head, false);
        while let Some(path) = self.paths.get(at).copied() {
            let verdict = self.peer(PeerId(path.peer)).filter(|_| judged(path.state)).map(|peer| {
                let summary = self.attributes.summary(path.attributes);
                state(import::check_prefix(&self.settings, peer, prefix, &summary))
            });
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
}
