//! What takes more than one packet to show.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::ends::{Arrival, asked};
use crate::lab::{Lab, Plane, eventually, possible};
use crate::packet::{Words, address};
use crate::table::{counters, wait_for};

fn send(lab: &Lab, end: &str, packet: &str, v4: bool, tag: u8) -> [u8; 8] {
    let tag = [b'[', b's', b'e', b'q', b' ', tag, b'.', b']'];
    let end = lab.end(end);
    end.send(&Words::new(packet, v4).frame(end.mac, end.other, &tag));
    tag
}

fn has(arrival: &Arrival, end: &str, tag: [u8; 8]) -> bool {
    arrival.end == end && arrival.frame.windows(8).any(|window| window == tag)
}

/// Whether it is an ICMP message of this type.
fn is_icmp(arrival: &Arrival, end: &str, kind: u8) -> bool {
    let at = if arrival.frame.get(12) == Some(&8) { (23, 1, 34) } else { (20, 58, 54) };
    arrival.end == end && arrival.frame.get(at.0) == Some(&at.1) && arrival.frame.get(at.2) == Some(&kind)
}

pub(crate) fn neighbours_are_found_followed_and_missed(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    for v4 in [true, false] {
        let nobody = address("W", v4);
        // Nobody answers: the question goes out, the packet goes nowhere, and the subscriber is told.
        let tag = send(&lab, "sub", "S>W udp", v4, b'a');
        wait_for(&lab, "a question for the neighbour", |arrival| {
            assert!(!has(arrival, "far", tag) && !has(arrival, "net", tag), "sent to whom? {arrival:?}");
            arrival.end == "far" && asked(&arrival.frame) == Some(nobody)
        });
        wait_for(&lab, "unreachable", |arrival| {
            assert!(!has(arrival, "far", tag) && !has(arrival, "net", tag), "sent to whom? {arrival:?}");
            is_icmp(arrival, "sub", if v4 { 3 } else { 1 })
        });
        // Somebody does: what waited for the answer comes, and what comes after it.
        let far = lab.end("far");
        far.answer_for(nobody, Some(far.mac));
        for number in b'b'..=b'd' {
            let tag = send(&lab, "sub", "S>W udp", v4, number);
            let arrival = wait_for(&lab, "a packet to the neighbour", |arrival| has(arrival, "far", tag));
            assert_eq!(arrival.frame[..6], far.mac);
        }
        // Another device takes the address over.
        let other = [2, 0, 0, 0, 9, 7];
        let text = other.map(|octet: u8| format!("{octet:02x}")).join(":");
        lab.ip("isp", &format!("neigh replace {nobody} lladdr {text} dev priv0 nud permanent"));
        eventually("packets follow", || {
            let tag = send(&lab, "sub", "S>W udp", v4, b'e');
            let arrival = wait_for(&lab, "a packet to the neighbour", |arrival| has(arrival, "far", tag));
            (arrival.frame[..6] == other).then_some(())
        });
    }
}

pub(crate) fn a_changed_mtu_is_told_at_once(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    for (mtu, v4) in [(1400_u16, true), (1400, false), (1300, true), (1300, false), (1350, false), (1350, true)] {
        lab.ip("isp", &format!("link set priv0 mtu {mtu}"));
        let told = |arrival: &Arrival| {
            if !is_icmp(arrival, "sub", if v4 { 3 } else { 2 }) {
                return None;
            }
            let at = if v4 { 34 + 6 } else { 54 + 6 };
            Some(u16::from_be_bytes([arrival.frame[at], arrival.frame[at + 1]]))
        };
        // An answer of the routing table is used for one tick of the clock.
        eventually("the MTU is told", || {
            let tag = send(&lab, "sub", &format!("S>P udp df len={}", mtu + 1), v4, b'm');
            let arrival = wait_for(&lab, "an answer", |arrival| told(arrival).is_some() || has(arrival, "far", tag));
            (told(&arrival) == Some(mtu)).then_some(())
        });
        let tag = send(&lab, "sub", &format!("S>P udp df len={mtu}"), v4, b'n');
        wait_for(&lab, "a packet of that length", |arrival| has(arrival, "far", tag));
    }
}

pub(crate) fn errors_are_rationed(plane: Plane) {
    const SENT: usize = 200;
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    lab.settings("isp", &["net.ipv4.icmp_ratelimit=1000", "net.ipv6.icmp.ratelimit=1000"]);
    for v4 in [true, false] {
        let is_error = |arrival: &Arrival| is_icmp(arrival, "sub", if v4 { 11 } else { 3 });
        // The data plane may look at its setting now and then.
        eventually("errors are rationed", || {
            for _ in 0..SENT {
                send(&lab, "sub", "S>P udp hops=1", v4, b'x');
            }
            let tag = send(&lab, "sub", "S>P udp", v4, b'y');
            let patience = crate::lab::PATIENCE;
            let arrived =
                lab.arrivals.take(patience, |arrivals| arrivals.iter().any(|arrival| has(arrival, "far", tag)));
            let errors = arrived.iter().filter(|arrival| is_error(arrival)).count();
            // A burst, and then one a second.
            (errors <= 20).then_some(())
        });
    }
}

pub(crate) fn a_link_that_is_down_is_a_dead_end(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let no_route = || counters(&lab)["no-route"].0;
    for change in ["link set priv0 down", "link set priv0 up"] {
        lab.ip("isp", change);
        let is_up = change.ends_with("up");
        if is_up {
            lab.healthy();
        }
        for (v4, number) in [(true, b'4'), (false, b'6')] {
            let before = no_route();
            let tag = send(&lab, "sub", "S>P udp", v4, number);
            let through = send(&lab, "sub", "S>Q udp", v4, number + 32);
            if is_up {
                wait_for(&lab, "a packet by the link", |arrival| has(arrival, "far", tag));
                continue;
            }
            wait_for(&lab, "a packet by the other link", |arrival| {
                assert!(!arrival.frame.windows(8).any(|window| window == tag), "came out: {arrival:?}");
                has(arrival, "far2", through)
            });
            eventually("it is counted", || (no_route() == before + 1).then_some(()));
        }
    }
}

pub(crate) fn the_policy_outlives_the_process(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.kill();
    for (v4, number) in [(true, b'4'), (false, b'6')] {
        let refused = [
            send(&lab, "sub", "Z>P udp", v4, number),
            send(&lab, "net", "X>P udp", v4, number + 1),
            send(&lab, "far", "P>X udp", v4, number + 2),
        ];
        let allowed =
            [("far", send(&lab, "sub", "S>P udp", v4, b'>')), ("sub", send(&lab, "far", "P>S udp", v4, b'<'))];
        let bystander = send(&lab, "sub", "S>X udp", v4, b'x');
        let is = |arrival: &Arrival, tag: [u8; 8]| arrival.frame.windows(8).any(|window| window == tag);
        // The user data plane is the process: without it nothing is forwarded, and the kernel steps in for nobody.
        let forwards = plane != Plane::User;
        let arrived = lab.arrivals.take(crate::lab::PATIENCE, |arrivals| {
            let there = |end, tag| arrivals.iter().any(|arrival| has(arrival, end, tag));
            there("net", bystander) && (!forwards || allowed.iter().all(|(end, tag)| there(end, *tag)))
        });
        let late = lab.arrivals.take(std::time::Duration::from_millis(300), |_| false);
        let all: Vec<&Arrival> = arrived.iter().chain(&late).collect();
        let count = |tag| all.iter().filter(|arrival| is(arrival, tag)).count();
        assert_eq!(count(bystander), 1);
        assert_eq!(allowed.map(|(_, tag)| count(tag)), [usize::from(forwards); 2], "{all:?}");
        assert_eq!(refused.map(count), [0; 3], "{all:?}");
    }
}

pub(crate) fn a_trace_says_what_is_dropped_and_leaves_nothing_behind(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let ours = |lab: &Lab| lab.exec("isp", &["nft", "list", "tables"]).matches("cloakway_trace").count();
    let begin = |arguments: &[&str]| {
        let mut child =
            lab.command(&[&["trace", "--json"], arguments].concat()).stdout(Stdio::piped()).spawn().unwrap();
        eventually("the trace runs", || (ours(&lab) == 1).then_some(()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let packets = [
        ("sub", "Z>P udp dport=443 hops=9", true, "spoofed-source", "edge0"),
        ("sub", "Z>P udp dport=443 hops=9", false, "spoofed-source", "edge0"),
        ("net", "X>P tcp", true, "to-private-by-public", "up0"),
        ("net", "P>S udp", false, "forged-private", "up0"),
        ("far", "F>S udp", false, "from-private-foreign-source", "priv0"),
        ("sub", "S>P udp opt=nop", true, "ip-options", "edge0"),
        // Behind routing; the user data plane decides these by itself, and tells.
        ("sub", "S>L udp dport=9", true, "not-a-service", "edge0"),
        ("sub", "S>L udp dport=5000 frag=64", false, "fragment", "edge0"),
        ("far", "P>X udp", true, "from-private-other", "priv0"),
        ("far", "P>E tcp", false, "to-host-from-private", "priv0"),
    ];
    let count = packets.len().to_string();
    let before = counters(&lab);
    let (mut child, mut lines) = begin(&["--count", &count]);
    for (end, packet, v4, reason, interface) in &packets {
        send(&lab, end, packet, *v4, b't');
        let row: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&row["reason"], &row["in_interface"]), (&(*reason).into(), &(*interface).into()), "{row}");
        let source = packet.split_once('>').unwrap().0;
        assert_eq!(row["source"], address(source, *v4).to_string(), "{row}");
        if packet.contains("hops=9") {
            assert_eq!((&row["hops"], &row["destination_port"]), (&9.into(), &443.into()), "{row}");
        }
        // The copy is asked before the guard, and the user data plane counts when it gets there.
        let is_counted = || (counters(&lab)[*reason].0 > before[*reason].0).then_some(());
        eventually(&format!("{reason} is counted all the same"), is_counted);
    }
    assert!(child.wait().unwrap().success());
    eventually("it leaves nothing behind", || (ours(&lab) == 0).then_some(()));

    // What is not asked for is passed over; and however it ends, its table goes with it.
    let (mut child, mut lines) = begin(&["--reason", "forged-private", "--destination", "198.51.100.64/26"]);
    for (end, packet) in [("sub", "Z>P udp"), ("net", "P>X udp"), ("net", "P>S udp")] {
        send(&lab, end, packet, true, b'u');
    }
    let row: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(row["destination"], address("S", true).to_string(), "{row}");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it leaves nothing behind", || (ours(&lab) == 0).then_some(()));

    // A flood is sampled, and does not hide what is rare.
    let (mut child, lines) = begin(&[]);
    for _ in 0..400 {
        send(&lab, "sub", "Z>P udp", true, b'v');
    }
    send(&lab, "net", "P>S udp", true, b'w');
    let before = lines.map(Result::unwrap).take_while(|row| !row.contains("\"forged-private\"")).count();
    assert!((20..200).contains(&before), "{before} of 400");
    child.kill().unwrap();
    child.wait().unwrap();
}
