//! Records, one at a time.

use std::net::{IpAddr, Ipv4Addr};

use bgp_wire::{Asn, Context, Families, Pending, Reader};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Octets of a record's header.
const HEADER: usize = 12;
/// The longest record that is read. A RIB record holds an entry of every peer; a dump with thousands stays below.
const MAX_RECORD: usize = 16 << 20;

mod kind {
    pub(super) const TABLE_DUMP: u16 = 12;
    pub(super) const TABLE_DUMP_V2: u16 = 13;
    pub(super) const BGP4MP: u16 = 16;
    pub(super) const BGP4MP_ET: u16 = 17;
}

/// Why a dump cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MrtError {
    /// A length that no record has: out of step, or no dump at all.
    #[error("a record of {0} octets: at most {MAX_RECORD} are read; is it an MRT dump?")]
    TooLong(u32),
    /// What a record's parts say does not fit into it.
    #[error("MRT type {kind}, subtype {subtype}: {what} is cut off or out of range")]
    Malformed {
        /// The record's type.
        kind: u16,
        /// Its subtype.
        subtype: u16,
        /// The part.
        what: &'static str,
    },
    /// The dump ends inside a record.
    #[error("the dump ends inside a record: {0} octets are left")]
    CutOff(usize),
}

/// Cuts a stream into records, however the reads fall.
#[derive(Debug, Clone, Default)]
pub struct Framer(Pending);

impl Framer {
    /// Adds what a read brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole record, for [`Record::decode`]; `None` until more is pushed.
    ///
    /// # Errors
    /// [`MrtError::TooLong`] before its octets have come.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, MrtError> {
        self.0.next(|bytes| {
            let Some([.., a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
            let length = u32::from_be_bytes([*a, *b, *c, *d]);
            let total = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(HEADER);
            if total > MAX_RECORD { Err(MrtError::TooLong(length)) } else { Ok(Some(total)) }
        })
    }

    /// Nothing more will come.
    ///
    /// # Errors
    /// [`MrtError::CutOff`] when something is left.
    pub fn finish(&self) -> Result<(), MrtError> {
        match self.0.bytes().len() {
            0 => Ok(()),
            left => Err(MrtError::CutOff(left)),
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// The peers that RIB records name by their place here (TABLE_DUMP_V2).
    Peers(Vec<PeerEntry>),
    /// A prefix with its routes (TABLE_DUMP_V2), or with one (TABLE_DUMP).
    Rib(RibRecord<'a>),
    /// A BGP message as a peer sent it (BGP4MP).
    Message(Message<'a>),
    /// Not read here.
    Other {
        /// The type.
        kind: u16,
        /// The subtype.
        subtype: u16,
    },
}

/// A peer of the dumping router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its router id, as it stands.
    pub router_id: Ipv4Addr,
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
}

/// A prefix with its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RibRecord<'a> {
    /// The prefix.
    pub prefix: IpNet,
    entries: Reader<'a>,
    shape: Shape,
    left: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// TABLE_DUMP: the one entry is given whole.
    Single { peer_asn: Asn, peer: IpAddr, originated: u32 },
    /// TABLE_DUMP_V2, with path identifiers or without.
    Indexed { path_ids: bool },
}

/// One route of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RibEntry<'a> {
    /// The place of its peer in [`Record::Peers`]; `None` in a TABLE_DUMP, which names the peer itself.
    pub peer_index: Option<u16>,
    /// The peer of a TABLE_DUMP.
    pub peer: Option<(IpAddr, Asn)>,
    /// When the route came or changed: seconds since 1970.
    pub originated: u32,
    /// The path identifier (RFC 8050), if it has one.
    pub path_id: Option<u32>,
    /// Its path attributes, as a list in BGP's form.
    pub attributes: &'a [u8],
    /// AS numbers in it have four octets.
    pub four_octet_as: bool,
}

/// A BGP message between two routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who sent it, or to whom it was sent.
    pub peer: IpAddr,
    /// Its AS.
    pub peer_asn: Asn,
    /// How it reads.
    pub context: Context,
    /// The message, header and all.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads one whole record, as [`Framer`] cuts it.
    ///
    /// # Errors
    /// [`MrtError::Malformed`] names the part. The routes of a RIB record are read by [`RibRecord::next`].
    pub fn decode(record: &'a [u8]) -> Result<Self, MrtError> {
        let mut reader = Reader::new(record);
        let header = (reader.u32(), reader.u16(), reader.u16(), reader.u32());
        let (Some(_time), Some(kind), Some(subtype), Some(length)) = header else {
            return Err(MrtError::Malformed { kind: 0, subtype: 0, what: "the header" });
        };
        let malformed = |what| MrtError::Malformed { kind, subtype, what };
        if usize::try_from(length) != Ok(reader.len()) {
            return Err(malformed("its length"));
        }
        match (kind, subtype) {
            (kind::TABLE_DUMP, 1 | 2) => table_dump(reader, subtype == 2).ok_or_else(|| malformed("the entry")),
            (kind::TABLE_DUMP_V2, 1) => peers(reader).ok_or_else(|| malformed("the index of peers")),
            (kind::TABLE_DUMP_V2, 2 | 4 | 8 | 10) => {
                rib(reader, matches!(subtype, 4 | 10), subtype >= 8).ok_or_else(|| malformed("the prefix"))
            }
            (kind::BGP4MP | kind::BGP4MP_ET, 1 | 4 | 6 | 7 | 8 | 9 | 10 | 11) => {
                if kind == kind::BGP4MP_ET {
                    reader.u32().ok_or_else(|| malformed("the microseconds"))?;
                }
                message(reader, subtype).ok_or_else(|| malformed("the addresses"))
            }
            _ => Ok(Self::Other { kind, subtype }),
        }
    }
}

fn address(reader: &mut Reader<'_>, ipv6: bool) -> Option<IpAddr> {
    if ipv6 {
        reader.array::<16>().map(|octets| IpAddr::V6(octets.into()))
    } else {
        reader.array::<4>().map(|octets| IpAddr::V4(octets.into()))
    }
}

fn asn(reader: &mut Reader<'_>, four_octets: bool) -> Option<Asn> {
    if four_octets { reader.u32() } else { reader.u16().map(u32::from) }.map(Asn)
}

fn table_dump<'a>(mut reader: Reader<'a>, ipv6: bool) -> Option<Record<'a>> {
    let _view_and_sequence = reader.u32()?;
    let network = address(&mut reader, ipv6)?;
    let bits = reader.u8()?;
    let prefix = match network {
        IpAddr::V4(network) => IpNet::V4(Ipv4Net::new(network, bits).ok()?.trunc()),
        IpAddr::V6(network) => IpNet::V6(Ipv6Net::new(network, bits).ok()?.trunc()),
    };
    let (_status, originated) = (reader.u8()?, reader.u32()?);
    let peer = address(&mut reader, ipv6)?;
    let peer_asn = asn(&mut reader, false)?;
    Some(Record::Rib(RibRecord {
        prefix,
        entries: reader,
        shape: Shape::Single { peer_asn, peer, originated },
        left: 1,
    }))
}

fn peers<'a>(mut reader: Reader<'a>) -> Option<Record<'a>> {
    let _collector = reader.u32()?;
    let name = reader.u16()?;
    reader.take(name.into())?;
    let count = reader.u16()?;
    let mut peers = Vec::new();
    for _ in 0..count {
        let flags = reader.u8()?;
        let router_id = Ipv4Addr::from(reader.array::<4>()?);
        let address = address(&mut reader, flags & 1 != 0)?;
        let asn = asn(&mut reader, flags & 2 != 0)?;
        peers.push(PeerEntry { router_id, address, asn });
    }
    reader.is_empty().then_some(Record::Peers(peers))
}

/// A prefix as BGP writes it: its bits, and as few octets as hold them. Bits behind are cleared.
fn prefix(reader: &mut Reader<'_>, ipv6: bool) -> Option<IpNet> {
    let bits = reader.u8()?;
    let octets = reader.take(usize::from(bits).div_ceil(8))?;
    if ipv6 {
        let mut address = [0; 16];
        address.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(IpNet::V6(Ipv6Net::new(address.into(), bits).ok()?.trunc()))
    } else {
        let mut address = [0; 4];
        address.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(IpNet::V4(Ipv4Net::new(address.into(), bits).ok()?.trunc()))
    }
}

fn rib<'a>(mut reader: Reader<'a>, ipv6: bool, path_ids: bool) -> Option<Record<'a>> {
    let _sequence = reader.u32()?;
    let prefix = prefix(&mut reader, ipv6)?;
    let left = reader.u16()?;
    Some(Record::Rib(RibRecord { prefix, entries: reader, shape: Shape::Indexed { path_ids }, left }))
}

fn message<'a>(mut reader: Reader<'a>, subtype: u16) -> Option<Record<'a>> {
    // RFC 6396 §4.4 and RFC 8050 §3: from 4 on in four octets, from 8 on with path identifiers; 6, 7, 10 and 11 were
    // sent by the dumping router itself.
    let four_octet_as = matches!(subtype, 4 | 7 | 9 | 11);
    let peer_asn = asn(&mut reader, four_octet_as)?;
    let _local_asn = asn(&mut reader, four_octet_as)?;
    let _interface = reader.u16()?;
    let ipv6 = match reader.u16()? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let peer = address(&mut reader, ipv6)?;
    let _local = address(&mut reader, ipv6)?;
    let path_ids = if subtype >= 8 { Families { ipv4: true, ipv6: true } } else { Families::NONE };
    let context = Context {
        four_octet_as,
        external: false,
        extended_messages: true,
        enhanced_refresh: true,
        ipv4_by_ipv6: true,
        path_ids,
        ..Context::default()
    };
    Some(Record::Message(Message { peer, peer_asn, context, bytes: reader.rest() }))
}

impl<'a> Iterator for RibRecord<'a> {
    type Item = Result<RibEntry<'a>, MrtError>;

    fn next(&mut self) -> Option<Self::Item> {
        let more = self.left > 0;
        let what = if more { "an entry" } else { "what follows the entries" };
        let malformed = MrtError::Malformed { kind: self.kind(), subtype: 0, what };
        if !more {
            // What is left over was nobody's: told once.
            let rest = std::mem::replace(&mut self.entries, Reader::new(&[]));
            return (!rest.is_empty()).then_some(Err(malformed));
        }
        self.left -= 1;
        let entry = self.entry();
        if entry.is_none() {
            self.left = 0;
            self.entries = Reader::new(&[]);
        }
        Some(entry.ok_or(malformed))
    }
}

impl<'a> RibRecord<'a> {
    const fn kind(&self) -> u16 {
        match self.shape {
            Shape::Single { .. } => kind::TABLE_DUMP,
            Shape::Indexed { .. } => kind::TABLE_DUMP_V2,
        }
    }

    fn entry(&mut self) -> Option<RibEntry<'a>> {
        let reader = &mut self.entries;
        let mut entry = RibEntry {
            peer_index: None,
            peer: None,
            originated: 0,
            path_id: None,
            attributes: &[],
            four_octet_as: false,
        };
        match self.shape {
            Shape::Single { peer_asn, peer, originated } => {
                (entry.peer, entry.originated) = (Some((peer, peer_asn)), originated);
            }
            Shape::Indexed { path_ids } => {
                entry.peer_index = Some(reader.u16()?);
                entry.originated = reader.u32()?;
                entry.path_id = if path_ids { Some(reader.u32()?) } else { None };
                entry.four_octet_as = true;
            }
        }
        let length = reader.u16()?;
        entry.attributes = reader.take(length.into())?;
        Some(entry)
    }
}
