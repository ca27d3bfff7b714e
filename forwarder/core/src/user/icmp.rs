//! ICMP errors (RFC 792, RFC 1812 §4.3.2, RFC 4443).

use std::net::IpAddr;

use super::edit::{length, seal, sum};
use crate::decide::Kind;
use crate::parse::Parsed;

/// What a source is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    /// The TTL or hop limit ended here.
    TimeExceeded,
    /// It is larger than this MTU and may not be cut.
    TooBig(usize),
    /// The neighbour does not answer.
    Unreachable,
}

/// How long an error is at most: RFC 1812 §4.3.2.3, RFC 4443 §2.4(c).
const MOST4: usize = 576;
const MOST6: usize = 1280;

/// No error about an error or a redirect, about a later fragment, or to a source that is nobody's.
pub(super) fn may_be_told(packet: &[u8], parsed: &Parsed) -> bool {
    if parsed.source.is_multicast() || parsed.source.is_unspecified() || parsed.destination.is_multicast() {
        return false;
    }
    match (parsed.source, parsed.protocol) {
        (IpAddr::V4(_), protocol) => {
            let octet = |at: usize| packet.get(at).copied().unwrap_or_default();
            let later = u16::from_be_bytes([octet(6), octet(7)]) & 0x1fff != 0;
            let header = usize::from(octet(0) & 15) * 4;
            let is_error = protocol == 1 && matches!(packet.get(header), None | Some(3 | 4 | 5 | 11 | 12));
            !later && !is_error
        }
        (IpAddr::V6(_), _) => parsed.kind != Kind::IcmpError,
    }
}

/// The error `from` here `to` the source of `packet`, which it quotes as far as it may.
pub(super) fn message(error: Error, from: IpAddr, to: IpAddr, packet: &[u8]) -> Vec<u8> {
    let v4 = from.is_ipv4();
    let (header, most) = if v4 { (20, MOST4) } else { (40, MOST6) };
    let length = length(packet).unwrap_or_default();
    let quote = packet.get(..length.min(most - header - 8)).unwrap_or(packet);
    let ([kind, code], value) = match (error, v4) {
        (Error::TimeExceeded, true) => ([11, 0], 0),
        (Error::TimeExceeded, false) => ([3, 0], 0),
        (Error::TooBig(mtu), true) => ([3, 4], mtu),
        (Error::TooBig(mtu), false) => ([2, 0], mtu),
        (Error::Unreachable, true) => ([3, 1], 0),
        (Error::Unreachable, false) => ([1, 3], 0),
    };
    let value = u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
    let mut body = [&[kind, code, 0, 0], &value[..], quote].concat();
    let addresses = [octets(from), octets(to)].concat();
    let size = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let pseudo = if v4 { Vec::new() } else { [&addresses[..], &[0, 0], &size.to_be_bytes(), &[0, 0, 0, 58]].concat() };
    let checksum = !sum(&[pseudo, body.clone()].concat());
    if let Some(place) = body.get_mut(2..4) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    if !v4 {
        let head = [&[0x60, 0, 0, 0], &size.to_be_bytes()[..], &[58, 64]].concat();
        return [head, addresses, body].concat();
    }
    // Network control, as RFC 1812 §4.3.2.5 has it; whole, so that its identification says nothing (RFC 6864).
    let total = (size + 20).to_be_bytes();
    let head = [&[0x45, 0xc0], &total[..], &[0, 0, 0x40, 0, 64, 1, 0, 0]].concat();
    let mut whole = [head, addresses, body].concat();
    // Twenty octets are there.
    let _ = seal(&mut whole, 20);
    whole
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
