//! What is changed in packets: the MSS that both ends of a connection hear, where the private link's MTU is less than theirs,
//! and the DSCP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use lab::{FAR4, FAR6, Forwarder, Lab, PATIENCE, Plane, SUB4, SUB6, eventually, possible};
use socket2::{Domain, Socket, Type};

/// Counts SYN segments with these sizes at the door of a namespace.
fn count(lab: &Lab, short: &str) {
    let text = "table inet sizes {\ncounter full { }\ncounter clamped { }\n\
                chain door { type filter hook prerouting priority raw; policy accept;\n\
                tcp flags syn tcp option maxseg size { 1460, 1440 } counter name full\n\
                tcp flags syn tcp option maxseg size { 1360, 1340 } counter name clamped\n}\n}\n";
    lab.exec_with(short, &["nft", "-f", "-"], text);
}

fn counted(lab: &Lab, short: &str, name: &str) -> u64 {
    let text = lab.exec(short, &["nft", "list", "counter", "inet", "sizes", name]);
    let words: Vec<&str> = text.split_whitespace().collect();
    words[words.iter().position(|word| *word == "packets").unwrap() + 1].parse().unwrap()
}

/// Both prefixes are healthy, whichever is first.
fn healthy(lab: &Lab) -> Forwarder {
    let forwarder = lab.forwarder("");
    eventually("both prefixes are healthy", || {
        let shown = lab.ask(&["show", "health", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        rows.as_array()?.iter().all(|row| row["healthy"] == true).then_some(())
    });
    forwarder
}

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    the_mss_is_what_fits_both_ways_when_it_is_asked_for,
    a_dscp_is_set_where_it_is_asked_for_and_ecn_and_other_packets_are_kept,
}

fn the_mss_is_what_fits_both_ways_when_it_is_asked_for(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    lab.ip("isp", "link set priv0 mtu 1400");
    count(&lab, "far");
    count(&lab, "sub");
    let _forwarder = healthy(&lab);
    let at = [FAR4, FAR6].map(|address| SocketAddr::new(address.parse::<IpAddr>().unwrap(), 7443));
    let _listening = lab.within("far", move || at.map(|at| TcpListener::bind(at).unwrap())).join().unwrap();
    let connect = || {
        lab.within("sub", move || at.map(|at| TcpStream::connect_timeout(&at, PATIENCE).unwrap())).join().unwrap();
    };
    let both = |name: &str| (counted(&lab, "far", name), counted(&lab, "sub", name));
    connect();
    assert_eq!((both("full"), both("clamped")), ((2, 2), (0, 0)));
    lab.write(&lab.text("").replace("[data-plane]\n", "[data-plane]\nclamp-mss = true\n"));
    lab.reload().unwrap();
    assert!(lab.ask(&["guard", "show"]).status.success());
    connect();
    assert_eq!((both("full"), both("clamped")), ((2, 2), (2, 2)));
}

fn a_dscp_is_set_where_it_is_asked_for_and_ecn_and_other_packets_are_kept(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let text = "table inet marks {\ncounter marked { }\ncounter kept { }\n\
                chain door { type filter hook prerouting priority raw; policy accept;\n\
                udp dport 7001 ip dscp 46 ip ecn 1 counter name marked\n\
                udp dport 7001 ip6 dscp 46 ip6 ecn 1 counter name marked\n\
                udp dport 7001 ip dscp 10 ip ecn 1 counter name kept\n\
                udp dport 7001 ip6 dscp 10 ip6 ecn 1 counter name kept\n}\n}\n";
    for short in ["far", "sub"] {
        lab.exec_with(short, &["nft", "-f", "-"], text);
    }
    let _forwarder = healthy(&lab);
    // AF11 with ECT(1).
    let send = |short: &str, pairs: [(&str, &str); 2]| {
        let pairs =
            pairs.map(|(from, to)| [(from, 0), (to, 7001)].map(|(a, port)| SocketAddr::new(a.parse().unwrap(), port)));
        let sending = lab.within(short, move || {
            for [from, to] in pairs {
                let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap();
                socket.bind(&from.into()).unwrap();
                if to.is_ipv4() {
                    socket.set_tos_v4(41).unwrap()
                } else {
                    socket.set_tclass_v6(41).unwrap()
                }
                for _ in 0..10 {
                    socket.send_to(b"marked", &to.into()).unwrap();
                }
            }
        });
        sending.join().unwrap();
    };
    let counted = |short: &str, name: &str| -> u64 {
        let text = lab.exec(short, &["nft", "list", "counter", "inet", "marks", name]);
        let words: Vec<&str> = text.split_whitespace().collect();
        words[words.iter().position(|word| *word == "packets").unwrap() + 1].parse().unwrap()
    };
    let both_ways = || {
        send("sub", [(SUB4, FAR4), (SUB6, FAR6)]);
        send("far", [(FAR4, SUB4), (FAR6, SUB6)]);
    };
    both_ways();
    for short in ["far", "sub"] {
        eventually("unmarked packets arrive", || (counted(short, "kept") == 20).then_some(()));
        assert_eq!(counted(short, "marked"), 0);
    }
    lab.write(&lab.text("").replace("link = \"main\"\n", "link = \"main\"\ndscp = 46\n"));
    lab.reload().unwrap();
    assert!(lab.ask(&["guard", "show"]).status.success());
    both_ways();
    for short in ["far", "sub"] {
        eventually("marked packets arrive", || (counted(short, "marked") == 20).then_some(()));
        assert_eq!(counted(short, "kept"), 20);
    }
}
