//! Graceful restart (RFC 4724), of NOTIFICATIONs too (RFC 8538), and long-lived (RFC 9494): ours and the peer's.
//!
//! *Ours* is for routes that the operator wants kept while we are down. We offer the shortest Restart Time and a
//! long-lived stale time, so that the peer soon goes by the long-lived rules, under which it drops whatever carries
//! NO_LLGR: everything that is not to be kept carries it. A peer without the long-lived rules is not offered anything.
//!
//! *The peer's*: what it told is outdated when the session ends, and goes when it has told everything again, or when
//! the time is up that it asked for and the operator allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bgp_wire::{Capability, ErrorCode, Family, GracefulRestart, LongLived, Notification, Open};
use cloakway_types::Instant;

use super::values::{Down, Event, Heard, LinkId, Negotiated, Settings};
use super::{Link, Output, Phase, Rest, Session};

/// FRR 8 takes zero, and then drops nothing: its timer runs out before its routes are marked (ADR 7).
const RESTART_TIME_S: u16 = 1;

/// How long the operator lets a peer's routes stay when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Helper {
    /// As they are (RFC 4724), at most; also how long it may take to tell everything again.
    pub restart: Duration,
    /// After that as the least preferred (RFC 9494), at most; zero: not at all.
    pub long_lived: Duration,
}

/// What the peer has said of its restarts, cut to what the operator allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerRestart {
    /// It has just restarted.
    pub restarted: bool,
    /// How long its routes stay as they are.
    pub restart: Duration,
    /// Families that it keeps forwarding, and whether it has done so since it was last there.
    pub families: BTreeMap<Family, bool>,
    /// Families with a long-lived stale time, and whether forwarding was kept up.
    pub long_lived: BTreeMap<Family, (bool, Duration)>,
}

/// What of the peer's is outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// As it was, until then.
    Restarting(Instant),
    /// The least preferred, until then.
    LongLived(Instant),
}

impl Stale {
    const fn until(self) -> Instant {
        match self {
            Self::Restarting(until) | Self::LongLived(until) => until,
        }
    }
}

/// The capabilities of our OPEN.
pub(super) fn offer(settings: &Settings, restarted: bool, keep: bool) -> Vec<Capability> {
    let keep = settings.options.keep.filter(|_| keep);
    let long_lived = keep.is_some() || settings.options.helper.is_some_and(|helper| !helper.long_lived.is_zero());
    let mut capabilities = Vec::new();
    if keep.is_some() || settings.options.helper.is_some() {
        let families = keep.map(|_| Family::ALL.map(|family| (family, true)).into()).unwrap_or_default();
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted: restarted && keep.is_some(),
            notification: true,
            restart_time_s: RESTART_TIME_S,
            families,
        }));
    }
    if long_lived {
        let family = |stale_time_s| Family::ALL.map(|family| LongLived { family, forwarding: true, stale_time_s });
        capabilities.push(Capability::LongLivedGracefulRestart(keep.map(|s| family(s).into()).unwrap_or_default()));
    }
    capabilities
}

/// What the peer's OPEN says of restarts.
pub(super) struct Said {
    pub(super) notification: bool,
    /// It restarts gracefully, or helps us to.
    pub(super) graceful: bool,
    /// The same by the long-lived rules.
    pub(super) long_lived: bool,
    pub(super) restart: Option<Box<PeerRestart>>,
}

pub(super) fn said(settings: &Settings, open: &Open) -> Said {
    let graceful = open.capabilities.iter().find_map(|capability| match capability {
        Capability::GracefulRestart(graceful) => Some(graceful),
        _ => None,
    });
    let long_lived = open.capabilities.iter().find_map(|capability| match capability {
        Capability::LongLivedGracefulRestart(families) => Some(families),
        _ => None,
    });
    let restart = settings.options.helper.zip(graceful).map(|(helper, graceful)| {
        Box::new(PeerRestart {
            restarted: graceful.restarted,
            restart: Duration::from_secs(u64::from(graceful.restart_time_s)).min(helper.restart),
            families: graceful.families.iter().copied().collect(),
            // RFC 9494 §3.1: of no meaning without the other capability.
            long_lived: long_lived
                .into_iter()
                .flatten()
                .map(|of| {
                    let time = Duration::from_secs(u64::from(of.stale_time_s)).min(helper.long_lived);
                    (of.family, (of.forwarding, time))
                })
                .filter(|(_, (_, time))| !time.is_zero())
                .collect(),
        })
    });
    Said {
        notification: graceful.is_some_and(|graceful| graceful.notification),
        graceful: graceful.is_some(),
        long_lived: graceful.is_some() && long_lived.is_some(),
        restart,
    }
}

/// Wraps `notification` into a Hard Reset, where the peer would keep routes otherwise (RFC 8538 §3).
pub(super) fn hard(notification: Notification, negotiated: Option<&Negotiated>) -> Notification {
    let ends_for_good = matches!(notification.error, ErrorCode::ADMINISTRATIVE_SHUTDOWN | ErrorCode::PEER_DECONFIGURED);
    if !ends_for_good || negotiated.is_none_or(|negotiated| !negotiated.notification_restart) {
        return notification;
    }
    let ErrorCode(code, subcode) = notification.error;
    Notification::new(ErrorCode::HARD_RESET, [&[code, subcode], notification.data.as_slice()].concat())
}

/// How a family's routes stay from now on, if they do.
fn next_stale(restart: &PeerRestart, family: Family, now: Instant) -> Option<Stale> {
    if !restart.restart.is_zero() {
        return Some(Stale::Restarting(now + restart.restart));
    }
    restart.long_lived.get(&family).map(|(_, time)| Stale::LongLived(now + *time))
}

impl Session {
    /// The process has started again, with routes of before: the peer is told so (RFC 4724 §3, Restart State) until
    /// the first session stands.
    #[must_use]
    pub fn restarted(mut self) -> Self {
        self.restarted = true;
        self
    }

    /// Whether the connection ends because our offer to have routes kept does not fit the peer: one that keeps routes
    /// without the long-lived rules, which tell it what to drop, is offered nothing at the next connection.
    pub(super) fn withholds_keep(&mut self, id: LinkId, open: &Open, now: Instant) -> bool {
        if self.established().is_some() {
            return false;
        }
        let said = said(&self.settings, open);
        let withhold = said.graceful && !said.long_lived;
        if self.settings.options.keep.is_none() || withhold == self.keep_withheld {
            return false;
        }
        self.keep_withheld = withhold;
        let detail = "what the peer may keep when we are gone is told anew";
        self.refuse(id, ErrorCode::CONFIGURATION_CHANGE.into(), detail.to_owned());
        self.rest_active(now);
        true
    }

    /// Withdraws what is not to be kept; see [`Session::has_left`].
    pub(super) fn leave(&mut self) {
        if self.keeps() {
            self.routes = Arc::default();
            self.announce();
            self.feed.leave();
        }
    }

    /// Whether the peer keeps what is to be kept when we are gone, and nothing else.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.established().is_some_and(|(_, negotiated)| negotiated.keeps)
    }

    /// Whether the peer was offered nothing because it keeps routes without the long-lived rules.
    #[must_use]
    pub const fn withheld_keep(&self) -> bool {
        self.keep_withheld
    }

    /// Whether everything that is not to be kept has been withdrawn, as far as this session makes bytes of it.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.feed.has_left()
    }

    /// Ends the connections without a word.
    pub(super) fn left(&mut self) {
        for (id, link) in std::mem::take(&mut self.links) {
            if let Link::Open { phase: Phase::Established(_), .. } = link {
                self.counters.flaps += 1;
                self.advertised.clear();
                self.feed.stop();
                self.event(Event::Down(Down::Left));
            }
            self.output.push_back(Output::Close(id));
        }
        self.last_down = Some(Down::Left);
        self.rest = Rest::Stopped;
    }

    /// The session has ended: what of the peer's stays for a while, if it is to.
    pub(super) fn outdate(&mut self, negotiated: &Negotiated, why: &Down, now: Instant) {
        let hard = match why {
            Down::ConnectionLost | Down::ConnectedAnew => false,
            Down::Sent { notification, .. } | Down::Received(notification) => {
                !negotiated.notification_restart
                    || matches!(notification.error, ErrorCode::HARD_RESET | ErrorCode::MAXIMUM_PREFIXES)
            }
            Down::Left | Down::ConnectFailed(_) => true,
        };
        let restart = negotiated.restart.as_ref().filter(|_| self.settings.options.import && !hard);
        // Outdated twice is once too often (RFC 4724 §4.2).
        for family in std::mem::take(&mut self.stale).into_keys() {
            self.output.push_back(Output::Heard(Heard::Sweep(family)));
        }
        let Some(restart) = restart else { return };
        for family in restart.families.keys().filter(|family| negotiated.families.contains(family)) {
            let Some(stale) = next_stale(restart, *family, now) else { continue };
            self.output.push_back(Output::Heard(Heard::Stale(*family)));
            if let Stale::LongLived(_) = stale {
                self.output.push_back(Output::Heard(Heard::LongLived(*family)));
            }
            self.stale.insert(*family, stale);
        }
        self.last_restart = Some(restart.clone());
    }

    /// The peer is back: what it has not kept forwarding goes at once, the rest when it has told everything again.
    pub(super) fn back(&mut self, negotiated: &Negotiated, now: Instant) {
        let patience = self.settings.options.helper.map_or(Duration::ZERO, |helper| helper.restart);
        for (family, stale) in std::mem::take(&mut self.stale) {
            let restart = negotiated.restart.as_ref().filter(|_| negotiated.families.contains(&family));
            let forwarding = restart.is_some_and(|restart| match stale {
                Stale::Restarting(_) => restart.families.get(&family) == Some(&true),
                Stale::LongLived(_) => restart.long_lived.get(&family).is_some_and(|(forwarding, _)| *forwarding),
            });
            if forwarding {
                // Not for ever, if the End-of-RIB never comes.
                let stale = match stale {
                    Stale::Restarting(_) => Stale::Restarting(now + patience),
                    Stale::LongLived(until) => Stale::LongLived(until),
                };
                self.stale.insert(family, stale);
            } else {
                self.output.push_back(Output::Heard(Heard::Sweep(family)));
            }
        }
    }

    /// The peer has told all of `family`.
    pub(super) fn told_again(&mut self, family: Family) {
        if self.stale.remove(&family).is_some() {
            self.output.push_back(Output::Heard(Heard::Sweep(family)));
        }
    }

    /// What is outdated and whose time is up gets less, or goes.
    pub(super) fn tick_stale(&mut self, now: Instant) {
        let due: Vec<_> = self.stale.iter().filter(|(_, stale)| stale.until() <= now).map(|(f, s)| (*f, *s)).collect();
        for (family, stale) in due {
            let gone = self.established().is_none();
            let restart = self.last_restart.as_ref().filter(|_| gone);
            let long_lived = restart.and_then(|restart| restart.long_lived.get(&family));
            match (stale, long_lived) {
                (Stale::Restarting(_), Some((_, time))) => {
                    self.stale.insert(family, Stale::LongLived(now + *time));
                    self.output.push_back(Output::Heard(Heard::LongLived(family)));
                }
                (Stale::Restarting(_) | Stale::LongLived(_), _) => {
                    self.stale.remove(&family);
                    self.output.push_back(Output::Heard(Heard::Sweep(family)));
                }
            }
        }
    }

    /// When something outdated is due.
    pub(super) fn stale_timeout(&self) -> Option<Instant> {
        self.stale.values().map(|stale| stale.until()).min()
    }

    /// Nothing of the peer's stays.
    pub(super) fn drop_stale(&mut self) {
        for family in std::mem::take(&mut self.stale).into_keys() {
            self.output.push_back(Output::Heard(Heard::Sweep(family)));
        }
    }

    /// Families whose routes stay although their peer is gone, and whether as the least preferred; until when.
    pub fn stale(&self) -> impl Iterator<Item = (Family, bool, Instant)> + '_ {
        self.stale.iter().map(|(family, stale)| (*family, matches!(stale, Stale::LongLived(_)), stale.until()))
    }
}
