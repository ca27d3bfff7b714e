//! Members can talk: connect, exchange, close, over IPv4 and IPv6, within bounds, in bad weather.

use std::time::Duration;

use crate::lab::{FORWARDER_MAC, Lab, PRIVATE_V4, PRIVATE_V6, SUBSCRIBER_V4, SUBSCRIBER_V6, Seeded, Weather, cloak};
use crate::silence::syn;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet, TcpPacket};
use transact_cloak::{Cloak, Count, Gone, Read};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Frames of TCP over IPv4 with RST.
fn resets(frames: &[Vec<u8>]) -> usize {
    let is_reset = |frame: &&Vec<u8>| {
        let ethernet = EthernetFrame::new_checked(frame.as_slice()).unwrap();
        ethernet.ethertype() == EthernetProtocol::Ipv4
            && TcpPacket::new_checked(Ipv4Packet::new_checked(ethernet.payload()).unwrap().payload()).unwrap().rst()
    };
    frames.iter().filter(is_reset).count()
}

fn send<T: Send>() {}

#[test]
fn the_cloak_can_move_to_another_thread() {
    send::<Cloak>();
}

#[test]
fn a_member_connects_talks_and_closes_over_ipv4_and_ipv6() {
    for (from, to) in [(SUBSCRIBER_V4, PRIVATE_V4), (SUBSCRIBER_V6, PRIVATE_V6)] {
        let mut lab = Lab::new(cloak(|_| {}));
        let client = lab.connect(from, to);

        let (id, peer) = lab.accept();
        assert_eq!(
            (peer.address.to_string(), peer.local.to_string(), peer.isp.as_str()),
            (from.into(), to.into(), "example-isp")
        );
        assert_eq!(lab.cloak.read(id, &mut [0; 9]), Ok(Read::Pending));

        lab.client(client).send_slice(b"question").unwrap();
        lab.client(client).close();
        assert_eq!(lab.read_to_end(id), b"question");
        assert_eq!(lab.cloak.write(id, b"answer"), Ok(6));
        lab.cloak.close(id, lab.now);

        let mut answer = vec![];
        lab.until("the answer and the end", |lab| {
            let socket = lab.client(client);
            let _ = socket.recv(|data| (data.len(), answer.extend_from_slice(data)));
            (!socket.may_recv()).then_some(())
        });
        assert_eq!(answer, b"answer");
        lab.until("nothing left", |lab| (lab.cloak.connections() == 0).then_some(()));
        assert_eq!(lab.count(Count::PeerReset), 0);
        assert_eq!(lab.cloak.poll_timeout(), None);
    }
}

#[test]
fn answers_go_to_the_gateway_and_nowhere_else() {
    let mut lab = Lab::new(cloak(|_| {}));
    lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    lab.accept();
    for frame in &lab.out {
        let ethernet = EthernetFrame::new_checked(frame.as_slice()).unwrap();
        if ethernet.ethertype() == EthernetProtocol::Ipv4 {
            assert_eq!(ethernet.dst_addr().0, FORWARDER_MAC);
        }
    }
    assert!(lab.count(Count::GatewayLearnt) >= 1);
    assert_eq!(lab.count(Count::EgressRefused), 0);
}

#[test]
fn readiness_is_told_for_data_and_for_the_end() {
    let mut lab = Lab::new(cloak(|_| {}));
    let client = lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    let (id, _) = lab.accept();
    lab.run_for(secs(1));
    while lab.cloak.poll_ready().is_some() {}

    lab.run_for(secs(1));
    assert_eq!(lab.cloak.poll_ready(), None, "nothing happened");
    lab.client(client).send_slice(b"x").unwrap();
    assert_eq!(lab.until("readiness", |lab| lab.cloak.poll_ready()), id);
    assert_eq!(lab.cloak.read(id, &mut [0; 9]), Ok(Read::Data(1)));
    lab.client(client).abort();
    assert_eq!(lab.until("readiness", |lab| lab.cloak.poll_ready()), id);
    assert_eq!(lab.cloak.read(id, &mut [0; 9]), Err(Gone(id)));
    assert_eq!(lab.cloak.write(id, b"x"), Err(Gone(id)));
    assert_eq!((lab.count(Count::PeerReset), lab.cloak.connections()), (1, 0));
}

#[test]
fn after_shutdown_the_rest_can_still_be_read() {
    let mut lab = Lab::new(cloak(|_| {}));
    let client = lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    let (id, _) = lab.accept();
    lab.client(client).send_slice(b"the rest").unwrap();
    lab.client(client).close();
    lab.run_for(secs(1));

    lab.cloak.shutdown(id).unwrap();
    lab.run_for(secs(1));

    assert_eq!(lab.read_to_end(id), b"the rest");
    assert_eq!(lab.cloak.write(id, b"more"), Err(Gone(id)));
    assert_eq!(lab.count(Count::PeerReset), 0);
}

#[test]
fn abort_is_silent() {
    let mut lab = Lab::new(cloak(|_| {}));
    let client = lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    let (id, _) = lab.accept();
    lab.run_for(secs(1));
    lab.out.clear();

    lab.cloak.abort(id);
    lab.client(client).send_slice(b"anybody there?").unwrap();
    lab.run_for(secs(10));

    assert_eq!(lab.out, Vec::<Vec<u8>>::new());
    assert!(lab.count(Count::NoConnection) > 1);
    assert_eq!(lab.client(client).state(), State::Established);
}

#[test]
fn a_half_open_connection_expires_in_silence() {
    let mut lab = Lab::new(cloak(|config| config.limits.handshake_timeout = secs(5)));
    lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    lab.until("a half-open connection", |lab| (lab.cloak.half_open() == 1).then_some(()));
    let began = lab.now;
    lab.weather = Some(Weather { random: Seeded(1), loss_percent: 100, duplicate_percent: 0, reorder_percent: 0 });

    lab.until("expiry", |lab| (lab.cloak.half_open() == 0).then_some(()));

    assert!(lab.now.since(began) >= Duration::from_millis(4_990), "{:?}", lab.now.since(began));
    assert!(lab.now.since(began) <= secs(6), "{:?}", lab.now.since(began));
    assert_eq!((lab.count(Count::HandshakeExpired), lab.cloak.connections()), (1, 0));
    assert_eq!(resets(&lab.out), 0);
}

#[test]
fn an_idle_connection_is_forgotten_in_silence() {
    let mut lab = Lab::new(cloak(|config| config.limits.idle_timeout = secs(30)));
    let client = lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    let (id, _) = lab.accept();
    lab.run_for(secs(29));
    lab.client(client).send_slice(b"still here").unwrap();
    lab.run_for(secs(29));
    assert_eq!(lab.count(Count::IdleExpired), 0);
    lab.run_for(secs(2));
    assert_eq!((lab.count(Count::IdleExpired), lab.cloak.connections()), (1, 0));
    assert_eq!(lab.cloak.read(id, &mut [0; 9]), Err(Gone(id)));
    assert_eq!(resets(&lab.out), 0);
}

#[test]
fn a_peer_that_never_takes_the_answer_does_not_keep_a_closed_connection() {
    let mut lab = Lab::new(cloak(|config| config.limits.linger_timeout = secs(3)));
    lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    let (id, _) = lab.accept();
    lab.weather = Some(Weather { random: Seeded(1), loss_percent: 100, duplicate_percent: 0, reorder_percent: 0 });
    lab.cloak.write(id, b"answer").unwrap();
    lab.cloak.close(id, lab.now);
    lab.run_for(secs(2));
    assert_eq!(lab.cloak.connections(), 1);
    lab.run_for(secs(2));
    assert_eq!((lab.count(Count::LingerExpired), lab.cloak.connections()), (1, 0));
}

#[test]
fn more_syns_than_the_bounds_are_dropped_without_a_word_and_retries_succeed() {
    let mut lab = Lab::new(cloak(|config| {
        config.limits.max_half_open = 4;
        config.limits.max_per_source = 100;
    }));
    let clients: Vec<_> = (0..20).map(|_| lab.connect(SUBSCRIBER_V4, PRIVATE_V4)).collect();

    lab.until("all connected", |lab| {
        let open = clients
            .iter()
            .filter(|client| {
                lab.sockets.get::<smoltcp::socket::tcp::Socket<'_>>(**client).state() == State::Established
            })
            .count();
        (open == 20).then_some(())
    });

    assert!(lab.count(Count::HalfOpenFull) >= 1, "{:?}", lab.cloak.counters());
    assert_eq!(resets(&lab.out), 0);
}

#[test]
fn the_bounds_of_one_source_and_of_all_hold() {
    let mut lab = Lab::new(cloak(|config| config.limits.max_per_source = 3));
    for _ in 0..5 {
        lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    }
    lab.connect(SUBSCRIBER_V6, PRIVATE_V6);
    lab.run_for(secs(5));
    assert_eq!(lab.cloak.connections(), 4, "three by IPv4, one by IPv6");
    assert!(lab.count(Count::SourceFull) >= 2);

    let mut lab = Lab::new(cloak(|config| config.limits.max_connections = 2));
    for _ in 0..5 {
        lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    }
    lab.run_for(secs(5));
    assert_eq!(lab.cloak.connections(), 2);
    assert!(lab.count(Count::ConnectionsFull) >= 3);
    assert_eq!(resets(&lab.out), 0);
}

/// Two ISPs: the IPv4 subscriber is of one, the IPv6 subscriber of the other.
fn two_isps(change: impl FnOnce(&mut transact_cloak::Limits)) -> Lab {
    Lab::new(cloak(|config| {
        for (prefix, isp) in &mut config.members {
            *isp = if prefix.addr().is_ipv4() { "isp-4" } else { "isp-6" }.parse().unwrap();
        }
        config.limits.max_per_source = 100;
        change(&mut config.limits);
    }))
}

#[test]
fn one_isp_cannot_use_up_what_another_needs() {
    let mut lab = two_isps(|limits| limits.max_per_isp = 3);
    for _ in 0..6 {
        lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
    }
    for _ in 0..2 {
        lab.connect(SUBSCRIBER_V6, PRIVATE_V6);
    }
    lab.run_for(secs(5));
    assert_eq!(lab.cloak.connections(), 5, "three of the one, two of the other");
    assert!(lab.count(Count::IspFull) >= 3);
    assert_eq!(resets(&lab.out), 0);
    let first = (0..5).map(|_| lab.accept()).find(|(_, peer)| peer.isp == "isp-4".parse().unwrap());
    lab.cloak.abort(first.unwrap().0);
    lab.run_for(secs(20));
    assert_eq!(lab.cloak.connections(), 5, "what one lets go of, its next gets");
}

#[test]
fn half_open_connections_are_bounded_for_each_isp_and_retries_succeed() {
    let mut lab = two_isps(|limits| limits.max_half_open_per_isp = 2);
    let clients: Vec<_> = (0..8).map(|_| lab.connect(SUBSCRIBER_V4, PRIVATE_V4)).collect();
    lab.until("all connected", |lab| {
        let state = |client| lab.sockets.get::<smoltcp::socket::tcp::Socket<'_>>(client).state();
        clients.iter().all(|client| state(*client) == State::Established).then_some(())
    });
    assert!(lab.count(Count::IspHalfOpenFull) >= 1, "{:?}", lab.cloak.counters());
    assert_eq!(resets(&lab.out), 0);
}

/// A SYN of a made-up member, none the same as another.
fn made_up(number: u32) -> Vec<u8> {
    let mut frame = syn(&format!("198.51.100.{}", 100 + number % 150), PRIVATE_V4, 443);
    let mut segment = TcpPacket::new_unchecked(&mut frame[34..]);
    segment.set_src_port(1024 + (number / 150) as u16);
    let addresses = ["198.51.100.1", PRIVATE_V4].map(|address| address.parse::<std::net::IpAddr>().unwrap().into());
    segment.fill_checksum(&addresses[0], &addresses[1]);
    frame
}

#[test]
fn under_a_flood_of_syns_members_are_let_in_at_once_by_cookies() {
    for (from, to) in [(SUBSCRIBER_V4, PRIVATE_V4), (SUBSCRIBER_V6, PRIVATE_V6)] {
        let mut lab = Lab::new(cloak(|config| config.limits.max_half_open = 8));
        // Both gateways are known from then on.
        for (from, to) in [(SUBSCRIBER_V4, PRIVATE_V4), (SUBSCRIBER_V6, PRIVATE_V6)] {
            lab.connect(from, to);
            let (first, _) = lab.accept();
            lab.cloak.abort(first);
        }
        let mut number = 0;
        for turn in 0..40_u8 {
            let client = lab.connect(from, to);
            let mut turns = 0;
            let accepted = lab.until("a connection", |lab| {
                for _ in 0..30 {
                    number += 1;
                    lab.cloak.handle_frame(&made_up(number), transact_cloak::Checksum::Offloaded, lab.now);
                }
                turns += 1;
                assert!(lab.cloak.half_open() <= 8);
                lab.cloak.accept()
            });
            // No SYN had to be sent again: that takes a second, which is 500 turns.
            assert!(turns < 50, "{turns} turns: {:?}", lab.cloak.counters());
            let (id, _) = accepted;
            lab.client(client).send_slice(&[turn; 3000]).unwrap();
            lab.client(client).close();
            assert_eq!(lab.read_to_end(id), [turn; 3000]);
            lab.cloak.write(id, &[turn; 5000]).unwrap();
            lab.cloak.close(id, lab.now);
            let mut answer = vec![];
            lab.until("the answer", |lab| {
                let socket = lab.client(client);
                let _ = socket.recv(|data| (data.len(), answer.extend_from_slice(data)));
                (!socket.may_recv()).then_some(())
            });
            assert_eq!(answer, [turn; 5000]);
        }
        assert!(lab.count(Count::CookieRedeemed) > 30, "{:?}", lab.cloak.counters());
        assert_eq!((resets(&lab.out), lab.count(Count::HalfOpenFull)), (0, 0));
    }
}

#[test]
fn a_cookie_counts_once_for_who_got_it_and_for_a_few_seconds() {
    for (wait, off, is_let_in) in [(9, 0, true), (17, 0, false), (0, 1, false), (0, -1, false)] {
        let mut lab = Lab::new(cloak(|config| config.limits.max_half_open = 1));
        lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
        let (first, _) = lab.accept();
        lab.cloak.abort(first);
        lab.out.clear();
        for frame in [made_up(1), syn(SUBSCRIBER_V4, PRIVATE_V4, 443)] {
            lab.cloak.handle_frame(&frame, transact_cloak::Checksum::Offloaded, lab.now);
        }
        assert_eq!((lab.count(Count::CookieSent), lab.cloak.half_open()), (1, 1), "{:?}", lab.cloak.counters());
        let answers: Vec<_> = crate::lab::frames(&mut lab.cloak);
        let cookie = answers.iter().find(|frame| frame[30..34] == [198, 51, 100, 70]).unwrap();
        let number = TcpPacket::new_checked(&cookie[34..]).unwrap().seq_number().0;
        lab.now = lab.now + secs(wait);
        lab.cloak.poll(lab.now);
        let mut ack = crate::silence::tcp(
            SUBSCRIBER_V4,
            PRIVATE_V4,
            443,
            smoltcp::wire::TcpControl::None,
            Some(number + 1 + off),
            b"",
        );
        TcpPacket::new_unchecked(&mut ack[34..]).set_seq_number(smoltcp::wire::TcpSeqNumber(1001));
        lab.cloak.handle_frame(&ack, transact_cloak::Checksum::Offloaded, lab.now);
        let accepted = lab.cloak.accept().map(|(_, peer)| peer.address.to_string());
        assert_eq!(accepted, is_let_in.then(|| SUBSCRIBER_V4.to_owned()), "{wait} s, {off} off");
        if is_let_in {
            // The same again is a segment of that connection.
            lab.cloak.handle_frame(&ack, transact_cloak::Checksum::Offloaded, lab.now);
            assert_eq!((lab.cloak.accept(), lab.count(Count::CookieRedeemed)), (None, 1));
        } else {
            assert_eq!(lab.count(Count::NoConnection), 1);
        }
        assert!(crate::lab::frames(&mut lab.cloak).iter().all(|frame| resets(std::slice::from_ref(frame)) == 0));
    }
}

#[test]
fn sequence_numbers_do_not_repeat() {
    let mut seen = std::collections::BTreeSet::new();
    let mut lab = Lab::new(cloak(|_| {}));
    for _ in 0..10 {
        lab.connect(SUBSCRIBER_V4, PRIVATE_V4);
        lab.accept();
    }
    for frame in &lab.out {
        let ethernet = EthernetFrame::new_checked(frame.as_slice()).unwrap();
        if ethernet.ethertype() == EthernetProtocol::Ipv4 {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            let segment = TcpPacket::new_checked(ip.payload()).unwrap();
            if segment.syn() {
                seen.insert(segment.seq_number().0);
            }
        }
    }
    assert_eq!(seen.len(), 10);
}

#[test]
fn a_transfer_both_ways_survives_loss_duplicates_and_reordering() {
    let seeds: Vec<u64> = match std::env::var("SIM_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..12).collect(),
    };
    for seed in seeds {
        let mut lab = Lab::new(cloak(|config| {
            config.limits.handshake_timeout = secs(60);
            config.limits.linger_timeout = secs(60);
        }));
        lab.weather =
            Some(Weather { random: Seeded(seed), loss_percent: 8, duplicate_percent: 5, reorder_percent: 10 });
        let (from, to) = if seed % 2 == 0 { (SUBSCRIBER_V4, PRIVATE_V4) } else { (SUBSCRIBER_V6, PRIVATE_V6) };
        let client = lab.connect(from, to);
        let (id, _) = lab.accept();
        let data: Vec<u8> = (0..30_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let (mut up, mut up_sent, mut down, mut down_sent) = (vec![], 0, vec![], 0);

        lab.until(&format!("both transfers, SIM_SEED={seed}"), |lab| {
            let socket = lab.client(client);
            if socket.can_send() {
                up_sent += socket.send_slice(&data[up_sent..]).unwrap();
            }
            while socket.can_recv() {
                socket.recv(|octets| (octets.len(), down.extend_from_slice(octets))).unwrap();
            }
            down_sent += lab.cloak.write(id, &data[down_sent..]).unwrap();
            let mut buffer = [0; 4096];
            while let Read::Data(octets) = lab.cloak.read(id, &mut buffer).unwrap() {
                up.extend_from_slice(&buffer[..octets]);
            }
            (up.len() == data.len() && down.len() == data.len()).then_some(())
        });

        assert!(up == data && down == data, "SIM_SEED={seed}");
        lab.client(client).close();
        lab.cloak.close(id, lab.now);
        lab.until("nothing left", |lab| (lab.cloak.connections() == 0).then_some(()));
        assert_eq!(resets(&lab.out), 0, "SIM_SEED={seed}");
    }
}
