//! The injector beside BIRD as sender, with BIRD as receiver, over one veth between two namespaces.
//!
//! `cargo bench -p bgp --bench inject` as root, with `bird` and `ip` installed; anything else: it says so and ends.
//! Routes are IPv4 hosts from 10.0.0.0 upwards, counted by the receiver. Each figure is one run; the ratio is to
//! BIRD with the same routes preloaded, in the same run. RUNS=3 repeats everything.
//!
//! Sketch: 1e6 hosts x 5 B = 5 MB on the wire; 1235 messages; the receiver's floor is 0.31 s.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SENDER: &str = "h-inj-sender";
const RECEIVER: &str = "h-inj-receiver";
const MILLION: u32 = 1_000_000;

fn run(command: &str) -> bool {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output();
    output.is_ok_and(|output| output.status.success())
}

/// Two namespaces, gone when dropped.
struct Namespaces;

impl Namespaces {
    fn new() -> Option<Self> {
        let namespaces = Self;
        for name in [SENDER, RECEIVER] {
            run(&format!("ip netns del {name}"));
            if !run(&format!("ip netns add {name}")) {
                return None;
            }
        }
        let made = [
            format!("ip link add inj0 netns {SENDER} type veth peer name inj1 netns {RECEIVER}"),
            format!("ip -n {SENDER} addr add 192.0.2.1/30 dev inj0"),
            format!("ip -n {RECEIVER} addr add 192.0.2.2/30 dev inj1"),
            format!("ip -n {SENDER} link set inj0 up"),
            format!("ip -n {RECEIVER} link set inj1 up"),
        ];
        made.iter().all(|command| run(command)).then_some(namespaces)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [SENDER, RECEIVER] {
            run(&format!("ip netns del {name}"));
        }
    }
}

/// A process in a namespace, killed when dropped.
struct Process(Child);

impl Process {
    fn spawn(namespace: &str, command: &mut Vec<String>) -> Self {
        let mut all = vec!["netns".to_owned(), "exec".to_owned(), namespace.to_owned()];
        all.append(command);
        Self(Command::new("ip").args(all).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Resident memory, in MB. `ip netns exec` becomes the program, so the child is it.
    fn memory_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{what}: not within 120 s");
        std::thread::sleep(Duration::from_micros(500));
    }
}

struct Bird {
    process: Process,
    control: UnixStream,
}

impl Bird {
    fn start(namespace: &str, folder: &Path, name: &str, config: &str) -> Self {
        let (file, socket) = (folder.join(format!("{name}.conf")), folder.join(format!("{name}.ctl")));
        std::fs::write(&file, config).unwrap();
        let command = ["bird", "-f", "-c", file.to_str().unwrap(), "-s", socket.to_str().unwrap()];
        let process = Process::spawn(namespace, &mut command.map(str::to_owned).to_vec());
        let control = until("BIRD's control socket", || UnixStream::connect(&socket).ok());
        let mut bird = Self { process, control };
        bird.reply();
        bird
    }

    fn reply(&mut self) -> String {
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        loop {
            let count = self.control.read(&mut bytes).unwrap();
            assert!(count > 0, "BIRD hung up: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            // The last line of a reply has its code followed by a space, or is the code alone.
            let last = text.trim_end().lines().last().unwrap_or_default();
            if text.ends_with('\n')
                && last.len() >= 4
                && last.as_bytes()[..4].iter().all(u8::is_ascii_digit)
                && last.as_bytes().get(4) != Some(&b'-')
            {
                return text;
            }
        }
    }

    fn ask(&mut self, command: &str) -> String {
        self.control.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.reply()
    }

    /// Routes in the table `master4`.
    fn routes(&mut self) -> u32 {
        let text = self.ask("show route table master4 count");
        let count = text.split(" of ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    /// Seconds until it has `count` routes, and how much of that went by with less than 1 % missing.
    fn seconds_until(&mut self, start: Instant, count: u32, from: u32) -> (f64, f64) {
        let near = if count > from { count - (count - from) / 100 } else { count + (from - count) / 100 };
        let mut almost = None;
        until("the routes at BIRD", || {
            let now = self.routes();
            if almost.is_none() && (if count > from { now >= near } else { now <= near }) {
                almost = Some(start.elapsed());
            }
            (now == count).then_some(())
        });
        let all = start.elapsed();
        (all.as_secs_f64(), (all - almost.unwrap_or(all)).as_secs_f64())
    }

    fn has_session(&mut self) -> bool {
        self.ask("show protocols session1").contains("Established")
    }
}

fn receiver(folder: &Path) -> Bird {
    let config = "router id 192.0.2.2;\nprotocol device {}\nprotocol bgp session1 {\n local 192.0.2.2 as 64500;\n neighbor 192.0.2.1 as 64500;\n passive on;\n hold time 90;\n ipv4 { import all; export none; };\n}\n";
    Bird::start(RECEIVER, folder, "receiver", config)
}

fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n)
}

struct Speaker {
    process: Process,
    api: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Speaker {
    fn start(folder: &Path) -> Self {
        let path = |name: &str| -> PathBuf { folder.join(name) };
        let _ = std::fs::remove_file(path("journal"));
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n[[peers]]\nname = \"bird\"\n\
             remote-as = 64500\naddress = \"192.0.2.2\"\nhold-time-s = 90\n[inject]\napi-socket = {:?}\njournal = {:?}\n\
             allow = [\"10.0.0.0/8\"]\n",
            path("admin"),
            path("api"),
            path("journal")
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let binary = env!("CARGO_BIN_EXE_bgp-speaker").to_owned();
        let config = path("speaker.toml").to_str().unwrap().to_owned();
        let process = Process::spawn(SENDER, &mut vec![binary, "run".to_owned(), "--config".to_owned(), config]);
        let api = until("the API", || UnixStream::connect(path("api")).ok());
        let answers = BufReader::new(api.try_clone().unwrap());
        Self { process, api, answers }
    }

    fn ask(&mut self, request: &str) -> String {
        self.api.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"ok\""), "{line}");
        line
    }
}

fn stream(set: &str, replace: bool, prefixes: impl Iterator<Item = u32>) -> String {
    let mut text = format!(
        "{{\"stream\":{{\"set\":\"{set}\",\"replace\":{replace}}}}}\n{{\"next-hop\":\"192.0.2.1\",\"communities\":[\"64500:1\"]}}\n"
    );
    for n in prefixes {
        let _ = writeln!(text, "{}/32", host(n));
    }
    text.push_str(".\n");
    text
}

fn sort(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// BIRD with the routes preloaded: seconds from enabling the session to the last route, and its memory.
fn bird_preloaded(folder: &Path) -> (f64, f64, f64) {
    let mut config = "router id 192.0.2.1;\nprotocol device {}\nprotocol bgp session1 {\n disabled;\n local 192.0.2.1 as 64500;\n neighbor 192.0.2.2 as 64500;\n connect delay time 1;\n ipv4 { import none; export all; next hop self; };\n}\nprotocol static {\n ipv4;\n".to_owned();
    for n in 0..MILLION {
        let _ = writeln!(config, " route {}/32 blackhole;", host(n));
    }
    config.push_str("}\n");
    let mut receiver = receiver(folder);
    let mut sender = Bird::start(SENDER, folder, "sender", &config);
    until("BIRD's own routes", || (sender.routes() == MILLION).then_some(()));
    sender.ask("enable session1");
    // From the session on: the handshake's delay is no part of the transfer.
    until("BIRD's session", || receiver.has_session().then_some(()));
    let start = Instant::now();
    let (all, tail) = receiver.seconds_until(start, MILLION, 0);
    let memory = sender.process.memory_mb();
    sender.ask("disable session1");
    let start = Instant::now();
    let (withdrawn, _) = receiver.seconds_until(start, 0, MILLION);
    println!(
        "BIRD preloaded -> BIRD: 1 M {all:.3} s (tail {tail:.3} s), session closed {withdrawn:.3} s, sender {memory:.0} MB"
    );
    (all, withdrawn, memory)
}

fn speaker(folder: &Path, bird: f64) {
    let mut receiver = receiver(folder);
    let mut speaker = Speaker::start(folder);
    until("our session", || receiver.has_session().then_some(()));
    println!("idle: {:.1} MB", speaker.process.memory_mb());

    let (hundred, all) = (stream("a", true, 0..100_000), stream("a", true, 0..MILLION));
    let start = Instant::now();
    speaker.ask(&hundred);
    let accepted = start.elapsed().as_secs_f64();
    let (seconds, _) = receiver.seconds_until(start, 100_000, 0);
    println!("100 k live by the API: {seconds:.3} s (accepted after {accepted:.3} s)");
    speaker.ask("{\"delete\":{\"set\":\"a\"}}\n");
    until("no routes", || (receiver.routes() == 0).then_some(()));

    let start = Instant::now();
    speaker.ask(&all);
    let accepted = start.elapsed().as_secs_f64();
    let (seconds, tail) = receiver.seconds_until(start, MILLION, 0);
    println!(
        "1 M live by the API: {seconds:.3} s, {:.2} x BIRD preloaded (accepted after {accepted:.3} s, tail {tail:.3} s)",
        seconds / bird
    );
    println!("memory with 1 M: {:.1} MB", speaker.process.memory_mb());

    // One in a hundred goes, and as many come.
    let mut patch = stream("a", false, MILLION..MILLION + 10_000);
    patch.truncate(patch.len() - 2);
    for n in 0..10_000 {
        let _ = writeln!(patch, "-{}/32", host(n * 100));
    }
    patch.push_str(".\n{\"wait\":{}}\n");
    let start = Instant::now();
    speaker.ask(&patch);
    let mut line = String::new();
    speaker.answers.read_line(&mut line).unwrap();
    println!(
        "1 % change (10 k come, 10 k go) by delta, acknowledged by the peer: {:.3} s",
        start.elapsed().as_secs_f64()
    );
    let whole = stream("a", true, (0..MILLION + 10_000).filter(|n| n % 100 != 1));
    let start = Instant::now();
    speaker.ask(&whole);
    speaker.ask("{\"wait\":{}}\n");
    println!("1 % change by sending all 1 M again, acknowledged: {:.3} s", start.elapsed().as_secs_f64());

    let one = |n: u32| {
        format!(
            "{{\"patch\":{{\"set\":\"one\",\"routes\":[{{\"next-hop\":\"192.0.2.1\",\"prefixes\":[\"10.255.{}.{}/32\"]}}]}}}}\n{{\"wait\":{{}}}}\n",
            n >> 8,
            n & 255
        )
    };
    let mut took = Vec::new();
    for n in 0..500 {
        let start = Instant::now();
        speaker.ask(&one(n));
        let mut line = String::new();
        speaker.answers.read_line(&mut line).unwrap();
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let took = sort(took);
    println!(
        "one announcement, from the API to the peer's acknowledgement: p50 {:.2} ms, p99 {:.2} ms",
        took[250], took[495]
    );

    let before = receiver.routes();
    let start = Instant::now();
    speaker.ask("{\"delete\":{\"set\":\"a\"}}\n");
    let (seconds, _) = receiver.seconds_until(start, 500, before);
    println!("withdraw 1 M: {seconds:.3} s; memory after: {:.1} MB", speaker.process.memory_mb());
}

fn main() {
    // `cargo test` runs benches too, to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let Some(_namespaces) = (run("ip -V") && run("bird --version")).then(Namespaces::new).flatten() else {
        println!("skipped: this takes root, iproute2 and BIRD 2");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    for _ in 0..runs {
        let (all, _, _) = bird_preloaded(folder.path());
        speaker(folder.path(), all);
    }
}
