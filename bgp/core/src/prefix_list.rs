//! Prefix lists: which prefixes pass, by rules of which the first that fits decides.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// What becomes of a prefix that a rule fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Permit,
    /// It does not.
    Deny,
}

/// A rule: prefixes inside one, of a length between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    prefix: IpNet,
    shortest: u8,
    longest: u8,
    verdict: Verdict,
}

/// Why a rule can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Bits are set behind the length.
    #[error("{0} has host bits set: {trunc} is the prefix", trunc = .0.trunc())]
    HostBits(IpNet),
    /// No length is at least `ge` and at most `le` and fits the prefix.
    #[error("no prefix inside {prefix} is {shortest} to {longest} bits long: {least} <= ge <= le <= {most} is needed")]
    Lengths {
        /// The prefix.
        prefix: IpNet,
        /// From `ge`.
        shortest: u8,
        /// From `le`.
        longest: u8,
        /// The prefix's own length.
        least: u8,
        /// The longest of its family.
        most: u8,
    },
}

impl Rule {
    /// Fits what is inside `prefix` and `ge` to `le` bits long. Without both: `prefix` alone. Without `le`: as long as
    /// can be. Without `ge`: from the prefix's own length.
    ///
    /// # Errors
    /// [`RuleError`] says what can't be.
    pub fn new(prefix: IpNet, ge: Option<u8>, le: Option<u8>, verdict: Verdict) -> Result<Self, RuleError> {
        if prefix != prefix.trunc() {
            return Err(RuleError::HostBits(prefix));
        }
        let (least, most) = (prefix.prefix_len(), prefix.max_prefix_len());
        let (shortest, longest) = match (ge, le) {
            (None, None) => (least, least),
            (Some(ge), None) => (ge, most),
            (None, Some(le)) => (least, le),
            (Some(ge), Some(le)) => (ge, le),
        };
        if !(least <= shortest && shortest <= longest && longest <= most) {
            return Err(RuleError::Lengths { prefix, shortest, longest, least, most });
        }
        Ok(Self { prefix, shortest, longest, verdict })
    }
}

/// A prefix's family and bits.
type Key = (bool, u128);

/// The rules that lie on one prefix: place in the list, lengths, verdict.
type Found = Vec<(usize, u8, u8, Verdict)>;

/// Rules in order. What none fits does not pass.
#[derive(Debug, Clone, Default)]
pub struct PrefixList {
    rules: Vec<Rule>,
    /// By the length of the rule's prefix, then by its bits: a look-up costs what there are lengths, not rules.
    index: BTreeMap<u8, HashMap<Key, Found>>,
}

impl PartialEq for PrefixList {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for PrefixList {}

impl PrefixList {
    /// The first rule that fits decides.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut index: BTreeMap<u8, HashMap<Key, Found>> = BTreeMap::new();
        for (at, rule) in rules.iter().enumerate() {
            let found = index.entry(rule.prefix.prefix_len()).or_default().entry(key(&rule.prefix)).or_default();
            found.push((at, rule.shortest, rule.longest, rule.verdict));
        }
        Self { rules, index }
    }

    /// Whether `prefix` passes.
    #[must_use]
    pub fn permits(&self, prefix: &IpNet) -> bool {
        let (v4, bits) = key(prefix);
        let length = prefix.prefix_len();
        let fits = self.index.range(..=length).filter_map(|(outer, rules)| {
            let found = rules.get(&(v4, cut(bits, *outer)))?;
            found.iter().find(|(_, shortest, longest, _)| (*shortest..=*longest).contains(&length))
        });
        fits.min_by_key(|(at, ..)| *at).is_some_and(|(.., verdict)| *verdict == Verdict::Permit)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none, so that nothing passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// The address of both families on the left of 128 bits.
fn key(prefix: &IpNet) -> Key {
    match prefix.network() {
        IpAddr::V4(address) => (true, u128::from(u32::from(address)) << 96),
        IpAddr::V6(address) => (false, u128::from(address)),
    }
}

/// The first `length` of 128 bits.
const fn cut(bits: u128, length: u8) -> u128 {
    match length {
        0 => 0,
        _ => bits & (u128::MAX << (128_u8.saturating_sub(length))),
    }
}

/// Which prefixes pass between a peer and the table, whatever else is asked of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Filter {
    /// All.
    #[default]
    All,
    /// None.
    Nothing,
    /// What a list permits.
    List(Arc<PrefixList>),
    /// What passes another filter, of routes that are to be kept for so many seconds or longer while we are down.
    Kept(u32, Arc<Filter>),
    /// What passes another filter, of routes that are not private.
    Public(Arc<Filter>),
}

/// What counts of a wanted route beside its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// For how many seconds it is to be kept while we are down, if at all.
    pub(crate) keep_s: Option<u32>,
    /// It is of a private prefix.
    pub(crate) private: bool,
}

impl Filter {
    /// Whether `prefix` passes.
    #[must_use]
    pub fn takes(&self, prefix: &IpNet) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::List(list) => list.permits(prefix),
            Self::Kept(_, filter) | Self::Public(filter) => filter.takes(prefix),
        }
    }

    /// Whether more counts than the prefix.
    pub(crate) const fn looks_at_standing(&self) -> bool {
        matches!(self, Self::Kept(..) | Self::Public(_))
    }

    /// Whether a route of `prefix` passes.
    pub(crate) fn passes(&self, prefix: &IpNet, standing: Standing) -> bool {
        match self {
            Self::All | Self::Nothing | Self::List(_) => self.takes(prefix),
            Self::Kept(least, filter) => {
                standing.keep_s.is_some_and(|keep_s| keep_s >= *least) && filter.passes(prefix, standing)
            }
            Self::Public(filter) => !standing.private && filter.passes(prefix, standing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn rule(prefix: &str, ge: Option<u8>, le: Option<u8>, verdict: Verdict) -> Rule {
        Rule::new(net(prefix), ge, le, verdict).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_without_one_nothing_passes() {
        let list = PrefixList::new(vec![
            rule("10.0.0.0/8", Some(24), Some(24), Verdict::Deny),
            rule("10.0.0.0/8", None, Some(24), Verdict::Permit),
            rule("192.0.2.0/24", None, None, Verdict::Permit),
            rule("198.51.100.0/24", Some(32), None, Verdict::Permit),
            rule("2001:db8::/32", Some(48), Some(64), Verdict::Permit),
        ]);
        for (prefix, passes) in [
            ("10.0.0.0/8", true),
            ("10.1.0.0/16", true),
            ("10.1.2.0/24", false),
            ("10.1.2.0/25", false),
            ("192.0.2.0/24", true),
            ("192.0.2.0/25", false),
            ("198.51.100.7/32", true),
            ("198.51.100.0/24", false),
            ("2001:db8:7::/48", true),
            ("2001:db8::/32", false),
            ("::/0", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(list.permits(&net(prefix)), passes, "{prefix}");
        }
        assert!(!PrefixList::default().permits(&net("10.0.0.0/8")));
        assert!(PrefixList::new(vec![rule("::/0", None, Some(128), Verdict::Permit)]).permits(&net("2001:db8::1/128")));
    }

    #[test]
    fn a_rule_says_what_cannot_be() {
        let wrong = |prefix, ge, le| Rule::new(net(prefix), ge, le, Verdict::Permit).unwrap_err().to_string();
        assert!(wrong("10.0.0.1/8", None, None).contains("10.0.0.0/8 is the prefix"));
        assert!(wrong("10.0.0.0/8", Some(7), None).contains("8 <= ge <= le <= 32"));
        assert!(wrong("10.0.0.0/8", Some(25), Some(24)).contains("25 to 24"));
        assert!(wrong("10.0.0.0/8", None, Some(33)).contains("8 to 33"));
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_going_through_the_rules(
            rules in proptest::collection::vec((0u32.., 0u8..=32, 0u8..=32, 0u8..=32, any::<bool>()), 0..12),
            ip: u32, bits in 0u8..=32,
        ) {
            let cut = |ip: u32, bits| IpNet::new(std::net::Ipv4Addr::from(ip & 0xc0c0_0000).into(), bits).unwrap().trunc();
            let rules: Vec<Rule> = rules.into_iter().filter_map(|(ip, bits, ge, le, permit)| {
                let verdict = if permit { Verdict::Permit } else { Verdict::Deny };
                Rule::new(cut(ip, bits), Some(ge), Some(le), verdict).ok()
            }).collect();
            let prefix = cut(ip, bits);
            let first = rules.iter().find(|rule| {
                rule.prefix.contains(&prefix) && (rule.shortest..=rule.longest).contains(&prefix.prefix_len())
            });
            let naive = first.is_some_and(|rule| rule.verdict == Verdict::Permit);
            prop_assert_eq!(PrefixList::new(rules.clone()).permits(&prefix), naive);
        }
    }
}
