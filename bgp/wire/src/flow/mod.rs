//! Flow specifications: rules that say which packets are meant, and what routers do with them (RFC 8955, RFC 8956).

mod action;
mod component;
mod pack;
mod text;

use std::cmp::Ordering;

use ipnet::IpNet;

pub(crate) use action::malformed;
pub use action::{Action, ActionTextError, Actions, Rate};
pub use component::{BitField, BitTerm, Comparison, Component, NumberField, NumberTerm, Operand, Pattern};
pub use pack::{announce_flow, withdraw_flow};
pub use text::{FlowTextError, protocol_number};

use crate::reader::Reader;
use crate::types::Family;

/// Octets of the longest rule: what twelve bits of length can say (RFC 8955 §4.1).
pub const LONGEST_RULE: usize = 0xfff;
/// Rules of fewer octets have a length of one octet (RFC 8955 §4.1).
const LONG: usize = 0xf0;

/// Which packets are meant: those that every component fits. Ordered as routers apply rules, first to last
/// (RFC 8955 §5.1, RFC 8956 §4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowRule {
    family: Family,
    components: Vec<Component>,
}

/// Why components make no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// It would mean every packet.
    #[error("the rule has no component")]
    Empty,
    /// Each type stands once, in the order of the types (RFC 8955 §4.2).
    #[error("{later} stands behind {earlier}: each component once, in the order of the types")]
    Order {
        /// The one in front.
        earlier: &'static str,
        /// The one behind it.
        later: &'static str,
    },
    /// An IPv6 prefix in a rule of IPv4, or the reverse; or a flow label in a rule of IPv4.
    #[error("{0} is not of the rule's family")]
    Family(&'static str),
    /// A list of operators without any.
    #[error("{0} has no value")]
    NoValue(&'static str),
    /// A value of another width than the component has (RFC 8955 §4.2.2).
    #[error("{component} with a value of {octets} octets")]
    Width {
        /// Which.
        component: &'static str,
        /// How wide.
        octets: usize,
    },
    /// More than [`LONGEST_RULE`].
    #[error("a rule of {0} octets: {LONGEST_RULE} are the most")]
    TooLong(usize),
    /// Bytes with a type that nobody knows (RFC 8955 §4.2).
    #[error("component type {0} is unknown")]
    Type(u8),
    /// Bytes that end inside a component.
    #[error("{0} is cut off")]
    CutOff(&'static str),
    /// A prefix longer than an address, or an offset behind its length (RFC 8956 §3.1).
    #[error("{component} of {bits} bits from bit {offset} on")]
    Prefix {
        /// Destination or source.
        component: &'static str,
        /// Its length.
        bits: u8,
        /// Where it begins.
        offset: u8,
    },
}

impl FlowRule {
    /// A rule of `family` of which packets fit every one of `components`.
    ///
    /// # Errors
    /// [`FlowError`] says what keeps them from being one.
    pub fn new(family: Family, mut components: Vec<Component>) -> Result<Self, FlowError> {
        if components.is_empty() {
            return Err(FlowError::Empty);
        }
        components.iter_mut().for_each(Component::normalise);
        for (earlier, later) in components.iter().zip(components.iter().skip(1)) {
            if earlier.kind() >= later.kind() {
                return Err(FlowError::Order { earlier: earlier.name(), later: later.name() });
            }
        }
        components.iter().try_for_each(|component| component.check(family))?;
        let rule = Self { family, components };
        match rule.encode().len() {
            0..=LONGEST_RULE => Ok(rule),
            length => Err(FlowError::TooLong(length)),
        }
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// What packets have to fit, in the order of the types.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// The prefix that packets go to, where the rule names one from its first bit on.
    #[must_use]
    pub fn destination(&self) -> Option<IpNet> {
        self.components.iter().find_map(|component| match component {
            Component::Destination(pattern) => pattern.prefix(),
            _ => None,
        })
    }

    /// As it stands on the wire behind its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        for component in &self.components {
            out.push(component.kind());
            component.write(&mut out);
        }
        out
    }

    /// Octets on the wire, length and all.
    #[must_use]
    pub fn encoded_length(&self) -> usize {
        let length = self.encode().len();
        length + if length < LONG { 1 } else { 2 }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let value = self.encode();
        let length = u16::try_from(value.len()).unwrap_or_default();
        match u8::try_from(length) {
            Ok(octet) if value.len() < LONG => out.push(octet),
            _ => out.extend_from_slice(&(length | 0xf000).to_be_bytes()),
        }
        out.extend_from_slice(&value);
    }

    /// Reads what [`FlowRule::encode`] writes.
    ///
    /// # Errors
    /// [`FlowError`] names the component.
    pub fn decode(family: Family, value: &[u8]) -> Result<Self, FlowError> {
        let mut reader = Reader::new(value);
        let mut components = Vec::new();
        while let Some(kind) = reader.u8() {
            components.push(Component::read(kind, family, &mut reader)?);
        }
        Self::new(family, components)
    }
}

impl Ord for FlowRule {
    /// Rules of IPv4 and of IPv6 never meet in a router; here they have to have some order.
    fn cmp(&self, other: &Self) -> Ordering {
        let ours = self.components.iter().map(Some).chain(std::iter::once(None));
        let theirs = other.components.iter().map(Some).chain(std::iter::once(None));
        let differs = ours.zip(theirs).map(|pair| match pair {
            (None, None) => Ordering::Equal,
            // More that has to fit means fewer packets: it goes first.
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.precedence(b),
        });
        let rules = differs.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal);
        self.family.cmp(&other.family).then(rules)
    }
}

impl PartialOrd for FlowRule {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rules of an NLRI field, and what is wrong with those that are none; `None` when a length overruns the field, so
/// that nobody knows where the next begins.
pub(crate) fn read_all(family: Family, bytes: &[u8]) -> Option<(Vec<FlowRule>, Vec<FlowError>)> {
    let mut reader = Reader::new(bytes);
    let (mut rules, mut wrong) = (Vec::new(), Vec::new());
    while let Some(first) = reader.u8() {
        let length = match usize::from(first) {
            short @ 0..LONG => short,
            long => (long & 0x0f) << 8 | usize::from(reader.u8()?),
        };
        match FlowRule::decode(family, reader.take(length)?) {
            Ok(rule) => rules.push(rule),
            Err(error) => wrong.push(error),
        }
    }
    Some((rules, wrong))
}
