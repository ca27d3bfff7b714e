//! The cloak: whatever arrives, and whatever the application does, nothing leaves but answers to ARP
//! and neighbour discovery, questions for the gateway, and TCP without RST to members that called.
//!
//! What leaves is read here byte by byte, not by the library that wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_sim::Rng;
use cloakway_types::Instant;
use transact_cloak::{Checksum, Cloak, CloakConfig, ConnectionId, Limits};

use crate::bytes::Choices;

const CLOAK: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const FORWARDER: [u8; 6] = [2, 0, 0, 0, 0, 0xf0];
const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 249)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0xff, 0, 0, 0, 1))];
const PRIVATE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc10a, 0, 0, 0, 0, 0x200))];
/// Two members and two strangers.
const CALLERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 70)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5100, 0x64, 0, 0, 0, 0x70)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa000, 0, 0, 0, 0, 0x10)),
];
const PORT: u16 = 443;
const MTU: usize = 1500;
const LIMITS: Limits = Limits {
    max_connections: 6,
    max_half_open: 3,
    max_per_isp: 5,
    max_half_open_per_isp: 2,
    max_per_source: 4,
    handshake_timeout: Duration::from_secs(2),
    idle_timeout: Duration::from_secs(4),
    linger_timeout: Duration::from_secs(1),
    receive_buffer: 2048,
    send_buffer: 2048,
    transmit_queue: 16,
};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A list of operations, each a byte (the kind in its low three bits) and what the kind takes:
///
/// | kind | what happens | takes |
/// | --- | --- | --- |
/// | 0 | any frame; bit 3: its TCP checksum is not looked at, bit 4: its checksums are put right first | length, frame |
/// | 1 | time passes | milliseconds, two bytes |
/// | 2 | a TCP segment, in step with its connection as far as asked | see [`Link::segment`] |
/// | 3 | the gateway asks (bit 4: answers), by ARP or (bit 3) neighbour discovery | nothing |
/// | 4 | the application accepts and reads | nothing |
/// | 5 | it writes | connection, length |
/// | 6 | it ends its half (bit 3: closes) | connection |
/// | 7 | it aborts | connection |
pub fn cloak_frames(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut link = Link::new();
    while !choices.is_empty() {
        link.operation(&mut choices);
        link.settle();
    }
    link.silence();
}

struct Seeded(Rng);

impl Randomness for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

struct Link {
    cloak: Cloak,
    now: Instant,
    connections: Vec<ConnectionId>,
    /// Who asked for our Ethernet address, as loosely read as possible: at least these were not addressed.
    askers: BTreeSet<IpAddr>,
    /// Who sent a SYN, likewise.
    callers: BTreeSet<(IpAddr, u16)>,
    /// Who sent fragments, of which a SYN may come.
    cutters: BTreeSet<IpAddr>,
    /// Next sequence number of each caller.
    ours: BTreeMap<(IpAddr, u16), u32>,
    /// Next sequence number of the cloak towards each caller.
    theirs: BTreeMap<(IpAddr, u16), u32>,
}

impl Link {
    fn new() -> Self {
        let isp = || "isp-a".parse().expect("a good id");
        let prefix = |text: &str| text.parse().expect("a prefix");
        let [IpAddr::V4(gateway_v4), IpAddr::V6(gateway_v6)] = GATEWAYS else { unreachable!("one of each") };
        let config = CloakConfig {
            hardware_address: CLOAK,
            addresses: PRIVATE.to_vec(),
            port: PORT,
            gateway_v4: Some(gateway_v4),
            gateway_v6: Some(gateway_v6),
            members: vec![(prefix("198.51.100.0/24"), isp()), (prefix("2001:db8:5100::/48"), isp())],
            mtu: 1500,
            limits: LIMITS,
        };
        Self {
            cloak: Cloak::new(config, Box::new(Seeded(Rng::new(7)))).expect("a good configuration"),
            now: Instant::ORIGIN,
            connections: Vec::new(),
            askers: BTreeSet::new(),
            callers: BTreeSet::new(),
            cutters: BTreeSet::new(),
            ours: BTreeMap::new(),
            theirs: BTreeMap::new(),
        }
    }

    fn operation(&mut self, choices: &mut Choices<'_>) {
        let operation = choices.byte();
        let chosen = |bit: u8| operation & (1 << bit) != 0;
        match operation & 7 {
            0 => {
                let length = usize::from(choices.byte());
                let mut frame = choices.take(length).to_vec();
                if chosen(4) {
                    repair(&mut frame);
                }
                self.receive(&frame, if chosen(3) { Checksum::Offloaded } else { Checksum::OnWire });
            }
            1 => self.now = self.now + Duration::from_millis(u64::from(choices.u16())),
            2 => self.segment(choices),
            3 => {
                let frame = if chosen(3) { discovery(chosen(4)) } else { arp(chosen(4)) };
                self.receive(&frame, Checksum::OnWire);
            }
            4 => {
                while let Some((id, peer)) = self.cloak.accept() {
                    assert!(is_member(peer.address) && PRIVATE.contains(&peer.local));
                    self.connections.push(id);
                }
                let mut buffer = [0; 500];
                for id in &self.connections {
                    let _ = self.cloak.read(*id, &mut buffer);
                }
                while self.cloak.poll_ready().is_some() {}
            }
            5 => {
                let id = self.pick(choices);
                let length = usize::from(choices.byte()) * 16;
                if let Some(id) = id {
                    let _ = self.cloak.write(id, &vec![b'x'; length]);
                }
            }
            6 => match self.pick(choices) {
                Some(id) if chosen(3) => self.cloak.close(id, self.now),
                Some(id) => drop(self.cloak.shutdown(id)),
                None => {}
            },
            _ => {
                if let Some(id) = self.pick(choices) {
                    self.cloak.abort(id);
                }
            }
        }
    }

    fn pick(&self, choices: &mut Choices<'_>) -> Option<ConnectionId> {
        let place = usize::from(choices.byte());
        self.connections.get(place.checked_rem(self.connections.len())?).copied()
    }

    /// A segment from six bytes: caller (2 bits), source port (3 bits), another destination port (1 bit);
    /// TCP flags; how far the sequence and the acknowledgement number are off, signed; words of options;
    /// octets of data. Options are taken from what follows.
    fn segment(&mut self, choices: &mut Choices<'_>) {
        let who = choices.byte();
        let source = CALLERS[usize::from(who & 3)];
        let caller = (source, 40_000 + u16::from(who >> 2 & 7));
        let destination = PRIVATE[usize::from(source.is_ipv6())];
        let flags = choices.byte();
        let (off_sequence, off_acknowledgement) = (offset(choices.byte()), offset(choices.byte()));
        let words = choices.byte() & 15;
        let data = vec![b'd'; usize::from(choices.byte()) * 4];
        let mut options = choices.take(usize::from(words.min(10)) * 4).to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let next = self.ours.entry(caller).or_insert(1000);
        let sequence = next.wrapping_add_signed(off_sequence);
        if off_sequence == 0 {
            let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            *next = next.wrapping_add(counted).wrapping_add(u32::try_from(data.len()).expect("at most 1020"));
        }
        let theirs = self.theirs.get(&caller).copied().unwrap_or(0);
        let to = if who & 0x20 == 0 { PORT } else { 444 };
        let header = u8::try_from(5 + options.len() / 4).expect("at most 15") << 4;
        let mut body = [caller.1.to_be_bytes(), to.to_be_bytes()].concat();
        body.extend(sequence.to_be_bytes());
        body.extend(theirs.wrapping_add_signed(off_acknowledgement).to_be_bytes());
        body.extend([header, flags, 4, 0, 0, 0, 0, 0]);
        body.extend(options);
        body.extend(data);
        let frame = packet(source, destination, TCP, 64, CLOAK, &body);
        self.receive(&frame, Checksum::OnWire);
    }

    fn receive(&mut self, frame: &[u8], checksum: Checksum) {
        match ethertype(frame) {
            Some(ARP) => {
                if let Some(sender) = frame.get(28..32).and_then(<[u8]>::as_array::<4>) {
                    self.askers.insert(IpAddr::from(*sender));
                }
            }
            Some(IPV4 | IPV6) => {
                if let Some(packet) = Packet::read(frame) {
                    self.askers.insert(packet.source);
                    if is_piece(frame) {
                        self.cutters.insert(packet.source);
                    }
                    if let Some(segment) = packet.segment().filter(|segment| segment.flags & SYN != 0) {
                        self.callers.insert((packet.source, segment.source_port));
                    }
                }
            }
            _ => {}
        }
        self.cloak.handle_frame(frame, checksum, self.now);
    }

    /// Lets the cloak work, and looks at what comes of it.
    fn settle(&mut self) {
        self.cloak.poll(self.now);
        assert!(self.cloak.connections() <= LIMITS.max_connections);
        assert!(self.cloak.half_open() <= LIMITS.max_half_open);
        let mut frames = 0;
        while let Some(frame) = self.cloak.poll_transmit() {
            self.leaves(&frame);
            frames += 1;
        }
        assert!(frames <= LIMITS.transmit_queue, "{frames} frames waited");
    }

    /// Nothing more arrives and the application does nothing: all connections are forgotten in time.
    fn silence(&mut self) {
        let end = self.now + LIMITS.handshake_timeout + LIMITS.idle_timeout + LIMITS.linger_timeout;
        for _ in 0..10_000 {
            match self.cloak.poll_timeout() {
                Some(due) if self.now < end => self.now = due.max(self.now + Duration::from_millis(1)),
                Some(_) | None => break,
            }
            self.settle();
        }
        assert_eq!(self.cloak.connections(), 0, "after silence until {:?}: {:?}", self.now, self.cloak.counters());
        assert_eq!(self.cloak.poll_timeout(), None);
    }

    fn leaves(&mut self, frame: &[u8]) {
        let shown = || format!("{frame:02x?}");
        assert!(frame.len() <= MTU + 14 && frame[6..12] == CLOAK, "{}", shown());
        let to: [u8; 6] = *frame.first_chunk().expect("an Ethernet header");
        let to_group = to[0] & 1 == 1;
        match ethertype(frame) {
            Some(ARP) => {
                let target = Ipv4Addr::from(*frame[38..].first_chunk::<4>().expect("an ARP packet"));
                assert_eq!(IpAddr::from(*frame[28..].first_chunk::<4>().expect("an ARP packet")), PRIVATE[0]);
                match frame[20..22] {
                    [0, 1] => assert_eq!((IpAddr::V4(target), to), (GATEWAYS[0], [0xff; 6])),
                    [0, 2] => assert!(!to_group && self.askers.contains(&target.into()), "{}", shown()),
                    _ => panic!("ARP of another kind: {}", shown()),
                }
            }
            Some(IPV4 | IPV6) => {
                let packet = Packet::read(frame).unwrap_or_else(|| panic!("no IP packet: {}", shown()));
                assert!(PRIVATE.contains(&packet.source), "{}", shown());
                assert_eq!(packet.checksums(), (0, 0), "{}", shown());
                match (packet.protocol, packet.body.first()) {
                    (TCP, _) => self.segment_leaves(&packet, to),
                    (ICMPV6, Some(&SOLICITATION)) => assert_eq!(Some(GATEWAYS[1]), packet.target(), "{}", shown()),
                    (ICMPV6, Some(&ADVERTISEMENT)) => {
                        assert!(!to_group && self.askers.contains(&packet.destination), "{}", shown());
                        assert_eq!(packet.target(), Some(PRIVATE[1]), "{}", shown());
                    }
                    _ => panic!("neither TCP nor neighbour discovery: {}", shown()),
                }
            }
            _ => panic!("neither ARP nor IP: {}", shown()),
        }
    }

    fn segment_leaves(&mut self, packet: &Packet<'_>, to: [u8; 6]) {
        let segment = packet.segment().expect("a whole TCP header");
        let caller = (packet.destination, segment.destination_port);
        assert!(is_member(packet.destination), "TCP to a stranger: {}", packet.destination);
        let called = self.callers.contains(&caller) || self.cutters.contains(&caller.0);
        assert!(called, "TCP to {caller:?}, who never called");
        assert!(segment.flags & RST == 0, "RST to {caller:?}");
        assert!(segment.flags & ACK != 0 && segment.source_port == PORT && to[0] & 1 == 0);
        let counted = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
        let length = u32::try_from(segment.data).expect("at most the MTU");
        self.theirs.insert(caller, segment.sequence.wrapping_add(length).wrapping_add(counted));
    }
}

/// Mostly small, and now and then far out of any window.
fn offset(byte: u8) -> i32 {
    let signed = i32::from(byte.cast_signed());
    if signed.abs() > 100 { signed * 100_000 } else { signed }
}

/// Whether an IP packet is a fragment: IPv4 with an offset or more to come, IPv6 with a fragment header.
fn is_piece(frame: &[u8]) -> bool {
    match ethertype(frame) {
        Some(IPV4) => frame.get(20..22).is_some_and(|place| place[0] & 0x3f != 0 || place[1] != 0),
        Some(IPV6) => frame.get(20) == Some(&44),
        _ => false,
    }
}

fn is_member(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [198, 51, 100],
        IpAddr::V6(v6) => v6.segments()[..3] == [0x2001, 0xdb8, 0x5100],
    }
}

fn ethertype(frame: &[u8]) -> Option<u16> {
    frame.get(12..14)?.as_array().map(|octets| u16::from_be_bytes(*octets))
}

struct Packet<'f> {
    header: &'f [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    body: &'f [u8],
}

struct Segment {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    flags: u8,
    data: usize,
}

impl<'f> Packet<'f> {
    /// Reads IP as its lengths say; what an option or an extension header holds is left unread.
    fn read(frame: &'f [u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let length =
            |at: usize| packet.get(at..at + 2)?.as_array().map(|octets| usize::from(u16::from_be_bytes(*octets)));
        let v4 = |at: usize| packet.get(at..at + 4)?.as_array::<4>().map(|octets| IpAddr::from(*octets));
        let v6 = |at: usize| packet.get(at..at + 16)?.as_array::<16>().map(|octets| IpAddr::from(*octets));
        if ethertype(frame) == Some(IPV4) {
            let start = Some(usize::from(packet.first()? & 15) * 4).filter(|start| *start >= 20)?;
            let (header, body) = (packet.get(..start)?, packet.get(start..length(2)?)?);
            Some(Self { header, source: v4(12)?, destination: v4(16)?, protocol: *packet.get(9)?, body })
        } else {
            let (header, body) = (packet.get(..40)?, packet.get(40..40 + length(4)?)?);
            Some(Self { header, source: v6(8)?, destination: v6(24)?, protocol: *packet.get(6)?, body })
        }
    }

    fn segment(&self) -> Option<Segment> {
        let word = |at: usize| self.body.get(at..at + 2)?.as_array().map(|octets| u16::from_be_bytes(*octets));
        let header = usize::from(self.body.get(12)? >> 4) * 4;
        (self.protocol == TCP).then_some(())?;
        Some(Segment {
            source_port: word(0)?,
            destination_port: word(2)?,
            sequence: u32::from(word(4)?) << 16 | u32::from(word(6)?),
            flags: *self.body.get(13)?,
            data: self.body.get(header..)?.len(),
        })
    }

    /// The target of neighbour discovery.
    fn target(&self) -> Option<IpAddr> {
        self.body.get(8..24)?.as_array::<16>().map(|octets| IpAddr::from(*octets))
    }

    /// What is left over of the IPv4 header's checksum and of the body's: 0 where it is right.
    fn checksums(&self) -> (u16, u16) {
        let header = if self.source.is_ipv4() { sum(&[self.header]) } else { 0 };
        let addresses = if self.source.is_ipv4() { &self.header[12..20] } else { &self.header[8..40] };
        let length = u32::try_from(self.body.len()).expect("at most 65535").to_be_bytes();
        (header, sum(&[addresses, &length, &[0, self.protocol], self.body]))
    }
}

/// The Internet checksum (RFC 1071) over parts of which all but the last have an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let total: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (total & 0xffff) + (total >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice")
}

/// Puts the checksums of an IP packet right, where there are any.
fn repair(frame: &mut [u8]) {
    let Some(packet) = Packet::read(frame) else { return };
    let (v4, header, protocol, length) =
        (packet.source.is_ipv4(), packet.header.len(), packet.protocol, packet.body.len());
    let place = match protocol {
        TCP if length >= 20 => 14 + header + 16,
        ICMPV6 if length >= 4 => 14 + header + 2,
        _ => 0,
    };
    if v4 {
        frame[24..26].fill(0);
    }
    if place > 0 {
        frame[place..place + 2].fill(0);
    }
    if v4 {
        let header = Packet::read(frame).map_or(0, |packet| packet.checksums().0);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
    }
    if place > 0 {
        let body = Packet::read(frame).map_or(0, |packet| packet.checksums().1);
        frame[place..place + 2].copy_from_slice(&body.to_be_bytes());
    }
}

fn ethernet(to: [u8; 6], ethertype: u16) -> Vec<u8> {
    [to.as_slice(), &FORWARDER, &ethertype.to_be_bytes()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u8, hops: u8, to: [u8; 6], body: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + body.len()).expect("a short packet").to_be_bytes();
    let mut frame = ethernet(to, if source.is_ipv4() { IPV4 } else { IPV6 });
    if source.is_ipv4() {
        let [high, low] = length(20);
        frame.extend([0x45, 0, high, low, 0, 0, 0, 0, hops, protocol, 0, 0]);
    } else {
        let [high, low] = length(0);
        frame.extend([0x60, 0, 0, 0, high, low, protocol, hops]);
    }
    frame.extend(octets(source));
    frame.extend(octets(destination));
    frame.extend(body);
    repair(&mut frame);
    frame
}

/// The gateway asks for the private address, or says where it is itself.
fn arp(answer: bool) -> Vec<u8> {
    let mut frame = ethernet(if answer { CLOAK } else { [0xff; 6] }, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, if answer { 2 } else { 1 }]);
    frame.extend(FORWARDER);
    frame.extend(octets(GATEWAYS[0]));
    frame.extend(if answer { CLOAK } else { [0; 6] });
    frame.extend(octets(PRIVATE[0]));
    frame
}

/// The same by neighbour discovery.
fn discovery(answer: bool) -> Vec<u8> {
    let (kind, target, option) = if answer { (ADVERTISEMENT, GATEWAYS[1], 2) } else { (SOLICITATION, PRIVATE[1], 1) };
    let mut body = vec![kind, 0, 0, 0, 0x40, 0, 0, 0];
    body.extend(octets(target));
    body.extend([option, 1]);
    body.extend(FORWARDER);
    packet(GATEWAYS[1], PRIVATE[1], ICMPV6, 255, CLOAK, &body)
}
