//! Records as they are written: messages as they went over a session, and whole tables.

use std::net::{IpAddr, Ipv4Addr};

use bgp_wire::Asn;
use ipnet::IpNet;

use crate::record::PeerEntry;

const TABLE_DUMP_V2: u16 = 13;
const BGP4MP_ET: u16 = 17;

/// When something happened: seconds since 1970, and microseconds of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds.
    pub seconds: u32,
    /// The rest.
    pub microseconds: u32,
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the peer.
    Received,
    /// To the peer (RFC 6396 §4.4, LOCAL).
    Sent,
}

/// The two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The peer's AS.
    pub peer_asn: Asn,
    /// Ours.
    pub local_asn: Asn,
    /// The peer's address.
    pub peer: IpAddr,
    /// Ours.
    pub local: IpAddr,
}

/// How the messages of a session are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// AS numbers have four octets.
    pub four_octet_as: bool,
    /// Routes carry path identifiers (RFC 8050).
    pub path_ids: bool,
}

/// One route of a prefix, for [`rib`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// The place of its peer in the index.
    pub peer_index: u16,
    /// When it came.
    pub originated: u32,
    /// The path identifier (RFC 8050), 0 where the session has none.
    pub path_id: u32,
    /// Its path attributes as a list in BGP's form, with AS numbers of four octets. MP_REACH_NLRI holds the next hop alone
    /// (RFC 6396 §4.3.4).
    pub attributes: Vec<u8>,
}

fn record(time: Time, kind: u16, subtype: u16, body: &[u8]) -> Vec<u8> {
    let extended = kind == BGP4MP_ET;
    let length = body.len() + if extended { 4 } else { 0 };
    let mut out = Vec::with_capacity(12 + length);
    out.extend_from_slice(&time.seconds.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&subtype.to_be_bytes());
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    if extended {
        out.extend_from_slice(&time.microseconds.to_be_bytes());
    }
    out.extend_from_slice(body);
    out
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

/// The head that records of BGP4MP have in common; both addresses are of the peer's family.
fn ends(ends: &Ends, four_octet_as: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(44);
    for asn in [ends.peer_asn, ends.local_asn] {
        if four_octet_as {
            out.extend_from_slice(&asn.0.to_be_bytes());
        } else {
            out.extend_from_slice(&asn.two_octets().to_be_bytes());
        }
    }
    // The interface is not told.
    out.extend_from_slice(&[0, 0]);
    let (family, unspecified): (u16, IpAddr) = match ends.peer {
        IpAddr::V4(_) => (1, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (2, std::net::Ipv6Addr::UNSPECIFIED.into()),
    };
    out.extend_from_slice(&family.to_be_bytes());
    address(ends.peer, &mut out);
    address(if ends.local.is_ipv4() == ends.peer.is_ipv4() { ends.local } else { unspecified }, &mut out);
    out
}

/// A message as it went over a session, header and all (RFC 6396 §4.4, RFC 8050 §3), with microseconds (§3).
#[must_use]
pub fn message(time: Time, between: &Ends, direction: Direction, style: Style, message: &[u8]) -> Vec<u8> {
    let subtype = match (direction, style.four_octet_as, style.path_ids) {
        (Direction::Received, false, false) => 1,
        (Direction::Received, true, false) => 4,
        (Direction::Sent, false, false) => 6,
        (Direction::Sent, true, false) => 7,
        (Direction::Received, false, true) => 8,
        (Direction::Received, true, true) => 9,
        (Direction::Sent, false, true) => 10,
        (Direction::Sent, true, true) => 11,
    };
    let mut body = ends(between, style.four_octet_as);
    body.extend_from_slice(message);
    record(time, BGP4MP_ET, subtype, &body)
}

/// A session passed from one state of RFC 4271 §8.2.2 to another; 1 is Idle, 6 Established (RFC 6396 §4.4.1).
#[must_use]
pub fn state_change(time: Time, between: &Ends, old: u16, new: u16) -> Vec<u8> {
    let mut body = ends(between, true);
    body.extend_from_slice(&old.to_be_bytes());
    body.extend_from_slice(&new.to_be_bytes());
    record(time, BGP4MP_ET, 5, &body)
}

/// The peers of a table, which comes first in its dump (RFC 6396 §4.3.1).
#[must_use]
pub fn peer_index(seconds: u32, collector: Ipv4Addr, view: &str, peers: &[PeerEntry]) -> Vec<u8> {
    let mut body = collector.octets().to_vec();
    let view: Vec<u8> = view.bytes().take(usize::from(u16::MAX)).collect();
    body.extend_from_slice(&u16::try_from(view.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(&view);
    body.extend_from_slice(&u16::try_from(peers.len()).unwrap_or(u16::MAX).to_be_bytes());
    for peer in peers.iter().take(usize::from(u16::MAX)) {
        body.push(2 | u8::from(peer.address.is_ipv6()));
        body.extend_from_slice(&peer.router_id.octets());
        address(peer.address, &mut body);
        body.extend_from_slice(&peer.asn.0.to_be_bytes());
    }
    record(Time { seconds, microseconds: 0 }, TABLE_DUMP_V2, 1, &body)
}

/// A prefix with its routes (RFC 6396 §4.3.2), with path identifiers where one has any (RFC 8050 §4.1); `sequence` counts
/// the records of a dump from 0.
#[must_use]
pub fn rib(seconds: u32, sequence: u32, prefix: IpNet, routes: &[RouteEntry]) -> Vec<u8> {
    let mut body = sequence.to_be_bytes().to_vec();
    let bits = prefix.prefix_len();
    body.push(bits);
    let octets = match prefix {
        IpNet::V4(prefix) => prefix.network().octets().to_vec(),
        IpNet::V6(prefix) => prefix.network().octets().to_vec(),
    };
    body.extend(octets.into_iter().take(usize::from(bits).div_ceil(8)));
    body.extend_from_slice(&u16::try_from(routes.len()).unwrap_or(u16::MAX).to_be_bytes());
    let path_ids = routes.iter().any(|route| route.path_id != 0);
    for route in routes.iter().take(usize::from(u16::MAX)) {
        body.extend_from_slice(&route.peer_index.to_be_bytes());
        body.extend_from_slice(&route.originated.to_be_bytes());
        if path_ids {
            body.extend_from_slice(&route.path_id.to_be_bytes());
        }
        let length = u16::try_from(route.attributes.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&length.to_be_bytes());
        body.extend(route.attributes.iter().take(usize::from(length)));
    }
    let subtype = match (prefix, path_ids) {
        (IpNet::V4(_), false) => 2,
        (IpNet::V6(_), false) => 4,
        (IpNet::V4(_), true) => 8,
        (IpNet::V6(_), true) => 10,
    };
    record(Time { seconds, microseconds: 0 }, TABLE_DUMP_V2, subtype, &body)
}
