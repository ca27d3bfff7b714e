//! A feed of live subscriber prefixes: what of it is in force, whatever it tells and however it ends.
//!
//! What is told is bounded by what the operator allows. A feed that is lost leaves its prefixes in force for as long as the
//! operator says, and then none.

use std::time::Duration;

use cloakway_types::Instant;
use ipnet::IpNet;

/// What the operator lets a feed do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// What is told lies within these; what touches there is one.
    pub within: Vec<IpNet>,
    /// How long prefixes stay in force behind the last word of the feed.
    pub hold: Duration,
}

/// How it stands with a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not been heard of yet.
    Waiting,
    /// What it told last is so.
    Fed,
    /// It is lost since then, and its prefixes stay in force for a while.
    Held(Instant),
    /// It is lost since then, and nothing of it is in force.
    Lost(Instant),
}

impl State {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fed => "fed",
            Self::Held(_) => "held",
            Self::Lost(_) => "lost",
        }
    }
}

/// One feed.
#[derive(Debug, Clone)]
pub struct Feed {
    bounds: Bounds,
    state: State,
    /// As it was told last.
    told: Vec<IpNet>,
    /// What of that is within the bounds; what touches is one.
    allowed: Vec<IpNet>,
    changes: u64,
}

impl Feed {
    /// One that nothing is known of.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self { bounds, state: State::Waiting, told: Vec::new(), allowed: Vec::new(), changes: 0 }
    }

    /// Takes over what another process of ours left in force; the feed counts as lost since `now`.
    pub fn adopt(&mut self, standing: &[IpNet], now: Instant) {
        self.changing(|feed| {
            feed.state = State::Held(now);
            feed.hear(standing);
        });
    }

    /// Goes over to other bounds. What they do not allow any more goes at once.
    pub fn bound(&mut self, bounds: Bounds) {
        self.changing(|feed| {
            feed.bounds = bounds;
            let told = std::mem::take(&mut feed.told);
            feed.hear(&told);
        });
    }

    /// It tells these prefixes, and that there are no others.
    pub fn told(&mut self, prefixes: &[IpNet]) {
        self.changing(|feed| {
            feed.state = State::Fed;
            feed.hear(prefixes);
        });
    }

    /// It tells that nothing has changed.
    pub fn confirmed(&mut self) {
        self.changing(|feed| feed.state = State::Fed);
    }

    /// It tells nothing.
    pub fn failed(&mut self, now: Instant) {
        self.changing(|feed| {
            let since = match feed.state {
                State::Waiting => return feed.state = State::Lost(now),
                State::Fed => now,
                State::Held(since) => since,
                State::Lost(_) => return,
            };
            let is_over = now.since(since) >= feed.bounds.hold;
            feed.state = if is_over { State::Lost(since) } else { State::Held(since) };
        });
    }

    /// How it stands with it.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The prefixes that are in force, of which no two overlap.
    #[must_use]
    pub fn in_force(&self) -> &[IpNet] {
        match self.state {
            State::Waiting | State::Lost(_) => &[],
            State::Fed | State::Held(_) => &self.allowed,
        }
    }

    /// How many prefixes of those that it told last are outside its bounds.
    #[must_use]
    pub fn foreign(&self) -> usize {
        self.told.iter().filter(|prefix| !self.allows(prefix)).count()
    }

    /// How often what is in force has changed.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    fn allows(&self, prefix: &IpNet) -> bool {
        self.bounds.within.iter().any(|within| within.contains(prefix))
    }

    fn hear(&mut self, prefixes: &[IpNet]) {
        self.told = prefixes.to_vec();
        let allowed: Vec<IpNet> = prefixes.iter().filter(|prefix| self.allows(prefix)).copied().collect();
        self.allowed = IpNet::aggregate(&allowed);
    }

    fn changing(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.in_force().to_vec();
        change(self);
        if self.in_force() != before {
            self.changes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(millis: u64) -> Instant {
        Instant::after_origin(Duration::from_millis(millis))
    }

    fn feed() -> Feed {
        Feed::new(Bounds { within: nets(&["198.51.100.0/22", "2001:db8:5100::/40"]), hold: Duration::from_secs(60) })
    }

    const A: &str = "198.51.100.0/25";
    const B: &str = "198.51.100.128/25";

    #[test]
    fn what_is_told_is_in_force_within_its_bounds() {
        let mut feed = feed();
        assert_eq!((feed.state(), feed.in_force()), (State::Waiting, &[][..]));
        feed.told(&nets(&[A, "2001:db8:5101::/48", "192.0.2.0/24", "198.51.0.0/16"]));
        assert_eq!((feed.state(), feed.changes()), (State::Fed, 1));
        assert_eq!(feed.in_force(), nets(&[A, "2001:db8:5101::/48"]));
        assert_eq!(feed.foreign(), 2, "outside, and wider than allowed");
        feed.bound(Bounds { within: nets(&["2001:db8:5100::/40"]), hold: Duration::from_secs(60) });
        assert_eq!(feed.in_force(), nets(&["2001:db8:5101::/48"]), "at once");
        feed.told(&nets(&["2001:db8:5101::/48"]));
        assert_eq!((feed.changes(), feed.foreign()), (2, 0));
    }

    #[test]
    fn what_touches_is_one_and_what_is_outside_takes_nothing_with_it() {
        let mut feed = Feed::new(Bounds { within: nets(&[A]), hold: Duration::ZERO });
        feed.told(&nets(&["198.51.100.0/26", "198.51.100.64/26", B]));
        assert_eq!(feed.in_force(), nets(&[A]));
    }

    #[test]
    fn a_lost_feed_is_held_for_its_time_to_the_millisecond_and_then_nothing_is_in_force() {
        let mut feed = feed();
        feed.told(&nets(&[A]));
        feed.failed(at(1000));
        assert_eq!((feed.state(), feed.in_force()), (State::Held(at(1000)), &*nets(&[A])));
        feed.failed(at(60_999));
        assert_eq!(feed.in_force(), nets(&[A]));
        feed.failed(at(61_000));
        assert_eq!((feed.state(), feed.in_force()), (State::Lost(at(1000)), &[][..]));
        feed.failed(at(70_000));
        assert_eq!(feed.state(), State::Lost(at(1000)));
        feed.confirmed();
        assert_eq!((feed.state(), feed.in_force()), (State::Fed, &*nets(&[A])), "back again");
        feed.failed(at(80_000));
        assert_eq!(feed.state(), State::Held(at(80_000)), "the time begins anew");
        let mut feed = Feed::new(Bounds { within: nets(&[A]), hold: Duration::ZERO });
        feed.told(&nets(&[A]));
        feed.failed(at(1000));
        assert!(feed.in_force().is_empty(), "not held at all");
    }

    #[test]
    fn one_that_never_spoke_brings_nothing_and_one_that_was_adopted_is_held() {
        let mut silent = feed();
        silent.failed(at(0));
        assert_eq!((silent.state(), silent.in_force(), silent.changes()), (State::Lost(at(0)), &[][..], 0));
        let mut adopted = feed();
        adopted.adopt(&nets(&[A, "192.0.2.0/24"]), at(5));
        assert_eq!((adopted.state(), adopted.in_force()), (State::Held(at(5)), &*nets(&[A])));
        adopted.failed(at(60_005));
        assert!(adopted.in_force().is_empty());
    }

    fn any_nets() -> impl Strategy<Value = Vec<IpNet>> {
        let net = (0_u32..2048, 20_u8..=32).prop_map(|(host, length)| {
            IpNet::new(std::net::Ipv4Addr::from(0xc633_6000 + host).into(), length).unwrap().trunc()
        });
        prop::collection::vec(net, 0..12)
    }

    proptest! {
        #[test]
        fn in_force_is_what_was_told_last_within_the_bounds_until_it_is_lost(
            steps in prop::collection::vec((any_nets(), 0_u64..40_000, 0_u8..4), 1..40),
        ) {
            let mut feed = feed();
            let (mut now, mut told, mut lost) = (0, Vec::new(), None);
            for (nets, pause, kind) in steps {
                now += pause;
                match kind {
                    0 | 1 => {
                        feed.failed(at(now));
                        lost = lost.or(Some(now));
                    }
                    2 if feed.state() != State::Waiting => {
                        feed.confirmed();
                        lost = None;
                    }
                    _ => {
                        told = nets;
                        feed.told(&told);
                        lost = None;
                    }
                }
                let is_over = kind <= 1 && lost.is_some_and(|since| now - since >= 60_000) || feed.state() == State::Waiting;
                let within: IpNet = "198.51.100.0/22".parse().unwrap();
                for host in (0..2048).step_by(7) {
                    let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(0xc633_6000 + host));
                    let is_told = told.iter().any(|net| net.contains(&address) && within.contains(net));
                    let is_in = feed.in_force().iter().any(|net| net.contains(&address));
                    prop_assert!(!is_in || (is_told && !is_over), "{}", address);
                    prop_assert!(is_in || !is_told || matches!(feed.state(), State::Lost(_) | State::Waiting), "{}", address);
                }
            }
        }
    }
}
