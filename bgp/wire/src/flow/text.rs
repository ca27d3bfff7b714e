//! Rules as operators write them: `destination 203.0.113.200/32 protocol =6 destination-port =443`.
//!
//! A number is compared by `=` (which may be left out), `!=`, `<`, `<=`, `>`, `>=`; flags by nothing (one of them is set),
//! `=` (all are), and either with `!` in front. Several values of a component are alternatives; `&` joins two that must
//! both fit. `80-90` is short for `>=80&<=90`. An IPv6 pattern that begins behind the first bit is written
//! `::1234:5678:9a00:0/64-104`. `ipv6` in front says what nothing else in a rule does.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;

use super::{BitField, BitTerm, Comparison, Component, FlowRule, NumberField, NumberTerm, Operand, Pattern};
use crate::types::Family;

/// A text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("flow rule: {at}: {reason}")]
pub struct FlowTextError {
    /// The component, or the word that was not understood.
    pub at: String,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong(at: impl Into<String>, reason: impl Into<String>) -> FlowTextError {
    FlowTextError { at: at.into(), reason: reason.into() }
}

const PROTOCOLS: [(&str, u64); 9] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
];
/// The number of an IP protocol by the name that rules take.
#[must_use]
pub fn protocol_number(name: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|(known, _)| *known == name).and_then(|(_, number)| u8::try_from(*number).ok())
}

const TCP_FLAGS: [(&str, u64); 8] =
    [("fin", 1), ("syn", 2), ("rst", 4), ("push", 8), ("ack", 16), ("urg", 32), ("ece", 64), ("cwr", 128)];
const FRAGMENTS: [(&str, u64); 4] =
    [("dont-fragment", 1), ("is-fragment", 2), ("first-fragment", 4), ("last-fragment", 8)];

/// In the order of [`Comparison`].
const COMPARISONS: [&str; 8] = ["false:", "=", ">", ">=", "<", "<=", "!=", "true:"];

impl Display for FlowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if self.family() == Family::Ipv6 && self.components().iter().all(|component| family_of(component).is_none()) {
            f.write_str("ipv6")?;
            gap = " ";
        }
        for component in self.components() {
            write!(f, "{gap}{component}")?;
            gap = " ";
        }
        Ok(())
    }
}

/// The family that a component shows.
fn family_of(component: &Component) -> Option<Family> {
    match component {
        Component::Destination(pattern) | Component::Source(pattern) => {
            Some(if pattern.address().is_ipv4() { Family::Ipv4 } else { Family::Ipv6 })
        }
        Component::Numbers(NumberField::FlowLabel, _) => Some(Family::Ipv6),
        Component::Numbers(..) | Component::Bits(..) => None,
    }
}

impl Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Destination(pattern) | Self::Source(pattern) => write!(f, " {pattern}"),
            Self::Numbers(field, terms) => {
                for (at, term) in terms.iter().enumerate() {
                    let operator = COMPARISONS.get(term.comparison as usize).copied().unwrap_or_default();
                    write!(f, "{}{operator}{}", joint(term.and, at), term.operand.value())?;
                    width(term.operand, field.operand(term.operand.value()), f)?;
                }
                Ok(())
            }
            Self::Bits(_, terms) => {
                for (at, term) in terms.iter().enumerate() {
                    let (not, all) = (if term.not { "!" } else { "" }, if term.all { "=" } else { "" });
                    write!(f, "{}{not}{all}{:#x}", joint(term.and, at), term.operand.value())?;
                    width(term.operand, Operand::least(term.operand.value()), f)?;
                }
                Ok(())
            }
        }
    }
}

fn joint(and: bool, at: usize) -> &'static str {
    if and && at > 0 { "&" } else { " " }
}

/// A value that takes more room than it has to is another rule: `#2` says how many octets.
fn width(operand: Operand, usual: Operand, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if operand == usual { Ok(()) } else { write!(f, "#{}", operand.octets()) }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset() {
            0 => write!(f, "{}/{}", self.address(), self.bits()),
            offset => write!(f, "{}/{offset}-{}", self.address(), self.bits()),
        }
    }
}

impl FromStr for FlowRule {
    type Err = FlowTextError;

    fn from_str(text: &str) -> Result<Self, FlowTextError> {
        let mut words = text.split_whitespace().peekable();
        let mut family = match words.peek() {
            Some(&"ipv4") => Some(Family::Ipv4),
            Some(&"ipv6") => Some(Family::Ipv6),
            _ => None,
        };
        if family.is_some() {
            words.next();
        }
        let mut components = Vec::new();
        while let Some(name) = words.next() {
            let field = Name::find(name).ok_or_else(|| wrong(name, Name::all()))?;
            let mut values = Vec::new();
            // A pattern is one word, so that a misspelt component behind it is named as such.
            let most = if matches!(field, Name::Destination | Name::Source) { 1 } else { usize::MAX };
            while values.len() < most
                && let Some(value) = words.next_if(|word| Name::find(word).is_none())
            {
                values.push(value);
            }
            let component = field.component(&values).map_err(|reason| wrong(name, reason))?;
            family = family.or_else(|| family_of(&component));
            components.push(component);
        }
        components.sort_by_key(Component::kind);
        Self::new(family.unwrap_or(Family::Ipv4), components).map_err(|error| wrong(text, error.to_string()))
    }
}

/// What a word may name.
enum Name {
    Destination,
    Source,
    Number(NumberField),
    Bits(BitField),
}

impl Name {
    fn find(word: &str) -> Option<Self> {
        let number = NumberField::ALL.into_iter().find(|field| field.name() == word).map(Self::Number);
        let bits = || BitField::ALL.into_iter().find(|field| field.name() == word).map(Self::Bits);
        match word {
            "destination" => Some(Self::Destination),
            "source" => Some(Self::Source),
            _ => number.or_else(bits),
        }
    }

    fn all() -> String {
        let numbers = NumberField::ALL.map(NumberField::name);
        let bits = BitField::ALL.map(BitField::name);
        format!("not understood: destination, source, {}, {}", numbers.join(", "), bits.join(", "))
    }

    fn component(&self, values: &[&str]) -> Result<Component, String> {
        match self {
            Self::Destination => Ok(Component::Destination(pattern(values)?)),
            Self::Source => Ok(Component::Source(pattern(values)?)),
            Self::Number(field) => terms(values, |text, and, out| number(*field, text, and, out))
                .map(|terms| Component::Numbers(*field, terms)),
            Self::Bits(field) => terms(values, |text, and, out| flags(*field, text, and, out))
                .map(|terms| Component::Bits(*field, terms)),
        }
    }
}

fn pattern(values: &[&str]) -> Result<Pattern, String> {
    let [text] = values else { return Err("give one prefix".to_owned()) };
    let wrong = || format!("{text:?} is no prefix: write it as 192.0.2.0/24, 2001:db8::/32 or ::5678:0:0/64-104");
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let (offset, bits) = match bits {
        "" if !text.contains('/') => (0, if address.is_ipv4() { 32 } else { 128 }),
        bits => {
            let (offset, bits) = bits.split_once('-').unwrap_or(("0", bits));
            (offset.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?)
        }
    };
    let pattern = Pattern::new(address, offset, bits).ok_or_else(wrong)?;
    if pattern.address() == address { Ok(pattern) } else { Err(format!("{text} has bits set that are not meant")) }
}

/// Alternatives by gaps, what must fit together by `&`.
fn terms<T>(values: &[&str], read: impl Fn(&str, bool, &mut Vec<T>) -> Result<(), String>) -> Result<Vec<T>, String> {
    if values.is_empty() {
        return Err("give a value".to_owned());
    }
    let mut terms = Vec::new();
    for value in values {
        for (at, text) in value.split('&').enumerate() {
            read(text, at > 0, &mut terms)?;
        }
    }
    Ok(terms)
}

fn number(field: NumberField, text: &str, and: bool, out: &mut Vec<NumberTerm>) -> Result<(), String> {
    // The longer operators first: `>` is the head of `>=`.
    let mut operators: Vec<(&str, Comparison)> = COMPARISONS.into_iter().zip(Comparison::ALL).collect();
    operators.push(("==", Comparison::Equal));
    operators.sort_by_key(|(operator, _)| std::cmp::Reverse(operator.len()));
    let found = operators.iter().find_map(|(operator, how)| text.strip_prefix(operator).map(|rest| (*how, rest)));
    let (comparison, rest) = found.unwrap_or((Comparison::Equal, text));
    let names: &[(&str, u64)] = if field == NumberField::Protocol { &PROTOCOLS } else { &[] };
    let operand = |text: &str| operand(text, |value| field.operand(value), names);
    if let (None, Some((low, high))) = (found, rest.split_once('-')) {
        out.push(NumberTerm { and, comparison: Comparison::AtLeast, operand: operand(low)? });
        out.push(NumberTerm { and: true, comparison: Comparison::AtMost, operand: operand(high)? });
        return Ok(());
    }
    out.push(NumberTerm { and, comparison, operand: operand(rest)? });
    Ok(())
}

fn flags(field: BitField, text: &str, and: bool, out: &mut Vec<BitTerm>) -> Result<(), String> {
    let (not, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let (all, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
    let names: &[(&str, u64)] = if field == BitField::TcpFlags { &TCP_FLAGS } else { &FRAGMENTS };
    let named = rest
        .split('+')
        .try_fold(0, |flags, word| names.iter().find(|(name, _)| *name == word).map(|(_, flag)| flags | flag));
    let operand = match named {
        Some(flags) => Operand::least(flags),
        None => operand(rest, Operand::least, names)?,
    };
    out.push(BitTerm { and, not, all, operand });
    Ok(())
}

/// A number in decimal or behind `0x`, or a name; `#2` says that it takes two octets.
fn operand(text: &str, usual: impl Fn(u64) -> Operand, names: &[(&str, u64)]) -> Result<Operand, String> {
    let wrong = || {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        match names.as_slice() {
            [] => format!("{text:?} is no number"),
            names => format!("{text:?} is no number and none of {}", names.join(", ")),
        }
    };
    let (value, octets) = match text.split_once('#') {
        Some((value, octets)) => (value, Some(octets.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let named = names.iter().find(|(name, _)| *name == value).map(|(_, value)| *value);
    let value = match (named, value.strip_prefix("0x")) {
        (Some(value), _) => value,
        (None, Some(digits)) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).map_err(|_| wrong())?,
        (None, None) if value.starts_with(|c: char| c.is_ascii_digit()) => value.parse().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    match octets {
        None => Ok(usual(value)),
        Some(octets) => Operand::new(value, octets).ok_or_else(|| format!("{value} does not fit {octets} octets")),
    }
}
