//! Against the kernel's own NAT: flows through nftables, each asked about by the address and port that the other side
//! sees.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use access::{Netns, Toolbox, eventually, may_make_namespaces, within};
use cloakway_testing::have;

/// Subscribers behind a NAT, and the world.
struct Isp {
    home: Netns,
    nat: Netns,
    world: Netns,
    tcp: TcpListener,
    udp: UdpSocket,
}

const SUBSCRIBERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn internal(subscriber: usize) -> IpAddr {
    IpAddr::from([100, 64, 0, 2 + u8::try_from(subscriber).unwrap()])
}

impl Isp {
    /// `rules` are those of nftables' postrouting chain.
    fn new(rules: &str) -> Self {
        let (home, nat, world) = (Netns::new("home"), Netns::new("nat"), Netns::new("world"));
        home.join("h0", &nat, "n0");
        nat.join("n1", &world, "w0");
        for subscriber in 0..SUBSCRIBERS.len() {
            home.ip(&format!("addr add {}/24 dev h0", internal(subscriber)));
        }
        nat.ip("addr add 100.64.0.1/24 dev n0");
        nat.ip("addr add 203.0.113.1/24 dev n1");
        world.ip("addr add 203.0.113.9/24 dev w0");
        home.ip("route add default via 100.64.0.1");
        nat.must(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        let script = format!(
            "table ip nat {{\nchain shared {{ {rules}; }}\n\
             chain out {{ type nat hook postrouting priority srcnat; oifname \"n1\" jump shared; }}\n}}\n"
        );
        nat.must(&["nft", &script]);
        let (tcp, udp) = within(&world, || {
            let at = SocketAddr::from(([203, 0, 113, 9], 443));
            (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())
        });
        udp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { home, nat, world, tcp, udp }
    }

    /// A toolbox beside the NAT that knows whose the internal addresses are.
    fn toolbox(&self, sources: &str) -> (Toolbox, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fixed.toml");
        let line = |(index, name): (usize, &&str)| {
            format!("[[bindings]]\nprefix = \"{}/32\"\nsubscriber = \"{name}\"\n", internal(index))
        };
        std::fs::write(&file, SUBSCRIBERS.iter().enumerate().map(line).collect::<String>()).unwrap();
        let sources = format!("{sources}\n[[sources.fixed]]\nname = \"fixed\"\nfile = \"{}\"\n", file.display());
        (Toolbox::start(Some(&self.nat), "\"100.64.0.0/24\", \"203.0.113.0/24\"", &sources), folder)
    }

    /// A subscriber connects and says who it is; the world hears that, and sees an address and port.
    fn connect(&self, subscriber: usize) -> Connection {
        let mut inner = within(&self.home, || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((internal(subscriber), 0)).into()).unwrap();
            socket.connect(&SocketAddr::from(([203, 0, 113, 9], 443)).into()).unwrap();
            TcpStream::from(socket)
        });
        let (mut outer, seen) = self.tcp.accept().unwrap();
        inner.write_all(SUBSCRIBERS[subscriber].as_bytes()).unwrap();
        let mut said = [0; 16];
        let length = outer.read(&mut said).unwrap();
        let says = String::from_utf8(said[..length].to_vec()).unwrap();
        Connection { _inner: inner, _outer: outer, says, seen }
    }

    /// The same by one datagram.
    fn send(&self, subscriber: usize) -> (String, SocketAddr) {
        within(&self.home, || {
            let socket = UdpSocket::bind((internal(subscriber), 0)).unwrap();
            socket.send_to(SUBSCRIBERS[subscriber].as_bytes(), "203.0.113.9:443").unwrap();
        });
        let mut said = [0; 16];
        let (length, seen) = self.udp.recv_from(&mut said).unwrap();
        (String::from_utf8(said[..length].to_vec()).unwrap(), seen)
    }
}

struct Connection {
    _inner: TcpStream,
    _outer: TcpStream,
    says: String,
    seen: SocketAddr,
}

fn peers() -> bool {
    may_make_namespaces() && have("nft", "nftables") && have("conntrack", "conntrack") && have("curl", "curl")
}

/// Who says who it is, is who is there; and nobody else is.
fn attributed(toolbox: &Toolbox, says: &str, seen: SocketAddr) {
    let (address, port) = (seen.ip().to_string(), seen.port());
    eventually(says, || {
        let answer = toolbox.verify(says, &address, Some(port));
        if answer["live"] == true { Ok(()) } else { Err(format!("{seen}: {answer} {}", toolbox.show("access"))) }
    });
    for other in SUBSCRIBERS.iter().filter(|other| **other != says) {
        assert!(!toolbox.live(other, &address, Some(port)), "{other} at {seen}, who is {says}");
    }
}

const CONNTRACK: &str = "[[sources.conntrack]]\nname = \"nat\"\n";

#[test]
fn flows_through_a_masquerading_host_are_attributed_by_its_connection_tracking() {
    if !peers() {
        return;
    }
    // A question names no protocol: ports of their own, lest a TCP and a UDP flow of two subscribers have one.
    let rules = "meta l4proto tcp masquerade to :2048-2559 random; meta l4proto udp masquerade to :3072-3583 random";
    let isp = Isp::new(rules);
    // One flow is older than the toolbox.
    let before = isp.connect(2);
    let (mut toolbox, _files) = isp.toolbox(CONNTRACK);
    attributed(&toolbox, &before.says, before.seen);
    let connections: Vec<Connection> = (0..24).map(|n| isp.connect(n % 4)).collect();
    for connection in &connections {
        assert!((2048..2560).contains(&connection.seen.port()), "translated: {}", connection.seen);
        attributed(&toolbox, &connection.says, connection.seen);
    }
    for n in 0..4 {
        let (says, seen) = isp.send(n);
        attributed(&toolbox, &says, seen);
    }
    let seen = before.seen;
    let without_port = toolbox.verify("carol", &seen.ip().to_string(), None);
    assert_eq!((&without_port["live"], &without_port["reason"]), (&false.into(), &"port-needed".into()));
    // A flow that is gone is nobody's.
    isp.nat.must(&["conntrack", "-D", "-p", "tcp", "--orig-src", "100.64.0.4"]);
    eventually("it is gone", || {
        let answer = toolbox.verify("carol", &seen.ip().to_string(), Some(seen.port()));
        if answer["live"] == false { Ok(()) } else { Err(answer.to_string()) }
    });
    // What the NAT did while nobody watched.
    toolbox.kill();
    isp.nat.must(&["conntrack", "-F"]);
    let after: Vec<Connection> = (0..8).map(|n| isp.connect((n + 1) % 4)).collect();
    toolbox.run();
    for connection in &after {
        attributed(&toolbox, &connection.says, connection.seen);
    }
}

#[test]
fn events_that_the_kernel_had_to_drop_are_made_up_for_by_a_list() {
    if !peers() {
        return;
    }
    let isp = Isp::new("meta l4proto { tcp, udp } masquerade to :2048-4095 random");
    let (toolbox, _files) = isp.toolbox(&format!("{CONNTRACK}receive-buffer = 4096\n"));
    let kept = isp.connect(0);
    attributed(&toolbox, &kept.says, kept.seen);
    // More flows than the buffer holds while the toolbox stands still.
    toolbox.freeze(true);
    within(&isp.home, || {
        for n in 0..1000_usize {
            let socket = UdpSocket::bind((internal(n % 4), 0)).unwrap();
            socket.send_to(b"x", "203.0.113.9:444").unwrap();
        }
    });
    isp.nat.must(&["conntrack", "-D", "-p", "udp"]);
    let late = isp.connect(1);
    toolbox.freeze(false);
    eventually("the alarm", || {
        let source = toolbox.source("nat");
        let overrun = source["last_alarm"].as_str().is_some_and(|alarm| alarm.starts_with("overrun"));
        if overrun { Ok(()) } else { Err(source.to_string()) }
    });
    for connection in [&kept, &late] {
        attributed(&toolbox, &connection.says, connection.seen);
    }
}

#[test]
fn ports_that_are_computed_are_those_that_the_kernel_gives() {
    if !peers() {
        return;
    }
    let rule = |n: usize| {
        let (first, last) = (2048 + 256 * n, 2048 + 256 * n + 255);
        format!("ip saddr {} meta l4proto {{ tcp, udp }} snat to 203.0.113.1:{first}-{last} random", internal(n))
    };
    let isp = Isp::new(&(0..4).map(rule).collect::<Vec<_>>().join("; "));
    let computed = "[[sources.deterministic]]\ninternal = [\"100.64.0.2-100.64.0.5\"]\nexternal = [\"203.0.113.1\"]\n\
                    first-port = 2048\nlast-port = 3071\nports-each = 256\n";
    let (toolbox, _files) = isp.toolbox(computed);
    let connections: Vec<Connection> = (0..16).map(|n| isp.connect(n % 4)).collect();
    for connection in &connections {
        attributed(&toolbox, &connection.says, connection.seen);
    }
    for n in 0..4 {
        let (says, seen) = isp.send(n);
        attributed(&toolbox, &says, seen);
    }
    assert!(!toolbox.live("alice", "203.0.113.1", Some(2047)), "a port that nobody has");
    // With the kernel's own word beside it: the two agree.
    let (both, _files) = isp.toolbox(&format!("{computed}{CONNTRACK}"));
    for connection in &connections {
        attributed(&both, &connection.says, connection.seen);
    }
    drop(isp.world);
}
