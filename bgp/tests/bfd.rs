//! BFD beside a session: who is heard, and what is shown of the path.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use bfd_core::{Diagnostic, Packet, State};
use support::program::Program;
use support::{HEAD, eventually, metric};

/// RFC 5881 §5: with a TTL of 255 it comes from the link; with less it came through a router, and may be anybody's.
#[test]
fn a_packet_that_came_through_a_router_is_not_heard() {
    let id = std::process::id().to_be_bytes();
    let (ours, theirs) = (Ipv4Addr::new(127, 91, id[2], id[3]), Ipv4Addr::new(127, 92, id[2], id[3]));
    let metrics = SocketAddr::from((ours, 9644));
    let program = Program::start(&format!(
        "metrics-listen = \"{metrics}\"\n{HEAD}[[peers]]\nname = \"edge\"\nremote-as = 64500\naddress = \"{theirs}\"\n\
         local-address = \"{ours}\"\nport = 1\nbfd = {{ interval-ms = 50 }}\n[rib]\n"
    ));
    let second = Duration::from_secs(1);
    let packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        mine: 7,
        yours: 0,
        desired_transmit: second,
        required_receive: second,
    };
    let socket = UdpSocket::bind((theirs, 0)).unwrap();
    let send = |ttl| {
        socket.set_ttl(ttl).unwrap();
        socket.send_to(&packet.encode(), (ours, 3784)).unwrap();
    };
    let shown = || program.show("neighbours")[0].clone();
    let refused = || metric(metrics, "bgp_speaker_bfd_packets_refused_total").unwrap_or_default();
    (0..3).for_each(|_| send(254));
    eventually("each is counted", || refused() >= 3.0);
    assert_eq!((&shown()["bfd"], &shown()["bfd_last_down"]), (&"Down".into(), &serde_json::Value::Null));
    eventually("the same from the link is heard", || {
        send(255);
        shown()["bfd"] == "Init"
    });
    assert!((3.0..3.5).contains(&refused()), "and none of it is refused");
}
