//! Handshakes without memory, for when there is no room for half-open connections (SYN cookies, RFC 4987 §3.6).
//!
//! A SYN that finds no room is answered by a connection that is forgotten at once. Its sequence number comes of a secret,
//! the addresses, the peer's sequence number and the time; so whoever acknowledges it has heard the answer, and is where it
//! says it is. The connection is made again then, from the same seed, as it would be by now. A SYN's options are not
//! remembered, and so not taken up.

use std::net::IpAddr;
use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_crypto::hash::sha256;
use cloakway_types::{Instant, IspId};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use crate::config::Limits;
use crate::connection::{Connection, Transmit, World};
use crate::counters::Counters;
use crate::frame::Flow;

/// An answer counts in the slot of time in which it was made, and in the next.
const SLOT: Duration = Duration::from_secs(8);

/// The secret, and until when answers may come back.
pub(crate) struct Cookies {
    secret: [u8; 32],
    until: Option<Instant>,
}

/// What a cookie is made with beside the addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) now: Instant,
    pub(crate) own_mac: [u8; 6],
    pub(crate) gateway: [u8; 6],
    pub(crate) port: u16,
    pub(crate) mtu: u16,
}

fn slot(at: Instant) -> u64 {
    at.since_origin().as_secs() / SLOT.as_secs()
}

impl Cookies {
    pub(crate) fn new(randomness: &mut dyn Randomness) -> Self {
        let mut secret = [0; 32];
        randomness.fill(&mut secret);
        Self { secret, until: None }
    }

    fn seed(&self, flow: &Flow, sequence: u32, slot: u64) -> u64 {
        let address = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let hash = sha256(&[
            &self.secret,
            &address(flow.local),
            &address(flow.remote.ip()),
            &flow.remote.port().to_be_bytes(),
            &sequence.to_be_bytes(),
            &slot.to_be_bytes(),
        ]);
        let [a, b, c, d, e, f, g, h, ..] = hash;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The answer to a SYN, of which nothing is kept.
    pub(crate) fn answer(
        &mut self,
        flow: Flow,
        isp: &IspId,
        sequence: u32,
        limits: &Limits,
        link: Link,
    ) -> Option<Vec<u8>> {
        let seed = self.seed(&flow, sequence, slot(link.now));
        let (_, answer) = make(flow, isp, sequence, seed, limits, link);
        self.until = Some(link.now + 2 * SLOT);
        answer
    }

    /// The connection that `acknowledged` belongs to, if that is an answer of ours to the SYN before `sequence`.
    pub(crate) fn redeem(
        &self,
        flow: Flow,
        isp: &IspId,
        (sequence, acknowledged): (u32, u32),
        limits: &Limits,
        link: Link,
    ) -> Option<Connection> {
        if self.until.is_none_or(|until| until <= link.now) {
            return None;
        }
        let (first, now) = (sequence.wrapping_sub(1), slot(link.now));
        [Some(now), now.checked_sub(1)].into_iter().flatten().find_map(|slot| {
            let (connection, answer) = make(flow, isp, first, self.seed(&flow, first, slot), limits, link);
            let ours = sequence_of(&answer?)?;
            (ours.wrapping_add(1) == acknowledged).then_some(connection)
        })
    }
}

/// A connection that has heard a SYN, and what it says to that.
fn make(
    flow: Flow,
    isp: &IspId,
    sequence: u32,
    seed: u64,
    limits: &Limits,
    link: Link,
) -> (Connection, Option<Vec<u8>>) {
    let (mut transmit, mut counters) = (Transmit::new(2), Counters::default());
    let mut world = World {
        now: link.now,
        own_mac: link.own_mac,
        port: link.port,
        mtu: link.mtu,
        gateway: Some(link.gateway),
        transmit: &mut transmit,
        counters: &mut counters,
    };
    let mut connection = Connection::new(flow, isp.clone(), seed, limits, &mut world);
    connection.hear(&syn(&flow, sequence, link), &mut world);
    connection.work(limits, &mut world);
    (connection, transmit.pop())
}

/// A SYN without options, as it comes from the gateway.
fn syn(flow: &Flow, sequence: u32, link: Link) -> Vec<u8> {
    let (source, destination) = (flow.remote.ip().into(), flow.local.into());
    let segment = TcpRepr {
        src_port: flow.remote.port(),
        dst_port: link.port,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(sequence.cast_signed()),
        ack_number: None,
        window_len: 1024,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let header = IpRepr::new(source, destination, IpProtocol::Tcp, segment.buffer_len(), 64);
    let ethertype = if flow.local.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    let ethernet =
        EthernetRepr { src_addr: EthernetAddress(link.gateway), dst_addr: EthernetAddress(link.own_mac), ethertype };
    let mut frame = vec![0; 14 + header.header_len() + segment.buffer_len()];
    let mut out = EthernetFrame::new_unchecked(frame.as_mut_slice());
    ethernet.emit(&mut out);
    let checksums = ChecksumCapabilities::default();
    let (head, body) = out.payload_mut().split_at_mut(header.header_len());
    header.emit(&mut *head, &checksums);
    segment.emit(&mut TcpPacket::new_unchecked(body), &source, &destination, &checksums);
    frame
}

/// The sequence number of a segment.
fn sequence_of(frame: &[u8]) -> Option<u32> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let number =
        |segment: &[u8]| TcpPacket::new_checked(segment).ok().map(|segment| segment.seq_number().0.cast_unsigned());
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => number(Ipv4Packet::new_checked(ethernet.payload()).ok()?.payload()),
        EthernetProtocol::Ipv6 => number(Ipv6Packet::new_checked(ethernet.payload()).ok()?.payload()),
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => None,
    }
}
