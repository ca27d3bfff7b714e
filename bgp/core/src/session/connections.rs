//! Connections come and go: made, accepted, refused, lost.

use std::time::Duration;

use bgp_wire::{ErrorCode, Framer, Message, Notification};
use cloakway_types::Instant;

use super::routes::Reported;
use super::values::{Down, Event, LinkId, Negotiated, Output};
use super::{Link, Phase, Rest, Session, negotiation};

/// Patience for the peer's OPEN (RFC 4271 §8.2.2 suggests four minutes).
const OPEN_WAIT: Duration = Duration::from_secs(240);
/// Patience for the handshake of TCP.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// A session that lasted this long clears what earlier failures added to the waits.
const STABLE: Duration = Duration::from_secs(60);

impl Session {
    /// Connects, or waits for the peer to.
    pub(super) fn begin(&mut self, now: Instant) {
        self.rest = Rest::Active { retry_at: None };
        if !self.settings.passive {
            let id = self.new_link();
            self.links.insert(id, Link::Connecting { until: now + CONNECT_WAIT });
            self.output.push_back(Output::Connect(id));
        }
    }

    pub(super) fn connect_failed(&mut self, reason: &str, now: Instant) {
        let why = Down::ConnectFailed(reason.to_owned());
        if self.last_down.as_ref() != Some(&why) {
            self.event(Event::Failed(why.clone()));
            self.last_down = Some(why);
        }
        self.rest_active(now);
    }

    /// Waits for the peer, and for the next attempt unless a connection is there or we never connect.
    pub(super) fn rest_active(&mut self, now: Instant) {
        let retry = self.links.is_empty() && !self.settings.passive;
        let retry_at = retry.then(|| now + self.connect_backoff.next(&mut self.jitter));
        self.rest = Rest::Active { retry_at };
    }

    pub(super) fn opened(&mut self, id: LinkId, outgoing: bool, now: Instant) {
        let delay = self.settings.options.delay_open;
        let link = Link::Open {
            outgoing,
            phase: if delay.is_some() { Phase::Delayed } else { Phase::OpenSent },
            framer: Framer::default(),
            hold_until: Some(now + delay.unwrap_or(OPEN_WAIT)),
            keepalive_at: None,
            send_hold_until: None,
        };
        self.links.insert(id, link);
        if delay.is_none() {
            self.send_open(id);
        }
    }

    pub(super) fn send_open(&mut self, id: LinkId) {
        let open = negotiation::offer(&self.settings, self.restarted, !self.keep_withheld);
        self.send(id, &Message::Open(open));
    }

    /// The peer's OPEN has come, or was waited for in vain: ours goes out (RFC 4271 §8.2.2, events 12 and 20).
    pub(super) fn end_delay(&mut self, id: LinkId, now: Instant) {
        if let Some(Link::Open { phase, hold_until, .. }) = self.links.get_mut(&id) {
            *phase = Phase::OpenSent;
            *hold_until = Some(now + OPEN_WAIT);
            self.send_open(id);
        }
    }

    pub(super) fn accepted(&mut self, id: LinkId, now: Instant) {
        match self.rest {
            Rest::Stopped | Rest::Held | Rest::Idle { .. } => {
                self.send(id, &Message::Notification(ErrorCode::CONNECTION_REJECTED.into()));
                self.output.push_back(Output::Close(id));
                return;
            }
            Rest::Active { .. } => {}
        }
        self.replace_established(now);
        // The peer gave up an earlier connection of its own that got nowhere.
        let stale: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                matches!(
                    link,
                    Link::Open { outgoing: false, phase: Phase::Delayed | Phase::OpenSent | Phase::OpenConfirm(_), .. }
                )
            })
            .map(|(id, _)| *id)
            .collect();
        for stale in stale {
            self.refuse(stale, ErrorCode::CONNECTION_COLLISION.into(), "the peer connected anew".to_owned());
        }
        self.rest = Rest::Active { retry_at: None };
        self.opened(id, false, now);
    }

    /// RFC 4724 §5: a peer that restarts gracefully and connects anew has lost the connection that we still hold. What it
    /// told stays for as long as it asked for.
    fn replace_established(&mut self, now: Instant) {
        let restarts = |negotiated: &Negotiated| negotiated.restart.as_ref().is_some_and(|of| !of.families.is_empty());
        if let Some((id, _)) = self.established().filter(|(_, negotiated)| restarts(negotiated)) {
            self.output.push_back(Output::Close(id));
            self.lost(id, Down::ConnectedAnew, now);
        }
    }

    /// Sends `notification` and closes, without consequences for the session.
    pub(super) fn refuse(&mut self, id: LinkId, notification: Notification, detail: String) {
        if let Some(link) = self.links.remove(&id) {
            if let Link::Open { .. } = link {
                self.send(id, &Message::Notification(notification.clone()));
                self.event(Event::Failed(Down::Sent { notification, detail }));
            }
            self.output.push_back(Output::Close(id));
        }
    }

    pub(super) fn closed(&mut self, id: LinkId, now: Instant) {
        match self.links.get(&id) {
            // RFC 4271 §8.2.2, OpenSent, event 18: to Active, not to Idle.
            Some(Link::Open { phase: Phase::Delayed | Phase::OpenSent, .. }) => {
                self.links.remove(&id);
                self.ended_early(Down::ConnectionLost);
                self.rest_active(now);
            }
            Some(Link::Connecting { .. }) => {
                self.links.remove(&id);
                self.connect_failed("the connection ended while it was made", now);
            }
            Some(Link::Open { .. }) => self.lost(id, Down::ConnectionLost, now),
            None => {}
        }
    }

    /// Ends a connection over something that we found.
    pub(super) fn fail(&mut self, id: LinkId, notification: Notification, detail: String, now: Instant) {
        // Before our OPEN the peer could not know who speaks (RFC 4271 §8.1.1, SendNOTIFICATIONwithoutOPEN).
        if !matches!(self.links.get(&id), Some(Link::Open { phase: Phase::Delayed, .. })) {
            self.send(id, &Message::Notification(notification.clone()));
        }
        self.output.push_back(Output::Close(id));
        self.lost(id, Down::Sent { notification, detail }, now);
    }

    /// A connection is gone: tidy up, and wait before the next if it was the only one.
    pub(super) fn lost(&mut self, id: LinkId, why: Down, now: Instant) {
        let Some(link) = self.links.remove(&id) else { return };
        let was_established = matches!(link, Link::Open { phase: Phase::Established(_), .. });
        if let Link::Open { phase: Phase::Established(negotiated), .. } = &link {
            self.outdate(negotiated, &why, now);
        }
        if was_established {
            self.counters.flaps += 1;
            self.advertised.clear();
            self.flow_advertised.clear();
            self.flow_heard = super::flow::Heard::default();
            self.feed.stop();
            self.reported = Reported::default();
            if now.since(self.since) >= STABLE {
                self.idle_backoff.reset();
            }
            self.event(Event::Down(why.clone()));
            self.last_down = Some(why);
        } else {
            self.ended_early(why);
        }
        if self.links.is_empty() {
            self.rest = Rest::Idle { until: now + self.idle_backoff.next(&mut self.jitter) };
        }
    }

    /// A connection has ended that was not Established. Beside one that is, it is no news of the session.
    pub(super) fn ended_early(&mut self, why: Down) {
        self.event(Event::Failed(why.clone()));
        if self.established().is_none() {
            self.last_down = Some(why);
        }
    }

    pub(super) fn stop(&mut self, word: &str, now: Instant) {
        let shutdown = Notification::with_communication(ErrorCode::ADMINISTRATIVE_SHUTDOWN, word);
        self.end(&shutdown, "stopped by the operator", now);
    }
}
