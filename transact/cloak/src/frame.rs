//! The door: what a frame must look like to be heard, and what may leave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cloakway_types::IspId;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Message, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet, NdiscRepr, TcpPacket, TcpRepr,
};

use crate::config::{Rules, is_unicast, is_unicast_mac};
use crate::counters::Count;
use crate::fragments::{Datagram, Piece};

/// Whether a frame's TCP checksum is there to be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// As sent on a wire: verified, and wrong ones are dropped.
    OnWire,
    /// Left out by a sender on this machine for the interface to fill in (`TP_STATUS_CSUMNOTREADY`
    /// of packet(7), usual on veth): not verified. Such senders do not cut segments to the MTU either: read
    /// frames of up to 64 KiB.
    Offloaded,
}

/// A frame that may be heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Who has `target`, one of ours?
    ArpRequest { target: Ipv4Addr, sender: Ipv4Addr, mac: [u8; 6] },
    /// `sender` is at `mac`, told to us.
    ArpReply { sender: Ipv4Addr, mac: [u8; 6] },
    /// Who has `target`, one of ours?
    Solicitation { target: Ipv6Addr, sender: Ipv6Addr, mac: [u8; 6] },
    /// `target` is at `mac`, told to us.
    Advertisement { target: Ipv6Addr, mac: [u8; 6] },
    /// A segment to our port from a member.
    Segment(Segment),
    /// A piece of a datagram of a member that has TCP in it.
    Fragment(Piece),
}

/// What admission needs to know of a TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flow: Flow,
    pub(crate) isp: IspId,
    /// SYN without ACK.
    pub(crate) opens: bool,
    pub(crate) sequence: u32,
    /// What an ACK without SYN and RST acknowledges.
    pub(crate) acknowledges: Option<u32>,
    pub(crate) has_data: bool,
}

/// The addresses of a connection; the local port is always ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) local: IpAddr,
    pub(crate) remote: SocketAddr,
}

/// Decides whether `frame` is heard at all.
pub(crate) fn classify(frame: &[u8], checksum: Checksum, rules: &Rules) -> Result<Heard, Count> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Count::Malformed)?;
    let source = ethernet.src_addr().0;
    if !is_unicast_mac(source) || source == rules.hardware_address {
        return Err(Count::OtherHost);
    }
    let to_us = ethernet.dst_addr().0 == rules.hardware_address;
    match ethernet.ethertype() {
        EthernetProtocol::Arp if to_us || ethernet.dst_addr().is_broadcast() => {
            arp(ethernet.payload(), source, to_us, rules)
        }
        EthernetProtocol::Ipv4 if to_us => ipv4(ethernet.payload(), checksum, rules),
        EthernetProtocol::Ipv6 if to_us => ipv6(ethernet.payload(), source, checksum, rules),
        EthernetProtocol::Ipv6 => multicast_solicitation(ethernet.payload(), ethernet.dst_addr(), source, rules),
        EthernetProtocol::Arp | EthernetProtocol::Ipv4 => Err(Count::OtherHost),
        EthernetProtocol::Unknown(_) => Err(Count::OtherEtherType),
    }
}

fn arp(payload: &[u8], source: [u8; 6], to_us: bool, rules: &Rules) -> Result<Heard, Count> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Count::Malformed)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&packet).map_err(|_| Count::Malformed)?
    else {
        return Err(Count::Malformed);
    };
    // The sender of 0.0.0.0 is an ARP probe (RFC 5227): it wants the address, and gets silence like anyone else.
    let honest = source_hardware_addr.0 == source && is_unicast(sender.into());
    if !honest || !rules.addresses.contains(&target.into()) || rules.addresses.contains(&sender.into()) {
        return Err(Count::OtherArp);
    }
    match operation {
        ArpOperation::Request => Ok(Heard::ArpRequest { target, sender, mac: source }),
        ArpOperation::Reply if to_us => Ok(Heard::ArpReply { sender, mac: source }),
        ArpOperation::Reply | ArpOperation::Unknown(_) => Err(Count::OtherArp),
    }
}

fn ipv4(payload: &[u8], checksum: Checksum, rules: &Rules) -> Result<Heard, Count> {
    let packet = Ipv4Packet::new_checked(payload).map_err(|_| Count::Malformed)?;
    if packet.version() != 4 {
        return Err(Count::Malformed);
    }
    if !packet.verify_checksum() {
        return Err(Count::BadChecksum);
    }
    let (source, destination) = (IpAddr::V4(packet.src_addr()), IpAddr::V4(packet.dst_addr()));
    if !rules.addresses.contains(&destination) {
        return Err(Count::OtherAddress);
    }
    let isp = member(source, rules)?;
    if packet.header_len() != 20 {
        return Err(Count::IpOptions);
    }
    let (offset, more) = (usize::from(packet.frag_offset()), packet.more_frags());
    match packet.next_header() {
        IpProtocol::Tcp if more || offset != 0 => {
            let of = Datagram { source, destination, identification: packet.ident().into() };
            Ok(Heard::Fragment(Piece { of, offset, more, octets: packet.payload().to_vec() }))
        }
        IpProtocol::Tcp => tcp(packet.payload(), source, destination, isp, checksum, rules),
        IpProtocol::Icmp => Err(Count::Icmp),
        _ => Err(Count::OtherProtocol),
    }
}

fn ipv6(payload: &[u8], mac: [u8; 6], checksum: Checksum, rules: &Rules) -> Result<Heard, Count> {
    let packet = checked_ipv6(payload)?;
    let (source, destination) = (IpAddr::V6(packet.src_addr()), IpAddr::V6(packet.dst_addr()));
    let ours = rules.addresses.contains(&destination);
    match packet.next_header() {
        // An address resolved already may be probed by unicast (RFC 4861 §7.2.2), a first question to the
        // solicited-node group may come in a frame to us alone.
        IpProtocol::Icmpv6 if ours || destination.is_multicast() => discovery(&packet, mac, rules),
        _ if !ours => Err(Count::OtherAddress),
        IpProtocol::Tcp => {
            let isp = member(source, rules)?;
            tcp(packet.payload(), source, destination, isp, checksum, rules)
        }
        IpProtocol::Ipv6Frag => {
            member(source, rules)?;
            fragment_v6(packet.payload(), source, destination)
        }
        IpProtocol::HopByHop
        | IpProtocol::Ipv6Route
        | IpProtocol::Ipv6Opts
        | IpProtocol::IpSecAh
        | IpProtocol::IpSecEsp
        | IpProtocol::Ipv6NoNxt => Err(Count::ExtensionHeader),
        _ => Err(Count::OtherProtocol),
    }
}

/// Behind the fragment header (RFC 8200 §4.5) there has to be TCP, without another header in between.
fn fragment_v6(payload: &[u8], source: IpAddr, destination: IpAddr) -> Result<Heard, Count> {
    let Some((&[next, _, high, low, a, b, c, d], octets)) = payload.split_first_chunk() else {
        return Err(Count::Malformed);
    };
    if IpProtocol::from(next) != IpProtocol::Tcp {
        return Err(Count::ExtensionHeader);
    }
    let of = Datagram { source, destination, identification: u32::from_be_bytes([a, b, c, d]) };
    let place = u16::from_be_bytes([high, low]);
    Ok(Heard::Fragment(Piece { of, offset: usize::from(place & !7), more: place & 1 == 1, octets: octets.to_vec() }))
}

/// The frame that would have come if nobody had cut it: `contents` behind the headers of `frame`, one of the pieces.
pub(crate) fn joined(frame: &[u8], contents: &[u8]) -> Option<Vec<u8>> {
    let ethernet = frame.get(..14)?;
    let is_v4 = frame.get(12..14)? == [0x08, 0x00];
    let length = u16::try_from(contents.len()).ok()?;
    let header = frame.get(14..if is_v4 { 34 } else { 54 })?;
    let mut whole = [ethernet, header, contents].concat();
    let packet = whole.get_mut(14..)?;
    if is_v4 {
        let mut packet = Ipv4Packet::new_unchecked(packet);
        packet.set_total_len(length.checked_add(20)?);
        packet.clear_flags();
        packet.set_frag_offset(0);
        packet.fill_checksum();
    } else {
        let mut packet = Ipv6Packet::new_unchecked(packet);
        packet.set_payload_len(length);
        packet.set_next_header(IpProtocol::Tcp);
    }
    Some(whole)
}

/// IPv6 in a group frame: only a solicitation sent to the solicited-node group of one of our addresses.
fn multicast_solicitation(payload: &[u8], group: EthernetAddress, mac: [u8; 6], rules: &Rules) -> Result<Heard, Count> {
    let [prefix @ .., _, _, _] = group.0;
    if prefix != [0x33, 0x33, 0xff] {
        return Err(Count::OtherHost);
    }
    let packet = checked_ipv6(payload)?;
    match packet.next_header() {
        IpProtocol::Icmpv6 if packet.dst_addr().is_multicast() => discovery(&packet, mac, rules),
        IpProtocol::Icmpv6 => Err(Count::Icmp),
        _ => Err(Count::OtherAddress),
    }
}

fn checked_ipv6(payload: &[u8]) -> Result<Ipv6Packet<&[u8]>, Count> {
    let packet = Ipv6Packet::new_checked(payload).map_err(|_| Count::Malformed)?;
    if packet.version() == 6 { Ok(packet) } else { Err(Count::Malformed) }
}

/// Neighbour discovery under the checks of RFC 4861 §7.1.
fn discovery(packet: &Ipv6Packet<&[u8]>, mac: [u8; 6], rules: &Rules) -> Result<Heard, Count> {
    let icmp = Icmpv6Packet::new_checked(packet.payload()).map_err(|_| Count::Malformed)?;
    if !matches!(icmp.msg_type(), Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert) {
        return Err(Count::Icmp);
    }
    let (sender, destination) = (packet.src_addr(), packet.dst_addr());
    if !icmp.verify_checksum(&sender, &destination) {
        return Err(Count::BadChecksum);
    }
    // Hop limit 255 says that no router was passed: only the link itself is heard. The unspecified sender is
    // duplicate address detection: somebody wants our address, and gets silence like anyone else.
    let from_link = packet.hop_limit() == 255 && icmp.msg_code() == 0 && is_unicast(sender.into());
    if !from_link || rules.addresses.contains(&sender.into()) {
        return Err(Count::OtherDiscovery);
    }
    let message = Icmpv6Repr::parse(&sender, &destination, &icmp, &ChecksumCapabilities::ignored())
        .map_err(|_| Count::Malformed)?;
    let stated = |link_layer: Option<smoltcp::wire::RawHardwareAddress>| match link_layer.map(|l| l.as_bytes().to_vec())
    {
        None => Ok(mac),
        Some(bytes) if bytes == mac => Ok(mac),
        Some(_) => Err(Count::OtherDiscovery),
    };
    match message {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr })
            if rules.addresses.contains(&target.into())
                && (destination == target || destination == solicited_node(target)) =>
        {
            Ok(Heard::Solicitation { target, sender, mac: stated(lladdr)? })
        }
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr: target, lladdr, .. })
            if rules.addresses.contains(&destination.into()) =>
        {
            Ok(Heard::Advertisement { target, mac: stated(lladdr)? })
        }
        _ => Err(Count::OtherDiscovery),
    }
}

/// The group that a host with `address` listens to (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The ISP of a source that may speak to us. It comes before everything that costs state.
fn member(source: IpAddr, rules: &Rules) -> Result<IspId, Count> {
    // `is_unicast` refuses ::ffff:a.b.c.d, which the look-up would take for the IPv4 address in it.
    if !is_unicast(source) || rules.addresses.contains(&source) {
        return Err(Count::NotMember);
    }
    rules.members.lookup(source).map(|(_, isp)| isp.clone()).ok_or(Count::NotMember)
}

fn tcp(
    payload: &[u8],
    source: IpAddr,
    destination: IpAddr,
    isp: IspId,
    checksum: Checksum,
    rules: &Rules,
) -> Result<Heard, Count> {
    let packet = TcpPacket::new_checked(payload).map_err(|_| Count::Malformed)?;
    if packet.dst_port() != rules.port {
        return Err(Count::OtherPort);
    }
    let (from, to) = (source.into(), destination.into());
    if checksum == Checksum::OnWire && !packet.verify_checksum(&from, &to) {
        return Err(Count::BadChecksum);
    }
    // Parsing refuses source port 0, SYN with FIN or RST, and options that contradict their lengths.
    TcpRepr::parse(&packet, &from, &to, &ChecksumCapabilities::ignored()).map_err(|_| Count::Malformed)?;
    Ok(Heard::Segment(Segment {
        flow: Flow { local: destination, remote: SocketAddr::new(source, packet.src_port()) },
        isp,
        opens: packet.syn() && !packet.ack(),
        sequence: packet.seq_number().0.cast_unsigned(),
        acknowledges: (packet.ack() && !packet.syn() && !packet.rst()).then(|| packet.ack_number().0.cast_unsigned()),
        has_data: !packet.payload().is_empty(),
    }))
}

/// Whether `frame`, made by the TCP stack, may leave: a segment of `flow`, to the gateway, without RST.
pub(crate) fn may_leave(frame: &[u8], flow: &Flow, port: u16, gateway: [u8; 6]) -> Result<(), Count> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Count::EgressRefused)?;
    let (source, destination, protocol, payload) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).map_err(|_| Count::EgressRefused)?;
            (IpAddr::V4(packet.src_addr()), IpAddr::V4(packet.dst_addr()), packet.next_header(), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).map_err(|_| Count::EgressRefused)?;
            (IpAddr::V6(packet.src_addr()), IpAddr::V6(packet.dst_addr()), packet.next_header(), packet.payload())
        }
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => return Err(Count::EgressRefused),
    };
    if protocol != IpProtocol::Tcp {
        return Err(Count::EgressRefused);
    }
    let segment = TcpPacket::new_checked(payload).map_err(|_| Count::EgressRefused)?;
    if segment.rst() {
        return Err(Count::RstSuppressed);
    }
    let of_this_flow = source == flow.local
        && destination == flow.remote.ip()
        && segment.src_port() == port
        && segment.dst_port() == flow.remote.port()
        && ethernet.dst_addr().0 == gateway;
    if of_this_flow { Ok(()) } else { Err(Count::EgressRefused) }
}
