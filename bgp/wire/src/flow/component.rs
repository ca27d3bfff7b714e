//! What packets have to fit (RFC 8955 §4.2.2, RFC 8956 §3).

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::FlowError;
use crate::reader::Reader;
use crate::types::Family;

/// One property of packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Component {
    /// Where they go.
    Destination(Pattern),
    /// Where they come from.
    Source(Pattern),
    /// A number in their headers: one of the terms fits.
    Numbers(NumberField, Vec<NumberTerm>),
    /// Flags in their headers: one of the terms fits.
    Bits(BitField, Vec<BitTerm>),
}

/// A component that is a number, by its type code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NumberField {
    /// IP protocol, or the upper-layer protocol of IPv6.
    Protocol = 3,
    /// Either port.
    Port = 4,
    /// The port at the destination.
    DestinationPort = 5,
    /// The port at the source.
    SourcePort = 6,
    /// Of ICMP, or of ICMPv6.
    IcmpType = 7,
    /// Of ICMP, or of ICMPv6.
    IcmpCode = 8,
    /// Octets of the IP packet, its header included.
    PacketLength = 10,
    /// Diffserv code point.
    Dscp = 11,
    /// IPv6 alone.
    FlowLabel = 13,
}

/// A component that is a set of flags, by its type code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BitField {
    /// The flags of a TCP header.
    TcpFlags = 9,
    /// Whether the packet is a fragment, and which.
    Fragment = 12,
}

const DESTINATION: u8 = 1;
const SOURCE: u8 = 2;

impl NumberField {
    pub(super) const ALL: [Self; 9] = [
        Self::Protocol,
        Self::Port,
        Self::DestinationPort,
        Self::SourcePort,
        Self::IcmpType,
        Self::IcmpCode,
        Self::PacketLength,
        Self::Dscp,
        Self::FlowLabel,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Port => "port",
            Self::DestinationPort => "destination-port",
            Self::SourcePort => "source-port",
            Self::IcmpType => "icmp-type",
            Self::IcmpCode => "icmp-code",
            Self::PacketLength => "packet-length",
            Self::Dscp => "dscp",
            Self::FlowLabel => "flow-label",
        }
    }

    /// The width that values have unless somebody chose another: for a flow label four octets (RFC 8956 §3.7),
    /// otherwise as few as hold it.
    #[must_use]
    pub const fn operand(self, value: u64) -> Operand {
        let least = Operand::least(value);
        match self {
            Self::FlowLabel if least.octets < 4 => Operand { value, octets: 4 },
            _ => least,
        }
    }
}

impl BitField {
    pub(super) const ALL: [Self; 2] = [Self::TcpFlags, Self::Fragment];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TcpFlags => "tcp-flags",
            Self::Fragment => "fragment",
        }
    }

    /// RFC 8955 §4.2.2.9, §4.2.2.12.
    const fn widest(self) -> u8 {
        match self {
            Self::TcpFlags => 2,
            Self::Fragment => 1,
        }
    }
}

/// A value, and how many octets it is written in: two ways to write a number are two rules to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operand {
    value: u64,
    octets: u8,
}

impl Operand {
    /// In as few octets as hold it.
    #[must_use]
    pub const fn least(value: u64) -> Self {
        let octets = match value {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        Self { value, octets }
    }

    /// In 1, 2, 4 or 8 octets; `None` when it is another number of octets, or does not fit.
    #[must_use]
    pub const fn new(value: u64, octets: u8) -> Option<Self> {
        match octets {
            1 | 2 | 4 | 8 if Self::least(value).octets <= octets => Some(Self { value, octets }),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.value
    }

    /// How many octets it is written in.
    #[must_use]
    pub const fn octets(self) -> u8 {
        self.octets
    }

    fn read(operator: u8, reader: &mut Reader<'_>) -> Option<Self> {
        let octets = 1_u8 << (operator >> 4 & 3);
        let bytes = reader.take(usize::from(octets))?;
        Some(Self { value: bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)), octets })
    }

    fn write(self, operator: u8, out: &mut Vec<u8>) {
        out.push(operator | u8::try_from(self.octets.trailing_zeros()).unwrap_or_default() << 4);
        out.extend(self.value.to_be_bytes().iter().skip(8 - usize::from(self.octets)));
    }
}

/// How a number compares (RFC 8955 §4.2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Comparison {
    /// Never, whatever the value.
    False,
    /// The same.
    Equal,
    /// More.
    Greater,
    /// At least.
    AtLeast,
    /// Less.
    Less,
    /// At most.
    AtMost,
    /// Another.
    Not,
    /// Always, whatever the value.
    True,
}

impl Comparison {
    pub(super) const ALL: [Self; 8] =
        [Self::False, Self::Equal, Self::Greater, Self::AtLeast, Self::Less, Self::AtMost, Self::Not, Self::True];
}

/// A comparison of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NumberTerm {
    /// The term before has to fit as well; otherwise either is enough. Of no consequence in the first.
    pub and: bool,
    /// How.
    pub comparison: Comparison,
    /// With what.
    pub operand: Operand,
}

/// A look at flags (RFC 8955 §4.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BitTerm {
    /// The term before has to fit as well; otherwise either is enough. Of no consequence in the first.
    pub and: bool,
    /// It is meant the other way round.
    pub not: bool,
    /// All of the flags are set; otherwise one is enough.
    pub all: bool,
    /// The flags.
    pub operand: Operand,
}

mod bit {
    pub(super) const END: u8 = 0x80;
    pub(super) const AND: u8 = 0x40;
    pub(super) const COMPARISON: u8 = 0x07;
    pub(super) const NOT: u8 = 0x02;
    pub(super) const MATCH: u8 = 0x01;
}

/// A term of either kind, less its place in the list.
trait Term: Sized {
    fn read(operator: u8, and: bool, operand: Operand) -> Self;
    fn operator(&self) -> u8;
    fn and(&self) -> bool;
    fn operand(&self) -> Operand;
}

impl Term for NumberTerm {
    fn read(operator: u8, and: bool, operand: Operand) -> Self {
        let comparison = usize::from(operator & bit::COMPARISON);
        Self { and, comparison: Comparison::ALL.get(comparison).copied().unwrap_or(Comparison::False), operand }
    }

    fn operator(&self) -> u8 {
        self.comparison as u8
    }

    fn and(&self) -> bool {
        self.and
    }

    fn operand(&self) -> Operand {
        self.operand
    }
}

impl Term for BitTerm {
    fn read(operator: u8, and: bool, operand: Operand) -> Self {
        Self { and, not: operator & bit::NOT != 0, all: operator & bit::MATCH != 0, operand }
    }

    fn operator(&self) -> u8 {
        (if self.not { bit::NOT } else { 0 }) | if self.all { bit::MATCH } else { 0 }
    }

    fn and(&self) -> bool {
        self.and
    }

    fn operand(&self) -> Operand {
        self.operand
    }
}

/// Reads terms up to the one that says that it is the last.
fn read_terms<T: Term>(reader: &mut Reader<'_>) -> Option<Vec<T>> {
    let mut terms = Vec::new();
    loop {
        let operator = reader.u8()?;
        let operand = Operand::read(operator, reader)?;
        // RFC 8955 §4.2.1.1: in the first operator AND counts as unset.
        let and = operator & bit::AND != 0 && !terms.is_empty();
        terms.push(T::read(operator, and, operand));
        if operator & bit::END != 0 {
            return Some(terms);
        }
    }
}

fn write_terms<T: Term>(terms: &[T], out: &mut Vec<u8>) {
    for (at, term) in terms.iter().enumerate() {
        let and = if term.and() && at > 0 { bit::AND } else { 0 };
        let end = if at + 1 == terms.len() { bit::END } else { 0 };
        term.operand().write(end | and | term.operator(), out);
    }
}

/// Bits of an address, from one on up to another (RFC 8956 §3.1); in IPv4 always from the first on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pattern {
    address: IpAddr,
    offset: u8,
    bits: u8,
}

impl Pattern {
    /// The bits of `address` behind `offset`, up to `bits`; the others are of no consequence and cleared. `None` when
    /// they are no part of the address, or none, unless both are zero, which fits every address.
    #[must_use]
    pub fn new(address: IpAddr, offset: u8, bits: u8) -> Option<Self> {
        let (longest, longest_offset) = if address.is_ipv4() { (32, 0) } else { (128, 127) };
        if bits > longest || offset > longest_offset || (offset >= bits && (offset, bits) != (0, 0)) {
            return None;
        }
        let network = IpNet::new(address, bits).ok()?.network();
        let address = match network {
            IpAddr::V6(address) if offset > 0 => {
                Ipv6Addr::from(u128::from(address) & (u128::MAX >> u32::from(offset))).into()
            }
            address => address,
        };
        Some(Self { address, offset, bits })
    }

    /// With the bits that are of no consequence cleared.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Where it begins.
    #[must_use]
    pub const fn offset(&self) -> u8 {
        self.offset
    }

    /// Where it ends.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// As a prefix, when it begins with the first bit.
    #[must_use]
    pub fn prefix(&self) -> Option<IpNet> {
        if self.offset == 0 { IpNet::new(self.address, self.bits).ok() } else { None }
    }

    /// The bits at the top of a number.
    fn number(&self) -> u128 {
        match self.address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => u128::from(address) << u32::from(self.offset),
        }
    }

    fn significant(&self) -> u8 {
        self.bits - self.offset
    }

    fn read(family: Family, reader: &mut Reader<'_>) -> Option<Result<Self, (u8, u8)>> {
        let bits = reader.u8()?;
        let offset = if family == Family::Ipv6 { reader.u8()? } else { 0 };
        let wrong = Err((bits, offset));
        let Some(significant) = bits.checked_sub(offset) else { return Some(wrong) };
        let octets = reader.take(usize::from(significant).div_ceil(8))?;
        let mut padded = [0; 16];
        let Some(place) = padded.get_mut(..octets.len()) else { return Some(wrong) };
        place.copy_from_slice(octets);
        let [a, b, c, d, ..] = padded;
        let address = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            Family::Ipv6 => {
                let shifted = u128::from_be_bytes(padded).checked_shr(u32::from(offset)).unwrap_or_default();
                IpAddr::V6(shifted.into())
            }
        };
        Some(Self::new(address, offset, bits).ok_or((bits, offset)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.bits);
        if self.address.is_ipv6() {
            out.push(self.offset);
        }
        let octets = usize::from(self.significant()).div_ceil(8);
        out.extend(self.number().to_be_bytes().iter().take(octets));
    }

    /// Lower offsets first (RFC 8956 §4); then the bits that both have, and where these are the same the longer first
    /// (RFC 8955 §5.1).
    fn precedence(&self, other: &Self) -> Ordering {
        let common = u32::from(self.significant().min(other.significant()));
        let head = |pattern: &Self| pattern.number().checked_shr(128 - common).unwrap_or_default();
        let bits = other.significant().cmp(&self.significant());
        self.offset.cmp(&other.offset).then(head(self).cmp(&head(other))).then(bits)
    }
}

impl Component {
    /// The type code.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Destination(_) => DESTINATION,
            Self::Source(_) => SOURCE,
            Self::Numbers(field, _) => *field as u8,
            Self::Bits(field, _) => *field as u8,
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Destination(_) => "destination",
            Self::Source(_) => "source",
            Self::Numbers(field, _) => field.name(),
            Self::Bits(field, _) => field.name(),
        }
    }

    /// The first term stands alone, so that equal rules have equal bytes.
    pub(super) fn normalise(&mut self) {
        match self {
            Self::Destination(_) | Self::Source(_) => {}
            Self::Numbers(_, terms) => terms.iter_mut().take(1).for_each(|term| term.and = false),
            Self::Bits(_, terms) => terms.iter_mut().take(1).for_each(|term| term.and = false),
        }
    }

    pub(super) fn check(&self, family: Family) -> Result<(), FlowError> {
        let component = self.name();
        let fits = |ok, error| if ok { Ok(()) } else { Err(error) };
        match self {
            Self::Destination(pattern) | Self::Source(pattern) => {
                fits(pattern.address.is_ipv4() == (family == Family::Ipv4), FlowError::Family(component))
            }
            Self::Numbers(NumberField::FlowLabel, _) if family == Family::Ipv4 => Err(FlowError::Family(component)),
            Self::Numbers(_, terms) if terms.is_empty() => Err(FlowError::NoValue(component)),
            Self::Bits(_, terms) if terms.is_empty() => Err(FlowError::NoValue(component)),
            // RFC 8955 §4.2.2.11: a code point is one octet; the widths of other numbers are only advice.
            Self::Numbers(NumberField::Dscp, terms) => match terms.iter().find(|term| term.operand.octets > 1) {
                Some(term) => Err(FlowError::Width { component, octets: term.operand.octets.into() }),
                None => Ok(()),
            },
            Self::Numbers(..) => Ok(()),
            Self::Bits(field, terms) => match terms.iter().find(|term| term.operand.octets > field.widest()) {
                Some(term) => Err(FlowError::Width { component, octets: term.operand.octets.into() }),
                None => Ok(()),
            },
        }
    }

    /// What follows the type code.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Destination(pattern) | Self::Source(pattern) => pattern.write(out),
            Self::Numbers(_, terms) => write_terms(terms, out),
            Self::Bits(_, terms) => write_terms(terms, out),
        }
    }

    pub(super) fn read(kind: u8, family: Family, reader: &mut Reader<'_>) -> Result<Self, FlowError> {
        let number = NumberField::ALL.into_iter().find(|field| *field as u8 == kind);
        let bits = BitField::ALL.into_iter().find(|field| *field as u8 == kind);
        match (kind, number, bits) {
            (DESTINATION | SOURCE, ..) => {
                let component = if kind == DESTINATION { "destination" } else { "source" };
                let pattern = Pattern::read(family, reader).ok_or(FlowError::CutOff(component))?;
                let pattern = pattern.map_err(|(bits, offset)| FlowError::Prefix { component, bits, offset })?;
                Ok(if kind == DESTINATION { Self::Destination(pattern) } else { Self::Source(pattern) })
            }
            (_, Some(field), _) => Ok(Self::Numbers(field, read_terms(reader).ok_or(FlowError::CutOff(field.name()))?)),
            (_, _, Some(field)) => Ok(Self::Bits(field, read_terms(reader).ok_or(FlowError::CutOff(field.name()))?)),
            (other, None, None) => Err(FlowError::Type(other)),
        }
    }

    /// Which of two goes first (RFC 8955 §5.1).
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        let values = || match (self, other) {
            (Self::Destination(a), Self::Destination(b)) | (Self::Source(a), Self::Source(b)) => a.precedence(b),
            _ => {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                self.write(&mut ours);
                other.write(&mut theirs);
                let common = ours.len().min(theirs.len());
                // The lower first; where one is the head of the other, the longer.
                ours.get(..common).cmp(&theirs.get(..common)).then(theirs.len().cmp(&ours.len()))
            }
        };
        self.kind().cmp(&other.kind()).then_with(values)
    }
}
