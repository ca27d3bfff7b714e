//! Everybody else gets silence: no frame leaves, whatever arrives.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::{Instant, PrefixSet};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
    Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use transact_cloak::{Checksum, Cloak, Count, Read};

use crate::lab::{
    CLOAK_MAC, FORWARDER_MAC, GATEWAY_V4, GATEWAY_V6, PRIVATE_V4, PRIVATE_V6, STRANGER_V4, STRANGER_V6, SUBSCRIBER_V4,
    SUBSCRIBER_V6, cloak, frames,
};

pub(crate) fn at(millis: u64) -> Instant {
    Instant::after_origin(Duration::from_millis(millis))
}

fn ethernet(destination: [u8; 6], ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    let header =
        EthernetRepr { src_addr: EthernetAddress(FORWARDER_MAC), dst_addr: EthernetAddress(destination), ethertype };
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    header.emit(&mut ethernet);
    ethernet.payload_mut().copy_from_slice(payload);
    frame
}

/// An IP packet in a frame to the cloak.
pub(crate) fn ip(from: &str, to: &str, protocol: IpProtocol, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let header = IpRepr::new(from.into(), to.into(), protocol, body.len(), hop_limit);
    let mut packet = vec![0; header.header_len() + body.len()];
    header.emit(&mut packet[..], &ChecksumCapabilities::default());
    packet[header.header_len()..].copy_from_slice(body);
    let ethertype = if from.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    ethernet(CLOAK_MAC, ethertype, &packet)
}

pub(crate) fn tcp(from: &str, to: &str, port: u16, control: TcpControl, ack: Option<i32>, payload: &[u8]) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let segment = TcpRepr {
        src_port: 40_000,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(1000),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let mut body = vec![0; segment.buffer_len()];
    segment.emit(
        &mut TcpPacket::new_unchecked(&mut body[..]),
        &source.into(),
        &destination.into(),
        &ChecksumCapabilities::default(),
    );
    ip(from, to, IpProtocol::Tcp, 64, &body)
}

pub(crate) fn syn(from: &str, to: &str, port: u16) -> Vec<u8> {
    tcp(from, to, port, TcpControl::Syn, None, b"")
}

fn ping(from: &str, to: &str) -> Vec<u8> {
    let mut body = [0; 16];
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let echo = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 1, data: b"12345678" };
            let packet = &mut Icmpv6Packet::new_unchecked(&mut body[..]);
            echo.emit(&source, &destination, packet, &ChecksumCapabilities::default());
            ip(from, to, IpProtocol::Icmpv6, 64, &body)
        }
        _ => {
            let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data: b"12345678" };
            echo.emit(&mut Icmpv4Packet::new_unchecked(&mut body[..]), &ChecksumCapabilities::default());
            ip(from, to, IpProtocol::Icmp, 64, &body)
        }
    }
}

fn discovery(from: &str, to: &str, hop_limit: u8, message: NdiscRepr<'_>) -> Vec<u8> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), to.parse().unwrap());
    let message = Icmpv6Repr::Ndisc(message);
    let mut body = vec![0; message.buffer_len()];
    let packet = &mut Icmpv6Packet::new_unchecked(&mut body[..]);
    message.emit(&source, &destination, packet, &ChecksumCapabilities::default());
    ip(from, to, IpProtocol::Icmpv6, hop_limit, &body)
}

fn solicitation(from: &str, to: &str, target: &str, hop_limit: u8) -> Vec<u8> {
    let target_addr = target.parse().unwrap();
    let lladdr = Some(EthernetAddress(FORWARDER_MAC).into());
    discovery(from, to, hop_limit, NdiscRepr::NeighborSolicit { target_addr, lladdr })
}

fn arp(operation: ArpOperation, from: &str, target: &str, destination: [u8; 6]) -> Vec<u8> {
    let question = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(FORWARDER_MAC),
        source_protocol_addr: from.parse().unwrap(),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target.parse().unwrap(),
    };
    let mut body = vec![0; question.buffer_len()];
    question.emit(&mut ArpPacket::new_unchecked(&mut body[..]));
    ethernet(destination, EthernetProtocol::Arp, &body)
}

/// A cloak that knows its gateways, so that nothing but silence keeps it from answering.
fn ready_to_answer() -> Cloak {
    let mut cloak = cloak(|_| {});
    cloak.handle_frame(&arp(ArpOperation::Request, GATEWAY_V4, PRIVATE_V4, [0xff; 6]), Checksum::OnWire, at(0));
    cloak.handle_frame(&solicitation(GATEWAY_V6, PRIVATE_V6, PRIVATE_V6, 255), Checksum::OnWire, at(0));
    assert_eq!(frames(&mut cloak).len(), 2);
    cloak
}

/// Everything that leaves in the ten seconds after `frame`.
fn answers(cloak: &mut Cloak, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = vec![];
    for millis in (0..10_000).step_by(10) {
        if millis == 0 {
            cloak.handle_frame(frame, Checksum::OnWire, at(0));
        }
        cloak.poll(at(millis));
        answers.extend(frames(cloak));
    }
    answers
}

#[track_caller]
fn assert_silent(frame: &[u8], reason: Count) {
    let mut cloak = ready_to_answer();
    assert_eq!(answers(&mut cloak, frame), Vec::<Vec<u8>>::new());
    assert_eq!(cloak.counters().get(reason), 1, "{:?}", cloak.counters());
    assert_eq!(cloak.connections(), 0);
}

#[test]
fn a_syn_from_a_member_is_answered_so_these_tests_can_fail() {
    for (from, to) in [(SUBSCRIBER_V4, PRIVATE_V4), (SUBSCRIBER_V6, PRIVATE_V6)] {
        let mut cloak = ready_to_answer();
        assert!(!answers(&mut cloak, &syn(from, to, 443)).is_empty());
    }
}

#[test]
fn pings_get_silence_from_members_and_strangers() {
    assert_silent(&ping(SUBSCRIBER_V4, PRIVATE_V4), Count::Icmp);
    assert_silent(&ping(SUBSCRIBER_V6, PRIVATE_V6), Count::Icmp);
    assert_silent(&ping(STRANGER_V4, PRIVATE_V4), Count::NotMember);
    assert_silent(&ping(STRANGER_V6, PRIVATE_V6), Count::Icmp);
    assert_silent(&ping(GATEWAY_V4, PRIVATE_V4), Count::NotMember);
    assert_silent(&ping(GATEWAY_V6, PRIVATE_V6), Count::Icmp);
}

#[test]
fn another_port_gets_silence() {
    for port in [22, 80, 442, 444, 65_535] {
        assert_silent(&syn(SUBSCRIBER_V4, PRIVATE_V4, port), Count::OtherPort);
        assert_silent(&syn(SUBSCRIBER_V6, PRIVATE_V6, port), Count::OtherPort);
    }
}

#[test]
fn a_source_outside_the_member_prefixes_gets_silence() {
    for from in [STRANGER_V4, GATEWAY_V4, "198.51.101.0", "0.0.0.0", "255.255.255.255", "127.0.0.1", PRIVATE_V4] {
        assert_silent(&syn(from, PRIVATE_V4, 443), Count::NotMember);
    }
    for from in [STRANGER_V6, GATEWAY_V6, "2001:db8:5101::1", "fe80::1", "::", "::1", PRIVATE_V6] {
        assert_silent(&syn(from, PRIVATE_V6, 443), Count::NotMember);
    }
}

#[test]
fn an_ipv4_mapped_source_is_no_member() {
    assert_silent(&syn("::ffff:198.51.100.70", PRIVATE_V6, 443), Count::NotMember);
}

#[test]
fn stray_segments_get_no_rst() {
    for control in [TcpControl::None, TcpControl::Psh, TcpControl::Fin, TcpControl::Rst] {
        for ack in [None, Some(77)] {
            assert_silent(&tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, control, ack, b"x"), Count::NoConnection);
            assert_silent(&tcp(SUBSCRIBER_V6, PRIVATE_V6, 443, control, ack, b""), Count::NoConnection);
        }
    }
    assert_silent(&tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, TcpControl::Syn, Some(5), b""), Count::NoConnection);
    assert_silent(&tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, TcpControl::Syn, None, b"early"), Count::SynData);
}

#[test]
fn a_wrong_acknowledgement_of_a_handshake_gets_no_rst() {
    let mut cloak = ready_to_answer();
    cloak.handle_frame(&syn(SUBSCRIBER_V4, PRIVATE_V4, 443), Checksum::OnWire, at(0));
    frames(&mut cloak);
    let guess = tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, TcpControl::None, Some(12_345), b"");
    cloak.handle_frame(&guess, Checksum::OnWire, at(1));
    assert_eq!(frames(&mut cloak), Vec::<Vec<u8>>::new());
    assert_eq!(cloak.counters().get(Count::RstSuppressed), 1);
    assert_eq!((cloak.half_open(), cloak.accept()), (1, None));
}

#[test]
fn udp_and_other_protocols_get_silence() {
    for protocol in [IpProtocol::Udp, IpProtocol::Igmp, IpProtocol::Unknown(47), IpProtocol::Unknown(132)] {
        assert_silent(&ip(SUBSCRIBER_V4, PRIVATE_V4, protocol, 64, &[0; 20]), Count::OtherProtocol);
        assert_silent(&ip(SUBSCRIBER_V6, PRIVATE_V6, protocol, 64, &[0; 20]), Count::OtherProtocol);
    }
}

#[test]
fn options_extension_headers_and_fragments_that_do_not_fit_get_silence() {
    let with_ipv4 = |change: fn(&mut Ipv4Packet<&mut [u8]>)| {
        let mut frame = syn(SUBSCRIBER_V4, PRIVATE_V4, 443);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
        change(&mut packet);
        packet.fill_checksum();
        frame
    };
    // 20 octets are no multiple of eight, and a piece behind them may be kept for a while.
    assert_silent(&with_ipv4(|packet| packet.set_more_frags(true)), Count::Fragment);
    assert_silent(&with_ipv4(|packet| packet.set_frag_offset(8)), Count::FragmentKept);
    assert_silent(&with_ipv4(|packet| packet.set_header_len(24)), Count::IpOptions);
    for header in [
        IpProtocol::HopByHop,
        IpProtocol::Ipv6Route,
        IpProtocol::Ipv6Opts,
        IpProtocol::IpSecAh,
        IpProtocol::IpSecEsp,
        IpProtocol::Ipv6NoNxt,
    ] {
        let option = [6, 0, 0xc2, 4, 0, 0, 0, 0];
        assert_silent(&ip(SUBSCRIBER_V6, PRIVATE_V6, header, 64, &option), Count::ExtensionHeader);
    }
}

#[test]
fn another_address_and_another_host_get_silence() {
    assert_silent(&syn(SUBSCRIBER_V4, "203.0.113.201", 443), Count::OtherAddress);
    assert_silent(&syn(SUBSCRIBER_V6, "2001:db8:c10a::201", 443), Count::OtherAddress);
    assert_silent(&ping(SUBSCRIBER_V4, "255.255.255.255"), Count::OtherAddress);
    for destination in [[0xff; 6], [2, 0, 0, 0, 0, 9], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        for mut frame in [syn(SUBSCRIBER_V4, PRIVATE_V4, 443), syn(SUBSCRIBER_V6, PRIVATE_V6, 443)] {
            frame[..6].copy_from_slice(&destination);
            assert_silent(&frame, Count::OtherHost);
        }
    }
    let mut from_group = syn(SUBSCRIBER_V4, PRIVATE_V4, 443);
    from_group[6] |= 1;
    assert_silent(&from_group, Count::OtherHost);
}

#[test]
fn address_resolution_is_answered_for_our_addresses_only() {
    let mut cloak = ready_to_answer();
    let answered = answers(&mut cloak, &arp(ArpOperation::Request, GATEWAY_V4, PRIVATE_V4, [0xff; 6]));
    assert_eq!(answered.len(), 1);
    let reply = ArpRepr::parse(&ArpPacket::new_checked(&answered[0][14..]).unwrap()).unwrap();
    assert!(matches!(reply, ArpRepr::EthernetIpv4 { operation: ArpOperation::Reply, source_hardware_addr, .. }
        if source_hardware_addr.0 == CLOAK_MAC));

    assert_silent(&arp(ArpOperation::Request, GATEWAY_V4, "203.0.113.201", [0xff; 6]), Count::OtherArp);
    assert_silent(&arp(ArpOperation::Request, "0.0.0.0", PRIVATE_V4, [0xff; 6]), Count::OtherArp);
    assert_silent(&arp(ArpOperation::Reply, GATEWAY_V4, PRIVATE_V4, [0xff; 6]), Count::OtherArp);
    assert_silent(&arp(ArpOperation::Reply, GATEWAY_V4, PRIVATE_V4, CLOAK_MAC), Count::OtherArp);
    assert_silent(&arp(ArpOperation::Unknown(3), GATEWAY_V4, PRIVATE_V4, CLOAK_MAC), Count::OtherArp);
    let mut lying = arp(ArpOperation::Request, GATEWAY_V4, PRIVATE_V4, [0xff; 6]);
    lying[14 + 8 + 5] ^= 1;
    assert_silent(&lying, Count::OtherArp);
}

#[test]
fn neighbour_discovery_is_answered_for_our_addresses_only() {
    let group = "ff02::1:ff00:200";
    for (from, to) in [("fe80::f0", group), (GATEWAY_V6, PRIVATE_V6)] {
        let mut frame = solicitation(from, to, PRIVATE_V6, 255);
        if to == group {
            frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 2, 0]);
        }
        let answered = answers(&mut ready_to_answer(), &frame);
        assert_eq!(answered.len(), 1, "{from}");
        let packet = Ipv6Packet::new_checked(&answered[0][14..]).unwrap();
        assert_eq!((packet.hop_limit(), packet.dst_addr().to_string()), (255, from.to_string()));
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        assert!(icmp.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
        assert!(icmp.neighbor_flags().contains(NdiscNeighborFlags::SOLICITED));
    }

    assert_silent(&solicitation(GATEWAY_V6, PRIVATE_V6, "2001:db8:c10a::201", 255), Count::OtherDiscovery);
    assert_silent(&solicitation(GATEWAY_V6, PRIVATE_V6, PRIVATE_V6, 254), Count::OtherDiscovery);
    assert_silent(&solicitation("::", group, PRIVATE_V6, 255), Count::OtherDiscovery);
    assert_silent(&solicitation(GATEWAY_V6, "ff02::1", PRIVATE_V6, 255), Count::OtherDiscovery);
    let advert = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: GATEWAY_V6.parse().unwrap(),
        lladdr: Some(EthernetAddress(FORWARDER_MAC).into()),
    };
    assert_silent(&discovery(GATEWAY_V6, PRIVATE_V6, 255, advert), Count::OtherDiscovery);
    let solicit_routers = NdiscRepr::RouterSolicit { lladdr: None };
    assert_silent(&discovery(GATEWAY_V6, PRIVATE_V6, 255, solicit_routers), Count::Icmp);
}

#[test]
fn an_unasked_answer_does_not_move_the_gateway() {
    let mut cloak = ready_to_answer();
    let mut frame = arp(ArpOperation::Reply, GATEWAY_V4, PRIVATE_V4, CLOAK_MAC);
    for place in [6..12, 22..28] {
        frame[place].copy_from_slice(&[2, 0, 0, 0, 0, 0x66]);
    }
    cloak.handle_frame(&frame, Checksum::OnWire, at(0));
    let answers = answers(&mut cloak, &syn(SUBSCRIBER_V4, PRIVATE_V4, 443));
    assert!(!answers.is_empty() && answers.iter().all(|answer| answer[..6] == FORWARDER_MAC));
}

#[test]
fn wrong_checksums_get_silence_unless_the_sender_left_them_to_the_interface() {
    for (from, to) in [(SUBSCRIBER_V4, PRIVATE_V4), (SUBSCRIBER_V6, PRIVATE_V6)] {
        let mut frame = syn(from, to, 443);
        let place = frame.len() - 4;
        frame[place] ^= 0x55;
        assert_silent(&frame, Count::BadChecksum);

        let mut cloak = ready_to_answer();
        cloak.handle_frame(&frame, Checksum::Offloaded, at(0));
        assert_eq!(frames(&mut cloak).len(), 1);
    }
    let mut frame = syn(SUBSCRIBER_V4, PRIVATE_V4, 443);
    frame[14 + 8] ^= 1;
    assert_silent(&frame, Count::BadChecksum);
}

#[test]
fn a_flood_of_syns_from_made_up_sources_locks_nobody_out() {
    let mut cloak = cloak(|config| config.limits.max_half_open = 4);
    let mut say = |from: &str, millis| {
        cloak.handle_frame(&syn(from, PRIVATE_V4, 443), Checksum::OnWire, at(millis));
        cloak.poll(at(millis));
        (cloak.half_open(), cloak.counters().get(Count::HalfOpenFull), cloak.counters().get(Count::HalfOpenEvicted))
    };
    for host in 1..=4 {
        say(&format!("198.51.100.{host}"), 0);
    }
    assert_eq!(say(SUBSCRIBER_V4, 999), (4, 1, 0), "not yet");
    assert_eq!(say(SUBSCRIBER_V4, 1000), (4, 1, 1), "a second is time enough for an honest handshake");
}

#[test]
fn a_segment_that_the_sending_machine_did_not_cut_is_taken_whole() {
    let mut cloak = ready_to_answer();
    cloak.handle_frame(&syn(SUBSCRIBER_V4, PRIVATE_V4, 443), Checksum::OnWire, at(0));
    let answer = frames(&mut cloak).remove(0);
    let ours = TcpPacket::new_checked(&answer[34..]).unwrap().seq_number().0;
    let mut joined = tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, TcpControl::None, Some(ours.wrapping_add(1)), &[7; 9000]);
    TcpPacket::new_unchecked(&mut joined[34..]).set_seq_number(TcpSeqNumber(1001));
    cloak.handle_frame(&joined, Checksum::Offloaded, at(1));
    let (id, _) = cloak.accept().unwrap();
    assert_eq!(cloak.read(id, &mut [0; 16_384]), Ok(Read::Data(9000)));
}

#[test]
fn malformed_frames_get_silence() {
    let whole = syn(SUBSCRIBER_V4, PRIVATE_V4, 443);
    for length in 0..whole.len() {
        let mut cloak = ready_to_answer();
        assert_eq!(answers(&mut cloak, &whole[..length]), Vec::<Vec<u8>>::new(), "{length} octets");
    }
    assert_silent(&ethernet(CLOAK_MAC, EthernetProtocol::Unknown(0x8100), &[0; 50]), Count::OtherEtherType);
    assert_silent(&ethernet(CLOAK_MAC, EthernetProtocol::Arp, &[0; 28]), Count::Malformed);
}

#[test]
fn nothing_is_said_before_anybody_spoke() {
    let mut cloak = cloak(|_| {});
    cloak.poll(at(100_000));
    assert_eq!((frames(&mut cloak), cloak.poll_timeout()), (vec![], None));
}

#[test]
fn a_gateway_that_does_not_answer_is_asked_once_a_second_and_the_handshake_waits() {
    let mut cloak = cloak(|_| {});
    let said = answers(&mut cloak, &syn(SUBSCRIBER_V4, PRIVATE_V4, 443));
    assert_eq!(said.len(), 5, "five questions in five seconds, then the half-open connection is gone");
    assert_eq!((cloak.connections(), cloak.poll_timeout()), (0, None));
}

/// Whether a frame may leave: to a member's subscriber, or address resolution.
fn permitted(frame: &[u8], members: &PrefixSet) -> bool {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    match ethernet.ethertype() {
        EthernetProtocol::Arp => true,
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            let to_member = members.contains(packet.dst_addr().into());
            packet.next_header() == IpProtocol::Tcp
                && to_member
                && !TcpPacket::new_checked(packet.payload()).unwrap().rst()
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            match packet.next_header() {
                IpProtocol::Icmpv6 => {
                    let kind = u8::from(Icmpv6Packet::new_checked(packet.payload()).unwrap().msg_type());
                    packet.hop_limit() == 255 && (kind == 135 || kind == 136)
                }
                IpProtocol::Tcp => {
                    members.contains(packet.dst_addr().into())
                        && !TcpPacket::new_checked(packet.payload()).unwrap().rst()
                }
                _ => false,
            }
        }
        EthernetProtocol::Unknown(_) => false,
    }
}

fn valid_frames() -> Vec<Vec<u8>> {
    vec![
        syn(SUBSCRIBER_V4, PRIVATE_V4, 443),
        syn(SUBSCRIBER_V6, PRIVATE_V6, 443),
        tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, TcpControl::None, Some(1), b"data"),
        tcp(SUBSCRIBER_V6, PRIVATE_V6, 443, TcpControl::Rst, None, b""),
        tcp(SUBSCRIBER_V4, PRIVATE_V4, 443, TcpControl::Fin, Some(1), b"data"),
        syn(STRANGER_V4, PRIVATE_V4, 443),
        syn(STRANGER_V6, PRIVATE_V6, 443),
        ping(SUBSCRIBER_V4, PRIVATE_V4),
        ping(SUBSCRIBER_V6, PRIVATE_V6),
        solicitation(GATEWAY_V6, PRIVATE_V6, PRIVATE_V6, 255),
        arp(ArpOperation::Request, GATEWAY_V4, PRIVATE_V4, [0xff; 6]),
        arp(ArpOperation::Reply, GATEWAY_V4, PRIVATE_V4, CLOAK_MAC),
    ]
}

proptest! {
    #[test]
    fn arbitrary_frames_never_panic_and_get_silence(
        frames_in in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8),
    ) {
        let mut cloak = ready_to_answer();
        for frame in frames_in {
            cloak.handle_frame(&frame, Checksum::OnWire, at(1));
        }
        cloak.poll(at(2));
        prop_assert_eq!(frames(&mut cloak), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn changed_frames_never_panic_and_nothing_leaves_to_strangers(
        changes in proptest::collection::vec(
            (0_usize..12, proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<bool>(), 0_u64..3000),
            1..30,
        ),
    ) {
        let members: PrefixSet =
            ["198.51.100.0/24", "2001:db8:5100::/48"].iter().map(|prefix| prefix.parse().unwrap()).collect();
        let mut cloak = ready_to_answer();
        let valid = valid_frames();
        let mut now = 0;
        for (which, edits, offloaded, pause) in changes {
            let mut frame = valid[which].clone();
            for (place, value) in edits {
                let place = place.index(frame.len());
                frame[place] = value;
            }
            now += pause;
            let checksum = if offloaded { Checksum::Offloaded } else { Checksum::OnWire };
            cloak.handle_frame(&frame, checksum, at(now));
            cloak.poll(at(now));
            while let Some((id, _)) = cloak.accept() {
                let _ = cloak.write(id, b"hello");
            }
            for frame in frames(&mut cloak) {
                prop_assert!(permitted(&frame, &members), "{frame:02x?}");
            }
        }
    }
}
