//! Whose each address is, out of a whole dump.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_wire::{Asn, DecodeError, Message as BgpMessage, Reader};
use cloakway_types::{AddressMap, AddressMapBuilder};
use ipnet::IpNet;

use crate::record::{Framer, Message, MrtError, Record};

/// Attribute types that say where a route came from.
const AS_PATH: u8 = 2;
const AS4_PATH: u8 = 17;
/// The length is written in two octets.
const EXTENDED: u8 = 0x10;

/// Whose the addresses of a prefix are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// This AS originates it.
    Origin(Asn),
    /// Several do, or nobody can say: a route's path ends in a set.
    Disputed,
}

impl Whose {
    fn of(origin: Option<Asn>) -> Self {
        origin.map_or(Self::Disputed, Self::Origin)
    }
}

/// What is kept of each prefix of a dump.
pub trait Kept: Copy + Eq + std::hash::Hash {
    /// Of `prefix`, whose addresses are `whose`.
    fn of(prefix: &IpNet, whose: Whose) -> Self;

    /// The same, where several say so and differ.
    #[must_use]
    fn disputed(self) -> Self;
}

impl Kept for Whose {
    fn of(_: &IpNet, whose: Whose) -> Self {
        whose
    }

    fn disputed(self) -> Self {
        Self::Disputed
    }
}

/// Whose, and by how long a prefix, for those who want to tell the prefix.
impl Kept for (Whose, u8) {
    fn of(prefix: &IpNet, whose: Whose) -> Self {
        (whose, prefix.prefix_len())
    }

    fn disputed(self) -> Self {
        (Whose::Disputed, self.1)
    }
}

/// Why a dump is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginsError {
    /// It cannot be read.
    #[error("record {number}: {error}")]
    Record {
        /// Which, from 1 on.
        number: u64,
        /// What is wrong.
        error: MrtError,
    },
    /// Nothing in it.
    #[error("no route in it: is it an MRT dump of routes?")]
    Empty,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Records, of all types.
    pub records: u64,
    /// Routes: entries of a RIB, and announcements.
    pub routes: u64,
    /// Routes whose attributes, and BGP messages that, could not be read: a stranger's flaw in one route does not cost
    /// all others.
    pub bad: u64,
}

/// Takes in a dump, in pieces of any size.
#[derive(Debug)]
pub struct Origins<K = Whose> {
    framer: Framer,
    builder: AddressMapBuilder<K>,
    /// What messages announce and have not withdrawn: by prefix, peer and path identifier.
    announced: BTreeMap<(IpNet, IpAddr, u32), Whose>,
    summary: Summary,
}

impl<K> Default for Origins<K> {
    fn default() -> Self {
        Self {
            framer: Framer::default(),
            builder: AddressMapBuilder::default(),
            announced: BTreeMap::new(),
            summary: Summary::default(),
        }
    }
}

impl<K: Kept> Origins<K> {
    /// Takes in what a read brought.
    ///
    /// # Errors
    /// [`OriginsError`] names the record.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), OriginsError> {
        self.framer.push(bytes);
        let Self { framer, builder, announced, summary } = self;
        loop {
            let number = summary.records + 1;
            let at = |error| OriginsError::Record { number, error };
            let Some(record) = framer.next_record().map_err(at)? else { return Ok(()) };
            match Record::decode(record).map_err(at)? {
                Record::Rib(rib) => {
                    let prefix = rib.prefix;
                    let mut whose = None;
                    for entry in rib {
                        let entry = entry.map_err(at)?;
                        summary.routes += 1;
                        let Some(origin) = origin(entry.attributes, entry.four_octet_as) else {
                            summary.bad += 1;
                            continue;
                        };
                        // Most peers agree.
                        match (whose, origin) {
                            (_, None) => {}
                            (None, Some(origin)) => whose = Some(origin),
                            (Some(known), Some(origin)) if known == origin => {}
                            (Some(_), Some(_)) => whose = Some(Whose::Disputed),
                        }
                    }
                    if let Some(whose) = whose {
                        builder.push(prefix, K::of(&prefix, whose));
                    }
                }
                Record::Message(message) => match note(&message, announced) {
                    Ok(routes) => summary.routes += routes,
                    Err(_) => summary.bad += 1,
                },
                Record::Peers(_) | Record::Other { .. } => {}
            }
            summary.records += 1;
        }
    }

    /// All is in.
    ///
    /// # Errors
    /// [`OriginsError`] when the dump ends inside a record, or says of no prefix whose it is.
    pub fn finish(mut self) -> Result<(AddressMap<K>, Summary), OriginsError> {
        let number = self.summary.records + 1;
        self.framer.finish().map_err(|error| OriginsError::Record { number, error })?;
        for ((prefix, _, _), whose) in self.announced {
            self.builder.push(prefix, K::of(&prefix, whose));
        }
        let map = self.builder.build(|first, _| first.disputed());
        if map.is_empty() { Err(OriginsError::Empty) } else { Ok((map, self.summary)) }
    }
}

/// Takes note of a BGP message. Says how many routes it announces.
fn note(message: &Message<'_>, announced: &mut BTreeMap<(IpNet, IpAddr, u32), Whose>) -> Result<u64, DecodeError> {
    let BgpMessage::Update(update) = BgpMessage::decode(message.bytes, message.context)? else { return Ok(0) };
    let with_ids = |prefix: IpNet, id: u32| (prefix, message.peer, id);
    let ids = update.paths();
    for (prefix, id) in ids.gone {
        announced.remove(&with_ids(prefix, id));
    }
    let path = update.attributes.as_path.as_ref();
    // A route without a path is the dumping router's own, and nobody's that could be told.
    let Some(path) = path.filter(|path| path.length() > 0) else { return Ok(0) };
    let whose = Whose::of(path.origin());
    let mut routes = 0;
    for (prefix, id) in ids.come {
        announced.insert(with_ids(prefix, id), whose);
        routes += 1;
    }
    Ok(routes)
}

/// Whose a route is by its attributes: `Some(None)` for one without a path, which is the dumping router's own; `None`
/// when they cannot be read.
fn origin(attributes: &[u8], four_octet_as: bool) -> Option<Option<Whose>> {
    let mut reader = Reader::new(attributes);
    let (mut path, mut as4) = (None, None);
    while !reader.is_empty() {
        let (flags, code) = (reader.u8()?, reader.u8()?);
        let length = if flags & EXTENDED == 0 { usize::from(reader.u8()?) } else { usize::from(reader.u16()?) };
        let value = reader.take(length)?;
        match code {
            AS_PATH if path.is_none() => path = Some(last(value, four_octet_as)?),
            AS4_PATH if !four_octet_as && as4.is_none() => as4 = last(value, true),
            _ => {}
        }
        // In a dump of four octets a number nothing behind the path says more of it.
        if four_octet_as && path.is_some() {
            break;
        }
    }
    let (whose, length) = path.unwrap_or((None, 0));
    match as4 {
        // RFC 6793 §4.2.3: a longer AS4_PATH is ignored.
        Some((Some(newer), as4_length)) if as4_length <= length && whose.is_some() => Some(Some(newer)),
        _ => Some(whose),
    }
}

/// Whose a path's last segment makes a route, and how long the path counts; `None` when it cannot be read.
fn last(path: &[u8], four_octets: bool) -> Option<(Option<Whose>, usize)> {
    let mut reader = Reader::new(path);
    let width = if four_octets { 4 } else { 2 };
    let (mut whose, mut length) = (None, 0);
    while !reader.is_empty() {
        let (kind, count) = (reader.u8()?, usize::from(reader.u8()?));
        let numbers = reader.take(count * width)?;
        match kind {
            1 => {
                // A set of one is no set.
                whose = Some(if count == 1 {
                    number(numbers).map_or(Whose::Disputed, Whose::Origin)
                } else {
                    Whose::Disputed
                });
                length += 1;
            }
            2 => {
                let origin = numbers.len().checked_sub(width).and_then(|from| number(numbers.get(from..)?));
                whose = Some(Whose::of(origin));
                length += count;
            }
            3 | 4 => {}
            _ => return None,
        }
    }
    Some((whose, length))
}

fn number(octets: &[u8]) -> Option<Asn> {
    let number = octets.iter().fold(0_u32, |number, octet| number << 8 | u32::from(*octet));
    (number != 0).then_some(Asn(number))
}
