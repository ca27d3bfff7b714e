//! The health of each private prefix: what is said of it to the BGP speaker (A2, A3).
//!
//! A prefix is healthy while one of its ways is. A way is healthy only while all of this holds: the guard was read
//! back intact a moment ago, the kernel routes the prefix by one of its links, the way's link is up, and the neighbour
//! there answers. One of these missing makes it unhealthy at once; all of them together make it healthy again
//! after a hold-down.
//!
//! ```text
//!             fault                          no fault for hold-down, `rise` answers
//!  Unhealthy <------ Rising (no fault) ------------------------------------------> Healthy
//!      ^                                                                             |
//!      +----------------- fault, or `fall` probes unanswered in a row ---------------+
//! ```
//!
//! Ways that are not healthy rest while another one of the prefix is: [`Health::resting`].

mod way;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::Instant;
use ipnet::IpNet;

use crate::policy::{Policy, PrivatePrefix};
use crate::routes::Resting;
use way::WayHealth;
pub use way::WayStatus;

/// How fast health falls and rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long everything must be good before a prefix is healthy.
    pub hold_down: Duration,
    /// How many answers in a row a prefix needs before it is healthy.
    pub rise: u32,
    /// How many unanswered probes in a row end a healthy prefix.
    pub fall: u32,
    /// Without any answer for this long a prefix is unhealthy, whatever the probes' results say.
    pub silence_limit: Duration,
    /// Without a read-back of guard and routes for this long every prefix is unhealthy.
    pub check_limit: Duration,
}

/// The state of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// There is no such interface.
    Missing,
    /// It is administratively down or without carrier.
    Down,
    /// It is up, with carrier.
    Up,
}

/// What reading back the kernel's state gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether blackholes and ruleset are in place, or what is wrong.
    pub guard: Result<(), String>,
    /// Whether the kernel routes each prefix by one of its links, or what it does instead.
    pub routes: BTreeMap<IpNet, Result<(), String>>,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The state of an interface, changed or not.
    Link {
        /// The interface.
        interface: &'a str,
        /// Its state from now on.
        state: LinkState,
    },
    /// A read-back of the kernel's state.
    Applied(&'a Applied),
    /// The guard stands as it was read back last; of the routes nothing is said.
    GuardStands,
    /// The guard does not stand, and why.
    GuardBroken(&'a str),
    /// The result of one probe of a neighbour.
    Neighbour {
        /// The interface that it is on.
        interface: &'a str,
        /// Its address.
        address: IpAddr,
        /// Whether it answered.
        answered: bool,
    },
    /// Time has passed; see [`Health::poll_timeout`].
    Tick,
    /// The process is about to end: nothing is healthy any more.
    Stop,
}

/// What is said of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The prefix.
    pub prefix: IpNet,
    /// Whether it may be announced.
    pub healthy: bool,
    /// Why.
    pub reason: String,
}

/// The whole state of one prefix, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What was last said.
    pub word: Change,
    /// When the word last changed between healthy and unhealthy.
    pub since: Instant,
    /// Its ways, the best first.
    pub ways: Vec<WayStatus>,
}

/// The health of every private prefix of a policy.
#[derive(Debug, Clone)]
pub struct Health {
    timing: Timing,
    stopped: bool,
    links: BTreeMap<String, LinkState>,
    checked_at: Option<Instant>,
    guard: Result<(), String>,
    prefixes: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    word: Change,
    since: Instant,
    route: Result<(), String>,
    ways: Vec<WayHealth>,
}

impl Health {
    /// Nothing is healthy to begin with.
    #[must_use]
    pub fn new(policy: &Policy, timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            stopped: false,
            links: policy.links().iter().map(|link| (link.interface.clone(), LinkState::Missing)).collect(),
            checked_at: None,
            guard: Err("not read back yet".into()),
            prefixes: policy.prefixes().iter().map(|entry| Entry::new(policy, entry, now)).collect(),
        }
    }

    /// Goes over to another policy: what stays as it was keeps its health. Gives what is to be said of what is new and
    /// of what is no longer there.
    #[must_use]
    pub fn change(&mut self, policy: &Policy, timing: Timing, now: Instant) -> Vec<Change> {
        let before = std::mem::replace(self, Self::new(policy, timing, now));
        self.stopped = before.stopped;
        self.checked_at = before.checked_at;
        self.guard = before.guard;
        for (interface, state) in before.links {
            self.links.entry(interface).and_modify(|known| *known = state);
        }
        let mut said: BTreeMap<IpNet, Entry> =
            before.prefixes.into_iter().map(|entry| (entry.word.prefix, entry)).collect();
        let mut changes = Vec::new();
        for entry in &mut self.prefixes {
            match said.remove(&entry.word.prefix) {
                Some(old) => entry.take_over(old),
                None => changes.push(entry.word.clone()),
            }
        }
        let gone = "no private prefix any more";
        changes.extend(said.into_keys().map(|prefix| Change { prefix, healthy: false, reason: gone.into() }));
        changes.extend(self.settle(now));
        changes
    }

    /// Takes in what happened; gives what is to be said now. A reason that changed is said too.
    #[must_use]
    pub fn handle(&mut self, input: Input<'_>, now: Instant) -> Vec<Change> {
        match input {
            Input::Link { interface, state } => {
                if let Some(known) = self.links.get_mut(interface) {
                    *known = state;
                }
            }
            Input::Applied(applied) => {
                self.checked_at = Some(now);
                self.guard.clone_from(&applied.guard);
                for entry in &mut self.prefixes {
                    let route = applied.routes.get(&entry.word.prefix).cloned();
                    entry.route = route.unwrap_or_else(|| Err("not read back".into()));
                }
            }
            Input::GuardStands => {
                if self.guard.is_ok() {
                    self.checked_at = Some(now);
                }
            }
            Input::GuardBroken(why) => self.guard = Err(why.to_owned()),
            Input::Neighbour { interface, address, answered } => {
                let asked = |way: &WayHealth| way.status.probe == address && way.status.interface == interface;
                for entry in &mut self.prefixes {
                    entry.ways.iter_mut().filter(|way| asked(way)).for_each(|way| way.probed(answered, now));
                }
                // Thousands of these come in a moment, each of one prefix.
                return self.settle_where(now, |entry| entry.ways.iter().any(asked));
            }
            Input::Tick => {}
            Input::Stop => self.stopped = true,
        }
        self.settle(now)
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let check = self.checked_at.map(|at| at + self.timing.check_limit);
        let ways = self.prefixes.iter().flat_map(|entry| &entry.ways);
        ways.filter_map(|way| way.poll_timeout(check, &self.timing)).min()
    }

    /// The state of every prefix.
    pub fn status(&self) -> impl Iterator<Item = Status> {
        self.prefixes.iter().map(|entry| Status {
            word: entry.word.clone(),
            since: entry.since,
            ways: entry.ways.iter().map(|way| way.status.clone()).collect(),
        })
    }

    /// Which ways are not to be used, because another one of their prefix is healthy.
    #[must_use]
    pub fn resting(&self) -> Resting {
        let resting = |entry: &Entry| {
            let prefix = entry.word.prefix;
            let another = entry.ways.iter().any(|way| way.status.healthy);
            let bad = entry.ways.iter().filter(move |way| another && !way.status.healthy);
            bad.map(move |way| (prefix, way.status.interface.clone())).collect::<Vec<_>>()
        };
        self.prefixes.iter().filter(|entry| entry.ways.len() > 1).flat_map(resting).collect()
    }

    /// The state of the interface of a private link.
    #[must_use]
    pub fn link(&self, interface: &str) -> LinkState {
        self.links.get(interface).copied().unwrap_or(LinkState::Missing)
    }

    /// Whether the guard was intact when it was last read back, or what was wrong.
    ///
    /// # Errors
    /// What was wrong.
    pub fn guard(&self) -> Result<(), &str> {
        self.guard.as_ref().copied().map_err(String::as_str)
    }

    fn settle(&mut self, now: Instant) -> Vec<Change> {
        self.settle_where(now, |_| true)
    }

    fn settle_where(&mut self, now: Instant, concerned: impl Fn(&Entry) -> bool) -> Vec<Change> {
        let common = self.common_fault(now);
        let mut changes = Vec::new();
        for entry in self.prefixes.iter_mut().filter(|entry| concerned(entry)) {
            for way in &mut entry.ways {
                let link = self.links.get(&way.status.interface).copied().unwrap_or(LinkState::Missing);
                let fault = common.clone().or_else(|| way.fault(link, &entry.route, &self.timing, now));
                way.settle(fault, &self.timing, now);
            }
            changes.extend(entry.settle(now));
        }
        changes
    }

    fn common_fault(&self, now: Instant) -> Option<String> {
        if self.stopped {
            return Some("the forwarder is stopping".into());
        }
        if let Err(broken) = &self.guard {
            return Some(format!("guard: {broken}"));
        }
        let fresh = self.checked_at.is_some_and(|at| now.since(at) < self.timing.check_limit);
        (!fresh).then(|| format!("guard: not read back for {:?}", self.timing.check_limit))
    }
}

impl Entry {
    fn new(policy: &Policy, entry: &PrivatePrefix, now: Instant) -> Self {
        Self {
            word: Change { prefix: entry.prefix, healthy: false, reason: "starting".into() },
            since: now,
            route: Err("not read back yet".into()),
            ways: entry.ways.iter().map(|way| WayHealth::new(policy, way)).collect(),
        }
    }

    /// Keeps what `old` knew of the same prefix and of ways that both have.
    fn take_over(&mut self, old: Self) {
        let Self { word, since, route, ways } = old;
        for way in &mut self.ways {
            let same =
                |old: &&WayHealth| old.status.interface == way.status.interface && old.status.probe == way.status.probe;
            if let Some(old) = ways.iter().find(same) {
                let link = std::mem::take(&mut way.status.link);
                *way = old.clone();
                way.status.link = link;
            }
        }
        (self.word, self.since, self.route) = (word, since, route);
    }

    /// The word of the prefix from those of its ways: the healthy ones' first.
    fn settle(&mut self, now: Instant) -> Option<Change> {
        let healthy = self.ways.iter().any(|way| way.status.healthy);
        let mut reasons: Vec<&str> = Vec::new();
        for wanted in [true, false] {
            for way in self.ways.iter().filter(|way| way.status.healthy == wanted) {
                if !reasons.contains(&way.status.reason.as_str()) {
                    reasons.push(&way.status.reason);
                }
            }
        }
        let word = Change { prefix: self.word.prefix, healthy, reason: reasons.join("; ") };
        if self.word.healthy != healthy {
            self.since = now;
        }
        (self.word != word).then(|| {
            self.word = word.clone();
            word
        })
    }
}

#[cfg(test)]
mod tests;
