//! Reading captures: whose packets are in them, and which byte strings.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

/// A packet of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since the epoch.
    pub at_ns: u64,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
}

/// The addresses and ports of a packet. For ARP the sender and the target, with protocol 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The source.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
    /// The protocol number of IP.
    pub protocol: u8,
    /// Source and destination port, for TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// The flags of TCP.
    pub tcp_flags: u8,
}

impl Flow {
    /// Whether one of its two addresses lies in `net`.
    #[must_use]
    pub fn touches(&self, net: IpNet) -> bool {
        net.contains(&self.source) || net.contains(&self.destination)
    }

    /// Whether it opens a TCP connection: SYN without ACK.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.protocol == 6 && self.tcp_flags & 0x12 == 0x02
    }
}

impl Packet {
    /// Who talks to whom; `None` for what is neither IP nor ARP, or cut short.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let payload = self.frame.get(14..)?;
        match (self.frame.get(12)?, self.frame.get(13)?) {
            (0x08, 0x00) => {
                let header = usize::from(payload.first()? & 0x0f) * 4;
                let (source, destination) = (v4(payload.get(12..16)?)?, v4(payload.get(16..20)?)?);
                Some(transport(source, destination, *payload.get(9)?, payload.get(header..).unwrap_or_default()))
            }
            (0x86, 0xdd) => {
                let (source, destination) = (v6(payload.get(8..24)?)?, v6(payload.get(24..40)?)?);
                Some(transport(source, destination, *payload.get(6)?, payload.get(40..).unwrap_or_default()))
            }
            (0x08, 0x06) => Some(transport(v4(payload.get(14..18)?)?, v4(payload.get(24..28)?)?, 0, &[])),
            _ => None,
        }
    }

    /// The bytes of TCP payload in an IPv4 packet; 0 for anything else.
    #[must_use]
    pub fn tcp_payload_v4(&self) -> usize {
        let payload = || {
            let datagram = self.frame.get(14..).filter(|datagram| datagram.get(9) == Some(&6))?;
            let total = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
            let header = usize::from(datagram.first()? & 0x0f) * 4;
            let offset = usize::from(datagram.get(header + 12)? >> 4) * 4;
            total.checked_sub(header + offset)
        };
        payload().filter(|_| self.frame.get(12..14) == Some(&[0x08, 0x00])).unwrap_or(0)
    }

    /// Whether `bytes` stand anywhere in the frame.
    #[must_use]
    pub fn has(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.frame.windows(bytes.len()).any(|window| window == bytes)
    }
}

/// All packets of the pcap file at `path`. A last packet that is still being written is left out.
///
/// # Errors
/// When the file cannot be read, or is no Ethernet pcap of this machine's byte order.
pub fn read(path: &Path) -> Result<Vec<Packet>> {
    parse(&fs::read(path).with_context(|| path.display().to_string())?).with_context(|| path.display().to_string())
}

/// The frames in `file`, the content of a pcap file.
///
/// # Errors
/// As [`read`].
pub fn parse(file: &[u8]) -> Result<Vec<Packet>> {
    let to_ns = match word(file, 0).context("empty: the capture never began")? {
        0xa1b2_c3d4 => 1000,
        0xa1b2_3c4d => 1,
        other => anyhow::bail!("magic number {other:#x} is not pcap"),
    };
    ensure!(word(file, 20) == Some(1), "link type is not Ethernet");
    let mut packets = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(fraction), Some(length)) = (word(file, at), word(file, at + 4), word(file, at + 8)) {
        let start = at + 16;
        let end = start + usize::try_from(length)?;
        let Some(frame) = file.get(start..end) else { break };
        let at_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * to_ns;
        packets.push(Packet { at_ns, frame: frame.to_vec() });
        at = end;
    }
    Ok(packets)
}

/// The content of a pcap file with `packets`.
#[must_use]
pub fn write<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_ne_bytes());
    }
    for packet in packets {
        let length = u32::try_from(packet.frame.len()).unwrap_or(u32::MAX);
        let (seconds, rest) = (packet.at_ns / 1_000_000_000, packet.at_ns % 1_000_000_000);
        for word in
            [u32::try_from(seconds).unwrap_or(u32::MAX), u32::try_from(rest).unwrap_or_default(), length, length]
        {
            file.extend(word.to_ne_bytes());
        }
        file.extend(&packet.frame);
    }
    file
}

/// The bytes by which BGP names `prefix` (RFC 4271 §4.3): its length and as many octets as that takes.
#[must_use]
pub fn in_bgp(prefix: IpNet) -> Vec<u8> {
    let octets = match prefix.network() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let used = usize::from(prefix.prefix_len()).div_ceil(8);
    [prefix.prefix_len()].into_iter().chain(octets.into_iter().take(used)).collect()
}

/// The forms in which a card number could be read off a wire: digits as text, and two digits to a byte.
#[must_use]
pub fn forms_of_card(number: &str) -> Vec<Vec<u8>> {
    let packed =
        number.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | (digit & 0x0f)));
    vec![number.as_bytes().to_vec(), packed.collect()]
}

fn transport(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> Flow {
    let half = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    let has_ports = matches!(protocol, 6 | 17);
    let ports = half(0).zip(half(2)).filter(|_| has_ports);
    let tcp_flags = if protocol == 6 { segment.get(13).copied().unwrap_or(0) } else { 0 };
    Flow { source, destination, protocol, ports, tcp_flags }
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcap(frames: &[&[u8]]) -> Vec<u8> {
        let packet = |(index, frame): (u64, &&[u8])| Packet { at_ns: 7_000_000_000 + index, frame: frame.to_vec() };
        write(&(0..).zip(frames).map(packet).collect::<Vec<_>>())
    }

    fn syn_to(destination: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 70]);
        frame.extend(destination);
        frame.extend([0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn packets_addresses_ports_and_flags_are_read() {
        let packets = parse(&pcap(&[&syn_to([203, 0, 113, 200])])).unwrap();
        let flow = packets[0].flow().unwrap();
        assert_eq!(packets[0].at_ns, 7_000_000_000);
        assert_eq!(flow.ports, Some((40000, 443)));
        assert!(flow.opens());
        assert_eq!(packets[0].tcp_payload_v4(), 0);
        let mut more = syn_to([203, 0, 113, 200]);
        more[17] += 5;
        assert_eq!(Packet { at_ns: 0, frame: more }.tcp_payload_v4(), 5);
        assert!(flow.touches("203.0.113.200/32".parse().unwrap()));
        assert!(!flow.touches("203.0.113.201/32".parse().unwrap()));
    }

    #[test]
    fn an_arp_question_for_an_address_touches_it() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 249, 0, 0, 0, 0, 0, 0]);
        frame.extend([203, 0, 113, 200]);
        let flow = Packet { at_ns: 0, frame }.flow().unwrap();
        assert!(flow.touches("203.0.113.200/32".parse().unwrap()));
    }

    #[test]
    fn a_packet_still_being_written_is_left_out_and_a_stranger_is_refused() {
        let whole = pcap(&[b"first frame", b"second frame"]);
        assert_eq!(parse(&whole).unwrap().len(), 2);
        assert_eq!(parse(&whole[..whole.len() - 1]).unwrap().len(), 1);
        assert!(parse(b"not a capture at all....").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn no_frame_cut_anywhere_makes_the_reader_panic() {
        let frame = syn_to([203, 0, 113, 200]);
        for length in 0..frame.len() {
            let packet = Packet { at_ns: 0, frame: frame[..length].to_vec() };
            let _ = (packet.flow(), packet.tcp_payload_v4());
        }
    }

    #[test]
    fn a_prefix_in_bgp_and_a_card_number_are_found_in_bytes() {
        assert_eq!(in_bgp("203.0.113.200/32".parse().unwrap()), [32, 203, 0, 113, 200]);
        assert_eq!(in_bgp("198.51.100.0/24".parse().unwrap()), [24, 198, 51, 100]);
        let forms = forms_of_card("4111111111111111");
        assert_eq!(forms[1], [0x41, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11]);
        let packet = Packet { at_ns: 0, frame: b"..4111111111111111..".to_vec() };
        assert!(packet.has(&forms[0]) && !packet.has(&forms[1]) && !packet.has(b""));
    }
}
