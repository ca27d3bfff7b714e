//! How soon a fault is on the wire as a WITHDRAW, as the peer sees it come: a link that goes down, and a far end that is
//! frozen and watched by BFD, each many times; BIRD in our place beside it.
//!
//! `cargo bench -p bgp --bench reaction` as root, with `ip` and `bird` installed. TIMES=100 for more, 40 unless given.
//! ONLY takes parts, with commas between them: link, link-bird, check, session, session-bird. `link` takes the forwarder
//! of the same build (`cargo build --release -p forwarder`), and is left out without. The peer is a thread of the bench,
//! which runs inside the namespace; the fault comes from the other end of the veth, at any moment of the BFD interval.
//!
//! Sketch: three intervals of 50 ms, less up to a quarter (RFC 5880 §6.8.7), from anywhere in one: 75 to 150 ms.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

#[path = "lab/mod.rs"]
mod lab;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, Process, Sink, run, spread, until, wanted};

/// 10.255.1.2/32: what is announced while all is well.
const HOST: [u8; 2] = [1, 2];
/// A pause of `n` steps that fit no interval.
const STEP: Duration = Duration::from_millis(7);

/// What is measured, by name.
type Part = (&'static str, fn(&Here));

/// Where things are, inside the namespace.
struct Here {
    folder: PathBuf,
    /// The namespace at the other end, and both ends of the veth.
    far: String,
    near_link: String,
    far_link: String,
    times: u32,
    sink: Sink,
}

impl Here {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn near(&self, words: &[&str]) -> Process {
        let mut command = Command::new(words[0]);
        Process(command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn bird(&self, name: &str, config: &str) -> Process {
        let (file, socket) = (self.write(name, config), self.folder.join(format!("{name}.ctl")));
        self.near(&["bird", "-f", "-c", &file, "-s", socket.to_str().unwrap()])
    }

    fn far_bird(&self, config: &str) -> Process {
        let (file, socket) = (self.write("far.conf", config), self.folder.join("far.ctl"));
        Process::spawn(&self.far, &["bird", "-f", "-c", &file, "-s", socket.to_str().unwrap()])
    }

    fn speaker(&self, rest: &str) -> Process {
        let _ = std::fs::remove_file(self.folder.join("journal"));
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n\
             [[peers]]\nname = \"sink\"\nremote-as = 64500\naddress = \"192.0.2.129\"\nport = {}\nhold-time-s = 90\npass-on = true\n{rest}",
            self.folder.join("admin"),
            self.sink.port
        );
        let config = self.write("speaker.toml", &text);
        self.near(&[env!("CARGO_BIN_EXE_bgp-speaker"), "run", "--config", &config])
    }

    /// The session of a BIRD in our place with the sink.
    fn to_sink(&self, export: &str) -> String {
        format!(
            "router id 192.0.2.1;\nprotocol device {{}}\nprotocol bgp sink {{\n local 192.0.2.1 as 64500;\n neighbor 192.0.2.129 port {} as 64500;\n multihop;\n connect delay time 1;\n ipv4 {{ import none; {export} next hop self; }};\n}}\n",
            self.sink.port
        )
    }

    fn measure(&self, what: &str, fault: impl FnMut(bool)) {
        println!("{what}, ms: {}", spread(self.took(self.times, fault)));
    }

    /// Milliseconds from each fault to its withdrawal.
    fn took(&self, times: u32, mut fault: impl FnMut(bool)) -> Vec<f64> {
        let mut took = Vec::new();
        for n in 0..times {
            self.sink.saw(false, HOST);
            // Whatever settles after the announcement, such as the pace of BFD, has.
            std::thread::sleep(Duration::from_millis(2500) + n * STEP);
            self.sink.marked.lock().unwrap().clear();
            let start = Instant::now();
            fault(true);
            let seen = self.sink.saw(true, HOST);
            took.push((seen - start).as_secs_f64() * 1e3);
            fault(false);
        }
        took
    }
}

/// `ip -batch`, so that no process has to start when it counts.
struct Links(Child);

impl Links {
    fn of(namespace: &str) -> Self {
        let mut command = Command::new("ip");
        command.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn set(&mut self, link: &str, up: bool) {
        let word = if up { "up" } else { "down" };
        writeln!(self.0.stdin.as_mut().unwrap(), "link set {link} {word}").unwrap();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The far end of the private link goes down: the forwarder loses the carrier and says so.
fn link(here: &Here) {
    let forwarder = Path::new(env!("CARGO_BIN_EXE_bgp-speaker")).with_file_name("forwarder");
    if !forwarder.exists() {
        println!("link: left out: there is no {}", forwarder.display());
        return;
    }
    run("ip link add edge0 type veth peer name edge1");
    run("ip link set edge0 up");
    run(&format!("ip -n {} addr add 10.255.1.2/32 dev {}", here.far, here.far_link));
    let health = here.folder.join("health");
    let text = format!(
        "admin-socket = {:?}\nhealth-socket = {health:?}\n[subscribers]\ninterfaces = [\"edge0\"]\nprefixes = [\"198.51.100.64/26\"]\n\
         [[links]]\nname = \"main\"\ninterface = {:?}\n[[private-prefixes]]\nprefix = \"10.255.1.2/32\"\nlink = \"main\"\n\
         [health]\nhold-down-ms = 100\nprobe-interval-ms = 500\nrise = 1\nfall = 2\n",
        here.folder.join("forwarder"),
        here.near_link,
    );
    let config = here.write("forwarder.toml", &text);
    let _forwarder = here.near(&[forwarder.to_str().unwrap(), "run", "--config", &config]);
    let _speaker = here.speaker(&format!(
        "[[private-routes]]\nprefix = \"10.255.1.2/32\"\nnext-hop = \"192.0.2.1\"\n[health]\nsocket = {health:?}\n"
    ));
    let mut links = Links::of(&here.far);
    here.measure("the link goes down, to WITHDRAW: forwarder and speaker", |faulty| links.set(&here.far_link, !faulty));
}

/// The same for a static route of BIRD, which hears of the carrier itself.
fn link_bird(here: &Here) {
    let config = format!(
        "{}protocol static {{\n ipv4;\n check link yes;\n route 10.255.1.2/32 via {:?};\n}}\n",
        here.to_sink("export where source = RTS_STATIC;"),
        here.near_link
    );
    let _bird = here.bird("link.conf", &config.replace("protocol device {}", "protocol device { scan time 1; }"));
    let mut links = Links::of(&here.far);
    here.measure("the link goes down, to WITHDRAW: BIRD", |faulty| links.set(&here.far_link, !faulty));
}

fn freeze(far: &Process, faulty: bool) {
    far.signal(if faulty { "STOP" } else { "CONT" });
}

const FAR: &str = "router id 192.0.2.2;\nprotocol device {}\nprotocol bfd {\n interface \"*\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; };\n neighbor 192.0.2.1;\n}\n";

/// A set that shows while BFD sees the far end.
fn check(here: &Here) {
    let far = here.far_bird(FAR);
    let api = here.folder.join("api");
    let _speaker = here.speaker(&format!(
        "[inject]\napi-socket = {api:?}\njournal = {:?}\nallow = [\"10.0.0.0/8\"]\n\
         [[inject.checks]]\nset = \"a\"\nbfd = {{ address = \"192.0.2.2\", local-address = \"192.0.2.1\", interval-ms = 50 }}\n",
        here.folder.join("journal")
    ));
    let mut api = until("the API", || std::os::unix::net::UnixStream::connect(&api).ok());
    let route =
        "{\"put\":{\"set\":\"a\",\"routes\":[{\"next-hop\":\"192.0.2.1\",\"prefixes\":[\"10.255.1.2/32\"]}]}}\n";
    api.write_all(route.as_bytes()).unwrap();
    here.measure("BFD 3 x 50 ms, the far end (BIRD) frozen, to WITHDRAW: our check of a set", |faulty| {
        freeze(&far, faulty);
    });
}

/// The far end is an external router whose route is passed on.
fn far_router(here: &Here) -> Process {
    let config = format!(
        "{FAR}protocol static {{\n ipv4;\n route 10.255.1.2/32 blackhole;\n}}\n\
         protocol bgp near {{\n local 192.0.2.2 as 64501;\n neighbor 192.0.2.1 as 64500;\n bfd yes;\n connect delay time 1;\n error wait time 1, 1;\n ipv4 {{ import none; export all; }};\n}}\n"
    );
    here.far_bird(&config)
}

fn session(here: &Here) {
    let mut took = Vec::new();
    // A session that fails again and again is kept waiting for longer each time: new ones for every few.
    while took.len() < here.times as usize {
        let far = far_router(here);
        let _speaker = here.speaker(
            "[[peers]]\nname = \"far\"\nremote-as = 64501\naddress = \"192.0.2.2\"\nlocal-address = \"192.0.2.1\"\nhold-time-s = 90\nimport = \"all\"\n\
         bfd = { interval-ms = 50, multiplier = 3 }\n[rib]\n",
        );
        took.extend(here.took(5, |faulty| freeze(&far, faulty)));
    }
    println!("BFD 3 x 50 ms, the router (BIRD) frozen, to WITHDRAW of its route: we, ms: {}", spread(took));
}

fn session_bird(here: &Here) {
    let far = far_router(here);
    let config = format!(
        "{}protocol bfd {{\n interface \"*\" {{ min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }};\n}}\n\
         protocol bgp far {{\n local 192.0.2.1 as 64500;\n neighbor 192.0.2.2 as 64501;\n bfd yes;\n connect delay time 1;\n error wait time 1, 1;\n ipv4 {{ import all; export none; }};\n}}\n",
        here.to_sink("export where source = RTS_BGP;")
    );
    let _bird = here.bird("session.conf", &config);
    here.measure("BFD 3 x 50 ms, the router (BIRD) frozen, to WITHDRAW of its route: BIRD", |faulty| {
        freeze(&far, faulty)
    });
}

fn inside(folder: &str, far: &str, near_link: &str, far_link: &str) {
    let times = std::env::var("TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(40);
    assert!(run("ip addr add 192.0.2.129/32 dev lo"), "no address for the peer");
    let parts: [Part; 5] = [
        ("link", link),
        ("link-bird", link_bird),
        ("check", check),
        ("session", session),
        ("session-bird", session_bird),
    ];
    for (name, part) in parts.into_iter().filter(|(name, _)| wanted(name)) {
        let here = Here {
            folder: PathBuf::from(folder).join(name),
            far: far.to_owned(),
            near_link: near_link.to_owned(),
            far_link: far_link.to_owned(),
            times,
            sink: Sink::start(),
        };
        std::fs::create_dir(&here.folder).unwrap();
        part(&here);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, folder, far, near_link, far_link] = words.as_slice()
        && word == "--inside"
    {
        return inside(folder, far, near_link, far_link);
    }
    if !lab::is_bench() {
        return;
    }
    let Some(lab) = Lab::new("react") else { return };
    let bench = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.sender()]).arg(bench).arg("--inside").arg(lab.folder());
    command.args([lab.receiver(), lab.sender_link(), lab.receiver_link()]);
    assert!(command.status().unwrap().success(), "see above");
}
