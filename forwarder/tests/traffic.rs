//! Real traffic on every data plane: TCP in bulk both ways, datagrams of every size, path MTU discovery, a tunnel as private
//! link, and thousands of sources (A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[path = "conformance/pcap.rs"]
mod pcap;
#[macro_use]
mod planes;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use lab::{FAR4, FAR6, Lab, PATIENCE, Plane, SUB4, SUB6, eventually, possible};

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    tcp_in_bulk_and_datagrams_of_every_size_arrive_whole,
    the_path_mtu_is_found_in_both_directions,
    a_small_mtu_behind_the_private_link_is_told_by_a_router_with_a_private_address,
    a_router_of_the_private_network_is_not_heard_by_another_address,
    a_tunnel_is_a_private_link,
    thousands_of_sources_are_served,
    whoever_asks_is_answered_while_packets_flood,
}

const ENDS: [(&str, &str); 2] = [(SUB4, FAR4), (SUB6, FAR6)];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// What is sent in bulk: so that nothing can be missing or doubled unseen.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

/// Sends so much by TCP from the subscriber, gets it back, and compares.
fn bulk(lab: &Lab, from: &str, to: &str, length: usize) {
    bulk_to(lab, "far", from, to, length);
}

/// The same, with the other end in the namespace `end`.
fn bulk_to(lab: &Lab, end: &str, from: &str, to: &str, length: usize) {
    let (server, client) = (at(to, 7010), at(from, 0));
    let listener = lab.within(end, move || TcpListener::bind(server).unwrap()).join().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let asking = lab.within("sub", move || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(server), socket2::Type::STREAM, None).unwrap();
        socket.bind(&client.into()).unwrap();
        socket.connect_timeout(&server.into(), PATIENCE).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent = pattern(length);
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == sent, "{} of {length} octets came back", back.len());
    });
    asking.join().unwrap_or_else(|_| panic!("TCP from {from} to {to}"));
    echo.join().unwrap();
}

/// Answers `count` datagrams with themselves.
fn echo(lab: &Lab, address: &str, count: usize) -> JoinHandle<()> {
    let here = at(address, 7011);
    let socket = lab.within("far", move || UdpSocket::bind(here).unwrap()).join().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        for _ in 0..count {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
        }
    })
}

fn datagrams(lab: &Lab, from: &str, to: &str, sizes: &'static [usize]) {
    let (client, server) = (at(from, 0), at(to, 7011));
    let echo = echo(lab, to, sizes.len());
    let asking = lab.within("sub", move || {
        let socket = UdpSocket::bind(client).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 65536];
        for size in sizes {
            let sent = pattern(*size);
            socket.send(&sent).unwrap();
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{size} octets: {error}"));
            assert!(buffer[..length] == sent, "{size} octets came back as {length}");
        }
    });
    asking.join().unwrap_or_else(|_| panic!("UDP from {from} to {to}"));
    echo.join().unwrap();
}

fn tcp_in_bulk_and_datagrams_of_every_size_arrive_whole(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    let leaked = lab.capture("net");
    let _forwarder = lab.healthy("");
    for (from, to) in ENDS {
        bulk(&lab, from, to, 2 << 20);
        // Nothing, a word, what QUIC sends first and later, a full frame, and what the sender cuts to pieces.
        datagrams(&lab, from, to, &[0, 4, 512, 1200, 1232, 1252, 1350, 1452, 4000, 9000]);
    }
    assert_eq!(leaked.load(Ordering::Relaxed), 0);
}

fn the_path_mtu_is_found_in_both_directions(plane: Plane) {
    if !possible() {
        return;
    }
    for (end, interface, own, router4, router6, source4, source6) in [
        ("far", "priv0", "priv0", "192.0.2.249", "2001:db8:0:ff::1", Some(FAR4), Some(FAR6)),
        ("sub", "edge0", "eth0", "198.51.100.65", "2001:db8:5100:64::1", None, None),
    ] {
        let lab = Lab::new(plane);
        // Both ends of that wire are small, and its end offers segments as if it were not: only an error can tell the other.
        lab.ip("isp", &format!("link set {interface} mtu 1300"));
        lab.ip(end, &format!("link set {own} mtu 1300"));
        for (router, source, segment) in [(router4, source4, 1460), (router6, source6, 1440)] {
            let source = source.map(|source| format!("src {source} ")).unwrap_or_default();
            lab.ip(end, &format!("route replace default via {router} {source}advmss {segment}"));
        }
        let _forwarder = lab.healthy("");
        for (from, to) in ENDS {
            bulk(&lab, from, to, 1 << 20);
            let (asker, asked) = if end == "far" { ("sub", to) } else { ("far", from) };
            let way = lab.exec(asker, &["ip", "route", "get", asked]);
            assert!(way.contains("mtu 1300"), "{asker} has not learned it: {way}");
        }
    }
}

/// The frames of the tunnel that come in at the far end while `work` is done.
fn of_the_tunnel(lab: &Lab, work: impl FnOnce()) -> Vec<Vec<u8>> {
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, (ready, opened)) = (is_over.clone(), channel());
    let reading = lab.within("far", move || {
        // ETH_P_ALL, on all interfaces.
        let all = Some(socket2::Protocol::from(i32::from(3_u16.to_be())));
        let mut socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, all).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        ready.send(()).unwrap();
        let (mut frames, mut buffer) = (Vec::new(), vec![0; 65536]);
        loop {
            match socket.read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(_) if over.load(Ordering::Relaxed) => return frames,
                Err(_) => {}
            }
        }
    });
    opened.recv().unwrap();
    work();
    is_over.store(true, Ordering::Relaxed);
    let mut frames = reading.join().unwrap();
    // From our end, to the port of VXLAN.
    frames.retain(|frame| {
        frame.len() > 50 && frame[26..30] == [192, 0, 2, 249] && frame[36..38] == 4789_u16.to_be_bytes()
    });
    frames
}

/// A lab whose private addresses are behind a router of the private network, and its configuration.
fn behind_a_router(plane: Plane, is_named: bool) -> Lab {
    let lab = Lab::new(plane);
    lab.behind_a_router(1300, is_named);
    let text = lab.text("");
    let text = text.replace("203.0.113.200/32\"\n", "203.0.113.200/29\"\nnext-hop = \"192.0.2.250\"\n");
    let text =
        text.replace("2001:db8:c10a::200/128\"\n", "2001:db8:c10a::200/120\"\nnext-hop = \"2001:db8:0:ff::2\"\n");
    lab.write(&text);
    lab
}

fn learned(lab: &Lab, asked: &str) -> bool {
    lab.exec("sub", &["ip", "route", "get", asked]).contains("mtu 1300")
}

fn a_small_mtu_behind_the_private_link_is_told_by_a_router_with_a_private_address(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = behind_a_router(plane, true);
    let watch = lab.watch();
    let _forwarder = lab.start();
    lab.both_healthy();
    for (from, to) in ENDS {
        bulk_to(&lab, "deep", from, to, 1 << 20);
        assert!(learned(&lab, to), "{to} has not been learned");
    }
    watch.clean(&lab);
}

fn a_router_of_the_private_network_is_not_heard_by_another_address(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = behind_a_router(plane, false);
    let watch = lab.watch();
    let _forwarder = lab.start();
    lab.both_healthy();
    for ((_, to), headers) in ENDS.into_iter().zip([28, 48]) {
        let ping = |size: u32| {
            let size = size.to_string();
            let words = ["ping", "-n", "-M", "do", "-c", "1", "-W", "2", "-s", &size, to];
            let mut command = std::process::Command::new("ip");
            command.args(["netns", "exec", &lab.ns("sub")]).args(words);
            String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
        };
        assert!(ping(1300 - headers).contains(" 0% packet loss"), "what fits passes");
        let before = lab.dropped("from-private-foreign-source");
        assert!(ping(1400 - headers).contains(" 100% packet loss"));
        // What it says is dropped, and counted, and nobody learns where it is.
        eventually("it is counted", || (lab.dropped("from-private-foreign-source") > before).then_some(()));
        assert!(!learned(&lab, to), "{to}");
    }
    // With the smallest MTU at the link this host tells it, from its own address.
    lab.ip("isp", "link set priv0 mtu 1300");
    for (from, to) in ENDS {
        bulk_to(&lab, "deep", from, to, 1 << 20);
        assert!(learned(&lab, to), "{to} has not been learned");
    }
    watch.clean(&lab);
}

fn a_tunnel_is_a_private_link(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    for (ns, own, other) in [("isp", "192.0.2.249", "192.0.2.250"), ("far", "192.0.2.250", "192.0.2.249")] {
        lab.ip(ns, &format!("link add vx0 type vxlan id 7 local {own} remote {other} dstport 4789 dev priv0"));
    }
    for (ns, addresses) in [
        ("isp", ["192.0.2.241/30", "2001:db8:0:fd::1/64"].as_slice()),
        ("far", &["192.0.2.242/30", "2001:db8:0:fd::2/64", "203.0.113.200/32", "2001:db8:c10a::200/128"]),
    ] {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            lab.ip(ns, &format!("addr add {address} dev vx0{nodad}"));
        }
        lab.ip(ns, "link set vx0 up");
    }
    for address in ["203.0.113.200/32", "2001:db8:c10a::200/128"] {
        lab.ip("far", &format!("addr del {address} dev priv0"));
    }
    lab.ip("far", "route replace default via 192.0.2.241 src 203.0.113.200");
    lab.ip("far", "route replace default via 2001:db8:0:fd::1 src 2001:db8:c10a::200");
    let text = lab.text("").replace("interface = \"priv0\"", "interface = \"vx0\"");
    if plane == Plane::Xdp {
        // What the kernel sends by the tunnel is to be whole as well: it is looked at.
        lab.exec("isp", &["ethtool", "-K", "priv0", "tx", "off"]);
    }
    // With XDP the program makes the tunnel's headers; with tcx the kernel's device does.
    lab.write(&text);
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.both_healthy();
    for (from, to) in ENDS {
        bulk(&lab, from, to, 1 << 20);
        let frames = of_the_tunnel(&lab, || datagrams(&lab, from, to, &[0, 1200, 1350, 1400]));
        if plane == Plane::Xdp {
            assert!(frames.len() >= 4, "{} frames", frames.len());
            // The identifier behind flags, in a header behind those of Ethernet, IPv4 and UDP.
            assert!(frames.iter().all(|frame| frame[42..50] == [8, 0, 0, 0, 0, 0, 7, 0]));
            let folder = tempfile::tempdir().unwrap();
            pcap::is_in_order(&folder.path().join("outside.pcap"), &frames);
        }
    }
    if plane == Plane::Xdp {
        // A megabyte each way, of either IP version.
        for way in ["to-private", "from-private"] {
            let count = lab.fast_path(way);
            assert!(count > 1400, "{way}: {count} took the fast path");
        }
    }
}

fn whoever_asks_is_answered_while_packets_flood(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let mut forwarder = lab.healthy("");
    let is_over = Arc::new(AtomicBool::new(false));
    let flooding: Vec<_> = ENDS
        .into_iter()
        .map(|(from, to)| {
            let (over, from, to) = (is_over.clone(), at(from, 0), at(to, 7012));
            lab.within("sub", move || {
                let socket = UdpSocket::bind(from).unwrap();
                while !over.load(Ordering::Relaxed) {
                    // That nobody listens there is told by some.
                    let _ = socket.send_to(b"cloakway", to);
                }
            })
        })
        .collect();
    eventually("the flood is there", || (lab.forwarded("to-private") > 2000).then_some(()));
    for round in 0..5 {
        for topic in ["health", "table", "counters", "data-plane", "fast-path", "sources", "links", "ways"] {
            let answer = lab.ask(&["show", topic, "--json"]);
            assert!(answer.status.success(), "{round}: {topic}: {}", String::from_utf8_lossy(&answer.stderr));
        }
        lab.write(&lab.text("").replace("fall = 2", &format!("fall = {}", 3 + round)));
        lab.reload().unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    flooding.into_iter().for_each(|thread| thread.join().unwrap());
    forwarder.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(forwarder.wait().success());
}

fn thousands_of_sources_are_served(plane: Plane) {
    const SOURCES: u32 = 2000;
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.subscribers = "\"100.64.0.0/16\", \"2001:db8:6400::/64\", ".to_owned();
    for (net, via) in [("100.64.0.0/16", SUB4), ("2001:db8:6400::/64", SUB6)] {
        lab.ip("isp", &format!("route add {net} via {via}"));
        lab.ip("sub", &format!("route add local {net} dev lo"));
    }
    lab.exec("sub", &["sysctl", "-q", "-w", "net.ipv6.ip_nonlocal_bind=1"]);
    lab.echoes();
    let forwarder = lab.healthy("");
    for (base, server) in [("100.64.1.0", at(FAR4, 7000)), ("2001:db8:6400::100", at(FAR6, 7001))] {
        let base = base.parse::<IpAddr>().unwrap();
        let asking = lab.within("sub", move || {
            for number in 0..SOURCES {
                let source = match base {
                    IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + number).to_be_bytes()),
                    IpAddr::V6(v6) => IpAddr::from((u128::from(v6) + u128::from(number)).to_be_bytes()),
                };
                let socket = UdpSocket::bind((source, 0)).unwrap();
                socket.connect(server).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let mut buffer = [0; 8];
                // A host that is busy with other tests answers late to the probe of the next hop, and until it does nothing is forwarded.
                let length = (0..30).find_map(|_| {
                    socket.send(&number.to_be_bytes()).unwrap();
                    socket.recv(&mut buffer).ok()
                });
                let length = length.unwrap_or_else(|| panic!("{source}: no answer"));
                assert_eq!(buffer[..length], number.to_be_bytes(), "{source}");
            }
        });
        asking.join().unwrap();
    }
    assert!(lab.forwarded("to-private") >= u64::from(2 * SOURCES));
    drop(forwarder);
}
