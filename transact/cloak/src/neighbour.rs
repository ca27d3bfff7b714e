//! ARP (RFC 826) and neighbour discovery (RFC 4861): answers for our addresses, and where the gateway is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::Instant;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use crate::frame::solicited_node;

/// How long a question stays unanswered before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long an answer is believed before it is confirmed.
const CONFIRM_AFTER: Duration = Duration::from_secs(30);

/// Knows, or finds out, the Ethernet address of one gateway while connections need it.
#[derive(Debug)]
pub(crate) struct Gateway {
    address: IpAddr,
    /// The address of ours that asks.
    ours: IpAddr,
    mac: Option<[u8; 6]>,
    confirmed_at: Instant,
    asked_at: Option<Instant>,
    /// Connections that send by this gateway; without any, nothing is asked.
    users: usize,
}

impl Gateway {
    pub(crate) fn new(address: IpAddr, ours: IpAddr) -> Self {
        Self { address, ours, mac: None, confirmed_at: Instant::ORIGIN, asked_at: None, users: 0 }
    }

    pub(crate) fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    pub(crate) fn add_user(&mut self) {
        self.users = self.users.saturating_add(1);
    }

    pub(crate) fn remove_user(&mut self) {
        self.users = self.users.saturating_sub(1);
    }

    /// The gateway's answer to our question. Unasked answers are not believed.
    pub(crate) fn answered(&mut self, address: IpAddr, mac: [u8; 6], now: Instant) -> bool {
        self.asked_at.is_some() && self.learn(address, mac, now)
    }

    /// The gateway asks for us and says where it is (RFC 826, "merge").
    pub(crate) fn learn(&mut self, address: IpAddr, mac: [u8; 6], now: Instant) -> bool {
        if address != self.address {
            return false;
        }
        self.mac = Some(mac);
        self.confirmed_at = now;
        self.asked_at = None;
        true
    }

    /// When a question is due, if ever.
    pub(crate) fn ask_at(&self) -> Option<Instant> {
        if self.users == 0 {
            return None;
        }
        Some(match (self.asked_at, self.mac) {
            (Some(asked), _) => asked + ASK_AGAIN,
            (None, Some(_)) => self.confirmed_at + CONFIRM_AFTER,
            (None, None) => Instant::ORIGIN,
        })
    }

    /// The question, if one is due.
    pub(crate) fn ask(&mut self, own_mac: [u8; 6], now: Instant) -> Option<Vec<u8>> {
        if self.ask_at().is_none_or(|due| now < due) {
            return None;
        }
        self.asked_at = Some(now);
        match (self.address, self.ours) {
            (IpAddr::V4(gateway), IpAddr::V4(ours)) => {
                Some(arp_frame(ArpOperation::Request, (own_mac, ours), ([0; 6], gateway), EthernetAddress::BROADCAST.0))
            }
            (IpAddr::V6(gateway), IpAddr::V6(ours)) => {
                let group = solicited_node(gateway);
                let [.., a, b, c] = group.octets();
                let solicit =
                    NdiscRepr::NeighborSolicit { target_addr: gateway, lladdr: Some(EthernetAddress(own_mac).into()) };
                Some(discovery_frame(solicit, (own_mac, ours), ([0x33, 0x33, 0xff, a, b, c], group)))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

/// The answer to an ARP request from `asker` for `target`.
pub(crate) fn arp_reply(own_mac: [u8; 6], target: Ipv4Addr, asker: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    arp_frame(ArpOperation::Reply, (own_mac, target), asker, asker.0)
}

/// The answer to a solicitation from `asker` for `target`.
pub(crate) fn advertisement(own_mac: [u8; 6], target: Ipv6Addr, asker: ([u8; 6], Ipv6Addr)) -> Vec<u8> {
    let advert = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        target_addr: target,
        lladdr: Some(EthernetAddress(own_mac).into()),
    };
    discovery_frame(advert, (own_mac, target), asker)
}

/// Tells a TCP stack at `own_mac` that `router` is at `mac`: an unsolicited advertisement that never
/// leaves this process.
pub(crate) fn introduction(own_mac: [u8; 6], router: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let advert = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: router,
        lladdr: Some(EthernetAddress(mac).into()),
    };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    discovery_frame(advert, (mac, router), (own_mac, all_nodes))
}

fn arp_frame(
    operation: ArpOperation,
    source: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
    destination: [u8; 6],
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    ethernet(source.0, destination, EthernetProtocol::Arp, repr.buffer_len(), |payload| {
        repr.emit(&mut ArpPacket::new_unchecked(payload));
    })
}

fn discovery_frame(message: NdiscRepr<'_>, source: ([u8; 6], Ipv6Addr), target: ([u8; 6], Ipv6Addr)) -> Vec<u8> {
    let icmp = Icmpv6Repr::Ndisc(message);
    let ip = Ipv6Repr {
        src_addr: source.1,
        dst_addr: target.1,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: 255,
    };
    let length = ip.buffer_len().saturating_add(icmp.buffer_len());
    ethernet(source.0, target.0, EthernetProtocol::Ipv6, length, |payload| {
        let mut packet = Ipv6Packet::new_unchecked(payload);
        ip.emit(&mut packet);
        let mut body = Icmpv6Packet::new_unchecked(packet.payload_mut());
        icmp.emit(&source.1, &target.1, &mut body, &ChecksumCapabilities::default());
    })
}

fn ethernet(
    source: [u8; 6],
    destination: [u8; 6],
    ethertype: EthernetProtocol,
    payload_length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(payload_length)];
    let header = EthernetRepr { src_addr: EthernetAddress(source), dst_addr: EthernetAddress(destination), ethertype };
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    header.emit(&mut ethernet);
    fill(ethernet.payload_mut());
    frame
}
