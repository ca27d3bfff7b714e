//! UDP datagrams in Ethernet frames, as a listener on the wire meets them: whole, or in fragments that [`Parts`] puts together.
//! [`filter`] makes a program for the kernel that lets through no others.
//!
//! Checksums are not looked at: on the interface of the host that sends they are not there yet.

mod filter;
mod parts;

pub use filter::{Instruction, filter};
pub use parts::{GivenUp, Parts};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Tags of IEEE 802.1Q, 802.1ad, and what came before the latter.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// More tags than this are no network of ours.
const MOST_TAGS: usize = 3;
const UDP: u8 = 17;

/// A datagram, borrowed from its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp<'a> {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// What is in it.
    pub payload: &'a [u8],
}

/// A fragment of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// What all fragments of one packet have in common.
    pub identification: u32,
    /// Where it belongs, in octets.
    pub offset: u32,
    /// Whether it is not the last one.
    pub more: bool,
    /// What is in it.
    pub octets: &'a [u8],
}

/// What a frame has of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen<'a> {
    /// All of it.
    Whole(Udp<'a>),
    /// A fragment.
    Part(Part<'a>),
}

/// Why there is no datagram in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUdp {
    /// Something else than UDP over IP.
    #[error("it is something else than UDP")]
    Other,
    /// The frame ends early, or its parts do not fit.
    #[error("its {0} is cut or does not fit")]
    Cut(&'static str),
}

/// The datagram in `frame`, or a fragment of one.
///
/// # Errors
/// [`NoUdp`].
pub fn read(frame: &[u8]) -> Result<Seen<'_>, NoUdp> {
    let cut = NoUdp::Cut("Ethernet header");
    let mut rest = frame.get(12..).ok_or(cut)?;
    for _ in 0..=MOST_TAGS {
        let (kind, behind) = rest.split_first_chunk().ok_or(cut)?;
        match u16::from_be_bytes(*kind) {
            IPV4 => return v4(behind),
            IPV6 => return v6(behind),
            tag if TAGS.contains(&tag) => rest = behind.get(2..).ok_or(cut)?,
            _ => return Err(NoUdp::Other),
        }
    }
    Err(NoUdp::Other)
}

fn v4(packet: &[u8]) -> Result<Seen<'_>, NoUdp> {
    let cut = NoUdp::Cut("IPv4 header");
    let head: &[u8; 20] = packet.first_chunk().ok_or(cut)?;
    let [first, _, l1, l0, i1, i0, f1, f0, _, protocol, _, _, s3, s2, s1, s0, d3, d2, d1, d0] = *head;
    let (header, total) = (usize::from(first & 0x0f) * 4, usize::from(u16::from_be_bytes([l1, l0])));
    if first >> 4 != 4 || header < 20 {
        return Err(cut);
    }
    // What is behind the packet in the frame is padding.
    let body = packet.get(header..total).ok_or(cut)?;
    if protocol != UDP {
        return Err(NoUdp::Other);
    }
    let (source, destination) = (Ipv4Addr::new(s3, s2, s1, s0).into(), Ipv4Addr::new(d3, d2, d1, d0).into());
    let fragment = u16::from_be_bytes([f1, f0]);
    // More fragments, or an offset.
    if fragment & 0x3fff != 0 {
        return Ok(Seen::Part(Part {
            source,
            destination,
            identification: u16::from_be_bytes([i1, i0]).into(),
            offset: u32::from(fragment & 0x1fff) * 8,
            more: fragment & 0x2000 != 0,
            octets: body,
        }));
    }
    datagram(body, source, destination).map(Seen::Whole)
}

fn v6(packet: &[u8]) -> Result<Seen<'_>, NoUdp> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let cut = NoUdp::Cut("IPv6 header");
    let (head, behind): (&[u8; 40], _) = packet.split_first_chunk().ok_or(cut)?;
    let [first, _, _, _, l1, l0, next, _, addresses @ ..] = head;
    if first >> 4 != 6 {
        return Err(cut);
    }
    let mut body = behind.get(..usize::from(u16::from_be_bytes([*l1, *l0]))).ok_or(cut)?;
    let address = |octets: &[u8]| <[u8; 16]>::try_from(octets).map(Ipv6Addr::from).map_err(|_| cut);
    let (source, destination) = addresses.split_at(16);
    let (source, destination) = (address(source)?, address(destination)?);
    let mut next = *next;
    loop {
        match next {
            UDP => return datagram(body, source.into(), destination.into()).map(Seen::Whole),
            FRAGMENT => {
                let (head, rest): (&[u8; 8], _) = body.split_first_chunk().ok_or(cut)?;
                let [of, _, f1, f0, i3, i2, i1, i0] = *head;
                let fragment = u16::from_be_bytes([f1, f0]);
                // Alone in its packet (RFC 6946) it is a fragment in name only. Headers behind the first one of several are
                // no datagram of ours.
                if fragment & 0xfff9 != 0 {
                    let part = Part {
                        source: source.into(),
                        destination: destination.into(),
                        identification: u32::from_be_bytes([i3, i2, i1, i0]),
                        offset: (fragment & 0xfff8).into(),
                        more: fragment & 1 != 0,
                        octets: rest,
                    };
                    return if of == UDP { Ok(Seen::Part(part)) } else { Err(NoUdp::Other) };
                }
                next = of;
                body = rest;
            }
            HOP_BY_HOP | ROUTING | OPTIONS => {
                let (after, length) = match body {
                    [after, length, ..] => (*after, usize::from(*length) * 8 + 8),
                    _ => return Err(cut),
                };
                next = after;
                body = body.get(length..).ok_or(cut)?;
            }
            _ => return Err(NoUdp::Other),
        }
    }
}

/// The datagram that a packet from `source` to `destination` carries.
fn datagram(body: &[u8], source: IpAddr, destination: IpAddr) -> Result<Udp<'_>, NoUdp> {
    let cut = NoUdp::Cut("UDP header");
    let head: &[u8; 8] = body.first_chunk().ok_or(cut)?;
    let [s1, s0, d1, d0, l1, l0, _, _] = *head;
    let payload = body.get(8..usize::from(u16::from_be_bytes([l1, l0]))).ok_or(cut)?;
    let port = |high, low| u16::from_be_bytes([high, low]);
    Ok(Udp {
        source: SocketAddr::new(source, port(s1, s0)),
        destination: SocketAddr::new(destination, port(d1, d0)),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn datagram_of(payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
        [&[0x07, 0x14, 0x07, 0x15, length[0], length[1], 0, 0], payload].concat()
    }

    pub(super) fn v4_of(body: &[u8], fragment: u16, options: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let total = u16::try_from(header + body.len()).unwrap().to_be_bytes();
        let fragment = fragment.to_be_bytes();
        let first = 0x40 | u8::try_from(header / 4).unwrap();
        let head = [first, 0, total[0], total[1], 0, 1, fragment[0], fragment[1], 64, 17, 0, 0];
        [&head, &[192, 0, 2, 1, 192, 0, 2, 2][..], options, body].concat()
    }

    pub(super) fn v6_of(next: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let (one, two): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        [&[0x60, 0, 0, 0, length[0], length[1], next, 64], &one.octets()[..], &two.octets(), body].concat()
    }

    pub(super) fn framed(tags: &[u8], kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[0xee; 12], tags, &kind.to_be_bytes(), packet].concat()
    }

    #[test]
    fn a_datagram_is_found_under_tags_options_and_padding() {
        let body = datagram_of(b"payload");
        let found = |frame: &[u8]| {
            let Ok(Seen::Whole(found)) = read(frame) else { panic!("{:?}", read(frame)) };
            assert_eq!((found.source.port(), found.destination.port(), found.payload), (1812, 1813, &b"payload"[..]));
            found.source.ip().to_string()
        };
        let tag: &[u8] = &[0x81, 0, 0, 7];
        for tags in [&[][..], tag, &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7]] {
            assert_eq!(found(&framed(tags, IPV4, &[v4_of(&body, 0x4000, &[1; 8]), vec![0; 9]].concat())), "192.0.2.1");
            assert_eq!(found(&framed(tags, IPV6, &v6_of(17, &body))), "2001:db8::1");
        }
        let extended = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[44, 1], &[0; 14], &[17, 0, 0, 0, 0, 0, 0, 5], &body].concat();
        found(&framed(&[], IPV6, &v6_of(0, &extended)));
    }

    #[test]
    fn fragments_and_other_things_are_told_apart() {
        let body = datagram_of(b"payload");
        let part = |frame: &[u8]| match read(frame) {
            Ok(Seen::Part(Part { identification, offset, more, octets, .. })) => {
                assert_eq!(octets, body);
                (identification, offset, more)
            }
            other => panic!("{other:?}"),
        };
        for (fragment, offset, more) in [(0x2000, 0, true), (0x2001, 8, true), (0x0005, 40, false)] {
            assert_eq!(part(&framed(&[], IPV4, &v4_of(&body, fragment, &[]))), (1, offset, more));
        }
        for (fragment, offset, more) in [([0, 1], 0, true), ([0, 8], 8, false)] {
            let packet = [&[17, 0, fragment[0], fragment[1], 0, 0, 0, 5], &body[..]].concat();
            assert_eq!(part(&framed(&[], IPV6, &v6_of(44, &packet))), (5, offset, more));
        }
        let mut tcp = v4_of(&body, 0, &[]);
        tcp[9] = 6;
        assert_eq!(read(&framed(&[], IPV4, &tcp)), Err(NoUdp::Other));
        assert_eq!(read(&framed(&[], IPV6, &v6_of(58, &body))), Err(NoUdp::Other));
        assert_eq!(read(&framed(&[], 0x0806, &body)), Err(NoUdp::Other));
        assert_eq!(read(&framed(&[0x81, 0, 0, 1].repeat(5), IPV4, &v4_of(&body, 0, &[]))), Err(NoUdp::Other));
    }

    #[test]
    fn every_cut_of_a_frame_is_an_error() {
        for whole in [
            framed(&[0x81, 0, 0, 7], IPV4, &v4_of(&datagram_of(b"payload"), 0, &[1; 4])),
            framed(&[], IPV6, &v6_of(17, &datagram_of(b"payload"))),
        ] {
            for length in 0..whole.len() {
                assert!(matches!(read(&whole[..length]), Err(NoUdp::Cut(_))), "{length}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_the_reader_panic(
            tags in proptest::collection::vec(any::<u8>(), 0..12),
            kind in prop_oneof![Just(IPV4), Just(IPV6), any::<u16>()],
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let frame = framed(&tags, kind, &bytes);
            match read(&frame) {
                Ok(Seen::Whole(found)) => prop_assert!(found.payload.len() + 42 <= frame.len()),
                Ok(Seen::Part(part)) => prop_assert!(part.octets.len() + 34 <= frame.len()),
                Err(_) => {}
            }
        }
    }
}
