//! A toolbox with sources beside RADIUS, and network namespaces for their peers.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use serde_json::{Value, json};
use tempfile::TempDir;

const KEY: &str = "the key of the shop";
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether namespaces can be made here; else the test is skipped.
pub(crate) fn may_make_namespaces() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        return cloakway_testing::have("ip", "iproute2");
    }
    cloakway_testing::skip("network namespaces need root");
    false
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, gone on drop.
pub(crate) struct Netns(String);

impl Netns {
    pub(crate) fn new(role: &str) -> Self {
        let name = format!("access-{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        must(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self(name);
        netns.ip("link set lo up");
        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn ip(&self, words: &str) {
        must(Command::new("ip").args(["-n", &self.0]).args(words.split_whitespace()));
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    pub(crate) fn must(&self, words: &[&str]) -> String {
        let (program, arguments) = words.split_first().unwrap();
        must(self.command(program).args(arguments))
    }

    /// Joins two namespaces by a cable; both ends are up.
    pub(crate) fn join(&self, end: &str, other: &Self, other_end: &str) {
        must(
            Command::new("ip").args([
                "-n", &self.0, "link", "add", end, "type", "veth", "peer", "name", other_end, "netns", &other.0,
            ]),
        );
        self.ip(&format!("link set {end} up"));
        other.ip(&format!("link set {other_end} up"));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Runs `work` in the namespace, on a thread of its own: what it opens stays there.
pub(crate) fn within<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(format!("/run/netns/{}", netns.name())).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Runs a command to its end.
///
/// # Panics
/// When it fails.
pub(crate) fn must(command: &mut Command) -> String {
    let output: Output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A process that is killed on drop.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Self(child.unwrap())
    }

    pub(crate) fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Toolbox {
    folder: TempDir,
    netns: Option<String>,
    process: Option<Running>,
    https: String,
    radius: String,
}

impl Toolbox {
    /// Runs in a namespace, or beside the test; `sources` are tables of the configuration.
    pub(crate) fn start(netns: Option<&Netns>, prefixes: &str, sources: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), issued.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), issued.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("radius.secret"), "s3cr3t-of-the-edge-router\n").unwrap();
        let radius = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let https = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = folder.path().display();
        let key = hex(&sha256(&[KEY.as_bytes()]));
        let config = format!(
            "data = \"{dir}/data\"\nadmin-socket = \"{dir}/admin.sock\"\n[subscribers]\nprefixes = [{prefixes}]\n\
             [radius]\nlisten = [\"{radius}\"]\n[[radius.clients]]\nname = \"edge\"\nprefix = \"127.0.0.1/32\"\n\
             secret-file = \"{dir}/radius.secret\"\n[https]\nlisten = [\"{https}\"]\ncertificate = \"{dir}/cert.pem\"\n\
             key = \"{dir}/key.pem\"\n[[callers]]\nname = \"shop\"\nkey-sha256 = \"{key}\"\nrate-per-s = 10000\n\
             may = [\"verify\", \"probe\"]\n{sources}\n"
        );
        std::fs::write(path("toolbox.toml"), config).unwrap();
        let netns = netns.map(|netns| netns.name().to_owned());
        let mut toolbox = Self { folder, netns, process: None, https: https.to_string(), radius: radius.to_string() };
        toolbox.run();
        toolbox
    }

    fn command(&self, program: &str) -> Command {
        match &self.netns {
            None => Command::new(program),
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, program]);
                command
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where accounting is heard.
    pub(crate) fn radius(&self) -> &str {
        &self.radius
    }

    /// Starts the process and waits until it answers.
    pub(crate) fn run(&mut self) {
        let mut command = self.command(env!("CARGO_BIN_EXE_toolbox"));
        command.args(["run", "--config"]).arg(self.path("toolbox.toml"));
        self.process = Some(Running::start(&mut command, &self.path("log")));
        eventually("the toolbox answers", || {
            assert!(!self.process.as_mut().unwrap().ended(), "it ended: {}", self.log());
            self.try_show("status")
        });
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the process where it is, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        use nix::sys::signal::{Signal, kill};
        let pid = i32::try_from(self.process.as_ref().unwrap().0.id()).unwrap();
        kill(nix::unistd::Pid::from_raw(pid), if frozen { Signal::SIGSTOP } else { Signal::SIGCONT }).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn try_show(&self, topic: &str) -> Result<Value, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolbox"));
        let output =
            command.args(["show", topic, "--json", "--config"]).arg(self.path("toolbox.toml")).output().unwrap();
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn show(&self, topic: &str) -> Value {
        self.try_show(topic).unwrap()
    }

    /// The bound subscribers by prefix, with ports where there are.
    pub(crate) fn bound(&self) -> std::collections::BTreeMap<String, String> {
        let all = self.show("bindings");
        let bound = all.as_array().unwrap().iter().filter(|binding| binding["state"] == "bound");
        bound
            .map(|binding| {
                let ports = binding["ports"].as_str().map(|ports| format!(" {ports}")).unwrap_or_default();
                let who = binding["subscriber"].as_str().or_else(|| binding["behind"].as_str()).unwrap_or("nobody");
                (binding["prefix"].as_str().unwrap().to_owned() + &ports, who.to_owned())
            })
            .collect()
    }

    /// What `show access` says of a source.
    pub(crate) fn source(&self, name: &str) -> Value {
        let all = self.show("access");
        all.as_array().unwrap().iter().find(|source| source["name"] == name).unwrap().clone()
    }

    pub(crate) fn verify(&self, subscriber: &str, address: &str, port: Option<u16>) -> Value {
        let mut body = json!({"address": address, "subscriber": subscriber});
        if let Some(port) = port {
            body["port"] = json!(port);
        }
        let mut curl = self.command("curl");
        curl.args(["-sk", "-H", &format!("Authorization: Bearer {KEY}"), "-H", "Content-Type: application/json", "-d"]);
        curl.arg(body.to_string()).arg(format!("https://{}/v1/verify", self.https));
        serde_json::from_str(&must(&mut curl)).unwrap()
    }

    /// The same, and the equipment is asked.
    pub(crate) fn verify_now(&self, subscriber: &str, address: &str) -> Value {
        let body = json!({"address": address, "subscriber": subscriber}).to_string();
        let mut curl = self.command("curl");
        curl.args(["-sk", "-H", &format!("Authorization: Bearer {KEY}"), "-H", "Content-Type: application/json", "-d"]);
        curl.arg(body).arg(format!("https://{}/v1/verify?probe=true", self.https));
        serde_json::from_str(&must(&mut curl)).unwrap()
    }

    /// Many questions over one connection, answered in their order.
    pub(crate) fn verify_all(&self, questions: &[(String, String, u16)]) -> Vec<Value> {
        let one = |(subscriber, address, port): &(String, String, u16)| {
            let body =
                json!({"address": address, "subscriber": subscriber, "port": port}).to_string().replace('"', "\\\"");
            format!(
                "url = \"https://{}/v1/verify\"\ninsecure\nsilent\nheader = \"Authorization: Bearer {KEY}\"\n\
                 header = \"Content-Type: application/json\"\ndata = \"{body}\"\nwrite-out = \"\\n\"\n",
                self.https
            )
        };
        let file = self.path("questions");
        std::fs::write(&file, questions.iter().map(one).collect::<Vec<_>>().join("next\n")).unwrap();
        let answers = must(self.command("curl").arg("-K").arg(&file));
        answers.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn live(&self, subscriber: &str, address: &str, port: Option<u16>) -> bool {
        self.verify(subscriber, address, port)["live"].as_bool().unwrap()
    }
}
