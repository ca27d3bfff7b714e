//! What the operator settled anew, while the session runs.

use bgp_wire::{Asn, ErrorCode, Notification};
use cloakway_types::Instant;

use super::burst::Burst;
use super::values::Settings;
use super::{Link, Rest, Session, restart};

impl Settings {
    /// The first setting that `new` has otherwise and that the peer was told in our OPEN, or that decides how
    /// connections are made: the session has to start again for it. Everything else is taken over as it runs.
    #[must_use]
    pub fn reset_by(&self, new: &Self) -> Option<&'static str> {
        let (ours, theirs) = (&self.options, &new.options);
        let differs = [
            ("local-as", self.local_as != new.local_as),
            ("router-id", self.router_id != new.router_id),
            ("remote-as", self.remote_as != new.remote_as || ours.remote_as_among != theirs.remote_as_among),
            ("hold-time-s", self.hold_time != new.hold_time),
            ("passive", self.passive != new.passive),
            ("delay-open-s", ours.delay_open != theirs.delay_open),
            ("add-path", ours.add_path != theirs.add_path),
            ("flowspec", ours.flow != theirs.flow),
            ("keep", ours.keep != theirs.keep),
            ("sets", ours.sets != theirs.sets),
            ("graceful-restart", ours.helper != theirs.helper),
            ("role", ours.role != theirs.role),
        ];
        differs.into_iter().find(|(_, differs)| *differs).map(|(name, _)| name)
    }

    /// Whether the operator expects `asn` there.
    pub(super) fn expects(&self, asn: Asn) -> bool {
        let among = &self.options.remote_as_among;
        if among.is_empty() { asn == self.remote_as } else { among.iter().any(|range| range.contains(&asn)) }
    }
}

/// What became of a session that was configured anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configured {
    /// It goes on.
    Kept,
    /// It goes on, and the peer is asked for all of its routes (RFC 2918), which were not listened to before.
    Asked,
    /// It starts again.
    Restarted,
}

impl Session {
    /// Takes `settings` over. What [`Settings::reset_by`] names ends the session with Cease, Other Configuration
    /// Change (RFC 4486), and starts it again; so does the wish for routes that were not listened to, of a peer that
    /// can't be asked for them. Everything else leaves it up, and the peer is told what differs.
    pub fn configure(&mut self, settings: Settings, now: Instant) -> Configured {
        let listens = settings.options.import && !self.settings.options.import;
        let can_ask = self.established().filter(|_| listens).map(|(_, negotiated)| negotiated.route_refresh);
        let reset = self.settings.reset_by(&settings).is_some();
        if (reset || can_ask == Some(false)) && self.rest != Rest::Stopped {
            self.restart(settings, now);
            return Configured::Restarted;
        }
        let passed_on = self.settings.options.pass_on;
        self.settings = settings;
        if passed_on != self.settings.options.pass_on {
            self.feed.pass_on(!passed_on);
        }
        if listens {
            // All of it is to come.
            self.burst = Burst::default();
        }
        if !self.settings.options.import {
            self.drop_stale();
        }
        if self.rest == Rest::Held {
            self.begin(now);
            self.note_state(now);
        }
        self.feed.refilter();
        self.announce();
        if can_ask == Some(true) && self.ask_again().is_ok() { Configured::Asked } else { Configured::Kept }
    }

    /// Takes `settings` over and starts again, whatever they are: something beside the session has changed for which
    /// it takes new connections.
    pub fn restart(&mut self, settings: Settings, now: Instant) {
        self.end(&ErrorCode::CONFIGURATION_CHANGE.into(), "configured anew", now);
        self.settings = settings;
        self.begin(now);
        self.note_state(now);
    }

    /// Ends every connection with `notification`, and stays stopped.
    pub(super) fn end(&mut self, notification: &Notification, detail: &str, now: Instant) {
        let notification = &restart::hard(notification.clone(), self.established().map(|(_, negotiated)| negotiated));
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            match self.links.get(&id) {
                Some(Link::Open { .. }) => self.fail(id, notification.clone(), detail.to_owned(), now),
                Some(Link::Connecting { .. }) | None => {
                    self.links.remove(&id);
                    self.output.push_back(super::Output::Close(id));
                }
            }
        }
        self.rest = Rest::Stopped;
        self.drop_stale();
    }

    /// Whether the session has no connection and makes none until somebody connects: one that was made for a
    /// connection of a dynamic neighbour is over then.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.links.is_empty()
            && self.stale.is_empty()
            && matches!(self.rest, Rest::Active { retry_at: None } | Rest::Stopped)
    }
}
