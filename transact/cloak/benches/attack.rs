//! Honest connections under attack against without: `cargo bench -p transact-cloak --bench attack`.
//!
//! One thread is subscriber, attacker and cloak. Each honest connection is a whole one: handshake, 400 octets there, 600
//! back, both ends closed; for each, so many frames of the attack arrive in between. All of them have to succeed. Beside it
//! the same connections by the kernel over loopback.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a measurement for a person, which fails by panicking"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_types::Instant;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, IpRepr, Ipv4Packet, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber,
};
use transact_cloak::{Checksum, Cloak, CloakConfig, ConnectionId, Count, Limits, Read};

const CLOAK: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const FORWARDER: [u8; 6] = [2, 0, 0, 0, 0, 0xf0];
const PRIVATE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 249);
const HONEST: u32 = 20_000;
/// Honest connections follow each other in this time.
const STEP: Duration = Duration::from_micros(200);
/// Frames of the attack for each honest connection: 100 000 a second.
const ATTACK: usize = 20;

struct Counting(u64);

impl Randomness for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

struct End {
    address: Ipv4Addr,
    port: u16,
}

fn segment(from: &End, control: TcpControl, sequence: u32, ack: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (IpAddr::V4(from.address).into(), IpAddr::V4(PRIVATE).into());
    let segment = TcpRepr {
        src_port: from.port,
        dst_port: 443,
        control,
        seq_number: TcpSeqNumber(sequence.cast_signed()),
        ack_number: ack.map(|ack| TcpSeqNumber(ack.cast_signed())),
        window_len: 64_000,
        window_scale: None,
        max_seg_size: (control == TcpControl::Syn).then_some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let header = IpRepr::new(source, destination, IpProtocol::Tcp, segment.buffer_len(), 64);
    let mut frame = vec![0; 34 + segment.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    EthernetRepr {
        src_addr: EthernetAddress(FORWARDER),
        dst_addr: EthernetAddress(CLOAK),
        ethertype: EthernetProtocol::Ipv4,
    }
    .emit(&mut ethernet);
    let checksums = ChecksumCapabilities::default();
    let (head, body) = ethernet.payload_mut().split_at_mut(20);
    header.emit(&mut *head, &checksums);
    segment.emit(&mut TcpPacket::new_unchecked(body), &source, &destination, &checksums);
    frame
}

struct World {
    cloak: Cloak,
    now: Instant,
    next: u32,
}

impl World {
    fn new() -> Self {
        let member = |prefix: &str, isp: &str| (prefix.parse().unwrap(), isp.parse().unwrap());
        let config = CloakConfig {
            hardware_address: CLOAK,
            addresses: vec![PRIVATE.into()],
            port: 443,
            gateway_v4: Some(GATEWAY),
            gateway_v6: None,
            members: vec![member("198.51.100.0/24", "isp-a"), member("198.18.0.0/15", "isp-a")],
            mtu: 1500,
            limits: Limits::default(),
        };
        let mut world =
            Self { cloak: Cloak::new(config, Box::new(Counting(7))).unwrap(), now: Instant::ORIGIN, next: 0 };
        // The gateway asks, and is known from then on.
        let mut asking = vec![0xff; 6];
        asking.extend(FORWARDER);
        asking.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        asking.extend(FORWARDER);
        asking.extend(GATEWAY.octets());
        asking.extend([0; 6]);
        asking.extend(PRIVATE.octets());
        world.hear(&asking);
        world.drain();
        world
    }

    fn hear(&mut self, frame: &[u8]) {
        self.cloak.handle_frame(frame, Checksum::OnWire, self.now);
    }

    fn drain(&mut self) {
        self.cloak.poll(self.now);
        while self.cloak.poll_transmit().is_some() {}
    }

    /// Sequence number, flags and contents of what was said to `end`.
    fn said(&mut self, end: &End) -> Vec<(u32, bool, Vec<u8>)> {
        self.cloak.poll(self.now);
        let mut said = Vec::new();
        while let Some(frame) = self.cloak.poll_transmit() {
            let ethernet = EthernetFrame::new_checked(frame.as_slice()).unwrap();
            if ethernet.ethertype() != EthernetProtocol::Ipv4 {
                continue;
            }
            let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            let segment = TcpPacket::new_checked(packet.payload()).unwrap();
            if packet.dst_addr() == end.address && segment.dst_port() == end.port {
                let number = segment.seq_number().0.cast_unsigned();
                said.push((number, segment.fin(), segment.payload().to_vec()));
            }
        }
        said
    }

    fn end(&mut self, network: [u8; 3]) -> End {
        self.next += 1;
        let [a, b, c] = network;
        End {
            address: Ipv4Addr::new(a, b, c, 1 + (self.next % 250) as u8),
            port: 1024 + (self.next / 250 % 60_000) as u16,
        }
    }

    /// A handshake: the connection, and the numbers of both ends.
    fn connect(&mut self, end: &End) -> Option<(ConnectionId, u32)> {
        self.hear(&segment(end, TcpControl::Syn, 1000, None, &[]));
        let (theirs, ..) = self.said(end).first()?.clone();
        let theirs = theirs.wrapping_add(1);
        self.hear(&segment(end, TcpControl::None, 1001, Some(theirs), &[]));
        let (id, _) = self.cloak.accept()?;
        Some((id, theirs))
    }

    /// A whole connection; whether it went well.
    fn honest(&mut self) -> bool {
        let end = self.end([198, 51, 100]);
        let Some((id, theirs)) = self.connect(&end) else { return false };
        self.hear(&segment(&end, TcpControl::Fin, 1001, Some(theirs), &[7; 400]));
        let mut buffer = [0; 1024];
        if self.cloak.read(id, &mut buffer) != Ok(Read::Data(400)) || self.cloak.write(id, &[8; 600]) != Ok(600) {
            return false;
        }
        self.cloak.close(id, self.now);
        let (mut answer, mut finished) = (0, false);
        for (_, fin, octets) in self.said(&end) {
            answer += octets.len();
            finished |= fin;
        }
        self.hear(&segment(&end, TcpControl::None, 1402, Some(theirs.wrapping_add(601)), &[]));
        answer == 600 && finished
    }
}

/// Frames of an attack, and what has to be there before it.
type Attack = fn(&mut World) -> Vec<Vec<u8>>;

fn made_up(number: u32) -> End {
    let [_, _, high, low] = number.wrapping_mul(2_654_435_761).to_be_bytes();
    End { address: Ipv4Addr::new(198, 18 + (number % 2) as u8, high, low), port: 1024 + (number % 50_000) as u16 }
}

const ATTACKS: &[(&str, Attack)] = &[
    ("none", |_| Vec::new()),
    ("SYNs of strangers", |_| {
        let strange = |number: u32| End { address: Ipv4Addr::new(192, 0, 2, number as u8), port: 1024 };
        (0..4096).map(|number| segment(&strange(number), TcpControl::Syn, number, None, &[])).collect()
    }),
    ("SYNs of made-up members", |_| {
        (0..16_384).map(|number| segment(&made_up(number), TcpControl::Syn, number, None, &[])).collect()
    }),
    ("ACKs of made-up members", |_| {
        (0..16_384).map(|number| segment(&made_up(number), TcpControl::None, number, Some(number), &[1])).collect()
    }),
    ("SYNs and ACKs of made-up members", |_| {
        let frames = (0..16_384).map(|number| match number % 2 {
            0 => segment(&made_up(number), TcpControl::Syn, number, None, &[]),
            _ => segment(&made_up(number), TcpControl::None, number, Some(number), &[1]),
        });
        frames.collect()
    }),
    ("fragments", |_| {
        let first = |number: u32| {
            let mut frame = segment(&made_up(number), TcpControl::Psh, 1, Some(1), &[1; 44]);
            let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
            packet.set_ident(number as u16);
            packet.set_more_frags(true);
            packet.fill_checksum();
            frame
        };
        (0..16_384).map(first).collect()
    }),
    ("slow senders (900 connections)", |world| {
        let mut frames = Vec::new();
        for number in 0..900_u32 {
            let end =
                End { address: Ipv4Addr::new(198, 18, 1, (number / 16) as u8), port: 2000 + (number % 16) as u16 };
            let (_, theirs) = world.connect(&end).unwrap();
            world.drain();
            frames.push(segment(&end, TcpControl::Psh, 1001, Some(theirs), &[1]));
        }
        frames
    }),
    ("SYN and RST again and again", |_| {
        let both = |number: u32| {
            let end =
                End { address: Ipv4Addr::new(198, 18, 2, (number % 64) as u8), port: 3000 + (number % 1000) as u16 };
            [segment(&end, TcpControl::Syn, 1000, None, &[]), segment(&end, TcpControl::Rst, 1001, None, &[])]
        };
        (0..4096).flat_map(both).collect()
    }),
];

/// Seconds for all honest connections with an attack, and how many of them went well.
fn measure(attack: Attack) -> (f64, u32, World) {
    let mut world = World::new();
    let frames = attack(&mut world);
    let mut at = 0;
    let mut well = 0;
    let began = std::time::Instant::now();
    for _ in 0..HONEST {
        world.now = world.now + STEP;
        if !frames.is_empty() {
            for _ in 0..ATTACK {
                world.hear(&frames[at % frames.len()]);
                at += 1;
            }
            world.drain();
        }
        well += u32::from(world.honest());
    }
    (began.elapsed().as_secs_f64(), well, world)
}

/// The same connections by the kernel, both ends in this thread.
fn kernel(connections: u32) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let began = std::time::Instant::now();
    let mut buffer = [0; 1024];
    for _ in 0..connections {
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 400]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut buffer).unwrap(), 400);
        server.write_all(&[8; 600]).unwrap();
        drop(server);
        assert_eq!(client.read(&mut buffer).unwrap(), 600);
    }
    began.elapsed().as_secs_f64()
}

fn main() {
    // A test run asks for no figures.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let rate = |seconds: f64, connections: u32| f64::from(connections) / seconds;
    let connections = 10_000;
    println!("kernel over loopback: {:.0} connections/s", rate(kernel(connections), connections));
    let mut alone = 0.0;
    for (name, attack) in ATTACKS {
        let (seconds, well, world) = measure(*attack);
        if alone == 0.0 {
            alone = seconds;
        }
        let attacked = f64::from(HONEST) * ATTACK as f64;
        let each = (seconds - alone) / attacked * 1e9;
        println!(
            "{name}: {:.0} honest connections/s, {:.2} of those alone; {:.0} ns a frame of the attack; {well} of {HONEST} went well; \
             cookies {} sent, {} redeemed",
            rate(seconds, HONEST),
            alone / seconds,
            each.max(0.0),
            world.cloak.counters().get(Count::CookieSent),
            world.cloak.counters().get(Count::CookieRedeemed),
        );
        assert_eq!(well, HONEST, "{name}: {:?}", world.cloak.counters());
    }
}
