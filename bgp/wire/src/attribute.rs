//! Path attributes (RFC 4271 §4.3 and §5), less the prefixes that ride in MP_REACH and MP_UNREACH.

use std::fmt;
use std::net::Ipv4Addr;

use crate::error::{AttributeError, AttributeFault, EncodeError};
use crate::message::Context;
use crate::reader::Reader;
use crate::types::{Asn, Community};

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
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const AS4_PATH: u8 = 17;

    pub(crate) fn name(code: u8) -> String {
        let name = match code {
            ORIGIN => "ORIGIN",
            AS_PATH => "AS_PATH",
            NEXT_HOP => "NEXT_HOP",
            MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
            LOCAL_PREF => "LOCAL_PREF",
            ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
            AGGREGATOR => "AGGREGATOR",
            COMMUNITIES => "COMMUNITIES",
            MP_REACH => "MP_REACH_NLRI",
            MP_UNREACH => "MP_UNREACH_NLRI",
            AS4_PATH => "AS4_PATH",
            other => return other.to_string(),
        };
        name.to_owned()
    }
}

/// Attribute flag bits.
pub(crate) mod flag {
    pub(crate) const OPTIONAL: u8 = 0x80;
    pub(crate) const TRANSITIVE: u8 = 0x40;
    pub(crate) const EXTENDED: u8 = 0x10;
}

/// Where a route entered BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learnt by EGP.
    Egp,
    /// By some other means.
    Incomplete,
}

/// One segment of an AS_PATH, of 1 to 255 AS numbers (RFC 4271 §4.3, RFC 5065 §3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Unordered.
    Set(Vec<Asn>),
    /// Ordered, nearest first.
    Sequence(Vec<Asn>),
    /// Ordered, within the confederation.
    ConfederationSequence(Vec<Asn>),
    /// Unordered, within the confederation.
    ConfederationSet(Vec<Asn>),
}

impl Segment {
    fn new(kind: u8, numbers: Vec<Asn>) -> Option<Self> {
        match kind {
            1 => Some(Self::Set(numbers)),
            2 => Some(Self::Sequence(numbers)),
            3 => Some(Self::ConfederationSequence(numbers)),
            4 => Some(Self::ConfederationSet(numbers)),
            _ => None,
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Set(_) => 1,
            Self::Sequence(_) => 2,
            Self::ConfederationSequence(_) => 3,
            Self::ConfederationSet(_) => 4,
        }
    }

    /// Its AS numbers.
    #[must_use]
    pub fn numbers(&self) -> &[Asn] {
        match self {
            Self::Set(numbers)
            | Self::Sequence(numbers)
            | Self::ConfederationSequence(numbers)
            | Self::ConfederationSet(numbers) => numbers,
        }
    }

    /// What it adds to the path's length (RFC 4271 §9.1.2.2, RFC 5065 §5.3).
    fn length(&self) -> usize {
        match self {
            Self::Set(_) => 1,
            Self::Sequence(numbers) => numbers.len(),
            Self::ConfederationSequence(_) | Self::ConfederationSet(_) => 0,
        }
    }

    const fn within_confederation(&self) -> bool {
        matches!(self, Self::ConfederationSequence(_) | Self::ConfederationSet(_))
    }
}

/// An AS path; empty for a route of the own AS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// A path of one sequence; of none when `numbers` is empty.
    #[must_use]
    pub fn sequence(numbers: impl Into<Vec<Asn>>) -> Self {
        let numbers = numbers.into();
        Self(if numbers.is_empty() { Vec::new() } else { vec![Segment::Sequence(numbers)] })
    }

    /// Whether `asn` is on the path: a loop, if it is our own (RFC 4271 §9.1.2).
    #[must_use]
    pub fn contains(&self, asn: Asn) -> bool {
        self.0.iter().any(|segment| segment.numbers().contains(&asn))
    }

    fn length(&self) -> usize {
        self.0.iter().map(Segment::length).sum()
    }

    /// `None` when it does not parse: RFC 7606 §7.2 names the ways.
    fn decode(value: &[u8], four_octets: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let (kind, count) = (reader.u8()?, reader.u8()?);
            let number =
                |reader: &mut Reader<'_>| if four_octets { reader.u32() } else { reader.u16().map(u32::from) }.map(Asn);
            let numbers = (0..count).map(|_| number(&mut reader)).collect::<Option<Vec<_>>>()?;
            if numbers.is_empty() {
                return None;
            }
            segments.push(Segment::new(kind, numbers)?);
        }
        Some(Self(segments))
    }

    fn encode(&self, four_octets: bool) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        for segment in &self.0 {
            let length = segment.numbers().len();
            let count =
                u8::try_from(length).map_err(|_| EncodeError { what: "AS_PATH segment", length, limit: 255 })?;
            out.extend_from_slice(&[segment.kind(), count]);
            for number in segment.numbers() {
                if four_octets {
                    out.extend_from_slice(&number.0.to_be_bytes());
                } else {
                    out.extend_from_slice(&number.two_octets().to_be_bytes());
                }
            }
        }
        Ok(out)
    }

    /// Whether two octets a number lose something.
    fn needs_as4(&self) -> bool {
        self.0.iter().flat_map(Segment::numbers).any(|number| number.0 > u32::from(u16::MAX))
    }

    /// The path that AS_PATH and AS4_PATH say together (RFC 6793 §4.2.3).
    fn merged(self, as4: Self) -> Self {
        let Some(mut leading) = self.length().checked_sub(as4.length()) else { return self };
        let mut segments = Vec::new();
        for segment in self.0 {
            if segment.within_confederation() {
                segments.push(segment);
                continue;
            }
            if leading == 0 {
                break;
            }
            match segment {
                Segment::Sequence(mut numbers) if numbers.len() > leading => {
                    numbers.truncate(leading);
                    leading = 0;
                    segments.push(Segment::Sequence(numbers));
                }
                segment => {
                    leading = leading.saturating_sub(segment.length());
                    segments.push(segment);
                }
            }
        }
        segments.extend(as4.0);
        Self(segments)
    }
}

/// As `64500 64501 {64502,64503}`.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |numbers: &[Asn], by| numbers.iter().map(Asn::to_string).collect::<Vec<_>>().join(by);
        let words = self.0.iter().map(|segment| match segment {
            Segment::Sequence(numbers) => join(numbers, " "),
            Segment::Set(numbers) => format!("{{{}}}", join(numbers, ",")),
            Segment::ConfederationSequence(numbers) => format!("({})", join(numbers, " ")),
            Segment::ConfederationSet(numbers) => format!("[{}]", join(numbers, ",")),
        });
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

/// An attribute whose value is passed through: its flags (less the length bit), type and value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawAttribute {
    /// Optional, transitive and partial bits.
    pub flags: u8,
    /// The type code.
    pub code: u8,
    /// The value.
    pub value: Vec<u8>,
}

impl RawAttribute {
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        write_attribute(self.flags, self.code, &self.value, out)
    }
}

/// The path attributes that routes share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// AS_PATH.
    pub as_path: Option<AsPath>,
    /// NEXT_HOP, of the IPv4 prefixes in the UPDATE itself.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC.
    pub multi_exit_disc: Option<u32>,
    /// LOCAL_PREF, on internal sessions only.
    pub local_pref: Option<u32>,
    /// COMMUNITIES; empty means that there is no such attribute.
    pub communities: Vec<Community>,
    /// ATOMIC_AGGREGATE, AGGREGATOR and optional ones that are not read here.
    pub others: Vec<RawAttribute>,
}

impl Attributes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets what the attribute says; `Err` names what is wrong with it.
    pub(crate) fn set(&mut self, raw: &RawAttribute, context: Context) -> Result<(), AttributeFault> {
        let value = raw.value.as_slice();
        match raw.code {
            code::ORIGIN => {
                self.origin = Some(match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    [_] => return Err(AttributeFault::Value),
                    _ => return Err(AttributeFault::Length),
                });
            }
            code::AS_PATH => {
                self.as_path = Some(AsPath::decode(value, context.four_octet_as).ok_or(AttributeFault::Value)?);
            }
            code::NEXT_HOP => {
                let next_hop = Ipv4Addr::from(*value.as_array::<4>().ok_or(AttributeFault::Length)?);
                if !is_host(next_hop) {
                    return Err(AttributeFault::Value);
                }
                self.next_hop = Some(next_hop);
            }
            code::MULTI_EXIT_DISC => self.multi_exit_disc = Some(number(value)?),
            // RFC 7606 §7.5: from an external peer it is left out, whatever it holds.
            code::LOCAL_PREF if context.external => {}
            code::LOCAL_PREF => self.local_pref = Some(number(value)?),
            code::COMMUNITIES => {
                let (chunks, rest) = value.as_chunks::<4>();
                if chunks.is_empty() || !rest.is_empty() {
                    return Err(AttributeFault::Length);
                }
                self.communities = chunks.iter().map(|chunk| Community(u32::from_be_bytes(*chunk))).collect();
            }
            code::ATOMIC_AGGREGATE if !value.is_empty() => return Err(AttributeFault::Length),
            code::AGGREGATOR if value.len() != if context.four_octet_as { 8 } else { 6 } => {
                return Err(AttributeFault::Length);
            }
            // RFC 6793 §6: from a four-octet speaker it is left out.
            code::AS4_PATH if context.four_octet_as => {}
            code::AS4_PATH => {
                let as4 = AsPath::decode(value, true).ok_or(AttributeFault::Value)?;
                let outside = as4.0.into_iter().filter(|segment| !segment.within_confederation()).collect();
                self.as_path = self.as_path.take().map(|path| path.merged(AsPath(outside)));
            }
            _ => self.others.push(raw.clone()),
        }
        Ok(())
    }

    /// Writes them in the order of their types (RFC 4271 §5).
    pub(crate) fn write(&self, context: Context, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        const WELL_KNOWN: u8 = flag::TRANSITIVE;
        const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
        let mut list = Vec::new();
        let mut add = |flags, code, value: Vec<u8>| list.push(RawAttribute { flags, code, value });
        if let Some(origin) = self.origin {
            add(WELL_KNOWN, code::ORIGIN, vec![origin as u8]);
        }
        if let Some(path) = &self.as_path {
            add(WELL_KNOWN, code::AS_PATH, path.encode(context.four_octet_as)?);
            if !context.four_octet_as && path.needs_as4() {
                let outside = path.0.iter().filter(|segment| !segment.within_confederation()).cloned().collect();
                add(OPTIONAL_TRANSITIVE, code::AS4_PATH, AsPath(outside).encode(true)?);
            }
        }
        if let Some(next_hop) = self.next_hop {
            add(WELL_KNOWN, code::NEXT_HOP, next_hop.octets().into());
        }
        if let Some(value) = self.multi_exit_disc {
            add(flag::OPTIONAL, code::MULTI_EXIT_DISC, value.to_be_bytes().into());
        }
        if let Some(value) = self.local_pref {
            add(WELL_KNOWN, code::LOCAL_PREF, value.to_be_bytes().into());
        }
        if !self.communities.is_empty() {
            let value = self.communities.iter().flat_map(|community| community.0.to_be_bytes()).collect();
            add(OPTIONAL_TRANSITIVE, code::COMMUNITIES, value);
        }
        list.extend(self.others.iter().cloned());
        list.sort_by_key(|attribute| attribute.code);
        list.iter().try_for_each(|attribute| attribute.write(out))
    }
}

/// Whether an address can be a next hop (RFC 4271 §6.3: a host's).
fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

fn number(value: &[u8]) -> Result<u32, AttributeFault> {
    value.as_array::<4>().map(|octets| u32::from_be_bytes(*octets)).ok_or(AttributeFault::Length)
}

/// What the optional and transitive bits of a known type must be (RFC 4271 §5 and each type's definition).
fn expected_flags(code: u8) -> Option<u8> {
    match code {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            Some(flag::TRANSITIVE)
        }
        code::AGGREGATOR | code::COMMUNITIES | code::AS4_PATH => Some(flag::OPTIONAL | flag::TRANSITIVE),
        code::MULTI_EXIT_DISC | code::MP_REACH | code::MP_UNREACH => Some(flag::OPTIONAL),
        _ => None,
    }
}

/// Cuts an attribute list into attributes. After the first that is cut off, nothing more can be found.
pub(crate) fn split(list: &[u8]) -> (Vec<RawAttribute>, Option<AttributeError>) {
    let mut attributes = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let mut reader = Reader::new(rest);
        match read_attribute(&mut reader) {
            Some(attribute) => attributes.push(attribute),
            None => {
                let code = rest.get(1).copied().unwrap_or_default();
                let cut = AttributeError { code, fault: AttributeFault::CutOff, received: rest.into() };
                return (attributes, Some(cut));
            }
        }
        rest = reader.rest();
    }
    (attributes, None)
}

fn read_attribute(reader: &mut Reader<'_>) -> Option<RawAttribute> {
    let (flags, code) = (reader.u8()?, reader.u8()?);
    let length = if flags & flag::EXTENDED == 0 { usize::from(reader.u8()?) } else { usize::from(reader.u16()?) };
    let value = reader.take(length)?.into();
    // The low four bits mean nothing (RFC 4271 §4.3), the length bit only how the length is written.
    Some(RawAttribute { flags: flags & 0xe0, code, value })
}

/// Holds the flags of `attribute` to its type.
pub(crate) fn check_flags(attribute: &RawAttribute) -> Result<(), AttributeFault> {
    let bits = attribute.flags & (flag::OPTIONAL | flag::TRANSITIVE);
    match expected_flags(attribute.code) {
        Some(expected) if bits != expected => Err(AttributeFault::Flags),
        None if bits & flag::OPTIONAL == 0 => Err(AttributeFault::Unrecognized),
        _ => Ok(()),
    }
}

/// The flaw `fault` in `attribute`, with the attribute written out for the NOTIFICATION.
pub(crate) fn flaw(attribute: &RawAttribute, fault: AttributeFault) -> AttributeError {
    let mut received = Vec::new();
    // A value that was received fits the length field that it came with.
    let written = attribute.write(&mut received);
    debug_assert!(written.is_ok(), "{written:?}");
    AttributeError { code: attribute.code, fault, received }
}

pub(crate) fn write_attribute(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match u8::try_from(value.len()) {
        Ok(length) => out.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            let limit = usize::from(u16::MAX);
            let length = u16::try_from(value.len()).map_err(|_| EncodeError {
                what: "path attribute",
                length: value.len(),
                limit,
            })?;
            out.extend_from_slice(&[flags | flag::EXTENDED, code]);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AS_TRANS;

    fn asns(numbers: &[u32]) -> Vec<Asn> {
        numbers.iter().copied().map(Asn).collect()
    }

    #[test]
    fn as4_path_fills_in_what_two_octets_lose() {
        let path = AsPath::sequence(asns(&[64500, u32::from(AS_TRANS), 64502]));
        let as4 = AsPath::sequence(asns(&[4_200_000_001, 64502]));
        let merged = path.clone().merged(as4);
        assert_eq!(merged.to_string(), "64500 4200000001 64502");
        // RFC 6793 §4.2.3: a longer AS4_PATH is ignored.
        let longer = AsPath::sequence(asns(&[1, 2, 3, 4]));
        assert_eq!(path.clone().merged(longer), path);
    }

    #[test]
    fn a_path_prints_its_sets_and_confederations() {
        let path = AsPath(vec![
            Segment::ConfederationSequence(asns(&[65001])),
            Segment::Sequence(asns(&[64500, 64501])),
            Segment::Set(asns(&[64502, 64503])),
        ]);
        assert_eq!(path.to_string(), "(65001) 64500 64501 {64502,64503}");
        assert!(path.contains(Asn(64503)));
        assert!(!path.contains(Asn(64504)));
    }
}
