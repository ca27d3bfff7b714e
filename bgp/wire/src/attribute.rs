//! Path attributes (RFC 4271 §4.3 and §5), less the prefixes that ride in MP_REACH and MP_UNREACH.

use std::net::Ipv4Addr;

use crate::as_path::AsPath;
use crate::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::error::{AttributeError, AttributeFault, EncodeError};
use crate::message::Context;
use crate::reader::Reader;
use crate::rules::{self, code, flag};
use crate::types::{AS_TRANS, Asn};

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

/// Who made an aggregate of several routes (RFC 4271 §5.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// Its AS.
    pub asn: Asn,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Aggregator {
    /// RFC 7607 §2: AS 0 makes it malformed.
    fn decode(value: &[u8], four_octet_as: bool) -> Result<Self, AttributeFault> {
        let mut reader = Reader::new(value);
        let number = if four_octet_as { reader.u32() } else { reader.u16().map(u32::from) };
        match (number, reader.array::<4>(), reader.is_empty()) {
            (Some(0), Some(_), true) => Err(AttributeFault::Value),
            (Some(number), Some(address), true) => Ok(Self { asn: Asn(number), address: address.into() }),
            _ => Err(AttributeFault::Length),
        }
    }

    fn encode(self, four_octet_as: bool) -> Vec<u8> {
        let mut value = Vec::with_capacity(8);
        if four_octet_as {
            value.extend_from_slice(&self.asn.0.to_be_bytes());
        } else {
            value.extend_from_slice(&self.asn.two_octets().to_be_bytes());
        }
        value.extend_from_slice(&self.address.octets());
        value
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

/// An attribute in the bytes that it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawView<'a> {
    pub(crate) flags: u8,
    pub(crate) code: u8,
    pub(crate) value: &'a [u8],
    /// All of it, as it stands on the wire.
    pub(crate) whole: &'a [u8],
}

impl RawView<'_> {
    fn to_owned(self) -> RawAttribute {
        RawAttribute { flags: self.flags, code: self.code, value: self.value.into() }
    }
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
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES; empty means that there is no such attribute.
    pub communities: Vec<Community>,
    /// ORIGINATOR_ID (RFC 4456 §8), on internal sessions only.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456 §8), on internal sessions only; empty means that there is none.
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED_COMMUNITIES; empty means that there is no such attribute.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// LARGE_COMMUNITIES; empty means that there is no such attribute.
    pub large_communities: Vec<LargeCommunity>,
    /// ONLY_TO_CUSTOMER: the AS that sent it down or sideways (RFC 9234 §5).
    pub only_to_customer: Option<Asn>,
    /// Optional ones that are not read here.
    pub others: Vec<RawAttribute>,
}

/// What a two-octet speaker says beside AS_PATH and AGGREGATOR (RFC 6793 §4.2.3).
#[derive(Debug, Default)]
pub(crate) struct FourOctetWords {
    path: Option<AsPath>,
    aggregator: Option<Aggregator>,
}

impl Attributes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets what the attribute says; `Err` names what is wrong with it.
    pub(crate) fn set(
        &mut self,
        raw: RawView<'_>,
        context: Context,
        words: &mut FourOctetWords,
    ) -> Result<(), AttributeFault> {
        let value = raw.value;
        match rules::of(raw.code).map(|rule| rule.sender) {
            Some(rules::Sender::Internal) if context.external => return Ok(()),
            Some(rules::Sender::TwoOctet) if context.four_octet_as => return Ok(()),
            _ => {}
        }
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
                let path = AsPath::decode(value, context.four_octet_as).ok_or(AttributeFault::Value)?;
                // RFC 5065 §5: a confederation is nothing that a stranger tells of.
                if context.external && path.0.iter().any(|segment| segment.within_confederation()) {
                    return Err(AttributeFault::Value);
                }
                self.as_path = Some(path);
            }
            code::NEXT_HOP => {
                let next_hop = address(value)?;
                if !is_host(next_hop) {
                    return Err(AttributeFault::Value);
                }
                self.next_hop = Some(next_hop);
            }
            code::MULTI_EXIT_DISC => self.multi_exit_disc = Some(number(value)?),
            code::LOCAL_PREF => self.local_pref = Some(number(value)?),
            code::ATOMIC_AGGREGATE if !value.is_empty() => return Err(AttributeFault::Length),
            code::ATOMIC_AGGREGATE => self.atomic_aggregate = true,
            code::AGGREGATOR => self.aggregator = Some(Aggregator::decode(value, context.four_octet_as)?),
            code::COMMUNITIES => self.communities = list(value, |octets| Community(u32::from_be_bytes(octets)))?,
            code::ORIGINATOR_ID => self.originator_id = Some(address(value)?),
            code::CLUSTER_LIST => self.cluster_list = list(value, Ipv4Addr::from)?,
            code::EXTENDED_COMMUNITIES => self.extended_communities = list(value, ExtendedCommunity)?,
            code::IPV6_EXTENDED_COMMUNITIES => {
                list(value, |_: [u8; 20]| ())?;
                self.others.push(raw.to_owned());
            }
            code::AS4_PATH => {
                let path = AsPath::decode(value, true).ok_or(AttributeFault::Value)?;
                let outside = path.0.into_iter().filter(|segment| !segment.within_confederation()).collect();
                words.path = Some(AsPath(outside));
            }
            code::AS4_AGGREGATOR => words.aggregator = Some(Aggregator::decode(value, true)?),
            code::LARGE_COMMUNITIES => {
                self.large_communities = list(value, |[a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]| {
                    LargeCommunity(
                        u32::from_be_bytes([a, b, c, d]),
                        u32::from_be_bytes([e, f, g, h]),
                        u32::from_be_bytes([i, j, k, l]),
                    )
                })?;
            }
            code::ONLY_TO_CUSTOMER => self.only_to_customer = Some(Asn(number(value)?)),
            _ => self.others.push(raw.to_owned()),
        }
        Ok(())
    }

    /// Lets the four-octet words amend what two octets could not hold (RFC 6793 §4.2.3).
    pub(crate) fn amend(&mut self, words: FourOctetWords) {
        if let (Some(said), Some(aggregator)) = (&mut self.aggregator, words.aggregator) {
            if said.asn != Asn(u32::from(AS_TRANS)) {
                // Somebody on the way made a new aggregate and knew of neither word.
                return;
            }
            *said = aggregator;
        }
        if let Some(as4) = words.path {
            self.as_path = self.as_path.take().map(|path| path.merged(as4));
        }
    }

    /// Writes them as the list that an UPDATE carries; `next_hop` stands for [`Attributes::next_hop`].
    ///
    /// # Errors
    /// [`EncodeError`] when something does not fit its length field.
    pub fn encode(&self, next_hop: Option<Ipv4Addr>, context: Context, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // In the order of their types (RFC 4271 §5); the unread ones each in its place.
        let mut others: Vec<&RawAttribute> = self.others.iter().collect();
        others.sort_by_key(|attribute| attribute.code);
        let mut writer = Writer { out, others: &others };
        if let Some(origin) = self.origin {
            writer.put(code::ORIGIN, |out| out.push(origin as u8))?;
        }
        let outside =
            |path: &AsPath| AsPath(path.0.iter().filter(|segment| !segment.within_confederation()).cloned().collect());
        if let Some(path) = &self.as_path {
            writer.begin(code::AS_PATH, |out| path.encode(context.four_octet_as, out))?;
        }
        if let Some(next_hop) = next_hop {
            writer.put(code::NEXT_HOP, |out| out.extend_from_slice(&next_hop.octets()))?;
        }
        for (code, value) in [(code::MULTI_EXIT_DISC, self.multi_exit_disc), (code::LOCAL_PREF, self.local_pref)] {
            if let Some(value) = value {
                writer.put(code, |out| out.extend_from_slice(&value.to_be_bytes()))?;
            }
        }
        if self.atomic_aggregate {
            writer.put(code::ATOMIC_AGGREGATE, |_| ())?;
        }
        if let Some(aggregator) = self.aggregator {
            writer.put(code::AGGREGATOR, |out| out.extend(aggregator.encode(context.four_octet_as)))?;
        }
        writer.list(code::COMMUNITIES, &self.communities, |one| one.0.to_be_bytes())?;
        if let Some(id) = self.originator_id {
            writer.put(code::ORIGINATOR_ID, |out| out.extend_from_slice(&id.octets()))?;
        }
        writer.list(code::CLUSTER_LIST, &self.cluster_list, Ipv4Addr::octets)?;
        writer.list(code::EXTENDED_COMMUNITIES, &self.extended_communities, |one| one.0)?;
        if !context.four_octet_as {
            if let Some(path) = self.as_path.as_ref().filter(|path| path.needs_as4()) {
                writer.begin(code::AS4_PATH, |out| outside(path).encode(true, out))?;
            }
            if let Some(aggregator) = self.aggregator.filter(|aggregator| aggregator.asn.0 > u32::from(u16::MAX)) {
                writer.put(code::AS4_AGGREGATOR, |out| out.extend(aggregator.encode(true)))?;
            }
        }
        writer.list(code::LARGE_COMMUNITIES, &self.large_communities, large)?;
        if let Some(asn) = self.only_to_customer {
            writer.put(code::ONLY_TO_CUSTOMER, |out| out.extend_from_slice(&asn.0.to_be_bytes()))?;
        }
        writer.end()
    }

    /// Reads a list that [`Attributes::encode`] wrote, or another of its kind; `None` when something in it is wrong,
    /// however mild. The attributes that carry prefixes are left out.
    #[must_use]
    pub fn decode(list: &[u8], context: Context) -> Option<Self> {
        let (raw, cut_off) = split(list);
        let mut attributes = Self::default();
        let mut words = FourOctetWords::default();
        for raw in raw.iter().filter(|raw| !matches!(raw.code, code::MP_REACH | code::MP_UNREACH)) {
            check_flags(*raw).and_then(|()| attributes.set(*raw, context, &mut words)).ok()?;
        }
        attributes.amend(words);
        cut_off.is_none().then_some(attributes)
    }
}

/// Writes attributes in the order of their types.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// What is written as it is, and has yet to be.
    others: &'a [&'a RawAttribute],
}

impl Writer<'_> {
    /// An attribute of a type that is read here, and before it all others of lower types.
    fn begin(
        &mut self,
        code: u8,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        while let Some((other, rest)) = self.others.split_first().filter(|(other, _)| other.code < code) {
            other.write(self.out)?;
            self.others = rest;
        }
        let flags = rules::of(code).map_or(flag::OPTIONAL, |rule| rule.category.flags());
        let start = self.out.len();
        self.out.extend_from_slice(&[flags, code, 0]);
        value(self.out)?;
        let length = self.out.len() - start - 3;
        if let Ok(length) = u8::try_from(length) {
            if let Some(place) = self.out.get_mut(start + 2) {
                *place = length;
            }
            return Ok(());
        }
        let value = self.out.split_off(start + 3);
        self.out.truncate(start);
        write_attribute(flags, code, &value, self.out)
    }

    fn put(&mut self, code: u8, value: impl FnOnce(&mut Vec<u8>)) -> Result<(), EncodeError> {
        self.begin(code, |out| {
            value(out);
            Ok(())
        })
    }

    /// A list of items; none when it is empty.
    fn list<T: Copy, const N: usize>(
        &mut self,
        code: u8,
        items: &[T],
        octets: impl Fn(&T) -> [u8; N],
    ) -> Result<(), EncodeError> {
        if items.is_empty() {
            return Ok(());
        }
        self.put(code, |out| out.extend(items.iter().flat_map(octets)))
    }

    fn end(self) -> Result<(), EncodeError> {
        self.others.iter().try_for_each(|other| other.write(self.out))
    }
}

fn large(one: &LargeCommunity) -> [u8; 12] {
    let LargeCommunity(asn, first, second) = one;
    let mut octets = [0; 12];
    for (to, number) in octets.chunks_exact_mut(4).zip([asn, first, second]) {
        to.copy_from_slice(&number.to_be_bytes());
    }
    octets
}

/// Whether an address can be a next hop (RFC 4271 §6.3: a host's).
pub(crate) fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

fn number(value: &[u8]) -> Result<u32, AttributeFault> {
    value.as_array::<4>().map(|octets| u32::from_be_bytes(*octets)).ok_or(AttributeFault::Length)
}

fn address(value: &[u8]) -> Result<Ipv4Addr, AttributeFault> {
    number(value).map(Ipv4Addr::from)
}

/// Items of `N` octets each, at least one.
fn list<T, const N: usize>(value: &[u8], item: impl Fn([u8; N]) -> T) -> Result<Vec<T>, AttributeFault> {
    let (chunks, rest) = value.as_chunks::<N>();
    if chunks.is_empty() || !rest.is_empty() {
        return Err(AttributeFault::Length);
    }
    Ok(chunks.iter().map(|chunk| item(*chunk)).collect())
}

/// Cuts an attribute list into attributes. After the first that is cut off, nothing more can be found.
pub(crate) fn split(list: &[u8]) -> (Vec<RawView<'_>>, Option<AttributeError>) {
    let mut attributes = Vec::with_capacity(12);
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

fn read_attribute<'a>(reader: &mut Reader<'a>) -> Option<RawView<'a>> {
    let all = reader.clone().rest();
    let (flags, code) = (reader.u8()?, reader.u8()?);
    let length = if flags & flag::EXTENDED == 0 { usize::from(reader.u8()?) } else { usize::from(reader.u16()?) };
    let value = reader.take(length)?;
    let (whole, _) = all.split_at_checked(all.len() - reader.clone().rest().len())?;
    // The low four bits mean nothing (RFC 4271 §4.3), the length bit only how the length is written.
    Some(RawView { flags: flags & 0xe0, code, value, whole })
}

/// Holds the flags of `attribute` to its type.
pub(crate) fn check_flags(attribute: RawView<'_>) -> Result<(), AttributeFault> {
    let bits = attribute.flags & (flag::OPTIONAL | flag::TRANSITIVE);
    match rules::of(attribute.code) {
        Some(rule) if bits != rule.category.flags() => Err(AttributeFault::Flags),
        None if bits & flag::OPTIONAL == 0 => Err(AttributeFault::Unrecognized),
        _ => Ok(()),
    }
}

/// The flaw `fault` in `attribute`, with the attribute as it came for the NOTIFICATION.
pub(crate) fn flaw(attribute: RawView<'_>, fault: AttributeFault) -> AttributeError {
    AttributeError { code: attribute.code, fault, received: attribute.whole.into() }
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

    const TWO: Context = Context { four_octet_as: false, external: true, ..Context::LEAST };

    fn aggregator(asn: u32) -> Aggregator {
        Aggregator { asn: Asn(asn), address: [192, 0, 2, 1].into() }
    }

    fn amended(said: u32, as4: Option<u32>) -> Attributes {
        let path = |numbers: &[u32]| Some(AsPath::sequence(numbers.iter().copied().map(Asn).collect::<Vec<_>>()));
        let mut attributes = Attributes {
            as_path: path(&[64501, u32::from(AS_TRANS)]),
            aggregator: Some(aggregator(said)),
            ..Attributes::default()
        };
        attributes.amend(FourOctetWords { path: path(&[4_200_000_001]), aggregator: as4.map(aggregator) });
        attributes
    }

    #[test]
    fn a_newer_two_octet_aggregator_overrules_both_four_octet_words() {
        let attributes = amended(u32::from(AS_TRANS), Some(4_200_000_001));
        assert_eq!(attributes.aggregator, Some(aggregator(4_200_000_001)));
        assert_eq!(attributes.as_path.unwrap().to_string(), "64501 4200000001");
        let attributes = amended(64501, Some(4_200_000_001));
        assert_eq!(attributes.aggregator, Some(aggregator(64501)));
        assert_eq!(attributes.as_path.unwrap().to_string(), "64501 23456");
        // Without AS4_AGGREGATOR the path is amended all the same.
        assert_eq!(amended(64501, None).as_path.unwrap().to_string(), "64501 4200000001");
    }

    #[test]
    fn what_only_internal_peers_may_say_is_left_out_from_others() {
        for (code, value) in [(code::LOCAL_PREF, vec![0]), (code::ORIGINATOR_ID, vec![]), (code::CLUSTER_LIST, vec![1])]
        {
            let raw = RawView { flags: 0, code, value: &value, whole: &[] };
            let set = |context| Attributes::default().set(raw, context, &mut FourOctetWords::default());
            assert_eq!(set(TWO), Ok(()));
            assert_eq!(set(Context::default()), Err(AttributeFault::Length));
        }
    }
}
