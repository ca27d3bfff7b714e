//! Bytes of an IP packet to what the decision depends on. Every byte is hostile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::decide::{Egress, Ingress, Kind, Packet};

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// The protocol, behind any extension headers.
    pub protocol: u8,
    /// Source and destination port, where the protocol has them and they are in the packet.
    pub ports: Option<(u16, u16)>,
    /// Whether it is part of a larger one.
    pub is_fragment: bool,
    /// Whether it has IPv4 options or a routing header of type 0.
    pub has_options: bool,
    /// What it is, as far as that matters.
    pub kind: Kind,
    /// Where what IP carries begins, in octets from the packet's first; `None` in a later fragment.
    pub transport: Option<usize>,
}

/// Why bytes are no IP packet. Offsets count octets from its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends inside a header.
    #[error("{what} at octet {at} is cut off: {needed} octets are needed, {have} are there")]
    Short {
        /// The header.
        what: &'static str,
        /// Where it begins.
        at: usize,
        /// Its length.
        needed: usize,
        /// What there is of it.
        have: usize,
    },
    /// Neither 4 nor 6.
    #[error("octet 0: IP version {0} is neither 4 nor 6")]
    Version(u8),
    /// An IPv4 header of less than five words.
    #[error("octet 0: a header of {0} words: IPv4 has at least 5 (RFC 791 §3.1)")]
    HeaderLength(u8),
    /// The header checksum is wrong.
    #[error("octet 10: the header checksum is wrong (RFC 791 §3.1)")]
    Checksum,
    /// The length field says more than there is, or less than the header.
    #[error("octet {at}: a length of {says}, with {have} octets there")]
    Length {
        /// Where the field is.
        at: usize,
        /// What it says.
        says: usize,
        /// What there is.
        have: usize,
    },
}

/// Reads the packet in `bytes`; what is behind its length is padding.
///
/// # Errors
/// [`Malformed`] names the field: what the kernel drops before it asks any rule.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        None => Err(short("an IP header", 0, 20, 0)),
        Some(4) => v4(bytes),
        Some(6) => v6(bytes),
        Some(other) => Err(Malformed::Version(other)),
    }
}

impl Parsed {
    /// As the decision takes it, with what only the host knows.
    #[must_use]
    pub const fn packet<'a>(&self, ingress: Ingress<'a>, egress: Egress<'a>, source_is_own: bool) -> Packet<'a> {
        Packet {
            ingress,
            egress,
            source: self.source,
            destination: self.destination,
            kind: self.kind,
            protocol: self.protocol,
            ports: self.ports,
            is_fragment: self.is_fragment,
            has_options: self.has_options,
            source_is_own,
        }
    }
}

const fn short(what: &'static str, at: usize, needed: usize, have: usize) -> Malformed {
    Malformed::Short { what, at, needed, have }
}

fn array<const N: usize>(bytes: &[u8], at: usize, what: &'static str) -> Result<[u8; N], Malformed> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.first_chunk().copied().ok_or_else(|| short(what, at, N, rest.len()))
}

fn v4(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let head: [u8; 20] = array(bytes, 0, "the IPv4 header")?;
    let [first, _, l0, l1, _, _, f0, f1, hops, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = head;
    let words = first & 0x0f;
    if words < 5 {
        return Err(Malformed::HeaderLength(words));
    }
    let header = usize::from(words) * 4;
    let Some(whole) = bytes.get(..header) else { return Err(short("the IPv4 header", 0, header, bytes.len())) };
    if !sums_up(whole) {
        return Err(Malformed::Checksum);
    }
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let payload = bytes.get(header..length).filter(|_| length >= header);
    let payload = payload.ok_or(Malformed::Length { at: 2, says: length, have: bytes.len() })?;
    let fragment = u16::from_be_bytes([f0, f1]);
    let is_first = fragment & 0x1fff == 0;
    Ok(Parsed {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        hops,
        protocol,
        ports: ports(protocol, payload, is_first),
        is_fragment: fragment & 0x3fff != 0,
        has_options: words > 5,
        kind: match (protocol, payload.first()) {
            // Destination unreachable, time exceeded, parameter problem.
            (1, Some(3 | 11 | 12)) if is_first => Kind::IcmpError,
            _ => Kind::Other,
        },
        transport: is_first.then_some(header),
    })
}

/// The ones' complement sum of a header with its checksum is all ones (RFC 1071).
pub(crate) fn sums_up(header: &[u8]) -> bool {
    let (words, _) = header.as_chunks();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    // Sixty octets carry less than once.
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

fn v6(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let head: [u8; 40] = array(bytes, 0, "the IPv6 header")?;
    let [_, _, _, _, l0, l1, first, hops, ..] = head;
    let source: [u8; 16] = array(&head, 8, "the source")?;
    let destination: [u8; 16] = array(&head, 24, "the destination")?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let says = Malformed::Length { at: 4, says: length, have: bytes.len() - 40 };
    let bytes = bytes.get(..40 + length).ok_or(says)?;
    let chain = extensions(bytes, first)?;
    let payload = bytes.get(chain.at..).unwrap_or_default();
    let code = payload.first().copied().filter(|_| chain.is_first && chain.protocol == 58);
    Ok(Parsed {
        source: Ipv6Addr::from(source).into(),
        destination: Ipv6Addr::from(destination).into(),
        hops,
        protocol: chain.protocol,
        ports: ports(chain.protocol, payload, chain.is_first),
        is_fragment: chain.is_fragment,
        has_options: chain.routes,
        kind: match code {
            Some(135 | 136) if hops == 255 => Kind::Neighbour,
            Some(131 | 143) => Kind::MulticastReport,
            // Unreachable, too big, time exceeded, parameter problem.
            Some(1..=4) => Kind::IcmpError,
            _ => Kind::Other,
        },
        transport: chain.is_first.then_some(chain.at),
    })
}

/// What a chain of extension headers ends in, and what was on the way.
struct Chain {
    protocol: u8,
    at: usize,
    is_fragment: bool,
    /// Whether the payload begins here.
    is_first: bool,
    /// A routing header of type 0.
    routes: bool,
}

/// Follows the chain to its end, however long. Where it is cut off, a forwarder passes it on like the kernel does, and
/// nobody knows what is behind; but the options that every hop has to read must be there.
fn extensions(bytes: &[u8], first: u8) -> Result<Chain, Malformed> {
    let mut chain = Chain { protocol: first, at: 40, is_fragment: false, is_first: true, routes: false };
    loop {
        // Behind a later fragment's header is the middle of something.
        if !chain.is_first {
            return Ok(chain);
        }
        let (what, words) = match chain.protocol {
            0 => ("hop-by-hop options", 8),
            43 => ("a routing header", 8),
            60 => ("destination options", 8),
            51 => ("an authentication header", 4),
            44 => ("a fragment header", 0),
            _ => return Ok(chain),
        };
        let is_for_us = chain.protocol == 0 && chain.at == 40;
        let [next, length, kind, flags]: [u8; 4] = match array(bytes, chain.at, what) {
            Err(cut) if is_for_us => return Err(cut),
            Err(_) => return Ok(Chain { at: bytes.len(), ..chain }),
            Ok(octets) => octets,
        };
        match chain.protocol {
            44 => {
                chain.is_fragment = true;
                chain.is_first = u16::from_be_bytes([kind, flags]) & 0xfff8 == 0;
            }
            43 => chain.routes |= kind == 0,
            _ => {}
        }
        // RFC 8200 §4: units of 8 octets behind the first; RFC 4302 §2.2: of 4, behind the first two.
        let whole = if words == 4 { (usize::from(length) + 2) * 4 } else { usize::from(length) * words + 8 };
        let have = bytes.len() - chain.at;
        match whole > have {
            true if is_for_us => return Err(short(what, chain.at, whole, have)),
            true => return Ok(Chain { at: bytes.len(), ..chain }),
            false => {}
        }
        chain.protocol = next;
        chain.at += whole;
    }
}

fn ports(protocol: u8, payload: &[u8], is_first: bool) -> Option<(u16, u16)> {
    let has_ports = matches!(protocol, 6 | 17 | 33 | 132 | 136);
    let [a, b, c, d] = *payload.first_chunk::<4>().filter(|_| has_ports && is_first)?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests;
