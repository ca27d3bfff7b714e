//! What a peer's task tells of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bgp_core::{FlowHeard, FlowRoutes, Status};
use bgp_wire::{Family, FlowRule};
use cloakway_types::Instant;

use super::Task;
use crate::inject;

/// What `show` is told of a peer.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) status: Status,
    /// Flow rules that the peer was told.
    pub(crate) flow_advertised: FlowRoutes,
    /// Flow rules that the peer told us.
    pub(crate) flow_heard: BTreeMap<FlowRule, FlowHeard>,
    /// From the word that took a route away to the last byte of its withdrawal in the socket.
    pub(crate) last_withdraw: Option<Duration>,
    /// Routes of each family that the peer told and that are kept.
    pub(crate) held: [(Family, usize); 2],
    pub(crate) restart: Restart,
    pub(crate) queue: Queue,
}

/// How far the peer is behind what it is to be told.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Octets that the socket has not taken.
    pub(crate) unsent: usize,
    /// Octets that the peer's TCP has not acknowledged, those unsent included.
    pub(crate) unacknowledged: u64,
    /// There is more in the table of injected routes.
    pub(crate) behind: bool,
    /// Injected prefixes that were announced or withdrawn.
    pub(crate) sent: u64,
}

/// What stays of whom, and until when.
#[derive(Debug)]
pub(crate) struct Restart {
    /// The peer is offered nothing because it does not know what to drop.
    pub(crate) withheld: bool,
    /// Of the peer's: the family, whether as the least preferred, until when.
    pub(crate) stale: Vec<(Family, bool, Instant)>,
    /// When the session does something by itself.
    pub(crate) next_timer: Option<Instant>,
}

impl Task {
    pub(super) fn report(&self) -> Report {
        Report {
            status: self.session.status(),
            flow_advertised: self.session.flow_advertised().clone(),
            flow_heard: self.session.flow_heard().clone(),
            last_withdraw: self.last_withdraw,
            held: self.intake.held(),
            restart: Restart {
                withheld: self.session.withheld_keep(),
                stale: self.session.stale().collect(),
                next_timer: self.session.poll_timeout(),
            },
            queue: self.queue(),
        }
    }

    pub(super) fn queue(&self) -> Queue {
        let link = self.session.established_link().and_then(|id| self.links.get(&id));
        let unsent = link.map_or(0, |link| link.backlog.len());
        let unacknowledged = link.map_or(0, |link| {
            let acknowledged = inject::acknowledged(&link.stream).unwrap_or_default().saturating_sub(link.base);
            (link.taken + unsent as u64).saturating_sub(acknowledged)
        });
        let outlet = self.outlet.as_ref();
        let behind = link.is_some() && outlet.is_some_and(|outlet| outlet.hungry);
        Queue { unsent, unacknowledged, behind, sent: outlet.map_or(0, |outlet| outlet.sent) }
    }
}
