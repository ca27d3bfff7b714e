//! Neighbours that are known by their prefix alone, with signatures and with TTL security: whoever has the password, or is
//! near enough, becomes one, and nobody else does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod support;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_wire::Message;
use support::peer::Peer;
use support::program::Program;
use support::{HEAD, INJECT, encoded, eventually, free_port, open};

const LEAF_AS: u32 = 64510;

/// A speaker that takes neighbours from 127.0.`third`.0/24, and where.
fn hub(third: u8, settings: &str) -> (Program, u16) {
    let port = free_port();
    let group = format!("[[peer-groups]]\nname = \"leaf\"\nexport = \"all\"\n{settings}\n");
    let prefix =
        format!("[[dynamic-peers]]\nprefix = \"127.0.{third}.0/24\"\ngroup = \"leaf\"\nremote-as = {LEAF_AS}\n");
    let mut program = Program::stopped("");
    std::fs::write(program.path("password"), "between leaves").unwrap();
    program.configure(&format!("{HEAD}listen = [\"127.0.0.1:{port}\"]\n{group}{prefix}{INJECT}"));
    program.run();
    eventually("it answers", || program.path("api").exists());
    program.api().done(r#"{"put":{"set":"a","routes":[{"next-hop":"192.0.2.1","prefixes":["10.0.0.0/24"]}]}}"#);
    (program, port)
}

/// A speaker at `address` that connects to the hub.
fn leaf(address: Ipv4Addr, port: u16, password: &str, settings: &str) -> Program {
    let mut program = Program::stopped("");
    std::fs::write(program.path("password"), password).unwrap();
    program.configure(&format!(
        "admin-socket = \"$/admin\"\n[speaker]\nlocal-as = {LEAF_AS}\nrouter-id = \"{address}\"\n\
         [[peers]]\nname = \"hub\"\naddress = \"127.0.0.1\"\nport = {port}\nlocal-address = \"{address}\"\n\
         remote-as = 64500\nimport = \"all\"\n{settings}\n[rib]\n"
    ));
    program.run();
    eventually("it answers", || program.path("admin").exists());
    program
}

/// Both ends stand, and the leaf has what the hub tells.
fn assert_established(hub: &Program, leaf: &Program, address: Ipv4Addr) {
    leaf.established("hub");
    let name = format!("leaf/{address}");
    eventually("the hub has it", || {
        hub.sessions().iter().any(|row| row["peer"] == *name && row["state"] == "Established" && row["dynamic"] == true)
    });
    eventually("its routes are there", || leaf.session("hub")["prefixes_received"] == 1);
}

#[test]
fn a_password_signs_for_the_whole_prefix() {
    let signed = "md5-password-file = \"$/password\"";
    let (hub, port) = hub(6, signed);
    let [first, second, wrong, unsigned] = [1, 2, 3, 4].map(|host| Ipv4Addr::new(127, 0, 6, host));
    let right = [first, second].map(|address| (address, leaf(address, port, "between leaves", signed)));
    let other = leaf(wrong, port, "something else", signed);
    for (address, leaf) in &right {
        assert_established(&hub, leaf, *address);
    }
    // Who does not sign, or with something else, is not even answered.
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((unsigned, 0)).into()).unwrap();
    assert!(socket.connect_timeout(&to.into(), Duration::from_millis(700)).is_err());
    eventually("the attempt of the other is given up", || {
        other.session("hub")["last_down"].as_str().is_some_and(|why| why.contains("no answer in time"))
    });
    let peers: Vec<_> = hub.sessions().iter().map(|row| row["peer"].clone()).collect();
    assert_eq!(peers, ["leaf/127.0.6.1", "leaf/127.0.6.2"]);
}

#[test]
fn who_has_come_too_far_is_not_heard() {
    let near = "ttl-security-hops = 1";
    let (hub, port) = hub(7, near);
    let address = Ipv4Addr::new(127, 0, 7, 1);
    let leaf = leaf(address, port, "", near);
    assert_established(&hub, &leaf, address);
    // With the usual TTL of 64 nothing of it is read once the connection is guarded, which it is before it hears an OPEN.
    let mut far = Peer::connect(([127, 0, 0, 1], port).into(), Ipv4Addr::new(127, 0, 7, 2));
    assert!(matches!(far.next(), Some(Message::Open(_))));
    far.say(&encoded(&Message::Open(open(LEAF_AS, [10, 0, 0, 9], 30))));
    far.stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let answered = far.stream.read(&mut [0; 64]).is_ok_and(|length| length > 0);
    assert!(!answered, "its OPEN was read");
    let row = hub.sessions().into_iter().find(|row| row["peer"] == "leaf/127.0.7.2");
    assert!(row.as_ref().is_none_or(|row| row["state"] != "Established"), "{row:?}");
}
