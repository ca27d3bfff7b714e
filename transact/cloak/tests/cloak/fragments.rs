//! Packets that something on their way has cut.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpControl};
use transact_cloak::{Checksum, Count};

use crate::lab::{
    Lab, PRIVATE_V4, PRIVATE_V6, STRANGER_V4, STRANGER_V6, SUBSCRIBER_V4, SUBSCRIBER_V6, Seeded, Weather, cloak, frames,
};
use crate::silence::{at, syn, tcp};

static NEXT: AtomicU16 = AtomicU16::new(1);

/// `frame` in pieces of `octets`, a multiple of eight; whole if it is no longer than that, or no IP.
pub(crate) fn cut(frame: &[u8], octets: usize) -> Vec<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let header = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => 34,
        EthernetProtocol::Ipv6
            if Ipv6Packet::new_checked(ethernet.payload()).unwrap().next_header() == IpProtocol::Tcp =>
        {
            54
        }
        _ => return vec![frame.to_vec()],
    };
    let (head, body) = frame.split_at(header);
    if body.len() <= octets {
        return vec![frame.to_vec()];
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let pieces = body.chunks(octets).enumerate();
    pieces
        .map(|(at, piece)| {
            let (offset, more) = (at * octets, (at + 1) * octets < body.len());
            let mut frame = head.to_vec();
            if header == 34 {
                frame.extend_from_slice(piece);
                let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
                packet.set_total_len(20 + piece.len() as u16);
                packet.set_ident(number);
                packet.set_dont_frag(false);
                packet.set_more_frags(more);
                packet.set_frag_offset(offset as u16);
                packet.fill_checksum();
            } else {
                let place = (offset as u16) | u16::from(more);
                frame.extend([6, 0]);
                frame.extend(place.to_be_bytes());
                frame.extend(u32::from(number).to_be_bytes());
                frame.extend_from_slice(piece);
                let mut packet = Ipv6Packet::new_unchecked(&mut frame[14..]);
                packet.set_payload_len(8 + piece.len() as u16);
                packet.set_next_header(IpProtocol::Ipv6Frag);
            }
            frame
        })
        .collect()
}

#[test]
fn a_member_whose_packets_are_cut_talks_all_the_same() {
    for (from, to) in [(SUBSCRIBER_V4, PRIVATE_V4), (SUBSCRIBER_V6, PRIVATE_V6)] {
        let mut lab = Lab::new(cloak(|_| {}));
        lab.cut = Some(200);
        lab.weather = Some(Weather { random: Seeded(5), loss_percent: 2, duplicate_percent: 10, reorder_percent: 30 });
        let client = lab.connect(from, to);
        let (id, _) = lab.accept();
        let question: Vec<u8> = (0..20_000_u32).map(|at| at as u8).collect();
        let mut left = question.as_slice();
        let mut heard = vec![];
        lab.until("the question", |lab| {
            let sent = lab.client(client).send_slice(left).unwrap();
            left = &left[sent..];
            let mut buffer = [0; 4096];
            while let Ok(transact_cloak::Read::Data(octets)) = lab.cloak.read(id, &mut buffer) {
                heard.extend_from_slice(&buffer[..octets]);
            }
            (heard.len() >= question.len()).then_some(())
        });
        assert_eq!(heard, question);
        assert!(lab.count(Count::FragmentsJoined) > 10 && lab.count(Count::FragmentKept) > 50);
    }
}

#[test]
fn what_is_cut_meets_the_same_door() {
    let data = [7; 400];
    let segment = |from, to, port| tcp(from, to, port, TcpControl::Psh, Some(1), &data);
    for (member, stranger, to) in [(SUBSCRIBER_V4, STRANGER_V4, PRIVATE_V4), (SUBSCRIBER_V6, STRANGER_V6, PRIVATE_V6)] {
        for (frame, reason) in [
            (segment(member, to, 443), Count::NoConnection),
            (segment(member, to, 444), Count::OtherPort),
            (segment(stranger, to, 443), Count::NotMember),
        ] {
            let mut cloak = cloak(|_| {});
            for piece in cut(&frame, 120) {
                cloak.handle_frame(&piece, Checksum::OnWire, at(0));
            }
            let times = if reason == Count::NotMember { 4 } else { 1 };
            assert_eq!(cloak.counters().get(reason), times, "{:?}", cloak.counters());
            assert_eq!((frames(&mut cloak), cloak.connections()), (vec![], 0));
        }
        let mut cloak = cloak(|_| {});
        let mut pieces = cut(&segment(member, to, 443), 120);
        let last = pieces.pop().unwrap();
        pieces.iter().for_each(|piece| cloak.handle_frame(piece, Checksum::OnWire, at(0)));
        // Somebody else's idea of the second piece: the whole datagram goes, and what comes late finds nothing.
        let mut other = pieces[1].clone();
        *other.last_mut().unwrap() ^= 1;
        cloak.handle_frame(&other, Checksum::OnWire, at(0));
        cloak.handle_frame(&last, Checksum::OnWire, at(0));
        assert_eq!((cloak.counters().get(Count::Fragment), cloak.counters().get(Count::FragmentsJoined)), (1, 0));
        cloak.poll(at(0));
        cloak.poll(at(5000));
        assert_eq!(cloak.counters().get(Count::FragmentsExpired), 1);
    }
}

#[test]
fn fragments_lock_out_nobody_who_sends_none() {
    let mut lab = Lab::new(cloak(|_| {}));
    for host in 1..=250 {
        for number in 0..10 {
            let frame = tcp(&format!("198.51.100.{host}"), PRIVATE_V4, 443, TcpControl::Psh, Some(number), &[7; 400]);
            lab.cloak.handle_frame(&cut(&frame, 120)[0], Checksum::OnWire, at(0));
        }
    }
    assert!(lab.count(Count::FragmentsFull) > 1000, "{:?}", lab.cloak.counters());
    lab.cloak.handle_frame(&syn("198.51.100.9", PRIVATE_V4, 443), Checksum::OnWire, at(0));
    assert_eq!(lab.cloak.half_open(), 1);
    lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    lab.accept();
    lab.run_for(Duration::from_secs(6));
    assert_eq!(lab.count(Count::FragmentsExpired), 256);
}
