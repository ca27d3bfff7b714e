//! The running program among strangers: garbage, cut, giant and slow messages, and sockets that are left half open. A
//! neighbour that behaves notices none of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bgp_wire::Message;
use cloakway_sim::Rng;
use serde_json::Value;
use support::peer::Peer;
use support::program::Program;
use support::{HEAD, INJECT, PATIENCE, encoded, eventually, frame, free_port};

/// Neighbours that misbehave, each in its own way, from 127.0.1.1 upwards.
const HOSTILE: u8 = 14;
/// The one that behaves.
const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 200);
/// The one that is not configured.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);

/// A running speaker with all of them as neighbours, and where they connect.
struct Speaker {
    program: Program,
    bgp: SocketAddr,
}

impl Speaker {
    fn start() -> Self {
        let bgp = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let hostile = (1..=HOSTILE).map(|n| (format!("hostile-{n}"), Ipv4Addr::new(127, 0, 1, n)));
        let peers: String = hostile
            .chain([("good".to_owned(), GOOD)])
            .map(|(name, address)| {
                format!("[[peers]]\nname = \"{name}\"\naddress = \"{address}\"\nremote-as = 64500\npassive = true\n")
            })
            .collect();
        let private = "[[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n\
                       [health]\nsocket = \"$/health\"\n";
        let program = Program::start(&format!("{HEAD}listen = [\"{bgp}\"]\n{peers}{private}{INJECT}"));
        Self { program, bgp }
    }

    fn connect(&self, source: Ipv4Addr) -> Peer {
        Peer::connect(self.bgp, source)
    }
}

fn open() -> Message {
    Message::Open(support::open(64500, [10, 0, 0, 9], 30))
}

fn random(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

/// What each of the hostile neighbours does to its connection.
fn misbehave(speaker: &Speaker, n: u8, rng: &mut Rng) {
    let from = Ipv4Addr::new(127, 0, 1, n);
    let mut client = speaker.connect(from);
    match n {
        1 => client.say(b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n"),
        2 => client.say(&random(rng, 100_000)),
        // An OPEN, cut.
        3 => {
            client.say(&encoded(&open())[..25]);
            client.stream.shutdown(Shutdown::Write).unwrap();
        }
        // The longest message there is, and more of it than it says.
        4 => client.say(&frame(2, 65535, &vec![0xff; 4 << 20])),
        5 => client.say(&frame(1, 65535, &vec![0; 70_000])),
        // OPENs with a body of nothing in particular.
        6 => client.say(&frame(1, 200, &random(rng, 181))),
        7 => {
            assert!(client.establish());
            client.say(&frame(2, 4096, &random(rng, 4077)));
        }
        8 => {
            assert!(client.establish());
            client.say(&frame(2, 18, &[]));
        }
        // Flawed, and to be borne: each attribute of nothing, over and over.
        9 => {
            assert!(client.establish());
            for code in 0..=255 {
                client.say(&frame(2, 19 + 4 + 3 + 4, &[0, 0, 0, 3, 0xc0, code, 0, 24, 10, 0, 0]));
            }
            client.stream.shutdown(Shutdown::Write).unwrap();
        }
        10 => {
            assert!(client.establish());
            client.say(&encoded(&open()));
        }
        // Answers nothing, reads nothing, and is gone.
        11 => {
            client.stream.set_nodelay(true).unwrap();
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            return;
        }
        // Many connections at once: one of them may stay.
        12 => {
            let crowd: Vec<_> = (0..200).map(|_| speaker.connect(from)).collect();
            drop(crowd);
            return;
        }
        13 => {
            client.say(&frame(3, 21, &[6, 2]));
            client.stream.shutdown(Shutdown::Write).unwrap();
        }
        // Half a header, and nothing more; it is left hanging while the others are at it.
        _ => {
            client.say(&[0xff; 9]);
            std::mem::forget(client);
            return;
        }
    }
    client.until_closed();
}

#[test]
fn a_neighbour_that_behaves_notices_nothing_of_those_that_do_not() {
    let mut speaker = Speaker::start();
    let mut rng = Rng::new(std::env::var("SIM_SEED").ok().map_or(1, |seed| seed.parse().unwrap()));
    let mut good = speaker.connect(GOOD);
    assert!(good.establish());
    eventually("the session is up", || speaker.program.session("good")["state"] == "Established");

    for n in 1..=HOSTILE {
        misbehave(&speaker, n, &mut rng);
        speaker.program.assert_runs();
        assert_eq!(speaker.program.sessions().len(), usize::from(HOSTILE) + 1, "after {n}");
    }
    // Who is not configured is told nothing but the end.
    let mut stranger = speaker.connect(STRANGER);
    stranger.say(&encoded(&open()));
    assert!(!matches!(stranger.next(), Some(Message::Open(_))), "a stranger got an OPEN");
    stranger.until_closed();

    let row = speaker.program.session("good");
    assert_eq!((&row["state"], &row["flaps"]), (&Value::from("Established"), &Value::from(0)), "{row}");
    good.say(&encoded(&Message::KeepAlive));
    // Whoever misbehaved may come back and behave.
    for n in [1, 4, 7, 12] {
        eventually("a session after all", || speaker.connect(Ipv4Addr::new(127, 0, 1, n)).establish());
    }
    // One octet at a time is slow, and right.
    eventually("a slow session", || {
        let mut slow = speaker.connect(Ipv4Addr::new(127, 0, 1, 3));
        slow.stream.set_nodelay(true).unwrap();
        encoded(&open()).iter().for_each(|octet| slow.say(&[*octet]));
        matches!(slow.next(), Some(Message::Open(_))) && slow.next() == Some(Message::KeepAlive)
    });
    speaker.program.assert_runs();
}

#[test]
fn local_sockets_bear_garbage_giant_lines_and_half_closed_connections() {
    let mut speaker = Speaker::start();
    let mut rng = Rng::new(2);
    for socket in ["admin", "api"] {
        let mut kept = Vec::new();
        for bytes in [
            b"\n\n\n".to_vec(),
            b"{\"topic\":".to_vec(),
            b"{\"topic\":1}\n{}\n[]\nnull\n\"\n".to_vec(),
            random(&mut rng, 100_000),
            vec![b'['; 200_000],
            vec![b'x'; 40 << 20],
        ] {
            for half_close in [true, false] {
                let mut stream = UnixStream::connect(speaker.program.path(socket)).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
                // It may be refused in the middle.
                let _ = stream.write_all(&bytes);
                if half_close {
                    let _ = stream.shutdown(Shutdown::Write);
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut said = Vec::new();
                    if let Err(error) = stream.take(1 << 20).read_to_end(&mut said) {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{socket}: {error}");
                    }
                } else {
                    kept.push(stream);
                }
            }
        }
        // With those still open, it answers.
        assert!(speaker.program.sessions().len() > 1);
        let answer = speaker.program.ask("api", r#"{"sets":{}}"#);
        assert!(answer.get("ok").is_some(), "{answer}");
        speaker.program.assert_runs();
    }
    let put = r#"{"put":{"set":"a","routes":[{"next-hop":"192.0.2.1","prefixes":["10.0.0.0/24"]}]}}"#;
    assert!(speaker.program.ask("api", put).get("ok").is_some());
    let refused = r#"{"put":{"set":"b","routes":[{"next-hop":"192.0.2.1","prefixes":["11.0.0.0/24"]}]}}"#;
    assert!(speaker.program.ask("api", refused).get("error").is_some());
}
