//! What the kernel's table is to hold of best routes, and the steps from what it holds.
//!
//! A next hop is resolved by the routes of others: connected networks, static routes, an IGP. A default route resolves
//! nothing, and neither do our own routes. What the kernel refuses is left alone until it is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Where packets go: to a gateway on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Via {
    /// The router.
    pub gateway: IpAddr,
    /// The index of the interface that it is on.
    pub interface: u32,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on interface {}", self.gateway, self.interface)
    }
}

/// The ways of one route, sorted, each once: packets are spread over them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ways(Arc<[Via]>);

impl Ways {
    /// All of `ways`; `None`, when there is none.
    #[must_use]
    pub fn new(ways: impl IntoIterator<Item = Via>) -> Option<Self> {
        let ways: BTreeSet<Via> = ways.into_iter().collect();
        (!ways.is_empty()).then(|| Self(ways.into_iter().collect()))
    }

    /// Each of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Via] {
        &self.0
    }
}

impl From<Via> for Ways {
    fn from(via: Via) -> Self {
        Self([via].into())
    }
}

/// What a route of somebody else does with packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// Their destination is on the interface with this index.
    Link(u32),
    /// They go to a gateway.
    Gateway(Via),
    /// They are spread over interfaces, by way of a gateway or straight.
    Several(Vec<(u32, Option<IpAddr>)>),
    /// They are dropped.
    Nowhere,
}

/// The routes of others, by prefix: the one with the lowest metric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay(BTreeMap<IpNet, (u32, Foreign)>);

/// Why a next hop leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Nobody else has a route to it, or only a default route.
    #[error("no route leads to the next hop {0}, but perhaps a default route")]
    NoRoute(IpAddr),
    /// It is dropped.
    #[error("the next hop {0} is inside a blackhole")]
    Nowhere(IpAddr),
}

impl Underlay {
    /// From prefixes with their metric and what they do.
    pub fn new(routes: impl IntoIterator<Item = (IpNet, u32, Foreign)>) -> Self {
        let mut best: BTreeMap<IpNet, (u32, Foreign)> = BTreeMap::new();
        for (prefix, metric, foreign) in routes {
            match best.get(&prefix) {
                Some((known, _)) if *known <= metric => {}
                _ => {
                    best.insert(prefix, (metric, foreign));
                }
            }
        }
        Self(best)
    }

    /// Where packets for `next_hop` go: by the longest prefix that holds it.
    ///
    /// # Errors
    /// [`Unresolved`] says why nowhere.
    pub fn resolve(&self, next_hop: IpAddr) -> Result<Vec<Via>, Unresolved> {
        let longest = if next_hop.is_ipv4() { 32 } else { 128 };
        let holding = (1..=longest).rev().filter_map(|bits| IpNet::new(next_hop, bits).ok());
        let found = holding.filter_map(|prefix| self.0.get(&prefix.trunc())).map(|(_, foreign)| foreign).next();
        match found {
            Some(Foreign::Link(interface)) => Ok(vec![Via { gateway: next_hop, interface: *interface }]),
            Some(Foreign::Gateway(via)) => Ok(vec![*via]),
            Some(Foreign::Several(ways)) => {
                let via = |(interface, gateway): &(u32, Option<IpAddr>)| Via {
                    gateway: gateway.unwrap_or(next_hop),
                    interface: *interface,
                };
                Ok(ways.iter().map(via).collect())
            }
            Some(Foreign::Nowhere) => Err(Unresolved::Nowhere(next_hop)),
            None => Err(Unresolved::NoRoute(next_hop)),
        }
    }

    /// The same for several next hops: those that lead somewhere count.
    ///
    /// # Errors
    /// [`Unresolved`] of the first, when none does.
    pub fn resolve_all(&self, next_hops: &[IpAddr]) -> Result<Ways, Unresolved> {
        let (mut ways, mut nowhere) = (Vec::new(), None);
        for next_hop in next_hops {
            match self.resolve(*next_hop) {
                Ok(found) => ways.extend(found),
                Err(why) => nowhere = nowhere.or(Some(why)),
            }
        }
        let unspecified = IpAddr::from([0; 4]);
        Ways::new(ways).ok_or_else(|| nowhere.unwrap_or(Unresolved::NoRoute(unspecified)))
    }
}

/// A route in the kernel that carries our table and protocol number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Own {
    /// Its prefix.
    pub prefix: IpNet,
    /// Its metric.
    pub metric: u32,
    /// Where it leads; `None` for what we never install.
    pub ways: Option<Ways>,
}

/// Something to do in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A route comes. It must not take the place of another's.
    Add(IpNet, Ways),
    /// A route of ours leads elsewhere from now on.
    Replace(IpNet, Ways),
    /// A route of ours goes.
    Remove(Own),
}

impl Step {
    /// What it is about.
    #[must_use]
    pub const fn prefix(&self) -> IpNet {
        match self {
            Self::Add(prefix, _) | Self::Replace(prefix, _) => *prefix,
            Self::Remove(own) => own.prefix,
        }
    }
}

/// How a wanted route stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// In the kernel.
    Yes(Ways),
    /// On its way.
    Pending,
    /// Its next hop leads nowhere.
    Unresolved(Unresolved),
    /// The kernel said no.
    Refused(String),
}

/// The next hops of a route, by which packets are spread; routes share them.
pub type NextHops = Arc<[IpAddr]>;

/// What is wanted, and what the kernel holds.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    metric: u32,
    wanted: BTreeMap<IpNet, NextHops>,
    underlay: Underlay,
    held: BTreeMap<IpNet, Ways>,
    /// Ours, but not as we install them.
    stray: BTreeSet<Own>,
    refused: BTreeMap<IpNet, (Ways, String)>,
    /// Until the peers have told their routes, those of a previous life stay.
    adopting: bool,
}

impl Fib {
    /// Nothing wanted; routes will have `metric`. What a previous life left stays until [`Fib::settled`].
    #[must_use]
    pub fn new(metric: u32) -> Self {
        Self { metric, adopting: true, ..Self::default() }
    }

    /// These routes are wanted from now on, each by way of its next hops.
    pub fn want(&mut self, wanted: BTreeMap<IpNet, NextHops>) {
        self.wanted = wanted;
    }

    /// The peers have told their routes: what is not wanted now goes.
    pub fn settled(&mut self) {
        self.adopting = false;
    }

    /// Whether what a previous life left still stays.
    #[must_use]
    pub const fn is_adopting(&self) -> bool {
        self.adopting
    }

    /// What the kernel was found to hold: of ours, and of others. What it refused may be tried again.
    pub fn found(&mut self, own: impl IntoIterator<Item = Own>, underlay: Underlay) {
        self.held.clear();
        self.stray.clear();
        self.refused.clear();
        self.underlay = underlay;
        for route in own {
            match &route.ways {
                Some(ways) if route.metric == self.metric && !self.held.contains_key(&route.prefix) => {
                    self.held.insert(route.prefix, ways.clone());
                }
                _ => {
                    self.stray.insert(route);
                }
            }
        }
    }

    /// What is to be done: what comes before what goes.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut resolved: BTreeMap<&NextHops, Result<Ways, Unresolved>> = BTreeMap::new();
        let (mut come, mut go) = (Vec::new(), Vec::new());
        for (prefix, next_hops) in &self.wanted {
            let ways = resolved.entry(next_hops).or_insert_with(|| self.underlay.resolve_all(next_hops));
            match (ways, self.held.get(prefix)) {
                (Ok(ways), Some(held)) if ways == held => {}
                (Ok(ways), _) if self.refused.get(prefix).is_some_and(|(tried, _)| tried == ways) => {}
                (Ok(ways), Some(_)) => come.push(Step::Replace(*prefix, ways.clone())),
                (Ok(ways), None) => come.push(Step::Add(*prefix, ways.clone())),
                (Err(_), Some(held)) => go.push(self.removal(*prefix, held)),
                (Err(_), None) => {}
            }
        }
        if !self.adopting {
            let gone = self.held.iter().filter(|(prefix, _)| !self.wanted.contains_key(*prefix));
            go.extend(gone.map(|(prefix, ways)| self.removal(*prefix, ways)));
        }
        go.extend(self.stray.iter().cloned().map(Step::Remove));
        come.append(&mut go);
        come
    }

    fn removal(&self, prefix: IpNet, ways: &Ways) -> Step {
        Step::Remove(Own { prefix, metric: self.metric, ways: Some(ways.clone()) })
    }

    /// `step` was done, or the kernel said why not.
    pub fn done(&mut self, step: &Step, outcome: Result<(), String>) {
        match (step, outcome) {
            (Step::Add(prefix, ways) | Step::Replace(prefix, ways), Ok(())) => {
                self.refused.remove(prefix);
                self.held.insert(*prefix, ways.clone());
            }
            (Step::Add(prefix, ways) | Step::Replace(prefix, ways), Err(why)) => {
                self.refused.insert(*prefix, (ways.clone(), why));
            }
            // What can't be removed is found again with the next reading.
            (Step::Remove(own), _) => {
                if !self.stray.remove(own) {
                    self.held.remove(&own.prefix);
                }
            }
        }
    }

    /// Everything of ours, to be removed at the end.
    #[must_use]
    pub fn all(&self) -> Vec<Step> {
        let held = self.held.iter().map(|(prefix, ways)| self.removal(*prefix, ways));
        held.chain(self.stray.iter().cloned().map(Step::Remove)).collect()
    }

    /// How many routes the kernel holds of ours, and how many are wanted.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.held.len(), self.wanted.len())
    }

    /// Each wanted route, its next hops, and how it stands.
    pub fn routes(&self) -> impl Iterator<Item = (IpNet, &NextHops, Installed)> + '_ {
        self.wanted.iter().map(|(prefix, next_hops)| {
            let ways = self.underlay.resolve_all(next_hops);
            let standing = match (ways, self.held.get(prefix), self.refused.get(prefix)) {
                (Ok(ways), Some(held), _) if ways == *held => Installed::Yes(ways),
                (Ok(ways), _, Some((tried, why))) if *tried == ways => Installed::Refused(why.clone()),
                (Ok(_), ..) => Installed::Pending,
                (Err(why), ..) => Installed::Unresolved(why),
            };
            (*prefix, next_hops, standing)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn via(gateway: &str, interface: u32) -> Via {
        Via { gateway: ip(gateway), interface }
    }

    fn one(text: &str) -> NextHops {
        [ip(text)].into()
    }

    fn underlay() -> Underlay {
        Underlay::new([
            (net("0.0.0.0/0"), 0, Foreign::Gateway(via("192.0.2.254", 9))),
            (net("192.0.2.0/24"), 0, Foreign::Link(2)),
            (net("10.9.0.0/16"), 20, Foreign::Gateway(via("192.0.2.7", 2))),
            (net("10.9.0.0/16"), 10, Foreign::Gateway(via("192.0.2.8", 2))),
            (net("10.9.9.0/24"), 0, Foreign::Nowhere),
            (net("2001:db8:1::/64"), 0, Foreign::Link(3)),
        ])
    }

    #[test]
    fn next_hops_are_resolved_by_the_longest_route_of_others_but_no_default() {
        let underlay = underlay();
        assert_eq!(underlay.resolve(ip("192.0.2.1")), Ok(vec![via("192.0.2.1", 2)]));
        assert_eq!(underlay.resolve(ip("10.9.1.1")), Ok(vec![via("192.0.2.8", 2)]), "the lower metric counts");
        assert_eq!(underlay.resolve(ip("10.9.9.1")), Err(Unresolved::Nowhere(ip("10.9.9.1"))));
        assert_eq!(underlay.resolve(ip("198.51.100.1")), Err(Unresolved::NoRoute(ip("198.51.100.1"))));
        assert_eq!(underlay.resolve(ip("2001:db8:1::5")), Ok(vec![via("2001:db8:1::5", 3)]));
        assert!(underlay.resolve(ip("2001:db8:2::5")).is_err());
    }

    #[test]
    fn packets_are_spread_over_next_hops_and_over_the_ways_to_each() {
        let several = Foreign::Several(vec![(2, Some(ip("192.0.2.7"))), (3, None)]);
        let underlay = Underlay::new([(net("192.0.2.0/24"), 0, Foreign::Link(2)), (net("10.9.0.0/16"), 0, several)]);
        assert_eq!(underlay.resolve(ip("10.9.0.1")), Ok(vec![via("192.0.2.7", 2), via("10.9.0.1", 3)]));
        let mut fib = Fib::new(20);
        fib.found([], underlay);
        fib.settled();
        let (both, prefix) = (Arc::from([ip("192.0.2.1"), ip("10.9.0.1")]), net("203.0.113.0/24"));
        fib.want([(prefix, both)].into());
        let ways = Ways::new([via("10.9.0.1", 3), via("192.0.2.1", 2), via("192.0.2.7", 2)]).unwrap();
        assert_eq!(carry_out(&mut fib), [Step::Add(prefix, ways)]);
        // One leads nowhere: the others carry on.
        fib.want([(prefix, Arc::from([ip("192.0.2.1"), ip("198.51.100.1")]))].into());
        assert_eq!(carry_out(&mut fib), [Step::Replace(prefix, via("192.0.2.1", 2).into())]);
    }

    fn carry_out(fib: &mut Fib) -> Vec<Step> {
        let steps = fib.steps();
        steps.iter().for_each(|step| fib.done(step, Ok(())));
        assert_eq!(fib.steps(), []);
        steps
    }

    #[test]
    fn only_what_differs_is_done_and_what_comes_goes_first() {
        let mut fib = Fib::new(20);
        fib.found([], underlay());
        fib.settled();
        fib.want([(net("203.0.113.0/24"), one("192.0.2.1")), (net("198.51.100.0/24"), one("10.9.1.1"))].into());
        assert_eq!(carry_out(&mut fib).len(), 2);
        fib.want([(net("203.0.113.0/24"), one("192.0.2.2")), (net("198.18.0.0/15"), one("192.0.2.1"))].into());
        let gone = Own { prefix: net("198.51.100.0/24"), metric: 20, ways: Some(via("192.0.2.8", 2).into()) };
        assert_eq!(
            carry_out(&mut fib),
            [
                Step::Add(net("198.18.0.0/15"), via("192.0.2.1", 2).into()),
                Step::Replace(net("203.0.113.0/24"), via("192.0.2.2", 2).into()),
                Step::Remove(gone),
            ]
        );
        // The network to the next hops goes, and the routes with it.
        fib.found(
            [Own { prefix: net("198.18.0.0/15"), metric: 20, ways: Some(via("192.0.2.1", 2).into()) }],
            Underlay::default(),
        );
        assert_eq!(carry_out(&mut fib).len(), 1);
        assert_eq!(fib.counts(), (0, 2));
    }

    #[test]
    fn leftovers_are_adopted_until_the_peers_have_told_and_strays_are_not() {
        let mut fib = Fib::new(20);
        let left = |prefix: &str, metric| Own { prefix: net(prefix), metric, ways: Some(via("192.0.2.1", 2).into()) };
        let odd = Own { prefix: net("198.18.0.0/15"), metric: 20, ways: None };
        fib.found(
            [left("203.0.113.0/24", 20), left("198.51.100.0/24", 20), left("203.0.113.0/24", 7), odd.clone()],
            underlay(),
        );
        assert_eq!(carry_out(&mut fib), [Step::Remove(odd.clone()), Step::Remove(left("203.0.113.0/24", 7))]);
        fib.want([(net("203.0.113.0/24"), one("192.0.2.1"))].into());
        assert_eq!(carry_out(&mut fib), [], "it is there already");
        fib.settled();
        assert_eq!(carry_out(&mut fib), [Step::Remove(left("198.51.100.0/24", 20))]);
        assert_eq!(fib.all(), [Step::Remove(left("203.0.113.0/24", 20))]);
    }

    #[test]
    fn what_the_kernel_refuses_is_shown_and_tried_again_when_it_was_read_again() {
        let mut fib = Fib::new(20);
        fib.found([], underlay());
        fib.want([(net("203.0.113.0/24"), one("192.0.2.1")), (net("198.51.100.0/24"), one("198.51.100.1"))].into());
        let [step] = &fib.steps()[..] else { panic!("{:?}", fib.steps()) };
        fib.done(step, Err("File exists".to_owned()));
        assert_eq!(fib.steps(), []);
        let standing: Vec<Installed> = fib.routes().map(|(_, _, standing)| standing).collect();
        assert_eq!(standing[0], Installed::Unresolved(Unresolved::NoRoute(ip("198.51.100.1"))));
        assert_eq!(standing[1], Installed::Refused("File exists".to_owned()));
        fib.found([], underlay());
        assert_eq!(fib.steps(), std::slice::from_ref(step));
    }

    proptest! {
        /// Whatever is wanted after whatever was held: the steps lead there, and doing them again does nothing.
        #[test]
        fn the_steps_lead_from_what_is_held_to_what_is_wanted(
            held in proptest::collection::btree_map((0..20_u8, 19..21_u32), 0..3_u8, 0..20),
            wanted in proptest::collection::btree_map(0..20_u8, 0..3_u8, 0..20),
        ) {
            let prefix = |n: u8| net(&format!("10.0.{n}.0/24"));
            let next_hop = |n: u8| ip(&format!("192.0.2.{n}"));
            let mut fib = Fib::new(20);
            let own = held.iter().map(|((n, metric), to)| Own {
                prefix: prefix(*n),
                metric: *metric,
                ways: Some(Via { gateway: next_hop(*to), interface: 2 }.into()),
            });
            let own: BTreeSet<Own> = own.collect();
            fib.found(own.iter().cloned(), underlay());
            fib.settled();
            fib.want(wanted.iter().map(|(n, to)| (prefix(*n), [next_hop(*to)].into())).collect());
            let mut table = own;
            for step in fib.steps() {
                match step {
                    Step::Add(prefix, ref ways) | Step::Replace(prefix, ref ways) => {
                        table.retain(|own| (own.prefix, own.metric) != (prefix, 20) || matches!(step, Step::Add(..)));
                        table.insert(Own { prefix, metric: 20, ways: Some(ways.clone()) });
                    }
                    Step::Remove(ref own) => prop_assert!(table.remove(own), "{:?} is not there", own),
                }
                fib.done(&step, Ok(()));
            }
            prop_assert_eq!(fib.steps(), []);
            let left: BTreeMap<IpNet, Via> =
                table.iter().map(|own| (own.prefix, own.ways.as_ref().unwrap().as_slice()[0])).collect();
            let expected = wanted.iter().map(|(n, to)| (prefix(*n), Via { gateway: next_hop(*to), interface: 2 }));
            prop_assert_eq!(table.len(), left.len());
            prop_assert_eq!(left, expected.collect::<BTreeMap<_, _>>());
        }
    }
}
