//! A simulated exporter (no exporter of NAT events is in Debian): octets made from RFC 7011 and RFC 8158.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use access::{Toolbox, eventually};
use cloakway_testing::have;

const SESSION: &[(u16, u16)] = &[(323, 8), (230, 1), (8, 4), (225, 4), (4, 1), (7, 2), (227, 2), (12, 4), (11, 2)];
const BLOCK: &[(u16, u16)] = &[(323, 8), (230, 1), (8, 4), (225, 4), (361, 2), (362, 2)];

/// An exporter simulator.
#[derive(Default)]
struct Exporter {
    sequence: u32,
}

fn set(id: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 4).unwrap();
    [&id.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

fn template(id: u16, fields: &[(u16, u16)]) -> Vec<u8> {
    let count = u16::try_from(fields.len()).unwrap();
    let fields: Vec<u8> =
        fields.iter().flat_map(|(element, length)| [element.to_be_bytes(), length.to_be_bytes()].concat()).collect();
    [&id.to_be_bytes()[..], &count.to_be_bytes(), &fields].concat()
}

fn templates() -> Vec<u8> {
    set(2, &[template(256, SESSION), template(257, BLOCK)].concat())
}

fn block(event: u8, internal: u8, first: u16) -> Vec<u8> {
    let record = [
        &[0; 8][..],
        &[event, 100, 64, 0, internal, 203, 0, 113, 1],
        &first.to_be_bytes(),
        &(first + 511).to_be_bytes(),
    ];
    set(257, &record.concat())
}

fn session(event: u8, internal: u8, port: u16, remote: u8) -> Vec<u8> {
    let record = [
        &[0; 8][..],
        &[event, 100, 64, 0, internal, 203, 0, 113, 1, 6],
        &5000_u16.to_be_bytes(),
        &port.to_be_bytes(),
        &[192, 0, 2, remote],
        &443_u16.to_be_bytes(),
    ];
    set(256, &record.concat())
}

impl Exporter {
    fn message(&mut self, records: u32, sets: &[Vec<u8>]) -> Vec<u8> {
        let body = sets.concat();
        let length = u16::try_from(body.len() + 16).unwrap();
        let head = [&[0, 10][..], &length.to_be_bytes(), &[0; 4], &self.sequence.to_be_bytes(), &[0, 0, 0, 1]].concat();
        self.sequence += records;
        [head, body].concat()
    }
}

struct Isp {
    toolbox: Toolbox,
    at: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Isp {
    fn new(listen: &str, dialect: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fixed.toml");
        let line = |(last, name): (u8, &str)| {
            format!("[[bindings]]\nprefix = \"100.64.0.{last}/32\"\nsubscriber = \"{name}\"\n")
        };
        std::fs::write(&file, [(2, "alice"), (3, "bob")].map(line).concat()).unwrap();
        let at = if listen == "listen-udp" {
            UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
        } else {
            TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
        };
        let sources = format!(
            "[[sources.ipfix]]\nname = \"cgn\"\n{listen} = [\"{at}\"]\nexporters = [\"127.0.0.1/32\"]\n\
             dialect = \"{dialect}\"\n[[sources.fixed]]\nname = \"fixed\"\nfile = \"{}\"\n",
            file.display()
        );
        Self { toolbox: Toolbox::start(None, "\"100.64.0.0/24\", \"203.0.113.0/24\"", &sources), at, _folder: folder }
    }

    fn holds(&self, subscriber: &str, port: u16, live: bool) {
        eventually(&format!("{subscriber} at port {port}: {live}"), || {
            let answer = self.toolbox.verify(subscriber, "203.0.113.1", Some(port));
            if answer["live"] == live { Ok(()) } else { Err(format!("{answer} {}", self.toolbox.show("access"))) }
        });
    }

    fn alarmed(&self, reason: &str) {
        eventually(reason, || {
            let source = self.toolbox.source("cgn");
            let alarmed = source["last_alarm"].as_str().is_some_and(|alarm| alarm.starts_with(reason));
            if alarmed { Ok(()) } else { Err(source.to_string()) }
        });
    }
}

#[test]
fn blocks_by_udp_are_followed_and_a_lost_message_makes_all_unknown() {
    if !have("curl", "curl") {
        return;
    }
    let isp = Isp::new("listen-udp", "rfc8158");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut exporter = Exporter::default();
    let send = |message: &[u8]| assert_eq!(socket.send_to(message, isp.at).unwrap(), message.len());
    send(&exporter.message(2, &[templates(), block(16, 2, 2048), block(16, 3, 2560)]));
    isp.holds("alice", 2559, true);
    isp.holds("bob", 2560, true);
    isp.holds("bob", 2048, false);
    isp.holds("alice", 3072, false);
    // The block goes to another one.
    send(&exporter.message(1, &[block(17, 2, 2048)]));
    isp.holds("alice", 2048, false);
    send(&exporter.message(1, &[block(16, 3, 2048)]));
    isp.holds("bob", 2048, true);
    // A message is lost: who knows what it said.
    drop(exporter.message(1, &[block(17, 3, 2560)]));
    send(&exporter.message(1, &[block(16, 2, 4096)]));
    isp.alarmed("gap");
    isp.holds("bob", 2560, false);
    isp.holds("bob", 2048, false);
    isp.holds("alice", 4096, true);
    // Not an exporter's address: heard by nobody.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.send_to(&exporter.message(1, &[block(16, 3, 8192)]), isp.at).unwrap();
    isp.alarmed("stranger");
    isp.holds("bob", 8192, false);
}

#[test]
fn sessions_by_tcp_are_followed_and_end_with_the_connection() {
    if !have("curl", "curl") {
        return;
    }
    let isp = Isp::new("listen-tcp", "rfc8158");
    let mut stream = TcpStream::connect(isp.at).unwrap();
    let mut exporter = Exporter::default();
    let first =
        exporter.message(3, &[templates(), session(4, 2, 2048, 1), session(4, 2, 2048, 2), session(4, 3, 2049, 1)]);
    // In pieces, as a stream may come.
    for piece in first.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    isp.holds("alice", 2048, true);
    isp.holds("bob", 2049, true);
    stream.write_all(&exporter.message(1, &[session(5, 2, 2048, 1)])).unwrap();
    // One of two flows is gone, and then one port is two subscribers'.
    stream.write_all(&exporter.message(1, &[session(4, 3, 2048, 9)])).unwrap();
    isp.holds("alice", 2048, false);
    isp.holds("bob", 2048, false);
    stream.write_all(&exporter.message(1, &[session(5, 3, 2048, 9)])).unwrap();
    isp.holds("alice", 2048, true);
    drop(stream);
    isp.alarmed("disconnected");
    isp.holds("alice", 2048, false);
}

#[test]
fn the_dialect_says_what_a_number_means() {
    if !have("curl", "curl") {
        return;
    }
    let isp = Isp::new("listen-tcp", "junos");
    let mut stream = TcpStream::connect(isp.at).unwrap();
    let mut exporter = Exporter::default();
    stream.write_all(&exporter.message(1, &[templates(), block(14, 2, 2048)])).unwrap();
    isp.holds("alice", 2048, true);
    // A number of the RFC: not guessed.
    stream.write_all(&exporter.message(1, &[block(16, 3, 2560)])).unwrap();
    isp.alarmed("event");
    isp.holds("bob", 2560, false);
    isp.holds("alice", 2048, false);
}
