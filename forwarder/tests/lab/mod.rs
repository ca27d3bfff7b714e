//! Four namespaces of its own for each test: a subscriber, the forwarder's host, the far end of the
//! private link and the Internet behind the default route. Gone when the value is dropped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "what fails here fails the test")]

mod health;
pub(crate) mod large;
pub(crate) mod streams;
mod wait;
pub(crate) mod watch;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use health::Health;
use wait::succeed;
pub(crate) use wait::{PATIENCE, eventually, possible};

pub(crate) const SUB4: &str = "198.51.100.70";
pub(crate) const SUB6: &str = "2001:db8:5100:64::70";
pub(crate) const FAR4: &str = "203.0.113.200";
pub(crate) const FAR6: &str = "2001:db8:c10a::200";
pub(crate) const NET4: &str = "192.0.2.1";
pub(crate) const NET6: &str = "2001:db8:0:1::1";

/// What packets of streams begin with; a number follows.
const MARK: &[u8] = b"cloakway";

/// UDP ports that every namespace counts.
pub(crate) const PORTS: std::ops::Range<u16> = 7000..7032;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What forwards in a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    Kernel,
    Tcx,
    /// With XDP at veths, whose other ends leave checksums and segmentation to a device: the hard case.
    Xdp,
    /// This program's own, on raw sockets.
    User,
}

impl Plane {
    /// The table of the configuration.
    fn settings(self, pins: &str) -> String {
        let (mode, hook) = match self {
            Self::Kernel => ("kernel", "auto"),
            Self::Tcx => ("bpf", "auto"),
            Self::Xdp => ("bpf", "xdp"),
            Self::User => ("user", "auto"),
        };
        format!("[data-plane]\nmode = \"{mode}\"\nhook = \"{hook}\"\npin-directory = \"{pins}\"\n")
    }
}

pub(crate) struct Lab {
    pub(crate) plane: Plane,
    /// More subscriber prefixes than the example has, as they stand in a list.
    pub(crate) subscribers: String,
    name: String,
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Lab {
    pub(crate) fn new(plane: Plane) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fwd{}-{number}", std::process::id());
        let (subscribers, threads) = (String::new(), Vec::new());
        let lab =
            Self { plane, subscribers, name, folder: tempfile::tempdir().unwrap(), stop: Arc::default(), threads };
        // Pins outlive the process only on a BPF file system that does: `ip netns exec` hides the usual one.
        std::fs::create_dir(lab.bpf()).unwrap();
        run("mount", &["-t", "bpf", "bpf", lab.bpf().to_str().unwrap()]);
        for short in ["sub", "isp", "far", "net"] {
            run("ip", &["netns", "add", &lab.ns(short)]);
            lab.sysctl(short, &["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]);
            lab.sysctl(short, &["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]);
            lab.ip(short, "link set lo up");
            lab.count(short);
        }
        lab.link(
            ("isp", "edge0", &["198.51.100.65/26", "2001:db8:5100:64::1/64"]),
            ("sub", "eth0", &["198.51.100.70/26", "2001:db8:5100:64::70/64"]),
        );
        lab.link(
            ("isp", "up0", &["192.0.2.2/30", "2001:db8:0:1::2/64"]),
            ("net", "edge0", &["192.0.2.1/30", "2001:db8:0:1::1/64"]),
        );
        lab.as_from_a_wire("sub", "eth0");
        lab.private_link();
        lab.ip("isp", "route add default via 192.0.2.1");
        lab.ip("isp", "route add default via 2001:db8:0:1::1");
        lab.ip("sub", "route add default via 198.51.100.65");
        lab.ip("sub", "route add default via 2001:db8:5100:64::1");
        lab.ip("net", "route add default via 192.0.2.2");
        lab.ip("net", "route add default via 2001:db8:0:1::2");
        lab
    }

    /// Makes the private link, with a kernel at the far end that has the private network addresses.
    pub(crate) fn private_link(&self) {
        self.link(
            ("isp", "priv0", &["192.0.2.249/30", "2001:db8:0:ff::1/64"]),
            ("far", "priv0", &["203.0.113.200/32", "2001:db8:c10a::200/128", "192.0.2.250/30", "2001:db8:0:ff::2/64"]),
        );
        self.ip("far", "route add default via 192.0.2.249 src 203.0.113.200");
        self.ip("far", "route add default via 2001:db8:0:ff::1 src 2001:db8:c10a::200");
        self.as_from_a_wire("far", "priv0");
    }

    /// Frames as a device would hand them over; and a veth takes redirected frames only with NAPI, which GRO brings.
    fn as_from_a_wire(&self, short: &str, interface: &str) {
        if self.plane == Plane::Xdp {
            self.exec(short, &["ethtool", "-K", interface, "tx", "off", "gro", "on"]);
        }
    }

    fn link(&self, a: (&str, &str, &[&str]), b: (&str, &str, &[&str])) {
        let (a_ns, b_ns) = (self.ns(a.0), self.ns(b.0));
        run("ip", &["link", "add", a.1, "netns", &a_ns, "type", "veth", "peer", "name", b.1, "netns", &b_ns]);
        for (ns, interface, addresses) in [a, b] {
            for address in addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                self.ip(ns, format!("addr add {address} dev {interface} {nodad}").trim());
            }
            self.ip(ns, &format!("link set {interface} up"));
        }
    }

    /// Counts UDP of each port at the door of a namespace, whether or not it is for it.
    fn count(&self, short: &str) {
        let mut text = String::from("table inet tap {\n");
        for port in PORTS {
            text.push_str(&format!("counter p{port} {{ }}\n"));
        }
        text.push_str("chain door { type filter hook prerouting priority raw; policy accept;\n");
        for port in PORTS {
            text.push_str(&format!("udp dport {port} counter name p{port}\nudp sport {port} counter name p{port}\n"));
        }
        text.push_str("}\n}\n");
        self.exec_with(short, &["nft", "-f", "-"], &text);
    }

    /// How many packets of `port` reached a namespace by now.
    pub(crate) fn seen(&self, short: &str, port: u16) -> u64 {
        let text = self.exec(short, &["nft", "list", "counter", "inet", "tap", &format!("p{port}")]);
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").unwrap();
        words[at + 1].parse().unwrap()
    }

    pub(crate) fn ns(&self, short: &str) -> String {
        format!("{}-{short}", self.name)
    }

    pub(crate) fn ip(&self, short: &str, arguments: &str) {
        let ns = self.ns(short);
        let mut all = vec!["-n", ns.as_str()];
        all.extend(arguments.split(' '));
        run("ip", &all);
    }

    fn sysctl(&self, short: &str, settings: &[&str]) {
        self.exec(short, &[&["sysctl", "-q", "-w"], settings].concat());
    }

    pub(crate) fn exec(&self, short: &str, command: &[&str]) -> String {
        self.exec_with(short, command, "")
    }

    pub(crate) fn exec_with(&self, short: &str, command: &[&str], input: &str) -> String {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.ns(short)])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?} in {short}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A shell that runs `ip` commands without the time that starting a process takes.
    pub(crate) fn batch(&self, short: &str) -> Child {
        let mut command = Command::new("ip");
        command.args(["-n", &self.ns(short), "-force", "-batch", "-"]).stdin(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Does `work` on a thread that lives in the namespace.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        short: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.ns(short));
        thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Sends `count` packets and says how many the kernel took; a refusal is an answer too.
    pub(crate) fn send(&self, short: &str, from: &str, to: &str, port: u16, count: usize) {
        let from: IpAddr = from.parse().unwrap();
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let sending = self.within(short, move || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            for _ in 0..count {
                let _ = socket.send_to(b"cloakway", to);
            }
        });
        sending.join().unwrap();
    }

    /// Sends an IP packet as it is, header included.
    pub(crate) fn send_raw(&self, short: &str, to: &str, packet: Vec<u8>, count: usize) {
        let to = SocketAddr::new(to.parse().unwrap(), 0);
        let sending = self.within(short, move || {
            let raw = Some(Protocol::from(255));
            let socket = Socket::new(Domain::for_address(to), Type::RAW, raw).unwrap();
            for _ in 0..count {
                assert_eq!(socket.send_to(&packet, &to.into()).unwrap(), packet.len());
            }
        });
        sending.join().unwrap();
    }

    /// Fails unless the address answers an echo request.
    pub(crate) fn ping(&self, short: &str, to: &str) {
        self.exec(short, &["ping", "-n", "-c", "1", "-W", "5", to]);
    }

    /// Lets the far end answer on both its addresses.
    pub(crate) fn echoes(&mut self) {
        self.echo(FAR4, 7000);
        self.echo(FAR6, 7001);
    }

    /// Lets the far end take packets on both its addresses without an answer, until the socket goes.
    pub(crate) fn sinks(&self) -> Vec<UdpSocket> {
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        let addresses = [at(FAR4, 7000), at(FAR6, 7001)];
        self.within("far", move || addresses.map(|at| UdpSocket::bind(at).unwrap()).into()).join().unwrap()
    }

    /// Counts the frames of streams that come to a namespace or leave it, whatever is wrong with them.
    pub(crate) fn capture(&mut self, short: &str) -> Arc<AtomicU64> {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), self.stop.clone());
        let (counting, (ready, opened)) = (count.clone(), channel());
        self.threads.push(self.within(short, move || {
            // ETH_P_ALL, on all interfaces.
            let all = Some(Protocol::from(i32::from(3_u16.to_be())));
            let mut socket = Socket::new(Domain::PACKET, Type::RAW, all).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut buffer) else { continue };
                if buffer[..length].windows(MARK.len()).any(|window| window == MARK) {
                    counting.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        opened.recv().unwrap();
        count
    }

    /// A way to the far end for tunnels.
    pub(crate) fn underlay(&self) {
        self.link(
            ("isp", "und0", &["10.77.0.1/30", "2001:db8:0:fd::1/64"]),
            ("far", "und0", &["10.77.0.2/30", "2001:db8:0:fd::2/64"]),
        );
        self.as_from_a_wire("far", "und0");
    }

    /// A second link to the far end, which has the private network addresses there too.
    pub(crate) fn second_link(&self) {
        self.link(
            ("isp", "priv1", &["192.0.2.245/30", "2001:db8:0:fe::1/64"]),
            ("far", "priv1", &["192.0.2.246/30", "2001:db8:0:fe::2/64", "203.0.113.200/32", "2001:db8:c10a::200/128"]),
        );
        self.ip("far", "route add default via 192.0.2.245 src 203.0.113.200 metric 2000");
        self.ip("far", "route add default via 2001:db8:0:fe::1 src 2001:db8:c10a::200 metric 2000");
        self.as_from_a_wire("far", "priv1");
    }

    /// A router at the far end of the private link, and the private network addresses behind it, over a wire with a smaller
    /// MTU. The router has addresses of the private network itself, and speaks from them where `is_named`.
    pub(crate) fn behind_a_router(&self, mtu: u32, is_named: bool) {
        run("ip", &["netns", "add", &self.ns("deep")]);
        self.sysctl("deep", &["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]);
        self.sysctl("far", &["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        for address in ["203.0.113.200/32", "2001:db8:c10a::200/128"] {
            self.ip("far", &format!("addr del {address} dev priv0"));
        }
        self.link(
            ("far", "deep0", &["10.78.0.1/30", "2001:db8:0:fc::1/64", "203.0.113.201/32", "2001:db8:c10a::201/128"]),
            ("deep", "deep0", &["10.78.0.2/30", "2001:db8:0:fc::2/64", "203.0.113.200/32", "2001:db8:c10a::200/128"]),
        );
        for ns in ["far", "deep"] {
            self.ip(ns, &format!("link set deep0 mtu {mtu}"));
        }
        self.ip("far", "route add 203.0.113.200/32 via 10.78.0.2");
        self.ip("far", "route add 2001:db8:c10a::200/128 via 2001:db8:0:fc::2");
        for (via, named) in [("192.0.2.249", " src 203.0.113.201"), ("2001:db8:0:ff::1", " src 2001:db8:c10a::201")] {
            self.ip("far", &format!("route replace default via {via}{}", if is_named { named } else { "" }));
        }
        // It offers segments as if the wire were as large as any.
        self.ip("deep", "route add default via 10.78.0.1 src 203.0.113.200 advmss 1460");
        self.ip("deep", "route add default via 2001:db8:0:fc::1 src 2001:db8:c10a::200 advmss 1440");
    }

    /// How many packets of the streams, of either direction, came to the Internet's door.
    pub(crate) fn leaked(&self) -> u64 {
        self.seen("net", 7000) + self.seen("net", 7001)
    }

    /// Lets the far end answer every packet of `port` with itself.
    fn echo(&mut self, address: &str, port: u16) {
        let at = SocketAddr::new(address.parse().unwrap(), port);
        let stop = self.stop.clone();
        let (ready, opened) = channel();
        self.threads.push(self.within("far", move || {
            let socket = UdpSocket::bind(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        }));
        opened.recv().unwrap();
    }

    /// A running forwarder that says that the first two prefixes, those of the example, are healthy.
    pub(crate) fn healthy(&self, extra: &str) -> Forwarder {
        let forwarder = self.forwarder(extra);
        forwarder.health.wait(FAR4, true);
        self.both_healthy();
        forwarder
    }

    /// Waits until they are.
    pub(crate) fn both_healthy(&self) {
        eventually("both prefixes are healthy", || {
            let shown = self.ask(&["show", "health", "--json"]);
            let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
            rows.as_array()?.iter().take(2).all(|row| row["healthy"] == true).then_some(())
        });
    }

    /// The configuration of the example, with sockets of this lab and `extra` private prefixes.
    pub(crate) fn config(&self, extra: &str) -> PathBuf {
        self.write(&self.text(extra))
    }

    /// Puts `text` where the forwarder reads its configuration.
    pub(crate) fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("forwarder.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Puts `text` into a file of this lab.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Lets the running forwarder read its configuration again; the answer is its own.
    pub(crate) fn reload(&self) -> Result<serde_json::Value, String> {
        let mut stream = UnixStream::connect(self.folder.path().join("forwarder.sock")).unwrap();
        stream.write_all(b"{\"topic\":\"reload\",\"waits\":true}\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // Before it stands how long it has taken by then.
        let answer: serde_json::Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
        answer.get("ok").cloned().ok_or_else(|| answer["error"].as_str().unwrap().to_owned())
    }

    pub(crate) fn text(&self, extra: &str) -> String {
        let example = include_str!("../../../configs/forwarder.toml");
        let (example, _) = example.split_once("[data-plane]").unwrap();
        let text = example.replace("/run/cloakway", self.folder.path().to_str().unwrap());
        let text = text.replace("prefixes = [", &format!("prefixes = [{}", self.subscribers));
        text + &self.plane.settings(self.bpf().join("pins").to_str().unwrap()) + extra
    }

    pub(crate) fn forwarder(&self, extra: &str) -> Forwarder {
        self.config(extra);
        self.start()
    }

    /// A forwarder with the configuration that was written last.
    pub(crate) fn start(&self) -> Forwarder {
        let config = self.folder.path().join("forwarder.toml");
        self.start_by(&[], Path::new(env!("CARGO_BIN_EXE_forwarder")), &config)
    }

    /// The same, of this copy of the binary, by a command that begins with these words.
    pub(crate) fn start_by(&self, words: &[&str], binary: &Path, config: &Path) -> Forwarder {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.ns("isp")])
            .args(words)
            .arg(binary)
            .args(["run", "--config"])
            .arg(config)
            .env("NO_COLOR", "1")
            .spawn()
            .unwrap();
        let socket = self.folder.path().join("forwarder-health.sock");
        let mut forwarder = Forwarder { child, health: Health { lines: channel().1 } };
        let stream = eventually("the health socket", || UnixStream::connect(&socket).ok());
        forwarder.health = Health::read(stream);
        forwarder
    }

    /// Begins another command of the binary beside the running one.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("isp"), env!("CARGO_BIN_EXE_forwarder")]).args(arguments);
        command.arg("--config").arg(self.folder.path().join("forwarder.toml")).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Runs another command of the binary beside the running one.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.ns("isp"), env!("CARGO_BIN_EXE_forwarder")])
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path().join("forwarder.toml"))
            .output()
            .unwrap()
    }

    /// The folder of everything that the forwarder writes.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn bpf(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    /// What the fast path did and handed over, when there is a running forwarder to ask.
    pub(crate) fn fast_path(&self, name: &str) -> u64 {
        let shown = self.ask(&["show", "fast-path", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["counter"] == name).unwrap();
        row["packets"].as_u64().unwrap()
    }

    /// How many programs were loaded since the pins were made.
    pub(crate) fn generation(&self) -> u64 {
        if !self.bpf().join("pins/state").exists() {
            return 0;
        }
        let shown = self.ask(&["show", "data-plane", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        rows[0]["generation"].as_u64().unwrap_or_default()
    }

    /// What was forwarded, on whatever path.
    pub(crate) fn forwarded(&self, name: &str) -> u64 {
        let shown = self.ask(&["show", "counters", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["counter"] == name).unwrap();
        row["packets"].as_u64().unwrap()
    }

    /// What the meter dropped for this reason; 0 where nobody answers.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let shown = self.ask(&["show", "counters", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["counter"] == reason));
        row.and_then(|row| row["packets"].as_u64()).unwrap_or_default()
    }

    /// Takes the programs of the fast path away, as somebody who should not might.
    pub(crate) fn unpin(&self) {
        for file in std::fs::read_dir(self.bpf().join("pins")).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }

    /// The guard's counter in the kernel.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        if name.ends_with("-private") && self.plane != Plane::Kernel && !name.starts_with("to-host") {
            return self.forwarded(name);
        }
        let text = self.exec("isp", &["nft", "list", "counter", "inet", "cloakway", name]);
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").unwrap();
        words[at + 1].parse().unwrap()
    }

    /// Waits until `count` more packets than `before` were counted, and allows not one more.
    pub(crate) fn counted(&self, name: &str, before: u64, count: u64) {
        eventually(&format!("{count} counted as {name}"), || (self.counter(name) >= before + count).then_some(()));
        assert_eq!(self.counter(name), before + count, "{name}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for short in ["sub", "isp", "far", "net", "deep"] {
            if Path::new("/run/netns").join(self.ns(short)).exists() {
                let _ = Command::new("ip").args(["netns", "del", &self.ns(short)]).status();
            }
        }
        let _ = Command::new("umount").arg("--lazy").arg(self.bpf()).status();
    }
}

pub(crate) struct Forwarder {
    child: Child,
    pub(crate) health: Health,
}

impl Forwarder {
    pub(crate) fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// The processes that it has begun, and their command lines.
    pub(crate) fn children(&self) -> Vec<(i32, String)> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let child = |entry: std::fs::DirEntry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
            status.contains(&parent).then_some((id, command))
        };
        processes.filter_map(child).collect()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    succeed(Command::new(program).args(arguments));
}
