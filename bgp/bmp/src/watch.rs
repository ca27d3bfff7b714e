//! The leak watch (A3): what routers report, held against where a private prefix may be.

mod values;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bgp_wire::{Asn, Community, Family};
use cloakway_types::Instant;
use ipnet::IpNet;

use crate::peer::{PeerKey, View};
use crate::router::{Report, Sight, SightKey};
pub use values::{Action, Finding, Leak, LeakState, Overlap, Release, Settings, WatchEvent};

/// Rows that are kept; those that are over give way first.
const ROWS: usize = 4096;
/// Routes that are kept of a row; with more it ends with the connection or the session alone.
const SIGHTS: usize = 1024;
/// How long a router that is back may take to tell everything again; what it has not told by then is gone.
const RESYNC: Duration = Duration::from_secs(300);
/// The hold-down of a leak that comes back doubles so often at most.
const DOUBLINGS: u32 = 6;

type RowKey = (IpNet, Finding, String, PeerKey);

#[derive(Debug)]
struct Row {
    leak: Leak,
    /// The routes, and whether the router has yet to say them again.
    sights: BTreeMap<SightKey, bool>,
    /// There were more routes than are kept.
    more: bool,
}

#[derive(Debug)]
enum Presence {
    /// Since then; `resync`: what it has not said again by then is gone.
    Here {
        resync: Option<Instant>,
    },
    Away {
        since: Instant,
        why: String,
        blind: bool,
    },
}

/// The watch over all routers.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    routers: BTreeMap<String, Presence>,
    rows: BTreeMap<RowKey, Row>,
    withheld: BTreeMap<IpNet, String>,
    events: VecDeque<WatchEvent>,
}

impl Watch {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        let away = || Presence::Away { since: now, why: "it has not connected yet".to_owned(), blind: false };
        let routers = settings.expected.iter().map(|router| (router.clone(), away())).collect();
        Self { settings, routers, rows: BTreeMap::new(), withheld: BTreeMap::new(), events: VecDeque::new() }
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<WatchEvent> {
        self.events.pop_front()
    }

    /// The private prefixes that are to be announced to nobody, and why.
    #[must_use]
    pub const fn withheld(&self) -> &BTreeMap<IpNet, String> {
        &self.withheld
    }

    /// All leaks that are known, those that are over included.
    pub fn leaks(&self) -> impl Iterator<Item = &Leak> {
        self.rows.values().map(|row| &row.leak)
    }

    /// Routers that should tell and do not, and why.
    pub fn blind(&self) -> impl Iterator<Item = (&str, &str)> {
        self.routers.iter().filter_map(|(router, presence)| match presence {
            Presence::Away { why, blind: true, .. } => Some((router.as_str(), why.as_str())),
            Presence::Away { .. } | Presence::Here { .. } => None,
        })
    }

    /// Other prefixes are private from now on, which the routers have to tell anew, or other AS numbers the ISP's.
    pub fn configure(&mut self, internal: BTreeSet<Asn>, private: Vec<IpNet>) {
        self.rows.retain(|(prefix, ..), _| private.contains(prefix));
        self.settings.internal = internal;
        self.settings.private = private;
        self.settle();
    }

    /// When [`Watch::tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let routers = self.routers.values().filter_map(|presence| match presence {
            Presence::Here { resync } => *resync,
            Presence::Away { since, blind: false, .. } => Some(*since + self.settings.blind_after),
            Presence::Away { .. } => None,
        });
        let rows = self.rows.values().filter_map(|row| self.release_at(&row.leak));
        routers.chain(rows).min()
    }

    fn release_at(&self, leak: &Leak) -> Option<Instant> {
        match (leak.state, self.settings.release) {
            (LeakState::Over(since), Release::HoldDown) => {
                let doublings = leak.times.saturating_sub(1).min(DOUBLINGS);
                Some(since + self.settings.hold_down.saturating_mul(1 << doublings))
            }
            _ => None,
        }
    }

    /// `router` is connected: it tells everything anew.
    pub fn connected(&mut self, router: &str, now: Instant) {
        for row in self.rows.values_mut().filter(|row| row.leak.router == router) {
            row.sights.values_mut().for_each(|stale| *stale = true);
        }
        let before = self.routers.insert(router.to_owned(), Presence::Here { resync: Some(now + RESYNC) });
        if matches!(before, Some(Presence::Away { blind: true, .. })) {
            self.events.push_back(WatchEvent::Sighted { router: router.to_owned() });
        }
        self.settle();
    }

    /// The connection of `router` ended. What it said stands until it says otherwise.
    pub fn disconnected(&mut self, router: &str, why: &str, now: Instant) {
        if self.settings.expected.iter().any(|expected| expected == router) {
            let away = Presence::Away { since: now, why: why.to_owned(), blind: false };
            self.routers.insert(router.to_owned(), away);
        } else {
            self.routers.remove(router);
        }
    }

    /// `router` says this; notices are not for the watch.
    pub fn report(&mut self, router: &str, report: Report, now: Instant) {
        match report {
            Report::Seen(sight) => self.seen(router, sight, now),
            Report::Unseen(key) => self.gone(router, now, |sight, _| *sight == key),
            Report::ViewEnded { peer, view, family } => self.gone(router, now, |sight, stale| {
                stale && sight.peer == peer && sight.view == view && Family::of(&sight.prefix) == family
            }),
            Report::ViewGone { peer, view } => {
                self.gone(router, now, |sight, _| sight.peer == peer && sight.view == view);
            }
            Report::PeerGone(peer) => {
                for row in self.rows.values_mut().filter(|row| row.leak.router == router && row.leak.peer == peer) {
                    row.more = false;
                }
                self.gone(router, now, |sight, _| sight.peer == peer);
            }
            Report::Notice(_) | Report::Close(_) => {}
        }
        self.settle();
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        let mut synced = Vec::new();
        for (router, presence) in &mut self.routers {
            match presence {
                Presence::Here { resync } if resync.is_some_and(|at| at <= now) => {
                    *resync = None;
                    synced.push(router.clone());
                }
                Presence::Away { since, why, blind } if !*blind && *since + self.settings.blind_after <= now => {
                    *blind = true;
                    self.events.push_back(WatchEvent::Blind { router: router.clone(), why: why.clone() });
                }
                Presence::Here { .. } | Presence::Away { .. } => {}
            }
        }
        for router in synced {
            for row in self.rows.values_mut().filter(|row| row.leak.router == router) {
                row.more = false;
            }
            self.gone(&router, now, |_, stale| stale);
        }
        let due: Vec<RowKey> = self
            .rows
            .iter()
            .filter(|(_, row)| self.release_at(&row.leak).is_some_and(|at| at <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(row) = self.rows.get_mut(&key) {
                row.leak.state = LeakState::Cleared;
            }
        }
        self.settle();
    }

    /// The operator is done with the leaks of `private`, or of all. Leaks that are there stay; those of a router that
    /// is away are taken for over.
    ///
    /// # Errors
    /// Names the leaks that are still there, if none could be cleared.
    pub fn clear(&mut self, private: Option<IpNet>) -> Result<usize, String> {
        let (mut cleared, mut present) = (0, Vec::new());
        let routers = &self.routers;
        let away = |router: &str| !matches!(routers.get(router), Some(Presence::Here { .. }));
        for row in self.rows.values_mut().filter(|row| private.is_none_or(|private| row.leak.private == private)) {
            match row.leak.state {
                LeakState::Cleared => {}
                LeakState::Present if !away(&row.leak.router) => {
                    let Leak { private, router, peer, finding, .. } = &row.leak;
                    present.push(format!("{private} at {router}, peer {peer}, {finding}"));
                }
                LeakState::Present | LeakState::Over(_) => {
                    row.sights.clear();
                    row.leak.routes = 0;
                    row.leak.state = LeakState::Cleared;
                    cleared += 1;
                }
            }
        }
        self.settle();
        if cleared == 0 && !present.is_empty() {
            return Err(format!("still there: {}", present.join("; ")));
        }
        Ok(cleared)
    }

    fn classify(&self, sight: &Sight) -> Option<Finding> {
        let settings = &self.settings;
        let inside = sight.private.prefix.contains(&sight.key.prefix);
        if !inside && (settings.overlap == Overlap::Inside || sight.key.prefix.prefix_len() == 0) {
            return None;
        }
        let ours = |asn: Asn| asn == settings.local_as || settings.internal.contains(&asn);
        let own = sight.own_as.unwrap_or(settings.local_as);
        let external = sight.peer_as != own && !(ours(own) && ours(sight.peer_as));
        match sight.key.view {
            View::AdjRibOutPre | View::AdjRibOutPost if external => return Some(Finding::ToExternal),
            View::AdjRibInPre | View::AdjRibInPost if external => return Some(Finding::FromExternal),
            _ if !ours(own) => return Some(Finding::Outside),
            _ => {}
        }
        let kept = |community: &Community| *community == sight.private.guard || *community == Community::NO_ADVERTISE;
        (inside && !sight.communities.iter().any(kept)).then_some(Finding::Unguarded)
    }

    fn seen(&mut self, router: &str, sight: Sight, now: Instant) {
        let Some(finding) = self.classify(&sight) else {
            // The same route as before, with its guard now, is a leak no more.
            return self.gone(router, now, |key, _| *key == sight.key);
        };
        let private = sight.private.prefix;
        let key = (private, finding, router.to_owned(), sight.key.peer);
        // The same route in another way: what it was is over.
        self.gone_unless(router, now, &key, |other, _| *other == sight.key);
        if !self.rows.contains_key(&key) && self.rows.len() >= ROWS {
            let over = self.rows.iter().find(|(_, row)| row.leak.state == LeakState::Cleared);
            match over.map(|(key, _)| key.clone()) {
                Some(over) => drop(self.rows.remove(&over)),
                None if self.rows.keys().any(|(known, ..)| *known == private) => return,
                None => {}
            }
        }
        let action = match finding {
            Finding::ToExternal => self.settings.on_leak,
            Finding::FromExternal | Finding::Outside => self.settings.on_heard,
            Finding::Unguarded => Action::Alarm,
        };
        let row = self.rows.entry(key).or_insert_with(|| Row {
            leak: Leak {
                private,
                finding,
                router: router.to_owned(),
                peer: sight.key.peer,
                peer_as: sight.peer_as,
                view: sight.key.view,
                route: sight.key.prefix,
                as_path: String::new(),
                first: now,
                state: LeakState::Cleared,
                times: 0,
                routes: 0,
                withholds: action == Action::Withdraw,
            },
            sights: BTreeMap::new(),
            more: false,
        });
        if row.sights.len() < SIGHTS || row.sights.contains_key(&sight.key) {
            row.sights.insert(sight.key, false);
        } else {
            row.more = true;
        }
        row.leak.routes = row.sights.len();
        if row.leak.state != LeakState::Present {
            row.leak.state = LeakState::Present;
            row.leak.times = row.leak.times.saturating_add(1);
            row.leak.view = sight.key.view;
            row.leak.route = sight.key.prefix;
            row.leak.as_path = sight.as_path;
            row.leak.peer_as = sight.peer_as;
            self.events.push_back(WatchEvent::Raised(Box::new(row.leak.clone())));
        }
    }

    fn gone(&mut self, router: &str, now: Instant, which: impl Fn(&SightKey, bool) -> bool) {
        self.gone_where(router, now, |_| true, which);
    }

    fn gone_unless(&mut self, router: &str, now: Instant, but: &RowKey, which: impl Fn(&SightKey, bool) -> bool) {
        self.gone_where(router, now, |key| key != but, which);
    }

    /// Takes routes away that `which` names; a row without any is over.
    fn gone_where(
        &mut self,
        router: &str,
        now: Instant,
        rows: impl Fn(&RowKey) -> bool,
        which: impl Fn(&SightKey, bool) -> bool,
    ) {
        for (_, row) in self.rows.iter_mut().filter(|(key, row)| row.leak.router == router && rows(key)) {
            row.sights.retain(|key, stale| !which(key, *stale));
            row.leak.routes = row.sights.len();
            if row.leak.state == LeakState::Present && row.sights.is_empty() && !row.more {
                row.leak.state = LeakState::Over(now);
                self.events.push_back(WatchEvent::Ended(Box::new(row.leak.clone())));
            }
        }
    }

    /// Works out anew what is withheld.
    fn settle(&mut self) {
        let mut withheld: BTreeMap<IpNet, String> = BTreeMap::new();
        for leak in self.leaks().filter(|leak| leak.withholds) {
            let Leak { private, router, peer, peer_as, finding, .. } = leak;
            let reason = match (leak.state, self.settings.release) {
                (LeakState::Cleared, _) => continue,
                (LeakState::Present, _) => {
                    format!("leak: {finding} at {router}, peer {peer} of AS {peer_as}")
                }
                (LeakState::Over(_), Release::HoldDown) => {
                    format!("leak at {router}, peer {peer}, is over: held down")
                }
                (LeakState::Over(_), Release::Acknowledge) => {
                    format!("leak at {router}, peer {peer}, is over: waits for `leak clear`")
                }
            };
            // What is there says more than what is over.
            if leak.state == LeakState::Present || !withheld.contains_key(private) {
                withheld.insert(*private, reason);
            }
        }
        if self.settings.on_blind == Action::Withdraw
            && let Some((router, why)) = self.blind().next()
        {
            let reason = format!("the leak watch is blind: {router}: {why}");
            for private in &self.settings.private {
                withheld.entry(*private).or_insert_with(|| reason.clone());
            }
        }
        for (private, reason) in withheld.iter().filter(|(private, _)| !self.withheld.contains_key(*private)) {
            self.events.push_back(WatchEvent::Withheld { private: *private, reason: reason.clone() });
        }
        for private in self.withheld.keys().filter(|private| !withheld.contains_key(*private)) {
            self.events.push_back(WatchEvent::Released { private: *private });
        }
        self.withheld = withheld;
    }
}
