//! The running program among strangers: garbage, cut, giant and slow messages, and sockets that are left half open. A
//! neighbour that behaves notices none of it.

#![cfg(test)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Context, Family, Framer, HoldTime, Message, Open, RouterId};
use cloakway_sim::Rng;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// Neighbours that misbehave, each in its own way, from 127.0.1.1 upwards.
const HOSTILE: u8 = 14;
/// The one that behaves.
const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 200);
/// The one that is not configured.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);

/// A running speaker, killed when dropped.
struct Speaker {
    child: Child,
    folder: TempDir,
    bgp: SocketAddr,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Speaker {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free when asked for; taken by another in between, the start fails and says so.
        let bgp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.path().join("speaker.toml");
        std::fs::write(&file, Self::config(folder.path(), bgp)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"))
            .args(["run", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut speaker = Self { child, folder, bgp };
        eventually("the speaker listens", || {
            assert_eq!(speaker.child.try_wait().unwrap(), None, "it ended at once");
            TcpStream::connect(speaker.bgp).is_ok() && speaker.path("admin").exists() && speaker.path("api").exists()
        });
        speaker
    }

    fn config(folder: &Path, bgp: SocketAddr) -> String {
        let path = |name: &str| folder.join(name);
        let (admin, health, api, journal) = (path("admin"), path("health"), path("api"), path("journal"));
        let hostile = (1..=HOSTILE).map(|n| (format!("hostile-{n}"), Ipv4Addr::new(127, 0, 1, n)));
        let peers: String = hostile
            .chain([("good".to_owned(), GOOD)])
            .map(|(name, address)| {
                format!("[[peers]]\nname = \"{name}\"\naddress = \"{address}\"\nremote-as = 64500\npassive = true\n")
            })
            .collect();
        format!(
            "admin-socket = {admin:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\nlisten = [\"{bgp}\"]\n\
             {peers}[[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n\
             [health]\nsocket = {health:?}\n\
             [inject]\njournal = {journal:?}\napi-socket = {api:?}\nallow = [\"10.0.0.0/8\"]\n"
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection from `source`.
    fn connect(&self, source: Ipv4Addr) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&self.bgp.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, framer: Framer::default() }
    }

    fn ask(&self, socket: &str, line: &str) -> Value {
        let mut stream = UnixStream::connect(self.path(socket)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    fn sessions(&self) -> Vec<Value> {
        self.ask("admin", r#"{"topic":"sessions"}"#)["ok"].as_array().unwrap().clone()
    }

    fn session(&self, peer: &str) -> Value {
        self.sessions().into_iter().find(|row| row["peer"] == peer || row["name"] == peer).unwrap()
    }
}

/// The other end of a BGP connection.
struct Client {
    stream: TcpStream,
    framer: Framer,
}

impl Client {
    /// Writes what it can: the speaker may have had enough.
    fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message; `None` when the speaker closed.
    fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.framer.next_frame().unwrap() {
                return Some(Message::decode(frame, Context::default()).unwrap());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.framer.push(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a message nor an end: {error}"),
            }
        }
    }

    /// Whether the session comes up; not while the speaker keeps the peer out for what it did before.
    fn establish(&mut self) -> bool {
        self.say(&encoded(&open()));
        if !matches!(self.next(), Some(Message::Open(_))) || self.next() != Some(Message::KeepAlive) {
            return false;
        }
        self.say(&encoded(&Message::KeepAlive));
        true
    }

    /// Reads until the speaker closes.
    fn until_closed(&mut self) {
        while self.next().is_some() {}
    }
}

fn open() -> Message {
    let router_id = RouterId::new([10, 0, 0, 9].into()).unwrap();
    Message::Open(Open::new(Asn(64500), HoldTime::from_secs(30).unwrap(), router_id, Family::ALL))
}

fn encoded(message: &Message) -> Vec<u8> {
    message.encode(Context::default()).unwrap()
}

fn frame(kind: u8, length: u16, body: &[u8]) -> Vec<u8> {
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
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
    eventually("the session is up", || speaker.session("good")["state"] == "Established");

    for n in 1..=HOSTILE {
        misbehave(&speaker, n, &mut rng);
        assert_eq!(speaker.child.try_wait().unwrap(), None, "hostile neighbour {n} ended the process");
        assert_eq!(speaker.sessions().len(), usize::from(HOSTILE) + 1, "after {n}");
    }
    // Who is not configured is told nothing but the end.
    let mut stranger = speaker.connect(STRANGER);
    stranger.say(&encoded(&open()));
    assert!(!matches!(stranger.next(), Some(Message::Open(_))), "a stranger got an OPEN");
    stranger.until_closed();

    let row = speaker.session("good");
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
    assert_eq!(speaker.child.try_wait().unwrap(), None);
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
                let mut stream = UnixStream::connect(speaker.path(socket)).unwrap();
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
        assert!(speaker.sessions().len() > 1);
        let answer = speaker.ask("api", r#"{"sets":{}}"#);
        assert!(answer.get("ok").is_some(), "{answer}");
        assert_eq!(speaker.child.try_wait().unwrap(), None, "{socket}");
    }
    let put = r#"{"put":{"set":"a","routes":[{"next-hop":"192.0.2.1","prefixes":["10.0.0.0/24"]}]}}"#;
    assert!(speaker.ask("api", put).get("ok").is_some());
    let refused = r#"{"put":{"set":"b","routes":[{"next-hop":"192.0.2.1","prefixes":["11.0.0.0/24"]}]}}"#;
    assert!(speaker.ask("api", refused).get("error").is_some());
}
