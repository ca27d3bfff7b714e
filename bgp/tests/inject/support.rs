//! The binary, a client of its API, and a router that takes what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Attributes, Context, Family, Framer, HoldTime, Message, MpReach, Open, RouterId};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Calls until `done`, at most for the patience.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The binary with its folder; killed at the latest when the test ends.
pub(crate) struct Speaker {
    pub(crate) folder: TempDir,
    child: Option<Child>,
}

impl Speaker {
    pub(crate) fn new(port: u16, allow: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n\
             [[peers]]\nname = \"edge\"\nremote-as = 64500\naddress = \"127.0.0.1\"\nport = {port}\nhold-time-s = 90\n\
             [inject]\napi-socket = {:?}\njournal = {:?}\nallow = [{allow}]\n",
            path("admin"),
            path("api"),
            path("journal"),
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let mut speaker = Self { folder, child: None };
        speaker.start();
        speaker
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        command.arg("run").arg("--config").arg(self.path("speaker.toml")).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn api(&self) -> Api {
        let stream = until("the API", || UnixStream::connect(self.path("api")).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Api { lines: BufReader::new(stream.try_clone().unwrap()), stream }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

pub(crate) struct Api {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Api {
    pub(crate) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The answer that had come before the speaker was killed, if a whole one had.
    pub(crate) fn left(&mut self) -> Option<Value> {
        let mut line = String::new();
        // What was cut off is no answer, and the connection may have been reset.
        let _ = self.lines.read_line(&mut line);
        line.strip_suffix('\n').map(|line| serde_json::from_str(line).unwrap())
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.send(&format!("{request}\n"));
        self.answer()
    }
}

/// What is said of a prefix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) attributes: Attributes,
    pub(crate) next_hop: Option<IpAddr>,
}

/// A router that takes what it is told.
pub(crate) struct Router {
    stream: TcpStream,
    framer: Framer,
    /// With what it holds each prefix.
    pub(crate) routes: BTreeMap<String, Held>,
    pub(crate) held: BTreeSet<String>,
    pub(crate) ends: usize,
    pub(crate) updates: usize,
}

impl Router {
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut router = Self {
            stream,
            framer: Framer::default(),
            routes: BTreeMap::new(),
            held: BTreeSet::new(),
            ends: 0,
            updates: 0,
        };
        let id = RouterId::new([198, 51, 100, 1].into()).unwrap();
        let open = Open::new(Asn(64500), HoldTime::from_secs(90).unwrap(), id, Family::ALL);
        for message in [Message::Open(open), Message::KeepAlive] {
            router.stream.write_all(&message.encode(Context::default()).unwrap()).unwrap();
        }
        router
    }

    /// Takes what has come.
    pub(crate) fn read(&mut self) {
        let mut bytes = vec![0; 1 << 16];
        let Ok(count) = self.stream.read(&mut bytes) else { return };
        self.framer.push(&bytes[..count]);
        while let Some(frame) = self.framer.next_frame().unwrap() {
            let Message::Update(update) = Message::decode(frame, Context::default()).unwrap() else { continue };
            assert_eq!(update.flaws, []);
            if update.ends_rib_of().is_some() {
                self.ends += 1;
                continue;
            }
            self.updates += 1;
            for prefix in update.unreachable() {
                self.held.remove(&prefix.to_string());
                self.routes.remove(&prefix.to_string());
            }
            for prefix in update.reachable() {
                let next_hop = match &update.mp_reach {
                    Some(MpReach::Ipv6 { next_hop, .. }) => Some((*next_hop).into()),
                    _ => update.attributes.next_hop.map(IpAddr::from),
                };
                self.held.insert(prefix.to_string());
                self.routes.insert(prefix.to_string(), Held { attributes: update.attributes.clone(), next_hop });
            }
        }
    }

    pub(crate) fn synchronised(&mut self) {
        until("both End-of-RIB", || {
            self.read();
            (self.ends == 2).then_some(())
        });
    }

    pub(crate) fn holds(&mut self, count: usize) {
        until(&format!("{count} routes"), || {
            self.read();
            (self.held.len() == count).then_some(())
        });
    }
}

pub(crate) fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}
