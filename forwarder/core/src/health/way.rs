//! The health of one way to a private prefix.

use std::net::IpAddr;

use cloakway_types::Instant;

use super::{LinkState, Timing};
use crate::policy::{Policy, Way};

/// The state of one way, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayStatus {
    /// The name of its link.
    pub link: String,
    /// The interface of its link.
    pub interface: String,
    /// The neighbour that is probed.
    pub probe: IpAddr,
    /// Whether packets reach the far end.
    pub healthy: bool,
    /// Why.
    pub reason: String,
    /// When the neighbour last answered.
    pub answered_at: Option<Instant>,
    /// Unanswered probes in a row.
    pub misses: u32,
}

#[derive(Debug, Clone)]
pub(super) struct WayHealth {
    pub(super) status: WayStatus,
    answers: u32,
    good_since: Option<Instant>,
}

impl WayHealth {
    pub(super) fn new(policy: &Policy, way: &Way) -> Self {
        let status = WayStatus {
            link: policy.link_name(way.link).to_owned(),
            interface: policy.interface(way.link).to_owned(),
            probe: way.probe,
            healthy: false,
            reason: "starting".into(),
            answered_at: None,
            misses: 0,
        };
        Self { status, answers: 0, good_since: None }
    }

    pub(super) fn probed(&mut self, answered: bool, now: Instant) {
        if answered {
            self.answers = self.answers.saturating_add(1);
            self.status.misses = 0;
            self.status.answered_at = Some(now);
        } else {
            self.status.misses = self.status.misses.saturating_add(1);
        }
    }

    /// When time alone may change it; `check` is when the last read-back is too old.
    pub(super) fn poll_timeout(&self, check: Option<Instant>, timing: &Timing) -> Option<Instant> {
        let good_since = self.good_since?;
        let rises = !self.status.healthy && self.answers >= timing.rise;
        let silent = self.status.answered_at.map(|at| at + timing.silence_limit);
        [rises.then_some(good_since + timing.hold_down), silent, check].into_iter().flatten().min()
    }

    pub(super) fn fault(
        &self,
        link: LinkState,
        route: &Result<(), String>,
        timing: &Timing,
        now: Instant,
    ) -> Option<String> {
        let WayStatus { probe, misses, interface, .. } = &self.status;
        match link {
            LinkState::Missing => return Some(format!("there is no interface {interface}")),
            LinkState::Down => return Some(format!("link {interface} is down")),
            LinkState::Up => {}
        }
        if let Err(wrong) = route {
            return Some(format!("route: {wrong}"));
        }
        let allowed = if self.status.healthy { timing.fall } else { 1 };
        if *misses >= allowed {
            return Some(format!("{probe} on {interface} does not answer"));
        }
        if self.answers == 0 {
            return Some(format!("waiting for {probe} on {interface} to answer"));
        }
        let heard = self.status.answered_at.is_some_and(|at| now.since(at) < timing.silence_limit);
        (!heard).then(|| format!("{probe} on {interface} was not heard for {:?}", timing.silence_limit))
    }

    pub(super) fn settle(&mut self, fault: Option<String>, timing: &Timing, now: Instant) {
        let (healthy, reason) = match fault {
            Some(reason) => {
                self.good_since = None;
                self.answers = 0;
                (false, reason)
            }
            None => {
                let since = *self.good_since.get_or_insert(now);
                let risen = now.since(since) >= timing.hold_down && self.answers >= timing.rise;
                if self.status.healthy || risen {
                    (true, format!("{} is up and {} answers", self.status.interface, self.status.probe))
                } else {
                    (false, format!("all good, held down for {:?}", timing.hold_down))
                }
            }
        };
        (self.status.healthy, self.status.reason) = (healthy, reason);
    }
}
