//! The health of each private prefix: what is said of it to the BGP speaker (A2, A3).
//!
//! A prefix is healthy only while all of this holds: the guard was read back intact a moment ago, the
//! kernel routes the prefix by its link, the link is up, and the neighbour there answers. One of
//! these missing makes it unhealthy at once; all of them together make it healthy again after a
//! hold-down.
//!
//! ```text
//!             fault                          no fault for hold-down, `rise` answers
//!  Unhealthy <------ Rising (no fault) ------------------------------------------> Healthy
//!      ^                                                                             |
//!      +----------------- fault, or `fall` probes unanswered in a row ---------------+
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::Instant;
use ipnet::IpNet;

use crate::policy::Policy;

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
    /// Whether the kernel routes each prefix by its link, or what it does instead.
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
    /// The name of its link.
    pub link: String,
    /// The neighbour that is probed.
    pub probe: IpAddr,
    /// When the word last changed between healthy and unhealthy.
    pub since: Instant,
    /// When the neighbour last answered.
    pub answered_at: Option<Instant>,
    /// Unanswered probes in a row.
    pub misses: u32,
}

/// The health of every private prefix of a policy.
#[derive(Debug)]
pub struct Health {
    timing: Timing,
    stopped: bool,
    links: BTreeMap<String, LinkState>,
    checked_at: Option<Instant>,
    guard: Result<(), String>,
    prefixes: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    status: Status,
    interface: String,
    route: Result<(), String>,
    answers: u32,
    good_since: Option<Instant>,
}

impl Health {
    /// Nothing is healthy to begin with.
    #[must_use]
    pub fn new(policy: &Policy, timing: Timing, now: Instant) -> Self {
        let entry = |prefix: &crate::policy::PrivatePrefix| Entry {
            status: Status {
                word: Change { prefix: prefix.prefix, healthy: false, reason: "starting".into() },
                link: policy.links().get(prefix.link.0).map_or_else(String::new, |link| link.name.clone()),
                probe: prefix.probe,
                since: now,
                answered_at: None,
                misses: 0,
            },
            interface: policy.interface(prefix.link).to_owned(),
            route: Err("not read back yet".into()),
            answers: 0,
            good_since: None,
        };
        Self {
            timing,
            stopped: false,
            links: policy.links().iter().map(|link| (link.interface.clone(), LinkState::Missing)).collect(),
            checked_at: None,
            guard: Err("not read back yet".into()),
            prefixes: policy.prefixes().iter().map(entry).collect(),
        }
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
                    let route = applied.routes.get(&entry.status.word.prefix).cloned();
                    entry.route = route.unwrap_or_else(|| Err("not read back".into()));
                }
            }
            Input::Neighbour { interface, address, answered } => {
                let of_it = |entry: &&mut Entry| entry.interface == interface && entry.status.probe == address;
                for entry in self.prefixes.iter_mut().filter(of_it) {
                    entry.probed(answered, now);
                }
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
        let entries = self.prefixes.iter().flat_map(|entry| {
            let healthy = entry.status.word.healthy;
            let answered = entry.answers >= self.timing.rise;
            let risen = entry.good_since.filter(|_| !healthy && answered).map(|since| since + self.timing.hold_down);
            let silent = entry.status.answered_at.filter(|_| entry.good_since.is_some());
            [risen, silent.map(|at| at + self.timing.silence_limit), check.filter(|_| entry.good_since.is_some())]
        });
        entries.flatten().min()
    }

    /// The state of every prefix.
    pub fn status(&self) -> impl Iterator<Item = &Status> {
        self.prefixes.iter().map(|entry| &entry.status)
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
        let common = self.common_fault(now);
        let mut changes = Vec::new();
        for entry in &mut self.prefixes {
            let link = self.links.get(&entry.interface).copied().unwrap_or(LinkState::Missing);
            let fault = common.clone().or_else(|| entry.fault(link, &self.timing, now));
            changes.extend(entry.settle(fault, &self.timing, now));
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
    fn probed(&mut self, answered: bool, now: Instant) {
        if answered {
            self.answers = self.answers.saturating_add(1);
            self.status.misses = 0;
            self.status.answered_at = Some(now);
        } else {
            self.status.misses = self.status.misses.saturating_add(1);
        }
    }

    fn fault(&self, link: LinkState, timing: &Timing, now: Instant) -> Option<String> {
        let Status { probe, misses, .. } = self.status;
        match link {
            LinkState::Missing => return Some(format!("there is no interface {}", self.interface)),
            LinkState::Down => return Some(format!("link {} is down", self.interface)),
            LinkState::Up => {}
        }
        if let Err(wrong) = &self.route {
            return Some(format!("route: {wrong}"));
        }
        let allowed = if self.status.word.healthy { timing.fall } else { 1 };
        if misses >= allowed {
            return Some(format!("{probe} on {} does not answer", self.interface));
        }
        if self.answers == 0 {
            return Some(format!("waiting for {probe} on {} to answer", self.interface));
        }
        let heard = self.status.answered_at.is_some_and(|at| now.since(at) < timing.silence_limit);
        (!heard).then(|| format!("{probe} on {} was not heard for {:?}", self.interface, timing.silence_limit))
    }

    fn settle(&mut self, fault: Option<String>, timing: &Timing, now: Instant) -> Option<Change> {
        let (healthy, reason) = match fault {
            Some(reason) => {
                self.good_since = None;
                self.answers = 0;
                (false, reason)
            }
            None => {
                let since = *self.good_since.get_or_insert(now);
                let risen = now.since(since) >= timing.hold_down && self.answers >= timing.rise;
                if self.status.word.healthy || risen {
                    (true, format!("{} is up and {} answers", self.interface, self.status.probe))
                } else {
                    (false, format!("all good, held down for {:?}", timing.hold_down))
                }
            }
        };
        if self.status.word.healthy != healthy {
            self.status.since = now;
        }
        let word = Change { prefix: self.status.word.prefix, healthy, reason };
        (self.status.word != word).then(|| {
            self.status.word = word.clone();
            word
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;
    use cloakway_sim::{Rng, seeds};

    const TIMING: Timing = Timing {
        hold_down: Duration::from_secs(1),
        rise: 2,
        fall: 2,
        silence_limit: Duration::from_secs(2),
        check_limit: Duration::from_secs(3),
    };

    fn ms(millis: u64) -> Instant {
        Instant::after_origin(Duration::from_millis(millis))
    }

    fn intact(policy: &Policy) -> Applied {
        Applied { guard: Ok(()), routes: policy.prefixes().iter().map(|entry| (entry.prefix, Ok(()))).collect() }
    }

    struct Bench {
        policy: Policy,
        health: Health,
    }

    impl Bench {
        fn new() -> Self {
            let policy = Policy::new(example()).unwrap();
            let health = Health::new(&policy, TIMING, ms(0));
            Self { policy, health }
        }

        fn link(&mut self, state: LinkState, at: u64) -> Vec<Change> {
            self.health.handle(Input::Link { interface: "priv0", state }, ms(at))
        }

        fn applied(&mut self, guard: Result<(), String>, at: u64) -> Vec<Change> {
            let applied = Applied { guard, ..intact(&self.policy) };
            self.health.handle(Input::Applied(&applied), ms(at))
        }

        fn probe(&mut self, answered: bool, at: u64) -> Vec<Change> {
            let addresses: Vec<_> = self.policy.prefixes().iter().map(|entry| entry.probe).collect();
            let mut changes = Vec::new();
            for address in addresses {
                changes.extend(self.health.handle(Input::Neighbour { interface: "priv0", address, answered }, ms(at)));
            }
            changes
        }

        fn healthy(&self) -> bool {
            let mut words = self.health.status().map(|status| status.word.healthy);
            let first = words.next().unwrap();
            assert!(words.all(|word| word == first));
            first
        }

        /// Healthy at 1000 ms, last answer and last check at 1000 ms.
        fn healthy_one() -> Self {
            let mut bench = Self::new();
            let _ = bench.applied(Ok(()), 0);
            let _ = bench.link(LinkState::Up, 0);
            let _ = bench.probe(true, 0);
            let _ = bench.probe(true, 500);
            let _ = bench.applied(Ok(()), 999);
            let _ = bench.probe(true, 999);
            assert!(!bench.healthy());
            let _ = bench.probe(true, 1000);
            assert!(bench.healthy());
            bench
        }
    }

    #[test]
    fn healthy_comes_after_the_hold_down_and_not_a_millisecond_before() {
        let mut bench = Bench::new();
        let _ = bench.applied(Ok(()), 0);
        let _ = bench.link(LinkState::Up, 0);
        let _ = bench.probe(true, 100);
        let _ = bench.probe(true, 600);
        assert_eq!(bench.health.poll_timeout(), Some(ms(1100)));
        let _ = bench.health.handle(Input::Tick, ms(1099));
        assert!(!bench.healthy());
        let changes = bench.health.handle(Input::Tick, ms(1100));
        assert!(changes.iter().all(|change| change.healthy));
        assert_eq!(changes[0].reason, "priv0 is up and 203.0.113.200 answers");
        assert!(bench.healthy());
    }

    #[test]
    fn the_hold_down_alone_is_not_enough_without_the_answers() {
        let mut bench = Bench::new();
        let _ = bench.applied(Ok(()), 0);
        let _ = bench.link(LinkState::Up, 0);
        let _ = bench.probe(true, 0);
        let _ = bench.health.handle(Input::Tick, ms(1500));
        assert!(!bench.healthy());
        let _ = bench.probe(true, 1501);
        assert!(bench.healthy());
    }

    #[test]
    fn link_loss_guard_loss_route_loss_and_stop_are_said_at_once() {
        type Fault = fn(&mut Bench) -> Vec<Change>;
        let faults: [(Fault, &str); 6] = [
            (|bench| bench.link(LinkState::Down, 1001), "link priv0 is down"),
            (|bench| bench.link(LinkState::Missing, 1001), "there is no interface priv0"),
            (|bench| bench.applied(Err("table gone".into()), 1001), "guard: table gone"),
            (
                |bench| {
                    let mut applied = intact(&bench.policy);
                    applied.routes.values_mut().for_each(|route| *route = Err("by up0".into()));
                    bench.health.handle(Input::Applied(&applied), ms(1001))
                },
                "route: by up0",
            ),
            (
                |bench| {
                    let applied = Applied { routes: BTreeMap::new(), ..intact(&bench.policy) };
                    bench.health.handle(Input::Applied(&applied), ms(1001))
                },
                "route: not read back",
            ),
            (|bench| bench.health.handle(Input::Stop, ms(1001)), "the forwarder is stopping"),
        ];
        for (fault, reason) in faults {
            let mut bench = Bench::healthy_one();
            let changes = fault(&mut bench);
            assert_eq!(changes.len(), 2, "{reason}");
            assert!(changes.iter().all(|change| !change.healthy && change.reason == reason), "{changes:?}");
        }
    }

    #[test]
    fn one_unanswered_probe_is_forgiven_and_the_second_in_a_row_is_not() {
        let mut bench = Bench::healthy_one();
        let _ = bench.probe(false, 1500);
        assert!(bench.healthy());
        let _ = bench.probe(true, 1600);
        let _ = bench.probe(false, 2000);
        assert!(bench.healthy());
        let changes = bench.probe(false, 2500);
        assert_eq!(changes[0].reason, "203.0.113.200 on priv0 does not answer");
        assert!(!bench.healthy());
    }

    #[test]
    fn silence_of_the_far_end_or_of_the_checks_ends_health_by_itself() {
        let mut bench = Bench::healthy_one();
        assert_eq!(bench.health.poll_timeout(), Some(ms(3000)));
        let _ = bench.health.handle(Input::Tick, ms(2999));
        assert!(bench.healthy());
        let _ = bench.health.handle(Input::Tick, ms(3000));
        assert!(!bench.healthy());

        let mut bench = Bench::healthy_one();
        let _ = bench.probe(true, 2500);
        let _ = bench.probe(true, 3998);
        assert!(bench.healthy());
        assert_eq!(bench.health.poll_timeout(), Some(ms(3999)));
        let changes = bench.health.handle(Input::Tick, ms(3999));
        assert_eq!(changes[0].reason, "guard: not read back for 3s");
    }

    #[test]
    fn after_a_flap_old_answers_do_not_count() {
        let mut bench = Bench::healthy_one();
        let _ = bench.link(LinkState::Down, 1010);
        let _ = bench.link(LinkState::Up, 1020);
        let _ = bench.applied(Ok(()), 2020);
        let _ = bench.health.handle(Input::Tick, ms(2500));
        assert!(!bench.healthy());
        let _ = bench.probe(true, 2600);
        let _ = bench.probe(true, 3599);
        assert!(!bench.healthy());
        let _ = bench.probe(true, 3600);
        assert!(bench.healthy());
    }

    /// Random flaps, lost probes, broken guards and pauses, beside a plain record of what was when.
    #[test]
    fn no_run_is_ever_healthy_within_the_hold_down_or_behind_a_broken_guard() {
        for seed in seeds(300) {
            let mut rng = Rng::new(seed);
            let mut bench = Bench::new();
            let (mut guard, mut link, mut now, mut risen) = (false, false, 0, 0_u32);
            // When guard, link or a probe was last bad; while one is bad, now.
            let mut bad_at = 0;
            let mut misses = 0;
            for _ in 0..400 {
                now += rng.between(1, 400);
                while let Some(due) = bench.health.poll_timeout().filter(|due| *due < ms(now)) {
                    let _ = bench.health.handle(Input::Tick, due);
                    assert!(bench.health.poll_timeout() != Some(due), "SIM_SEED={seed}: a tick that changes nothing");
                }
                match rng.between(0, 99) {
                    0..3 => {
                        link = false;
                        let _ = bench.link(LinkState::Down, now);
                    }
                    3..10 => {
                        link = true;
                        let _ = bench.link(LinkState::Up, now);
                    }
                    10..30 => {
                        guard = rng.chance(90);
                        let _ = bench.applied(if guard { Ok(()) } else { Err("gone".into()) }, now);
                    }
                    30..35 => {
                        misses += 1;
                        let _ = bench.probe(false, now);
                    }
                    35..90 => {
                        misses = 0;
                        let _ = bench.probe(true, now);
                    }
                    _ => {
                        let _ = bench.health.handle(Input::Tick, ms(now));
                    }
                }
                if !guard || !link || misses >= TIMING.fall {
                    bad_at = now;
                }
                if bench.healthy() {
                    risen += 1;
                    assert!(guard && link, "SIM_SEED={seed} at {now} ms");
                    assert!(now - bad_at >= 1000, "SIM_SEED={seed} at {now} ms: bad at {bad_at} ms");
                }
            }
            // Healed, it must become healthy again.
            for _ in 0..8 {
                now += 300;
                let _ = bench.link(LinkState::Up, now);
                let _ = bench.applied(Ok(()), now);
                let _ = bench.probe(true, now);
            }
            assert!(bench.healthy(), "SIM_SEED={seed}");
            assert!(seed != 0 || risen > 0);
        }
    }
}
