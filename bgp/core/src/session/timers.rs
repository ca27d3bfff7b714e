//! What a session does because time has passed.

use std::time::Duration;

use bgp_wire::{ErrorCode, HoldTime, Message};
use cloakway_types::Instant;

use super::values::{LinkId, Output};
use super::{Link, Phase, Rest, Session};

/// The least patience with a peer that reads nothing (RFC 9687 §4.1).
const SEND_HOLD: Duration = Duration::from_secs(480);

impl Session {
    pub(super) fn tick(&mut self, now: Instant) {
        self.tick_stale(now);
        match self.rest {
            Rest::Idle { until } if until <= now => self.begin(now),
            Rest::Active { retry_at: Some(at) } if at <= now => self.begin(now),
            Rest::Idle { .. } | Rest::Active { .. } | Rest::Stopped | Rest::Held => {}
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            match self.links.get_mut(&id) {
                Some(Link::Connecting { until }) if *until <= now => {
                    self.links.remove(&id);
                    self.output.push_back(Output::Close(id));
                    self.connect_failed("no answer in time", now);
                }
                Some(Link::Open { phase: Phase::Delayed, hold_until: Some(until), .. }) if *until <= now => {
                    self.end_delay(id, now);
                }
                Some(Link::Open { send_hold_until: Some(until), .. }) if *until <= now => {
                    let detail = "the peer reads nothing of what we send".to_owned();
                    self.fail(id, ErrorCode::SEND_HOLD_TIMER_EXPIRED.into(), detail, now);
                }
                Some(Link::Open { hold_until: Some(until), .. }) if *until <= now => {
                    self.fail(id, ErrorCode::HOLD_TIMER_EXPIRED.into(), "the peer is silent".to_owned(), now);
                }
                Some(Link::Open {
                    phase: Phase::OpenConfirm(negotiated) | Phase::Established(negotiated),
                    keepalive_at: Some(at),
                    ..
                }) if *at <= now => {
                    let hold_time = negotiated.hold_time;
                    self.keepalive(id, hold_time, now);
                }
                _ => {}
            }
        }
    }

    /// What was sent waits for the peer to read: not for ever (RFC 9687).
    pub(super) fn stalled(&mut self, id: LinkId, now: Instant) {
        let until = now + self.send_hold(id);
        if let Some(Link::Open { send_hold_until, .. }) = self.links.get_mut(&id) {
            send_hold_until.get_or_insert(until);
        }
    }

    pub(super) fn took(&mut self, id: LinkId, all: bool, now: Instant) {
        let until = now + self.send_hold(id);
        if let Some(Link::Open { send_hold_until, .. }) = self.links.get_mut(&id) {
            *send_hold_until = (!all).then_some(until);
        }
    }

    /// Twice the hold time, and no less than RFC 9687 §4.1 has it.
    pub(super) fn send_hold(&self, id: LinkId) -> Duration {
        let hold_time = match self.links.get(&id) {
            Some(Link::Open { phase: Phase::OpenConfirm(negotiated) | Phase::Established(negotiated), .. }) => {
                negotiated.hold_time.duration()
            }
            _ => None,
        };
        hold_time.unwrap_or_default().saturating_mul(2).max(SEND_HOLD)
    }

    /// Sends a KEEPALIVE and plans the next, at a third of the hold time (RFC 4271 §4.4, §10).
    pub(super) fn keepalive(&mut self, id: LinkId, hold_time: HoldTime, now: Instant) {
        let interval = hold_time.duration().map(|hold| self.jitter.apply(hold / 3));
        if let Some(Link::Open { keepalive_at, .. }) = self.links.get_mut(&id) {
            *keepalive_at = interval.map(|interval| now + interval);
        }
        self.send(id, &Message::KeepAlive);
    }
}
