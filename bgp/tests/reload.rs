//! SIGHUP to the running program: what the matrix of docs/bgp.md says of each setting, beside a neighbour that is left as
//! it was, whose connection hears nothing of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod support;

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bgp_wire::{ErrorCode, Message};
use support::peer::Peer;
use support::program::Program;
use support::{HEAD, INJECT, PATIENCE, eventually, free_port};

/// Two neighbours that the program connects to.
struct Lab {
    program: Program,
    untouched: (TcpListener, Peer),
    other: TcpListener,
    /// The configuration as it is: of the speaker, of the other neighbour, and behind both.
    speaker: String,
    settings: String,
    tables: String,
    inject: String,
}

fn table(name: &str, listener: &TcpListener, settings: &str) -> String {
    let address = listener.local_addr().unwrap();
    let (ip, port) = (address.ip(), address.port());
    format!("[[peers]]\nname = \"{name}\"\naddress = \"{ip}\"\nport = {port}\nremote-as = 64500\n{settings}\n")
}

impl Lab {
    /// The other neighbour has these settings.
    fn new(settings: &str) -> (Self, Peer) {
        let [untouched, other] = [1, 2].map(|host| TcpListener::bind((Ipv4Addr::new(127, 0, 5, host), 0)).unwrap());
        let text = format!("{HEAD}{}{}{INJECT}", table("untouched", &untouched, ""), table("other", &other, settings));
        let program = Program::start(&text);
        let mut at_untouched = Peer::accept(&untouched);
        assert!(at_untouched.establish());
        let mut at_other = Peer::accept(&other);
        assert!(at_other.establish());
        let put = r#"{"put":{"set":"a","routes":[{"next-hop":"192.0.2.1","prefixes":["10.0.0.0/24","10.1.0.0/24"]}]}}"#;
        program.api().done(put);
        let of = String::new;
        let mut lab = Self {
            program,
            untouched: (untouched, at_untouched),
            other,
            speaker: of(),
            settings: settings.to_owned(),
            tables: of(),
            inject: INJECT.to_owned(),
        };
        for peer in [&mut lab.untouched.1, &mut at_other] {
            hears(peer, "+10.0.0.0/24 +10.1.0.0/24");
        }
        (lab, at_other)
    }

    fn reload(&self) {
        let (untouched, other) =
            (table("untouched", &self.untouched.0, ""), table("other", &self.other, &self.settings));
        let text = [HEAD, &self.speaker, "\n", &untouched, &other, &self.tables, &self.inject].concat();
        self.program.configure(&text);
        self.program.hang_up();
    }

    /// The neighbour that was left as it was has the connection it had, and nothing was said on it but what keeps it.
    fn assert_untouched(&mut self) {
        let row = self.program.session("untouched");
        assert_eq!((&row["state"], &row["flaps"]), (&"Established".into(), &0.into()), "{row}");
        self.untouched.0.set_nonblocking(true).unwrap();
        assert_eq!(self.untouched.0.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it was connected to again");
        self.untouched.1.stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        loop {
            match self.untouched.1.stream.read(&mut bytes) {
                Ok(length) => {
                    assert!(length > 0, "closed");
                    self.untouched.1.framer.push(&bytes[..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        while let Some(frame) = self.untouched.1.framer.next_frame().unwrap() {
            let message = Message::decode(frame, self.untouched.1.context).unwrap();
            assert_eq!(message, Message::KeepAlive, "it was told of it");
        }
        self.untouched.1.stream.set_nonblocking(false).unwrap();
        self.untouched.1.send(&Message::KeepAlive);
    }
}

/// Waits for these routes, or for a withdrawal; KEEPALIVEs are answered.
fn hears(peer: &mut Peer, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no {wanted} within {PATIENCE:?}");
        match peer.next() {
            Some(Message::KeepAlive) => peer.send(&Message::KeepAlive),
            Some(Message::Update(update)) => {
                let gone = update.unreachable().map(|prefix| format!("-{prefix}"));
                let mut all: Vec<String> = gone.chain(update.reachable().map(|prefix| format!("+{prefix}"))).collect();
                all.sort();
                if all.join(" ") == wanted {
                    return;
                }
                assert!(all.is_empty(), "{all:?}, not {wanted}");
            }
            other => panic!("{other:?}, not {wanted}"),
        }
    }
}

#[test]
fn settings_that_the_open_depends_on_reset_their_neighbour_and_nobody_else() {
    let (mut lab, mut other) = Lab::new("");
    let settings = [
        "hold-time-s = 30",
        "hold-time-s = 30\ndelay-open-s = 1",
        "add-path = true",
        "flowspec = true",
        "import = \"all\"\ngraceful-restart = { restart-s = 30 }",
        "import = \"all\"\npass-on = true",
        "local-address = \"127.0.0.1\"",
        "",
    ];
    for settings in settings {
        lab.settings = settings.to_owned();
        lab.reload();
        let (error, _) = other.notification();
        assert_eq!(error, ErrorCode::CONFIGURATION_CHANGE, "{settings}");
        other = Peer::accept(&lab.other);
        assert!(other.establish(), "{settings}");
        hears(&mut other, "+10.0.0.0/24 +10.1.0.0/24");
        lab.assert_untouched();
    }
    assert_eq!(lab.program.established("other")["flaps"], 8);
}

#[test]
fn other_settings_are_taken_over_as_the_session_runs() {
    let base = "import = \"all\"\n";
    let (mut lab, mut other) = Lab::new(base);
    let some =
        "[[prefix-lists]]\nname = \"some\"\nrules = [{ prefix = \"10.1.0.0/16\", le = 32, action = \"permit\" }]\n";
    let rows = [
        ("", "export = \"nothing\"", "", "-10.0.0.0/24 -10.1.0.0/24"),
        ("", "", "", "+10.0.0.0/24 +10.1.0.0/24"),
        ("", "export-prefixes = \"some\"", some, "-10.0.0.0/24"),
        ("", "export = \"private\"", "", "-10.1.0.0/24"),
        ("shutdown-communication = \"bye\"", "max-prefix = { limit = 5 }", "", "+10.0.0.0/24 +10.1.0.0/24"),
    ];
    for (speaker, settings, tables, told) in rows {
        (lab.speaker, lab.settings, lab.tables) = (speaker.to_owned(), format!("{base}{settings}"), tables.to_owned());
        lab.reload();
        hears(&mut other, told);
        lab.assert_untouched();
    }
    // A further socket, and a neighbour that is not there.
    let port = free_port();
    lab.speaker = format!("listen = [\"127.0.0.1:{port}\"]");
    lab.tables = "[[peers]]\nname = \"third\"\naddress = \"127.0.5.9\"\nremote-as = 64500\npassive = true\n".to_owned();
    lab.reload();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the socket is open", || TcpStream::connect(to).is_ok());
    let mut third = Peer::connect(to, Ipv4Addr::new(127, 0, 5, 9));
    assert!(third.establish());
    (lab.speaker, lab.tables) = (String::new(), String::new());
    lab.reload();
    assert_eq!(third.notification().0, ErrorCode::PEER_DECONFIGURED);
    eventually("the socket is closed", || TcpStream::connect(to).is_err());
    lab.assert_untouched();
    let row = lab.program.session("other");
    assert_eq!((&row["state"], &row["flaps"]), (&"Established".into(), &0.into()), "{row}");
    // What is allowed concerns all: it is withdrawn, and comes back.
    lab.inject = INJECT.replace("10.0.0.0/8", "10.0.0.0/16");
    lab.reload();
    for peer in [&mut lab.untouched.1, &mut other] {
        hears(peer, "-10.1.0.0/24");
    }
    lab.inject = INJECT.to_owned();
    lab.reload();
    for peer in [&mut lab.untouched.1, &mut other] {
        hears(peer, "+10.1.0.0/24");
    }
    lab.assert_untouched();
}

#[test]
fn a_file_with_an_error_changes_nothing_and_is_told_in_the_log() {
    let (mut lab, mut other) = Lab::new("");
    lab.settings = "hold-time-s = 2".to_owned();
    lab.reload();
    eventually("the error is told", || lab.program.log().contains("peers[1].hold-time-s: 2 s is not allowed"));
    assert!(lab.program.log().contains("nothing has changed"), "{}", lab.program.log());
    lab.assert_untouched();
    other.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut bytes = [0; 19];
    if let Ok(length) = other.stream.read(&mut bytes) {
        assert_eq!(bytes[18], 4, "told {length} octets of it");
    }
    assert_eq!(lab.program.session("other")["flaps"], 0);
}
