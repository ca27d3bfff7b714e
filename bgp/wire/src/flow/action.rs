//! What routers do with the packets of a rule: extended communities (RFC 8955 §7, RFC 8956 §6.1).

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::attribute::{Attributes, RawAttribute};
use crate::community::ExtendedCommunity;
use crate::rules::{Category, code};

/// A rate that packets are held to, never below zero; the bits of an IEEE 754 number of four octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u32);

impl Rate {
    /// Nothing passes.
    pub const ZERO: Self = Self(0);

    /// `rate` a second; `None` for what is no number. What is below zero counts as zero (RFC 8955 §7.1).
    #[must_use]
    pub fn new(rate: f32) -> Option<Self> {
        (!rate.is_nan()).then(|| Self(if rate > 0.0 { rate.to_bits() } else { 0 }))
    }

    /// A second.
    #[must_use]
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// What becomes of packets. Those of a rule without any pass, and no further rule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// So many octets a second pass; none with [`Rate::ZERO`] (RFC 8955 §7.1).
    RateBytes {
        /// Whose measure it is, for information.
        asn: u16,
        /// The rate.
        rate: Rate,
    },
    /// So many packets a second pass (RFC 8955 §7.2).
    RatePackets {
        /// Whose measure it is, for information.
        asn: u16,
        /// The rate.
        rate: Rate,
    },
    /// RFC 8955 §7.3.
    Traffic {
        /// T: further rules are looked at as well.
        further: bool,
        /// S: packets are sampled or logged.
        sample: bool,
    },
    /// To the VRF that imports the route target, of a two-octet AS (RFC 8955 §7.4).
    RedirectAs2(u16, u32),
    /// To the VRF that imports the route target, of an IPv4 address.
    RedirectIpv4(Ipv4Addr, u16),
    /// To the VRF that imports the route target, of a four-octet AS.
    RedirectAs4(u32, u16),
    /// To the VRF that imports the route target, of an IPv6 address (RFC 8956 §6.1).
    RedirectIpv6(Ipv6Addr, u16),
    /// With this Diffserv code point (RFC 8955 §7.5).
    Mark(u8),
}

mod kind {
    pub(super) const RATE_BYTES: [u8; 2] = [0x80, 0x06];
    pub(super) const RATE_PACKETS: [u8; 2] = [0x80, 0x0c];
    pub(super) const TRAFFIC: [u8; 2] = [0x80, 0x07];
    pub(super) const REDIRECT_AS2: [u8; 2] = [0x80, 0x08];
    pub(super) const MARK: [u8; 2] = [0x80, 0x09];
    pub(super) const REDIRECT_IPV4: [u8; 2] = [0x81, 0x08];
    pub(super) const REDIRECT_AS4: [u8; 2] = [0x82, 0x08];
    /// Among the communities of twenty octets.
    pub(super) const REDIRECT_IPV6: [u8; 2] = [0x00, 0x0d];
}

/// Traffic-action flags in the last octet (RFC 8955 §7.3: bits 46 and 47).
const SAMPLE: u8 = 2;
const FURTHER: u8 = 1;
/// Octets of an IPv6-address-specific community (RFC 5701).
const LONG: usize = 20;

/// What an extended community says of packets; `None` when it is about something else.
enum Reading {
    Action(Action),
    /// A rate that is no number.
    NoRate,
}

impl Action {
    fn read(ExtendedCommunity([high, low, a, b, c, d, e, g]): ExtendedCommunity) -> Option<Reading> {
        let asn = u16::from_be_bytes([a, b]);
        let rate = || Rate::new(f32::from_be_bytes([c, d, e, g]));
        let action = match [high, low] {
            kind::RATE_BYTES => rate().map(|rate| Self::RateBytes { asn, rate }),
            kind::RATE_PACKETS => rate().map(|rate| Self::RatePackets { asn, rate }),
            kind::TRAFFIC => Some(Self::Traffic { further: g & FURTHER != 0, sample: g & SAMPLE != 0 }),
            kind::REDIRECT_AS2 => Some(Self::RedirectAs2(asn, u32::from_be_bytes([c, d, e, g]))),
            kind::REDIRECT_IPV4 => Some(Self::RedirectIpv4([a, b, c, d].into(), u16::from_be_bytes([e, g]))),
            kind::REDIRECT_AS4 => Some(Self::RedirectAs4(u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g]))),
            // RFC 8955 §7.5: the code point is the last six bits.
            kind::MARK => Some(Self::Mark(g & 0x3f)),
            _ => return None,
        };
        Some(action.map_or(Reading::NoRate, Reading::Action))
    }

    /// As one of the communities of eight octets, or of twenty.
    fn write(self) -> Result<ExtendedCommunity, [u8; LONG]> {
        let community = |[high, low]: [u8; 2], [a, b]: [u8; 2], [c, d, e, g]: [u8; 4]| {
            Ok(ExtendedCommunity([high, low, a, b, c, d, e, g]))
        };
        let four = |[high, low]: [u8; 2], [a, b, c, d]: [u8; 4], [e, g]: [u8; 2]| {
            Ok(ExtendedCommunity([high, low, a, b, c, d, e, g]))
        };
        match self {
            Self::RateBytes { asn, rate } => community(kind::RATE_BYTES, asn.to_be_bytes(), rate.get().to_be_bytes()),
            Self::RatePackets { asn, rate } => {
                community(kind::RATE_PACKETS, asn.to_be_bytes(), rate.get().to_be_bytes())
            }
            Self::Traffic { further, sample } => {
                let flags = (if further { FURTHER } else { 0 }) | if sample { SAMPLE } else { 0 };
                community(kind::TRAFFIC, [0, 0], [0, 0, 0, flags])
            }
            Self::RedirectAs2(asn, number) => community(kind::REDIRECT_AS2, asn.to_be_bytes(), number.to_be_bytes()),
            Self::RedirectIpv4(address, number) => four(kind::REDIRECT_IPV4, address.octets(), number.to_be_bytes()),
            Self::RedirectAs4(asn, number) => four(kind::REDIRECT_AS4, asn.to_be_bytes(), number.to_be_bytes()),
            Self::Mark(dscp) => community(kind::MARK, [0, 0], [0, 0, 0, dscp & 0x3f]),
            Self::RedirectIpv6(address, number) => {
                let mut long = [0; LONG];
                let octets = kind::REDIRECT_IPV6.into_iter().chain(address.octets()).chain(number.to_be_bytes());
                for (to, from) in long.iter_mut().zip(octets) {
                    *to = from;
                }
                Err(long)
            }
        }
    }
}

/// What becomes of the packets of a rule, each action once, in one order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Actions(Vec<Action>);

impl Action {
    /// Whether it says where packets go.
    #[must_use]
    pub const fn redirects(&self) -> bool {
        match self {
            Self::RedirectAs2(..) | Self::RedirectIpv4(..) | Self::RedirectAs4(..) | Self::RedirectIpv6(..) => true,
            Self::RateBytes { .. } | Self::RatePackets { .. } | Self::Traffic { .. } | Self::Mark(_) => false,
        }
    }
}

impl Actions {
    /// Nothing passes.
    #[must_use]
    pub fn discard() -> Self {
        Self(vec![Action::RateBytes { asn: 0, rate: Rate::ZERO }])
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Action] {
        &self.0
    }

    /// Those that a route's attributes hold.
    #[must_use]
    pub fn of(attributes: &Attributes) -> Self {
        let short = attributes.extended_communities.iter().filter_map(|community| match Action::read(*community) {
            Some(Reading::Action(action)) => Some(action),
            Some(Reading::NoRate) | None => None,
        });
        let lists = attributes.others.iter().filter(|raw| raw.code == code::IPV6_EXTENDED_COMMUNITIES);
        let long = lists.flat_map(|raw| raw.value.as_chunks::<LONG>().0).filter_map(|community| {
            let ([high, low], rest) = community.split_first_chunk::<2>()?;
            let (address, number) = rest.split_first_chunk::<16>()?;
            let number = number.as_array::<2>()?;
            let redirect = Action::RedirectIpv6((*address).into(), u16::from_be_bytes(*number));
            ([*high, *low] == kind::REDIRECT_IPV6).then_some(redirect)
        });
        short.chain(long).collect()
    }

    /// `attributes` with these actions among their communities.
    #[must_use]
    pub fn attach(&self, mut attributes: Attributes) -> Attributes {
        let mut long = Vec::new();
        for action in &self.0 {
            match action.write() {
                Ok(community) => attributes.extended_communities.push(community),
                Err(community) => long.extend_from_slice(&community),
            }
        }
        if !long.is_empty() {
            let flags = Category::OptionalTransitive.flags();
            attributes.others.push(RawAttribute { flags, code: code::IPV6_EXTENDED_COMMUNITIES, value: long });
        }
        attributes
    }
}

/// Whether an action can't be read (RFC 8955 §10, RFC 7606 §7.14).
pub(crate) fn malformed(communities: &[ExtendedCommunity]) -> bool {
    communities.iter().any(|community| matches!(Action::read(*community), Some(Reading::NoRate)))
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut all: Vec<Action> = actions.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RateBytes { asn: 0, rate: Rate::ZERO } => f.write_str("discard"),
            Self::RateBytes { asn, rate } => write!(f, "rate-bytes {}{}", whose(*asn), rate.get()),
            Self::RatePackets { asn, rate } => write!(f, "rate-packets {}{}", whose(*asn), rate.get()),
            Self::Traffic { further: true, sample: true } => f.write_str("sample-and-continue"),
            Self::Traffic { further: true, sample: false } => f.write_str("continue"),
            Self::Traffic { further: false, sample: true } => f.write_str("sample"),
            Self::Traffic { further: false, sample: false } => f.write_str("stop"),
            Self::RedirectAs2(asn, number) => write!(f, "redirect {asn}:{number}"),
            Self::RedirectIpv4(address, number) => write!(f, "redirect {address}:{number}"),
            Self::RedirectAs4(asn, number) => write!(f, "redirect {asn}L:{number}"),
            Self::RedirectIpv6(address, number) => write!(f, "redirect [{address}]:{number}"),
            Self::Mark(dscp) => write!(f, "mark {dscp}"),
        }
    }
}

fn whose(asn: u16) -> String {
    if asn == 0 { String::new() } else { format!("{asn}:") }
}

/// A text is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "action {0:?} is not understood: write `discard`, `rate-bytes NUMBER`, `rate-packets NUMBER`, `redirect 64500:1`, \
     `redirect 192.0.2.1:1`, `redirect [2001:db8::1]:1`, `mark DSCP`, `sample`, `continue` or `sample-and-continue`"
)]
pub struct ActionTextError(pub String);

impl FromStr for Action {
    type Err = ActionTextError;

    fn from_str(text: &str) -> Result<Self, ActionTextError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let action = match words.as_slice() {
            ["discard"] => Some(Self::RateBytes { asn: 0, rate: Rate::ZERO }),
            ["rate-bytes", rate] => read_rate(rate).map(|(asn, rate)| Self::RateBytes { asn, rate }),
            ["rate-packets", rate] => read_rate(rate).map(|(asn, rate)| Self::RatePackets { asn, rate }),
            ["continue"] => Some(Self::Traffic { further: true, sample: false }),
            ["sample"] => Some(Self::Traffic { further: false, sample: true }),
            ["sample-and-continue"] => Some(Self::Traffic { further: true, sample: true }),
            ["stop"] => Some(Self::Traffic { further: false, sample: false }),
            ["redirect", target] => read_target(target),
            ["mark", dscp] => dscp.parse().ok().filter(|dscp| *dscp < 64).map(Self::Mark),
            _ => None,
        };
        action.ok_or_else(|| ActionTextError(text.to_owned()))
    }
}

fn read_rate(text: &str) -> Option<(u16, Rate)> {
    let (asn, rate) = match text.split_once(':') {
        Some((asn, rate)) => (asn.parse().ok()?, rate),
        None => (0, text),
    };
    let rate: f32 = rate.parse().ok()?;
    if rate.is_sign_negative() { None } else { Rate::new(rate).map(|rate| (asn, rate)) }
}

/// A route target; a number that two octets hold is a two-octet AS unless `L` follows it.
fn read_target(text: &str) -> Option<Action> {
    let (whose, number) = text.rsplit_once(':')?;
    if let Some(address) = whose.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Some(Action::RedirectIpv6(address.parse().ok()?, number.parse().ok()?));
    }
    if let Ok(address) = whose.parse::<Ipv4Addr>() {
        return Some(Action::RedirectIpv4(address, number.parse().ok()?));
    }
    if let Some(asn) = whose.strip_suffix('L') {
        return Some(Action::RedirectAs4(asn.parse().ok()?, number.parse().ok()?));
    }
    match whose.parse::<u16>() {
        Ok(asn) => Some(Action::RedirectAs2(asn, number.parse().ok()?)),
        Err(_) => Some(Action::RedirectAs4(whose.parse().ok()?, number.parse().ok()?)),
    }
}

impl Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("accept");
        }
        for (at, action) in self.0.iter().enumerate() {
            write!(f, "{}{action}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Actions separated by commas, or `accept` for none.
impl FromStr for Actions {
    type Err = ActionTextError;

    fn from_str(text: &str) -> Result<Self, ActionTextError> {
        match text.trim() {
            "accept" => Ok(Self::default()),
            text => text.split(',').map(str::parse).collect(),
        }
    }
}
