//! The forwarder's host in a namespace, and four silent ends around it: subscribers, two private links, the Internet.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::ends::{Arrivals, End};
use crate::packet::address;
use crate::wait::succeed;
pub(crate) use crate::wait::{PATIENCE, eventually, possible};

/// What an end is called in the table, the forwarder's interface there with its MTU, the MTU of the end, and for whom
/// the end answers.
type Wire = (&'static str, &'static str, u32, u32, &'static [&'static str]);

pub(crate) const WIRES: [Wire; 4] = [
    ("sub", "edge0", 1500, 1500, &["S", "T"]),
    ("far", "priv0", 1400, 1500, &["P", "R", "L", "F", "203.0.113.209", "2001:db8:c10a::d1"]),
    ("far2", "priv1", 1600, 1600, &["Q"]),
    ("net", "up0", 1500, 1500, &["X"]),
];

/// The hardware address of an end, and of the forwarder's interface there.
pub(crate) fn macs(end: &str) -> ([u8; 6], [u8; 6]) {
    let number = WIRES.iter().position(|wire| wire.0 == end).unwrap();
    let number = u8::try_from(number).unwrap() + 1;
    ([2, 0, 0, 0, number, 2], [2, 0, 0, 0, number, 1])
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What forwards in a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    Kernel,
    Tcx,
    Xdp,
    User,
}

impl Plane {
    fn mode(self) -> &'static str {
        match self {
            Self::Kernel => "mode = \"kernel\"",
            Self::Tcx => "mode = \"bpf\"\nhook = \"tcx\"",
            Self::Xdp => "mode = \"bpf\"\nhook = \"xdp\"",
            Self::User => "mode = \"user\"",
        }
    }

    /// What `show data-plane` says once it is in place.
    fn shown(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Kernel => ("kernel", None),
            Self::Tcx => ("bpf", Some("tcx")),
            Self::Xdp => ("bpf", Some("xdp")),
            Self::User => ("user", None),
        }
    }
}

const POLICY: &str = r#"
[subscribers]
interfaces = ["edge0"]
prefixes = ["198.51.100.64/26", "2001:db8:5100:64::/64"]

[[links]]
name = "main"
interface = "priv0"

[[links]]
name = "second"
interface = "priv1"
"#;

/// The private prefixes: which, by which link, and what else of each.
const PREFIXES: &[(&str, &str, &str)] = &[
    ("203.0.113.200/32", "main", ""),
    ("2001:db8:c10a::200/128", "main", ""),
    ("203.0.113.201/32", "main", ""),
    ("2001:db8:c10a::201/128", "main", ""),
    ("203.0.113.202/32", "main", "services = [\"tcp/443\", \"udp/5000-5100\", \"esp\"]"),
    ("2001:db8:c10a::202/128", "main", "services = [\"tcp/443\", \"udp/5000-5100\", \"esp\"]"),
    ("203.0.113.208/29", "main", "probe = \"203.0.113.209\""),
    ("2001:db8:c10a::d0/124", "main", "probe = \"2001:db8:c10a::d1\""),
    ("203.0.113.220/32", "second", ""),
    ("2001:db8:c10a::220/128", "second", ""),
];

/// What some packets are marked with, where packets are changed.
const MARKS: &[(&str, &str)] = &[
    ("203.0.113.201/32", "dscp = 46"),
    ("2001:db8:c10a::201/128", "dscp = 46"),
    ("203.0.113.220/32", "dscp = 0"),
    ("2001:db8:c10a::220/128", "dscp = 0"),
];

/// The policy of the table, with these marks.
fn policy(marks: &[(&str, &str)]) -> String {
    let prefix = |(prefix, link, more): &(&str, &str, &str)| {
        let mark = marks.iter().find(|(marked, _)| marked == prefix).map_or("", |(_, mark)| mark);
        private_prefix(prefix, link, &format!("{more}\n{mark}"))
    };
    POLICY.to_owned() + &PREFIXES.iter().map(prefix).collect::<String>()
}

/// A private prefix as the configuration has it.
pub(crate) fn private_prefix(prefix: &str, link: &str, more: &str) -> String {
    format!("[[private-prefixes]]\nprefix = \"{prefix}\"\nlink = \"{link}\"\n{more}\n")
}

pub(crate) struct Lab {
    name: String,
    folder: tempfile::TempDir,
    pub(crate) ends: Vec<End>,
    pub(crate) arrivals: Arc<Arrivals>,
    forwarder: Option<Child>,
}

impl Lab {
    /// A lab whose forwarder forwards by `plane`.
    pub(crate) fn new(plane: Plane) -> Self {
        Self::with(plane, "")
    }

    /// With more in its configuration.
    pub(crate) fn with(plane: Plane, more: &str) -> Self {
        Self::by(plane, &(policy(&[]) + more), "")
    }

    /// One whose forwarder changes packets: MSS of what begins connections, and DSCP.
    pub(crate) fn changing(plane: Plane) -> Self {
        Self::by(plane, &policy(MARKS), "clamp-mss = true\n")
    }

    fn by(plane: Plane, policy: &str, data_plane: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fwc{}-{number}", std::process::id());
        let arrivals = Arc::<Arrivals>::default();
        let folder = tempfile::tempdir().unwrap();
        let mut lab = Self { name, folder, ends: Vec::new(), arrivals, forwarder: None };
        std::fs::create_dir(lab.bpf()).unwrap();
        succeed(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(lab.bpf()));
        for short in ["isp"].into_iter().chain(WIRES.map(|wire| wire.0)) {
            succeed(Command::new("ip").args(["netns", "add", &lab.ns(short)]));
        }
        lab.settings("isp", &["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]);
        lab.settings("isp", &["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]);
        // The table tells of each packet by itself; that errors are rationed has a test of its own.
        lab.settings("isp", &["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
        lab.settings("isp", &["net.ipv4.icmp_msgs_per_sec=100000", "net.ipv4.icmp_msgs_burst=100000"]);
        lab.wires(plane);
        lab.start(plane, policy, data_plane);
        lab
    }

    /// Another forwarder, with another policy, in the place of the one that runs; its configuration.
    pub(crate) fn restart(&mut self, plane: Plane, policy: &str) -> String {
        self.kill();
        self.start(plane, policy, "")
    }

    fn wires(&mut self, plane: Plane) {
        let mut batch = String::from("link set lo up\n");
        for (end, interface, mtu, end_mtu, answers) in WIRES {
            self.settings(end, &["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]);
            let (own, other) = macs(end);
            let text = |mac: [u8; 6]| mac.map(|octet| format!("{octet:02x}")).join(":");
            // One queue: what is sent first is met first.
            let queues = "numrxqueues 1 numtxqueues 1";
            let peer = format!("peer name eth0 netns {} address {} mtu {end_mtu} {queues}", self.ns(end), text(own));
            self.ip(
                "isp",
                &format!("link add {interface} address {} mtu {mtu} {queues} type veth {peer}", text(other)),
            );
            self.ip(end, "link set eth0 arp off");
            self.ip(end, "link set eth0 up");
            if plane == Plane::Xdp {
                // A veth takes redirected frames only with NAPI, which GRO brings.
                self.exec(end, &["ethtool", "-K", "eth0", "gro", "on"]);
            }
            batch.push_str(&format!("link set {interface} up\n"));
            let addresses = answers.iter().flat_map(|name| match name.parse() {
                Ok(address) => vec![address],
                Err(_) => vec![address(name, true), address(name, false)],
            });
            let (addresses, arrivals) = (addresses.collect(), self.arrivals.clone());
            let path = format!("/run/netns/{}", self.ns(end));
            let open = thread::spawn(move || {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                End::open(end, (own, other), addresses, arrivals)
            });
            self.ends.push(open.join().unwrap());
        }
        for (interface, addresses) in [
            ("edge0", ["198.51.100.65/26 brd 198.51.100.127", "2001:db8:5100:64::1/64 nodad"]),
            ("priv0", ["192.0.2.249/30", "2001:db8:0:ff::1/64 nodad"]),
            ("priv1", ["192.0.2.245/30", "2001:db8:0:fe::1/64 nodad"]),
            ("up0", ["192.0.2.2/30", "2001:db8:0:1::2/64 nodad"]),
        ] {
            for address in addresses {
                batch.push_str(&format!("addr add {address} dev {interface}\n"));
            }
        }
        batch.push_str("route add default via 192.0.2.1\nroute add default via 2001:db8:0:1::1\n");
        self.exec_with("isp", &["ip", "-batch", "-"], &batch);
    }

    /// Starts the forwarder, and waits until all is in place.
    fn start(&mut self, plane: Plane, policy: &str, data_plane: &str) -> String {
        let folder = self.folder.path().display();
        let mut text = format!("admin-socket = \"{folder}/admin.sock\"\nhealth-socket = \"{folder}/health.sock\"\n");
        text.push_str(policy);
        let pins = self.bpf().join("pins");
        let mode = plane.mode();
        text.push_str(&format!("[data-plane]\n{mode}\n{data_plane}pin-directory = \"{}\"\n", pins.display()));
        let config = self.folder.path().join("forwarder.toml");
        std::fs::write(&config, &text).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("isp"), env!("CARGO_BIN_EXE_forwarder"), "run", "--config"]);
        self.forwarder = Some(command.arg(config).env("NO_COLOR", "1").spawn().unwrap());
        let (wanted, hook) = plane.shown();
        eventually("the data plane is in place", || {
            let rows = self.show("data-plane")?;
            let right = |row: &Value| row["data_plane"] == wanted && row["hook"].as_str() == hook;
            let rows = rows.as_array()?;
            (rows.len() == 3 && rows.iter().all(right)).then_some(())
        });
        self.healthy();
        text
    }

    /// Waits until every private prefix is: by then routes and neighbours are there.
    pub(crate) fn healthy(&self) {
        eventually("every prefix is healthy", || {
            let rows = self.show("health")?;
            let rows = rows.as_array()?;
            (!rows.is_empty() && rows.iter().all(|row| row["healthy"] == true)).then_some(())
        });
    }

    /// Ends the forwarder as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let mut forwarder = self.forwarder.take().unwrap();
        forwarder.kill().unwrap();
        forwarder.wait().unwrap();
    }

    /// A command of the forwarder's binary beside the running one.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("isp"), env!("CARGO_BIN_EXE_forwarder")]).args(arguments);
        command.arg("--config").arg(self.folder.path().join("forwarder.toml"));
        command
    }

    /// What the running forwarder says of a topic.
    pub(crate) fn show(&self, topic: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).ok()?;
        writeln!(stream, "{{\"topic\":\"{topic}\"}}").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let mut answer: Value = serde_json::from_str(&line).ok()?;
        Some(answer.get_mut("ok")?.take())
    }

    pub(crate) fn end(&self, name: &str) -> &End {
        self.ends.iter().find(|end| end.name == name).unwrap()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn ns(&self, short: &str) -> String {
        format!("{}-{short}", self.name)
    }

    fn bpf(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    pub(crate) fn ip(&self, short: &str, arguments: &str) {
        succeed(Command::new("ip").args(["-n", &self.ns(short)]).args(arguments.split(' ')));
    }

    pub(crate) fn settings(&self, short: &str, settings: &[&str]) {
        self.exec(short, &[&["sysctl", "-q", "-w"], settings].concat());
    }

    pub(crate) fn exec(&self, short: &str, command: &[&str]) -> String {
        self.exec_with(short, command, "")
    }

    fn exec_with(&self, short: &str, command: &[&str], input: &str) -> String {
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
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(forwarder) = &mut self.forwarder {
            let _ = forwarder.kill();
            let _ = forwarder.wait();
        }
        self.ends.clear();
        for short in ["isp"].into_iter().chain(WIRES.map(|wire| wire.0)) {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(short)]).status();
        }
        let _ = Command::new("umount").arg("--lazy").arg(self.bpf()).status();
    }
}
