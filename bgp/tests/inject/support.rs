//! The binary, a client of its API, and a router that takes what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bgp_wire::{
    Actions, AsPath, Asn, Attributes, Capability, Context, Family, FlowRule, Framer, HoldTime, Message, MpReach, Open,
    Origin, RouterId, Update, announce_v4,
};
use tempfile::TempDir;

use crate::shared::metric;
pub(crate) use crate::shared::program::Api;
pub(crate) use crate::shared::{PATIENCE, listener, until};

/// The binary with its folder; killed at the latest when the test ends.
pub(crate) struct Speaker {
    pub(crate) folder: TempDir,
    child: Option<Child>,
    /// Where its metrics are: an address that nobody else has.
    metrics: SocketAddr,
}

/// Speakers of this process so far.
static SPEAKERS: AtomicU8 = AtomicU8::new(0);

impl Speaker {
    pub(crate) fn new(port: u16, allow: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (id, number) = (std::process::id().to_be_bytes(), SPEAKERS.fetch_add(1, Ordering::Relaxed));
        let metrics = SocketAddr::from(([127, 100 + number % 100, id[2], id[3]], 9644));
        let text = format!(
            "metrics-listen = \"{metrics}\"\nadmin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n\
             [[peers]]\nname = \"edge\"\nremote-as = 64500\naddress = \"127.0.0.1\"\nport = {port}\nhold-time-s = 90\n\
             [inject]\napi-socket = {:?}\njournal = {:?}\nallow = [{allow}]\n",
            path("admin"),
            path("api"),
            path("journal"),
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let mut speaker = Self { folder, child: None, metrics };
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

    /// Starts it where no file may grow beyond so many blocks of 512 octets.
    pub(crate) fn start_within(&mut self, blocks: u32) {
        let line = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" run --config \"$1\"");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_bgp-speaker")]).arg(self.path("speaker.toml"));
        self.child = Some(command.stderr(Stdio::null()).spawn().unwrap());
    }

    /// What it says when it does not start.
    pub(crate) fn starts_in_vain(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        let ended = command.arg("run").arg("--config").arg(self.path("speaker.toml")).output().unwrap();
        assert!(!ended.status.success());
        String::from_utf8_lossy(&ended.stderr).into_owned()
    }

    /// The value of a metric, by its name and labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        metric(self.metrics, name)
    }

    /// Waits until a metric has such a value.
    pub(crate) fn counts(&self, name: &str, fits: impl Fn(f64) -> bool) {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        while !last.is_some_and(&fits) {
            assert!(Instant::now() < deadline, "{name} is {last:?}");
            last = self.metric(name);
        }
    }

    /// What has happened, an event a line.
    pub(crate) fn events(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        let told =
            command.args(["events", "--json", "--from", "1", "--socket"]).arg(self.path("admin")).output().unwrap();
        String::from_utf8(told.stdout).unwrap()
    }

    /// Has it read its configuration again, and gives the exit code.
    pub(crate) fn reload(&self) -> Option<i32> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        command.args(["reload", "--socket"]).arg(self.path("admin")).output().unwrap().status.code()
    }

    /// Starts it anew with another configuration.
    pub(crate) fn edit(&mut self, edit: impl FnOnce(String) -> String) {
        self.kill();
        let text = std::fs::read_to_string(self.path("speaker.toml")).unwrap();
        std::fs::write(self.path("speaker.toml"), edit(text)).unwrap();
        self.start();
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn api(&self) -> Api {
        until("the API", || UnixStream::connect(self.path("api")).ok()).into()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
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
    /// Flow rules, with what becomes of their packets, and communities.
    pub(crate) flows: BTreeMap<String, String>,
    /// What the speaker's OPEN says.
    pub(crate) open: Open,
    context: Context,
}

impl Router {
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        Self::accept_with(listener, [])
    }

    pub(crate) fn accept_with(listener: &TcpListener, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut router = Self {
            stream,
            framer: Framer::default(),
            routes: BTreeMap::new(),
            held: BTreeSet::new(),
            ends: 0,
            updates: 0,
            flows: BTreeMap::new(),
            open: Open::new(
                Asn(64500),
                HoldTime::from_secs(90).unwrap(),
                RouterId::new([198, 51, 100, 1].into()).unwrap(),
                Family::ALL,
            ),
            context: Context::default(),
        };
        let mut open = router.open.clone();
        open.capabilities.extend(capabilities);
        router.context = Context {
            ipv4_by_ipv6: open.capabilities.contains(&Capability::ExtendedNextHop),
            flow: open.flow_families().collect(),
            ..Context::default()
        };
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
            let update = match Message::decode(frame, self.context).unwrap() {
                Message::Update(update) => update,
                Message::Open(open) => {
                    self.open = open;
                    continue;
                }
                _ => continue,
            };
            assert_eq!(update.flaws, []);
            for rule in update.flow_unreachable() {
                self.flows.remove(&plain(rule));
            }
            for rule in update.flow_reachable() {
                let (actions, communities) = (Actions::of(&update.attributes), &update.attributes.communities);
                self.flows.insert(plain(rule), format!("{actions} {communities:?}"));
            }
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
                    Some(MpReach::Ipv6 { next_hop, .. } | MpReach::Ipv4ByIpv6 { next_hop, .. }) => {
                        Some((*next_hop).into())
                    }
                    _ => update.attributes.next_hop.map(IpAddr::from),
                };
                self.held.insert(prefix.to_string());
                self.routes.insert(prefix.to_string(), Held { attributes: update.attributes.clone(), next_hop });
            }
        }
    }

    /// Where the speaker connected from.
    pub(crate) fn from(&self) -> String {
        self.stream.peer_addr().unwrap().ip().to_string()
    }

    /// Announces prefixes of its own.
    pub(crate) fn announce(&mut self, prefixes: &[&str]) {
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::default()),
            local_pref: Some(100),
            ..Attributes::default()
        };
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
        let updates = announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, self.context).unwrap();
        updates.into_iter().for_each(|update| self.say(update));
    }

    /// It has announced all that it has.
    pub(crate) fn end(&mut self) {
        Family::ALL.into_iter().for_each(|family| self.say(Update::end_of_rib(family)));
    }

    fn say(&mut self, update: Update) {
        self.stream.write_all(&Message::Update(update).encode(self.context).unwrap()).unwrap();
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

/// A rule without how many octets its numbers take.
fn plain(rule: &FlowRule) -> String {
    let text = rule.to_string();
    let widths = ["#1", "#2", "#4", "#8"];
    widths.iter().fold(text, |text, width| text.replace(width, ""))
}
