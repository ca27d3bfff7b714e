//! Which prefixes may be injected at all, and which only under guard.

use std::net::IpAddr;

use bgp_wire::FlowRule;
use ipnet::IpNet;

use crate::guard::{Guard, Unguarded};

/// Why a prefix is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Bits are set behind the length.
    #[error("{0} has host bits set: {trunc} is the prefix", trunc = .0.trunc())]
    HostBits(IpNet),
    /// Outside the allow-list.
    #[error("{0} is outside inject.allow: add a prefix that holds it there, or leave it out")]
    NotAllowed(IpNet),
    /// Inside a private prefix, or over one, without a guard.
    #[error("{prefix} touches the private prefix {private}: give the set a guard")]
    Unguarded {
        /// What was asked.
        prefix: IpNet,
        /// The private prefix.
        private: IpNet,
    },
    /// A flow rule for packets to anywhere.
    #[error("the rule names no destination prefix: give one inside inject.allow, or set inject.flow-anywhere")]
    NoDestination,
}

/// The operator's allow-list and private prefixes. Held at the API, and again where bytes are made.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    v4: Ranges,
    v6: Ranges,
    private: Vec<IpNet>,
    /// Private prefixes that take no guard any more.
    lifted: Vec<IpNet>,
    flow_anywhere: bool,
}

impl Policy {
    /// Prefixes inside `allow` may be injected; those that touch one of `private` only under guard.
    #[must_use]
    pub fn new(allow: &[IpNet], private: &[IpNet]) -> Self {
        let of = |v4: bool| Ranges::new(allow.iter().filter(|prefix| prefix.addr().is_ipv4() == v4));
        Self { v4: of(true), v6: of(false), private: private.to_vec(), lifted: Vec::new(), flow_anywhere: false }
    }

    /// Flow rules may leave out where packets go.
    #[must_use]
    pub fn with_flow_anywhere(self) -> Self {
        Self { flow_anywhere: true, ..self }
    }

    /// Whether `rule` may go out under `guard`: its destination decides.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn check_flow(&self, rule: &FlowRule, guard: Option<Guard>) -> Result<(), Refusal> {
        match rule.destination() {
            Some(prefix) => self.check(prefix, guard),
            None if self.flow_anywhere => Ok(()),
            None => Err(Refusal::NoDestination),
        }
    }

    /// `prefix` is private no more, as the operator said twice: what touches it takes no guard, but for that of
    /// another private prefix that it touches as well.
    #[must_use]
    pub fn lift(mut self, prefix: IpNet, _: Unguarded) -> Self {
        self.private.retain(|private| *private != prefix);
        self.lifted.push(prefix);
        self
    }

    /// Whether `prefix` is of a private one, or holds one, whatever guards that.
    pub(crate) fn touches_private(&self, prefix: &IpNet) -> bool {
        self.private.iter().chain(&self.lifted).any(|private| overlap(private, prefix))
    }

    /// Whether `prefix` may go out under `guard`.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn check(&self, prefix: IpNet, guard: Option<Guard>) -> Result<(), Refusal> {
        if prefix.addr() != prefix.network() {
            return Err(Refusal::HostBits(prefix));
        }
        let (first, last) = bounds(&prefix);
        let ranges = if prefix.addr().is_ipv4() { &self.v4 } else { &self.v6 };
        if !ranges.hold(first, last) {
            return Err(Refusal::NotAllowed(prefix));
        }
        if guard.is_none()
            && let Some(private) = self.private.iter().find(|private| overlap(private, &prefix))
        {
            return Err(Refusal::Unguarded { prefix, private: *private });
        }
        Ok(())
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn bounds(prefix: &IpNet) -> (u128, u128) {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (number(prefix.network()), number(prefix.broadcast()))
}

/// Disjoint ranges of addresses of one family, in order.
#[derive(Debug, Clone, Default)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn new<'a>(prefixes: impl Iterator<Item = &'a IpNet>) -> Self {
        let mut bounds: Vec<(u128, u128)> = prefixes.map(bounds).collect();
        bounds.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in bounds {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn hold(&self, first: u128, last: u128) -> bool {
        let behind = self.0.partition_point(|(start, _)| *start <= first);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, end)| last <= *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_allowed_is_refused_and_private_prefixes_take_a_guard() {
        let allow = [net("10.0.0.0/9"), net("10.128.0.0/9"), net("203.0.113.0/24"), net("2001:db8::/32")];
        let policy = Policy::new(&allow, &[net("203.0.113.200/32")]);
        for prefix in ["10.0.0.0/8", "10.1.2.3/32", "203.0.113.0/25", "2001:db8::/48"] {
            assert_eq!(policy.check(net(prefix), None), Ok(()), "{prefix}");
        }
        for prefix in ["11.0.0.0/8", "10.0.0.0/7", "0.0.0.0/0", "203.0.112.0/23", "2001:db9::/48"] {
            let refusal = if prefix == "10.0.0.0/7" { net("10.0.0.0/7") } else { net(prefix) };
            assert_eq!(policy.check(refusal, None), Err(Refusal::NotAllowed(refusal)), "{prefix}");
        }
        for prefix in ["203.0.113.200/32", "203.0.113.128/25", "203.0.113.0/24"] {
            assert!(matches!(policy.check(net(prefix), None), Err(Refusal::Unguarded { .. })), "{prefix}");
            assert_eq!(policy.check(net(prefix), Some(Guard::NoExport)), Ok(()), "{prefix}");
        }
        assert!(matches!(policy.check(net("10.0.0.1/31"), None), Err(Refusal::HostBits(_))));
        assert!(Policy::default().check(net("10.0.0.0/24"), None).is_err(), "nothing is allowed unless given");
    }

    #[test]
    fn a_lifted_prefix_takes_no_guard_and_the_others_do() {
        let (lifted, guarded) = (net("203.0.113.128/25"), net("203.0.113.200/32"));
        let policy = Policy::new(&[net("203.0.113.0/24")], &[lifted, guarded]);
        assert!(policy.check(net("203.0.113.129/32"), None).is_err());
        let policy = policy.lift(lifted, Unguarded::lift(true, true).unwrap());
        assert_eq!(policy.check(net("203.0.113.129/32"), None), Ok(()));
        for prefix in [guarded, lifted] {
            assert!(
                matches!(policy.check(prefix, None), Err(Refusal::Unguarded { private, .. }) if private == guarded)
            );
        }
    }

    proptest! {
        #[test]
        fn ranges_agree_with_containment(allow in proptest::collection::vec((0u32.., 6u8..=32), 0..8), ip: u32, bits in 8u8..=32) {
            let net = |(ip, bits): (u32, u8)| IpNet::new(std::net::Ipv4Addr::from(ip & 0x0f0f_0000).into(), bits).unwrap().trunc();
            let allow: Vec<IpNet> = allow.into_iter().map(net).collect();
            let prefix = net((ip, bits));
            // Several neighbours may hold together what none holds alone: their aggregate says so.
            let held = IpNet::aggregate(&allow).iter().any(|outer| outer.contains(&prefix));
            prop_assert_eq!(Policy::new(&allow, &[]).check(prefix, None).is_ok(), held);
        }
    }
}
