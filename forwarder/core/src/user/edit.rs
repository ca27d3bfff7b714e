//! What a hop changes in a packet: its age, its checksum, its size, and the segments that it asks for.

use crate::parse::{Parsed, sums_up};

/// The packet without padding, one hop older, its header checksum right.
pub(super) fn aged(packet: &[u8]) -> Option<Vec<u8>> {
    let is_v4 = packet.first()? >> 4 == 4;
    let mut aged = packet.get(..length(packet)?)?.to_vec();
    let hops = aged.get_mut(if is_v4 { 8 } else { 7 })?;
    *hops = hops.checked_sub(1)?;
    if is_v4 {
        seal(&mut aged, 20)?;
    }
    Some(aged)
}

/// Gives a packet a DSCP, and leaves it its ECN.
pub(super) fn mark(packet: &mut [u8], dscp: u8) -> Option<()> {
    match packet {
        [first, tos, ..] if *first >> 4 == 4 => {
            *tos = dscp << 2 | (*tos & 3);
            seal(packet, 20)
        }
        [first, second, ..] => {
            *first = *first & 0xf0 | dscp >> 2;
            *second = dscp << 6 | (*second & 0x3f);
            Some(())
        }
        _ => None,
    }
}

/// Whether it begins a TCP connection.
pub(super) fn synchronises(packet: &[u8], parsed: &Parsed) -> bool {
    const SYN: u8 = 2;
    let flags = parsed.transport.filter(|_| parsed.protocol == 6).and_then(|at| packet.get(at + 13));
    flags.is_some_and(|flags| flags & SYN != 0)
}

/// Lets a packet that begins a TCP connection ask for no larger segments than packets of `mtu` octets take: as nftables' `set
/// rt mtu` does it, the first MSS that is there, never to more, and the checksum by what changed (RFC 1624).
pub(super) fn clamp(packet: &mut [u8], parsed: &Parsed, mtu: usize) -> Option<()> {
    const LEAST: usize = 20;
    const NOTHING: u8 = 1;
    const SIZE: u8 = 2;
    // TCP_MSS_DEFAULT of linux/tcp.h, RFC 1122 §4.2.2.6.
    const WITHOUT_ROOM: u16 = 536;
    let headers = LEAST + if parsed.source.is_ipv4() { 20 } else { 40 };
    let most = mtu.checked_sub(headers).filter(|most| *most > 0).and_then(|most| u16::try_from(most).ok());
    let most = most.unwrap_or(WITHOUT_ROOM);
    let segment = packet.get_mut(parsed.transport?..)?;
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let header = segment.get_mut(..header).filter(|header| header.len() >= LEAST)?;
    let mut at = LEAST;
    loop {
        match header.get(at..)? {
            [kind, length, ..] if *kind > NOTHING && *length > 0 && *kind != SIZE => at += usize::from(*length),
            [SIZE, length, high, low, ..] if *length >= 4 && at + usize::from(*length) <= header.len() => {
                let asked = u16::from_be_bytes([*high, *low]);
                if asked <= most {
                    return None;
                }
                header.get_mut(at + 2..at + 4)?.copy_from_slice(&most.to_be_bytes());
                let before = word(header, 16)?;
                let after = !sum(&[!before, !asked, most].map(u16::to_be_bytes).concat());
                header.get_mut(16..18)?.copy_from_slice(&after.to_be_bytes());
                return Some(());
            }
            [SIZE, ..] => return None,
            // An end of the list is passed over like padding.
            [_, _, ..] => at += 1,
            _ => return None,
        }
    }
}

/// How long a packet says that it is.
#[must_use]
pub fn length(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => word(packet, 2).map(usize::from),
        _ => word(packet, 4).map(|length| usize::from(length) + 40),
    }
}

/// The length of the headers of a super-packet, and the largest packet that it is on the wire.
pub(super) fn segment(packet: &[u8], payload: Option<usize>) -> (usize, usize) {
    let Some(payload) = payload else { return (0, packet.len()) };
    let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let (header, protocol) = if is_v4 { (20, packet.get(9)) } else { (40, packet.get(6)) };
    let transport = match protocol {
        Some(6) => packet.get(header + 12).map_or(20, |offset| usize::from(offset >> 4) * 4),
        _ => 8,
    };
    let headers = (header + transport).min(packet.len());
    (headers, headers + payload)
}

/// The packet in pieces of no more than `mtu` octets; `None` when it may not be cut.
pub(super) fn fragments(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    const DO_NOT: u16 = 0x4000;
    const MORE: u16 = 0x2000;
    let field = word(packet, 6)?;
    // A header of 20 octets: what has options goes nowhere.
    if packet.first()? != &0x45 || field & DO_NOT != 0 {
        return None;
    }
    let (header, payload) = packet.split_at_checked(20)?;
    let step = mtu.checked_sub(20)? / 8 * 8;
    if step == 0 {
        return None;
    }
    let pieces = payload.chunks(step);
    let last = pieces.len().saturating_sub(1);
    let piece = |(number, piece): (usize, &[u8])| {
        let offset = (field & 0x1fff).checked_add(u16::try_from(number * step / 8).ok()?)?;
        let more = if number < last { MORE } else { field & MORE };
        let mut fragment = [header, piece].concat();
        let length = u16::try_from(fragment.len()).ok()?;
        fragment.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
        fragment.get_mut(6..8)?.copy_from_slice(&(more | offset).to_be_bytes());
        seal(&mut fragment, 20)?;
        Some(fragment)
    };
    pieces.enumerate().map(piece).collect()
}

/// Gives an IPv4 header of `length` octets its checksum.
pub(super) fn seal(packet: &mut [u8], length: usize) -> Option<()> {
    packet.get_mut(10..12)?.fill(0);
    let sum = !sum(packet.get(..length)?);
    packet.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    debug_assert!(packet.get(..length).is_some_and(sums_up));
    Some(())
}

/// The Internet checksum of these octets (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The ones' complement sum of RFC 1071, folded.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks();
    let mut sum: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    sum += rest.first().map_or(0, |last| u64::from(*last) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}
