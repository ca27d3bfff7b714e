//! What the flags of each attribute type must be, and what becomes of a malformed one (RFC 7606 §7).
//!
//! The one place that decides: [`crate::AttributeError::disposition`] and the decoder read it here.

use crate::error::{AttributeFault, Disposition};

/// Attribute type codes.
pub(crate) mod code {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MULTI_EXIT_DISC: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub(crate) const LARGE_COMMUNITIES: u8 = 32;
    pub(crate) const ONLY_TO_CUSTOMER: u8 = 35;
}

/// Attribute flag bits.
pub(crate) mod flag {
    pub(crate) const OPTIONAL: u8 = 0x80;
    pub(crate) const TRANSITIVE: u8 = 0x40;
    pub(crate) const EXTENDED: u8 = 0x10;
}

/// What an attribute is to a speaker (RFC 4271 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Category {
    WellKnown,
    OptionalTransitive,
    OptionalNonTransitive,
}

impl Category {
    pub(crate) const fn flags(self) -> u8 {
        match self {
            Self::WellKnown => flag::TRANSITIVE,
            Self::OptionalTransitive => flag::OPTIONAL | flag::TRANSITIVE,
            Self::OptionalNonTransitive => flag::OPTIONAL,
        }
    }
}

/// Who may send an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Anybody,
    /// Sender an external peer it is left out, whatever it holds.
    Internal,
    /// Sender a four-octet speaker it is left out (RFC 6793 §6).
    TwoOctet,
}

/// A row: one attribute type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) code: u8,
    pub(crate) name: &'static str,
    pub(crate) category: Category,
    pub(crate) sender: Sender,
    /// What a wrong length or value leads to.
    pub(crate) malformed: Disposition,
    /// Where that is said.
    pub(crate) section: &'static str,
}

const fn rule(
    code: u8,
    name: &'static str,
    category: Category,
    sender: Sender,
    malformed: Disposition,
    section: &'static str,
) -> Rule {
    Rule { code, name, category, sender, malformed, section }
}

use Category::{OptionalNonTransitive, OptionalTransitive, WellKnown};
use Disposition::{DisableFamily, Discard, Withdraw};
use Sender::{Anybody, Internal, TwoOctet};

/// In the order of the codes.
pub(crate) const RULES: &[Rule] = &[
    rule(code::ORIGIN, "ORIGIN", WellKnown, Anybody, Withdraw, "RFC 7606 §7.1"),
    rule(code::AS_PATH, "AS_PATH", WellKnown, Anybody, Withdraw, "RFC 7606 §7.2"),
    rule(code::NEXT_HOP, "NEXT_HOP", WellKnown, Anybody, Withdraw, "RFC 7606 §7.3"),
    rule(code::MULTI_EXIT_DISC, "MULTI_EXIT_DISC", OptionalNonTransitive, Anybody, Withdraw, "RFC 7606 §7.4"),
    rule(code::LOCAL_PREF, "LOCAL_PREF", WellKnown, Internal, Withdraw, "RFC 7606 §7.5"),
    rule(code::ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE", WellKnown, Anybody, Discard, "RFC 7606 §7.6"),
    rule(code::AGGREGATOR, "AGGREGATOR", OptionalTransitive, Anybody, Discard, "RFC 7606 §7.7"),
    rule(code::COMMUNITIES, "COMMUNITIES", OptionalTransitive, Anybody, Withdraw, "RFC 7606 §7.8"),
    rule(code::ORIGINATOR_ID, "ORIGINATOR_ID", OptionalNonTransitive, Internal, Withdraw, "RFC 7606 §7.9"),
    rule(code::CLUSTER_LIST, "CLUSTER_LIST", OptionalNonTransitive, Internal, Withdraw, "RFC 7606 §7.10"),
    rule(code::MP_REACH, "MP_REACH_NLRI", OptionalNonTransitive, Anybody, DisableFamily, "RFC 7606 §5.3, §7.11"),
    rule(code::MP_UNREACH, "MP_UNREACH_NLRI", OptionalNonTransitive, Anybody, DisableFamily, "RFC 7606 §5.3, §7.12"),
    rule(code::EXTENDED_COMMUNITIES, "EXTENDED_COMMUNITIES", OptionalTransitive, Anybody, Withdraw, "RFC 7606 §7.14"),
    rule(code::AS4_PATH, "AS4_PATH", OptionalTransitive, TwoOctet, Discard, "RFC 6793 §6"),
    rule(code::AS4_AGGREGATOR, "AS4_AGGREGATOR", OptionalTransitive, TwoOctet, Discard, "RFC 6793 §6"),
    rule(
        code::IPV6_EXTENDED_COMMUNITIES,
        "IPV6_EXTENDED_COMMUNITIES",
        OptionalTransitive,
        Anybody,
        Withdraw,
        "RFC 7606 §7.15",
    ),
    rule(code::LARGE_COMMUNITIES, "LARGE_COMMUNITIES", OptionalTransitive, Anybody, Withdraw, "RFC 8092 §5"),
    rule(code::ONLY_TO_CUSTOMER, "ONLY_TO_CUSTOMER", OptionalTransitive, Anybody, Withdraw, "RFC 9234 §5"),
];

/// The row of a type that is read here.
pub(crate) fn of(code: u8) -> Option<&'static Rule> {
    // The first ten are the ten lowest codes, and nearly all that is asked for.
    let at_its_place = RULES.get(usize::from(code).wrapping_sub(1)).filter(|rule| rule.code == code);
    at_its_place.or_else(|| RULES.iter().find(|rule| rule.code == code))
}

/// What the type is called.
pub(crate) fn name(code: u8) -> String {
    of(code).map_or_else(|| code.to_string(), |rule| rule.name.to_owned())
}

/// What `fault` in an attribute of this type leads to, and where that is said.
pub(crate) fn treatment(fault: AttributeFault, code: u8) -> (Disposition, &'static str) {
    let multiprotocol = matches!(code, code::MP_REACH | code::MP_UNREACH);
    match fault {
        AttributeFault::Repeated if multiprotocol => (Disposition::Reset, "RFC 7606 §3 (g)"),
        AttributeFault::Repeated => (Discard, "RFC 7606 §3 (g)"),
        // RFC 4271 §6.3, which RFC 7606 leaves as it is.
        AttributeFault::Unrecognized => (Disposition::Reset, "RFC 4271 §6.3"),
        AttributeFault::Flags => (Withdraw, "RFC 7606 §3 (c)"),
        AttributeFault::Missing => (Withdraw, "RFC 7606 §3 (d)"),
        AttributeFault::CutOff => (Withdraw, "RFC 7606 §4"),
        // The prefixes could be read, and so can be withdrawn.
        AttributeFault::Value if code == code::MP_REACH => (Withdraw, "RFC 7606 §7.3, §7.11"),
        // A rule that is none was never taken, so that it can't be taken back either.
        AttributeFault::FlowRule if code == code::MP_UNREACH => (Discard, "RFC 8955 §4.2, §10"),
        AttributeFault::FlowRule => (Withdraw, "RFC 8955 §4.2, §10"),
        AttributeFault::Length | AttributeFault::Value => {
            of(code).map_or((Withdraw, "RFC 7606 §2"), |rule| (rule.malformed, rule.section))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_in_order_and_each_cites_its_section() {
        assert!(RULES.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(RULES.iter().all(|rule| rule.section.starts_with("RFC ") && rule.section.contains('§')));
        assert_eq!(name(code::MP_REACH), "MP_REACH_NLRI");
        assert_eq!(name(99), "99");
    }

    #[test]
    fn no_malformed_value_resets_where_the_rfc_wants_less() {
        for rule in RULES {
            for fault in [AttributeFault::Length, AttributeFault::Value, AttributeFault::Flags] {
                assert_ne!(treatment(fault, rule.code).0, Disposition::Reset, "{}", rule.name);
            }
        }
    }
}
