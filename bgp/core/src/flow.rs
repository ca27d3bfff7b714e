//! Flow specifications that are announced: beside private routes, and from sets that are changed by request.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bgp_wire::{
    Action, Actions, Community, Comparison, Component, FlowError, FlowRule, NumberField, NumberTerm, Pattern, Rate,
};
use ipnet::IpNet;

use crate::desired::{Others, Outcome, check_name};
use crate::guard::{Guard, MAX_COMMUNITIES};
use crate::policy::{Policy, Refusal};
use crate::route::MAX_AUDIENCE;

/// Octets of the longest rule that may be injected: with its attributes it fits the shortest limit of a message.
pub const MAX_FLOW_RULE: usize = 2048;
/// The most actions that a rule may carry.
pub const MAX_ACTIONS: usize = 8;

/// What is said of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowRoute {
    /// What routers do with the packets.
    pub actions: Actions,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// What keeps it in; no rule of a private prefix goes out without it.
    pub guard: Option<Guard>,
    /// The peers that are told, sorted, each once; all, when there is none.
    pub audience: Vec<IpAddr>,
}

impl FlowRoute {
    /// For all peers, without communities or a guard.
    #[must_use]
    pub fn new(actions: Actions) -> Self {
        Self { actions, communities: Vec::new(), guard: None, audience: Vec::new() }
    }

    /// Whether the peer at `address` is told.
    #[must_use]
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.audience.is_empty() || self.audience.binary_search(&address).is_ok()
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn discards(&self) -> bool {
        let nothing = |action: &Action| match action {
            Action::RateBytes { rate, .. } | Action::RatePackets { rate, .. } => *rate == Rate::ZERO,
            _ => false,
        };
        self.actions.as_slice().iter().any(nothing)
    }
}

/// Rules in the order in which routers apply them.
pub type FlowRoutes = BTreeMap<FlowRule, FlowRoute>;

/// Injected rules as peers are to be told of them, and the policy that is held once more when they are encoded.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    /// Sets that are shown, by name.
    sets: BTreeMap<String, Arc<FlowRoutes>>,
    policy: Arc<Policy>,
}

impl Flows {
    /// The rules for a peer that the policy allows: one that several sets want from the first of them by name that `of`
    /// takes and whose rule is for the peer at `address`.
    pub fn allowed(&self, address: Option<IpAddr>, of: impl Fn(&str) -> bool) -> BTreeMap<&FlowRule, &FlowRoute> {
        let mut told = BTreeMap::new();
        let is_for = |route: &FlowRoute| address.map_or(route.audience.is_empty(), |address| route.is_for(address));
        for (_, rules) in self.sets.iter().filter(|(name, _)| of(name)) {
            for (rule, route) in rules.iter().filter(|(_, route)| is_for(route)) {
                if let Entry::Vacant(free) = told.entry(rule)
                    && self.policy.check_flow(rule, route.guard).is_ok()
                {
                    free.insert(route);
                }
            }
        }
        told
    }

    /// How many rules some peer may be told.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sets.values().flat_map(|rules| rules.keys()).collect::<BTreeSet<_>>().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.values().all(|rules| rules.is_empty())
    }
}

/// Packets of one protocol that may go to a private prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// The IP protocol, or the upper-layer protocol of IPv6.
    pub protocol: u8,
    /// Destination ports; empty means any, and protocols without ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// What becomes of the packets beside passing.
    pub actions: Actions,
}

/// Why packets can't be permitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// Ports of a protocol that has none.
    #[error("flow[{at}]: protocol {protocol} has no ports: leave them out")]
    Ports {
        /// Which permit, from 0.
        at: usize,
        /// Its protocol.
        protocol: u8,
    },
    /// A range that ends before it begins.
    #[error("flow[{at}]: ports {}-{}: the lower one goes first", .ports.start(), .ports.end())]
    Range {
        /// Which permit, from 0.
        at: usize,
        /// The range.
        ports: RangeInclusive<u16>,
    },
    /// The same packets as an earlier one.
    #[error("flow[{at}]: the same packets are permitted before: once is enough")]
    Twice {
        /// Which permit, from 0.
        at: usize,
    },
    /// An action that lets nothing pass.
    #[error("flow[{at}]: {actions} lets nothing pass: what is not listed is discarded anyway")]
    Discards {
        /// Which permit, from 0.
        at: usize,
        /// Its actions.
        actions: Actions,
    },
    /// Neither a route nor rules.
    #[error("without a route and without rules nothing is told: give flow")]
    Nothing,
    /// Without a route, a rule has to say where packets go.
    #[error("\"{0}\" leads nowhere without the route: give each entry of flow a then with redirect")]
    Nowhere(Box<FlowRule>),
    /// Too many ports for a rule.
    #[error("flow[{at}]: {error}")]
    Rule {
        /// Which permit, from 0.
        at: usize,
        /// What is wrong with the rule.
        error: FlowError,
    },
}

/// Protocols with ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Rules that let the permitted packets pass towards `prefix` and discard the others: a router applies the rule that
/// says more first (RFC 8955 §5.1), and no other after it.
pub(crate) fn permit(prefix: IpNet, permits: &[Permit]) -> Result<BTreeMap<FlowRule, Actions>, PermitError> {
    let family = bgp_wire::Family::of(&prefix);
    let destination = Pattern::new(prefix.network(), 0, prefix.prefix_len()).map(Component::Destination);
    let term = |field: NumberField, and, comparison, value: u16| NumberTerm {
        and,
        comparison,
        operand: field.operand(value.into()),
    };
    let mut rules = BTreeMap::new();
    for (at, permit) in permits.iter().enumerate() {
        let protocol = permit.protocol;
        if !permit.ports.is_empty() && !WITH_PORTS.contains(&protocol) {
            return Err(PermitError::Ports { at, protocol });
        }
        let mut ports = Vec::new();
        let field = NumberField::DestinationPort;
        for range in &permit.ports {
            match (*range.start(), *range.end()) {
                (low, high) if low > high => return Err(PermitError::Range { at, ports: range.clone() }),
                (low, high) if low == high => ports.push(term(field, false, Comparison::Equal, low)),
                (low, high) => {
                    ports.push(term(field, false, Comparison::AtLeast, low));
                    ports.push(term(field, true, Comparison::AtMost, high));
                }
            }
        }
        let field = NumberField::Protocol;
        let protocol = Component::Numbers(field, vec![term(field, false, Comparison::Equal, protocol.into())]);
        let ports = (!ports.is_empty()).then_some(Component::Numbers(NumberField::DestinationPort, ports));
        let components = destination.clone().into_iter().chain([protocol]).chain(ports).collect();
        let rule = FlowRule::new(family, components).map_err(|error| PermitError::Rule { at, error })?;
        if rule.encoded_length() > MAX_FLOW_RULE {
            return Err(PermitError::Rule { at, error: FlowError::TooLong(rule.encoded_length()) });
        }
        let route = FlowRoute::new(permit.actions.clone());
        if route.discards() {
            return Err(PermitError::Discards { at, actions: route.actions });
        }
        if rules.insert(rule, route.actions).is_some() {
            return Err(PermitError::Twice { at });
        }
    }
    let rest = FlowRule::new(family, destination.into_iter().collect());
    rules.insert(rest.map_err(|error| PermitError::Rule { at: 0, error })?, Actions::discard());
    Ok(rules)
}

/// A change to one set of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowChange {
    /// The set's name.
    pub set: String,
    /// What becomes of the rest of the set.
    pub others: Others,
    /// Rules that go, before any come.
    pub remove: Vec<FlowRule>,
    /// Rules that come, or come with other words.
    pub add: Vec<(FlowRule, FlowRoute)>,
}

/// Why a change is refused; nothing of it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowChangeError {
    /// The set has no usable name.
    #[error(transparent)]
    Name(#[from] crate::desired::ChangeError),
    /// A rule that may not be injected so.
    #[error("rules[{at}]: {refusal}")]
    Refused {
        /// Which, from 0.
        at: usize,
        /// Why.
        refusal: Refusal,
    },
    /// More than a message or an operator's eye can take.
    #[error("rules[{at}]: {count} {what}: at most {limit} are allowed")]
    TooMuch {
        /// Which, from 0.
        at: usize,
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The table would hold more than it may.
    #[error("{would} flow rules in all: at most {limit} are allowed by inject.max-flow-rules")]
    TooMany {
        /// How many there would be.
        would: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl FlowChange {
    /// Holds the whole change to `policy`, and brings it into its one form.
    ///
    /// # Errors
    /// [`FlowChangeError`] names the first thing that is wrong.
    pub fn check(mut self, policy: &Policy) -> Result<Self, FlowChangeError> {
        check_name("set", &self.set)?;
        for (at, (rule, route)) in self.add.iter_mut().enumerate() {
            route.communities.sort_unstable();
            route.communities.dedup();
            route.audience.sort_unstable();
            route.audience.dedup();
            for (what, count, limit) in [
                ("octets", rule.encoded_length(), MAX_FLOW_RULE),
                ("actions", route.actions.as_slice().len(), MAX_ACTIONS),
                ("communities", route.communities.len(), MAX_COMMUNITIES),
                ("peers", route.audience.len(), MAX_AUDIENCE),
            ] {
                if count > limit {
                    return Err(FlowChangeError::TooMuch { at, what, count, limit });
                }
            }
            policy.check_flow(rule, route.guard).map_err(|refusal| FlowChangeError::Refused { at, refusal })?;
        }
        Ok(self)
    }
}

/// The sets of rules that operators want.
#[derive(Debug, Clone, Default)]
pub struct FlowTable {
    sets: BTreeMap<String, Arc<FlowRoutes>>,
    hidden: BTreeSet<String>,
    policy: Arc<Policy>,
}

impl FlowTable {
    /// Nothing wanted; `policy` is held once more whenever something is encoded.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Holds everything to `policy` from now on.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// Makes `change`, which was checked.
    pub fn apply(&mut self, change: &FlowChange) -> Outcome {
        let mut outcome = Outcome::default();
        let set = self.sets.entry(change.set.clone()).or_default();
        let mut new = if change.others == Others::Go { FlowRoutes::new() } else { FlowRoutes::clone(set) };
        for rule in &change.remove {
            new.remove(rule);
        }
        new.extend(change.add.iter().cloned());
        outcome.removed = set.keys().filter(|rule| !new.contains_key(*rule)).count() as u64;
        for (rule, route) in &new {
            match set.get(rule) {
                None => outcome.added += 1,
                Some(old) => outcome.changed += u64::from(old != route),
            }
        }
        *set = Arc::new(new);
        if set.is_empty() {
            self.sets.remove(&change.set);
        }
        outcome
    }

    /// How many rules there would be after `change`.
    #[must_use]
    pub fn after(&self, change: &FlowChange) -> usize {
        let all: usize = self.sets.values().map(|rules| rules.len()).sum();
        let set = self.sets.get(&change.set);
        let goes = match (set, change.others) {
            (None, _) => 0,
            (Some(set), Others::Go) => set.len(),
            (Some(set), Others::Stay) => {
                let named = change.remove.iter().chain(change.add.iter().map(|(rule, _)| rule));
                named.collect::<BTreeSet<_>>().into_iter().filter(|rule| set.contains_key(*rule)).count()
            }
        };
        let comes = change.add.iter().map(|(rule, _)| rule).collect::<BTreeSet<_>>().len();
        all - goes + comes
    }

    /// Shows or hides what `set` wants, when its health changes.
    pub fn show(&mut self, set: &str, shown: bool) {
        if shown {
            self.hidden.remove(set);
        } else {
            self.hidden.insert(set.to_owned());
        }
    }

    /// The sets by name, with their rules.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &FlowRoutes)> {
        self.sets.iter().map(|(name, rules)| (name.as_str(), &**rules))
    }

    /// The set that `rule` is announced from: the first by name of those that want it and are shown.
    #[must_use]
    pub fn source(&self, rule: &FlowRule) -> Option<&str> {
        let shown = self.sets().filter(|(name, _)| !self.hidden.contains(*name));
        shown.filter(|(_, rules)| rules.contains_key(rule)).map(|(name, _)| name).next()
    }

    /// What peers are to be told.
    #[must_use]
    pub fn wanted(&self) -> Flows {
        let shown = self.sets.iter().filter(|(name, _)| !self.hidden.contains(*name));
        Flows { sets: shown.map(|(name, rules)| (name.clone(), rules.clone())).collect(), policy: self.policy.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn rule(text: &str) -> FlowRule {
        text.parse().unwrap()
    }

    fn tcp(ports: &[RangeInclusive<u16>]) -> Permit {
        Permit { protocol: 6, ports: ports.to_vec(), actions: Actions::default() }
    }

    #[test]
    fn what_is_permitted_goes_before_the_rule_that_discards() {
        let ping = Permit { protocol: 1, ports: Vec::new(), actions: "rate-packets 10".parse().unwrap() };
        let rules = permit(net("203.0.113.200/32"), &[ping, tcp(&[443..=443, 8000..=8010])]).unwrap();
        let told: Vec<String> = rules.iter().map(|(rule, actions)| format!("{rule}: {actions}")).collect();
        assert_eq!(
            told,
            [
                "destination 203.0.113.200/32 protocol =1: rate-packets 10",
                "destination 203.0.113.200/32 protocol =6 destination-port =443 >=8000&<=8010: accept",
                "destination 203.0.113.200/32: discard",
            ]
        );
        let rules = permit(net("2001:db8:c10a::200/128"), &[tcp(&[])]).unwrap();
        assert_eq!(rules.keys().next_back(), Some(&rule("destination 2001:db8:c10a::200/128")));
    }

    #[test]
    fn a_permit_that_says_nothing_is_refused() {
        let ping = |ports| Permit { protocol: 1, ports, actions: Actions::default() };
        let discard = Permit { actions: Actions::discard(), ..tcp(&[]) };
        for (permits, named) in [
            (vec![tcp(&[]), ping(vec![0..=0])], "flow[1]: protocol 1 has no ports"),
            #[expect(clippy::reversed_empty_ranges, reason = "that is the mistake")]
            (vec![tcp(&[443..=442])], "flow[0]: ports 443-442: the lower"),
            (vec![tcp(&[443..=443]), tcp(&[443..=443])], "flow[1]: the same packets"),
            (vec![discard], "flow[0]: discard lets nothing pass"),
            (vec![tcp(&vec![1..=1; 3000])], "flow[0]: a rule of"),
        ] {
            let error = permit(net("203.0.113.200/32"), &permits).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }

    fn discard() -> FlowRoute {
        FlowRoute::new(Actions::discard())
    }

    fn change(set: &str, others: Others, add: &[&str], remove: &[&str]) -> FlowChange {
        FlowChange {
            set: set.to_owned(),
            others,
            remove: remove.iter().copied().map(rule).collect(),
            add: add.iter().map(|text| (rule(text), discard())).collect(),
        }
    }

    #[test]
    fn sets_are_replaced_changed_and_merged_by_name() {
        let mut table = FlowTable::default();
        let (udp, tcp) = ("destination 10.0.0.0/24 protocol =17", "destination 10.0.0.0/24 protocol =6");
        assert_eq!(table.apply(&change("b", Others::Go, &[udp, tcp], &[])).added, 2);
        let again = table.apply(&change("b", Others::Stay, &[udp], &[tcp]));
        assert_eq!(again, Outcome { removed: 1, ..Outcome::default() });
        let mut other = change("a", Others::Stay, &[udp], &[]);
        other.add[0].1.actions = "rate-bytes 5".parse().unwrap();
        table.apply(&other);
        assert_eq!(table.source(&rule(udp)), Some("a"));
        let told = |table: &FlowTable, of: fn(&str) -> bool| {
            table.wanted().allowed(None, of).get(&rule(udp)).map(|route| route.actions.to_string())
        };
        table.set_policy(Arc::new(Policy::new(&[net("10.0.0.0/8")], &[])));
        assert_eq!(told(&table, |_| true).unwrap(), "rate-bytes 5");
        assert_eq!(told(&table, |set| set == "b").unwrap(), "discard", "who is told one set alone");
        table.show("a", false);
        assert_eq!(told(&table, |_| true).unwrap(), "discard");
        assert_eq!(table.after(&change("b", Others::Go, &[udp, tcp], &[])), 3);
        assert_eq!(table.apply(&change("b", Others::Go, &[], &[])).removed, 1);
        assert!(table.wanted().is_empty());
        table.show("a", true);
        assert_eq!(table.sets().count(), 1);
    }

    #[test]
    fn the_allow_list_and_the_private_prefixes_hold_for_rules_too() {
        let policy = Policy::new(&[net("10.0.0.0/8"), net("203.0.113.0/24")], &[net("203.0.113.200/32")]);
        let fault = |text: &str, guard| {
            let mut change = change("s", Others::Stay, &[text], &[]);
            change.add[0].1.guard = guard;
            change.check(&policy).map_err(|error| error.to_string())
        };
        assert!(fault("destination 10.0.0.0/24 protocol =17", None).is_ok());
        assert!(fault("destination 203.0.113.200/32", Some(Guard::NoExport)).is_ok());
        for (text, named) in [
            ("destination 11.0.0.0/24", "rules[0]: 11.0.0.0/24 is outside inject.allow"),
            ("destination 203.0.113.0/24", "touches the private prefix 203.0.113.200/32"),
            ("protocol =17", "names no destination"),
            ("destination ::1:0:0:0/32-80", "names no destination"),
        ] {
            let error = fault(text, None).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let anywhere = policy.clone().with_flow_anywhere();
        assert!(change("s", Others::Stay, &["protocol =17"], &[]).check(&anywhere).is_ok());
        // A rule for all destinations is a rule for the private ones.
        let unguarded = change("s", Others::Stay, &["destination 0.0.0.0/0"], &[]).check(&anywhere);
        assert!(unguarded.is_err());
    }

    #[test]
    fn what_is_not_allowed_is_not_told_even_if_it_is_in_the_table() {
        let mut table = FlowTable::new(Arc::new(Policy::new(&[net("10.0.0.0/8")], &[])));
        table.apply(&change("s", Others::Go, &["destination 10.0.0.0/24", "destination 11.0.0.0/24"], &[]));
        let wanted = table.wanted();
        assert_eq!((wanted.len(), wanted.allowed(None, |_| true).len()), (2, 1));
    }

    #[test]
    fn a_rule_may_be_for_some_peers_and_others_are_told_of_the_next_set() {
        let mut table = FlowTable::new(Arc::new(Policy::new(&[net("10.0.0.0/8")], &[])));
        let text = "destination 10.0.0.0/24 protocol =17";
        let mut first = change("a", Others::Go, &[text], &[]);
        first.add[0].1.audience = vec!["192.0.2.1".parse().unwrap()];
        first.add[0].1.actions = "rate-bytes 5".parse().unwrap();
        table.apply(&first);
        let told = |table: &FlowTable, peer: &str| {
            let wanted = table.wanted();
            let told = wanted.allowed(Some(peer.parse().unwrap()), |_| true);
            told.values().map(|route| route.actions.to_string()).next()
        };
        assert_eq!((told(&table, "192.0.2.1").as_deref(), told(&table, "192.0.2.2")), (Some("rate-bytes 5"), None));
        table.apply(&change("b", Others::Go, &[text], &[]));
        assert_eq!(told(&table, "192.0.2.1").as_deref(), Some("rate-bytes 5"));
        assert_eq!(told(&table, "192.0.2.2").as_deref(), Some("discard"));
        assert_eq!(table.wanted().len(), 1);
    }

    #[test]
    fn what_is_there_already_takes_no_more_room() {
        let mut table = FlowTable::default();
        let (udp, tcp) = ("destination 10.0.0.0/24 protocol =17", "destination 10.0.0.0/24 protocol =6");
        table.apply(&change("a", Others::Go, &[udp, tcp], &[]));
        assert_eq!(table.after(&change("a", Others::Stay, &[udp], &[])), 2);
        assert_eq!(table.after(&change("a", Others::Stay, &[], &[udp])), 1);
        assert_eq!(table.after(&change("b", Others::Stay, &[udp, udp], &[])), 3);
    }
}
