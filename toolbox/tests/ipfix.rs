//! A simulated exporter (no exporter of NAT events is in Debian): octets made from RFC 7011 and RFC 8158.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod running;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use access::{Toolbox, eventually};
use cloakway_testing::have;
use cloakway_types::Timestamp;
use running::{Nas, START, now_s};

const SESSION: &[(u16, u16)] = &[(323, 8), (230, 1), (8, 4), (225, 4), (4, 1), (7, 2), (227, 2), (12, 4), (11, 2)];
const BLOCK: &[(u16, u16)] = &[(323, 8), (230, 1), (8, 4), (225, 4), (361, 2), (362, 2)];

/// An exporter simulator: one observation domain.
struct Exporter {
    sequence: u32,
    domain: u32,
    exported_s: u32,
}

impl Default for Exporter {
    fn default() -> Self {
        Self { sequence: 0, domain: 1, exported_s: 0 }
    }
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
    block_at(0, event, internal, 1, first)
}

/// A block of the external address 203.0.113.`external`, at a moment in seconds.
fn block_at(at_s: u32, event: u8, internal: u8, external: u8, first: u16) -> Vec<u8> {
    let record = [
        &(u64::from(at_s) * 1000).to_be_bytes()[..],
        &[event, 100, 64, 0, internal, 203, 0, 113, external],
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
        let numbers = [self.exported_s, self.sequence, self.domain].map(u32::to_be_bytes).concat();
        let head = [&[0, 10][..], &length.to_be_bytes(), &numbers].concat();
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
        self.holds_at("203.0.113.1", subscriber, port, live);
    }

    fn holds_at(&self, external: &str, subscriber: &str, port: u16, live: bool) {
        eventually(&format!("{subscriber} at {external}, port {port}: {live}"), || {
            let answer = self.toolbox.verify(subscriber, external, Some(port));
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
fn what_one_domain_loses_leaves_what_another_said_of_other_addresses() {
    if !have("curl", "curl") {
        return;
    }
    let isp = Isp::new("listen-udp", "rfc8158");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut one, mut two) = (Exporter::default(), Exporter { domain: 2, ..Exporter::default() });
    let mut three = Exporter { domain: 3, ..Exporter::default() };
    let send = |message: &[u8]| assert_eq!(socket.send_to(message, isp.at).unwrap(), message.len());
    send(&one.message(2, &[templates(), block(16, 2, 2048), block(16, 3, 2560)]));
    send(&two.message(1, &[templates(), block_at(0, 16, 3, 2, 2048)]));
    // It shares an external address with the first one.
    send(&three.message(1, &[templates(), block(16, 2, 4096)]));
    isp.holds("alice", 2048, true);
    isp.holds("alice", 4096, true);
    isp.holds_at("203.0.113.2", "bob", 2048, true);
    drop(one.message(1, &[block(17, 2, 2048)]));
    // A session of alice's begins in her block: it is hers still, and bob's is not said again.
    send(&one.message(1, &[session(4, 2, 2100, 1)]));
    isp.alarmed("gap");
    isp.holds("alice", 2048, true);
    isp.holds("bob", 2560, false);
    isp.holds("alice", 4096, false);
    isp.holds_at("203.0.113.2", "bob", 2048, true);
    send(&two.message(1, &[block_at(0, 17, 3, 2, 2048)]));
    isp.holds_at("203.0.113.2", "bob", 2048, false);
    // The exporter was started again: it comes from another port, and counts from the beginning.
    send(&two.message(1, &[block_at(0, 16, 2, 2, 2048)]));
    isp.holds_at("203.0.113.2", "alice", 2048, true);
    let again = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut anew = Exporter { domain: 2, ..Exporter::default() };
    let message = anew.message(1, &[templates(), block_at(0, 16, 2, 2, 2560)]);
    again.send_to(&message, isp.at).unwrap();
    isp.holds_at("203.0.113.2", "alice", 2560, true);
    isp.alarmed("restarted");
    isp.holds_at("203.0.113.2", "alice", 2048, false);
}

#[test]
fn an_event_counts_from_when_it_happened_however_late_it_is_told() {
    if !have("curl", "curl") {
        return;
    }
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sources = format!(
        "[[sources.ipfix]]\nname = \"cgn\"\nlisten-tcp = [\"{at}\"]\nexporters = [\"127.0.0.1/32\"]\n\
         dialect = \"rfc8158\"\n"
    );
    let toolbox = Toolbox::start(None, "\"100.64.0.0/24\", \"203.0.113.0/24\"", &sources);
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius().parse().unwrap());
    for (session, user, last) in [("one", "alice", 2), ("two", "bob", 3)] {
        let packet = nas.accounting_of(START, session, user, [100, 64, 0, last], now_s() - 900, 900);
        nas.tell(&packet);
    }
    // The clock of the exporter is an hour ahead; what it says waited for minutes.
    let (now, ahead) = (now_s(), 3600);
    let mut exporter = Exporter { exported_s: now + ahead, ..Exporter::default() };
    let mut stream = TcpStream::connect(at).unwrap();
    let told = [
        templates(),
        block_at(now + ahead - 590, 16, 2, 1, 2048),
        block_at(now + ahead - 300, 17, 2, 1, 2048),
        block_at(now + ahead - 300, 16, 3, 1, 2048),
    ];
    stream.write_all(&exporter.message(3, &told)).unwrap();
    eventually("bob has it now", || {
        let answer = toolbox.verify("bob", "203.0.113.1", Some(2048));
        if answer["live"] == true { Ok(()) } else { Err(answer.to_string()) }
    });
    let whois = |ago: u32| {
        let time = Timestamp::from_secs((now - ago).into()).to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolbox"));
        command.args(["whois", "203.0.113.1:2048", "--at", &time, "--json", "--config"]);
        let output = command.arg(toolbox.path("toolbox.toml")).output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        said["subscriber"].as_str().or(said["reason"].as_str()).unwrap().to_owned()
    };
    // What came to an end is on its way into the history.
    eventually("alice had it", || if whois(450) == "alice" { Ok(()) } else { Err(whois(450)) });
    assert_eq!(whois(30), "bob", "long before it was told");
    assert_eq!(whois(310), "overlap", "the network may have held the message");
    assert_eq!(whois(700), "no-session");
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
