//! Many peers from a cold start: from starting the process to the last route at the last of them, beside BIRD as the
//! speaker with the same peers and routes, over one veth between two namespaces. The peers are 500 addresses of one process
//! of the bench, which takes sessions and counts the prefixes of the UPDATEs: a BIRD has one session with an address.
//!
//! `cargo bench -p bgp --bench peers` as root, with `ip` and `bird` installed. PEERS=100 for fewer; RUNS=5 repeats
//! everything that often, 3 unless given. Once with the private route alone, whose forwarder says that it is healthy, and
//! once with 1000 injected routes beside it, which our speaker restores from its journal and BIRD reads from its file.
//!
//! Sketch: 500 x (handshake 0.2 ms + 2 KB) + 500 k routes x 5 B, received at 2 M routes/s = 0.4 s.
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

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Context, Family, Framer, HoldTime, Message, Open, RouterId};
use lab::{Figures, Lab, Process, Speaker, host, run, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const INJECTED: u32 = 1000;

/// The address of the `n`th peer.
fn address(n: u32) -> String {
    format!("10.200.{}.{}", n >> 8, n & 255)
}

/// The peers, in their namespace.
struct Peers(Process);

impl Peers {
    fn start(lab: &Lab, routes: u32) -> Self {
        let bench = std::env::current_exe().unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.receiver()]).arg(bench).args(["--receive", &routes.to_string()]);
        let mut peers = Self(Process(command.stdout(Stdio::piped()).spawn().unwrap()));
        peers.word();
        peers
    }

    /// Returns when they say something: that they are there, and that they have all routes.
    fn word(&mut self) {
        let count = self.0.0.stdout.as_mut().unwrap().read(&mut [0; 16]).unwrap();
        assert!(count > 0, "the peers are gone");
    }

    /// Seconds from `start` until all routes are there.
    fn seconds_since(&mut self, start: Instant) -> f64 {
        self.word();
        start.elapsed().as_secs_f64()
    }
}

/// Runs inside the peers' namespace.
#[tokio::main(flavor = "current_thread")]
async fn receive(routes: u32) {
    let listener = TcpListener::bind("0.0.0.0:179").await.unwrap();
    println!("listening");
    let left = Arc::new(AtomicU32::new(routes));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(take(stream, left.clone()));
    }
}

async fn take(mut stream: TcpStream, left: Arc<AtomicU32>) {
    let IpAddr::V4(own) = stream.local_addr().unwrap().ip() else { panic!("IPv4 alone") };
    let (hold_time, router_id) = (HoldTime::from_secs(90).unwrap(), RouterId::new(own).unwrap());
    let open = Message::Open(Open::new(Asn(64500), hold_time, router_id, [Family::Ipv4]));
    for message in [open, Message::KeepAlive] {
        stream.write_all(&message.encode(Context::default()).unwrap()).await.unwrap();
    }
    let (mut framer, mut bytes) = (Framer::default(), vec![0; 1 << 14]);
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        framer.push(&bytes[..count]);
        while let Some(frame) = framer.next_frame().unwrap() {
            if let Message::Update(update) = Message::decode(frame, Context::default()).unwrap() {
                let came = update.announced.len() as u32;
                if came > 0 && left.fetch_sub(came, Ordering::Relaxed) == came {
                    println!("all");
                }
            }
        }
    }
}

/// The forwarder, for whom the private route is healthy, until it is dropped.
struct Forwarder(Arc<AtomicBool>);

impl Forwarder {
    fn start(socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let told = gone.clone();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (prefix, reason) = ("203.0.113.200/32".parse().unwrap(), "bench".to_owned());
            let word = forwarder_wire::encode(&forwarder_wire::Message::Prefix { prefix, healthy: true, reason });
            let mut sequence = 0;
            while !told.load(Ordering::Relaxed) {
                let beat = forwarder_wire::encode(&forwarder_wire::Message::Heartbeat { sequence });
                if stream.write_all(format!("{beat}{word}").as_bytes()).is_err() {
                    return;
                }
                sequence += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self(gone)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ours(lab: &Lab, count: u32, injected: u32, figures: &mut Figures) {
    let socket = lab.folder().join("health");
    let health = format!(
        "[[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"192.0.2.1\"\n[health]\nsocket = {socket:?}\n"
    );
    let _ = std::fs::remove_file(lab.folder().join("journal"));
    if injected > 0 {
        // Accepted by a life before this one.
        let forwarder = Forwarder::start(&socket);
        // A configuration has at least one peer; this one is not there.
        let nobody = "[[peers]]\nname = \"nobody\"\nremote-as = 64500\naddress = \"192.0.2.3\"\n";
        let mut before = Speaker::with(lab.folder(), Some(&lab.sender()), &format!("{nobody}{health}"));
        before.ask(&stream("a", true, 0..injected));
        drop((before, forwarder));
    }
    let mut config = String::new();
    for n in 0..count {
        let _ = write!(
            config,
            "[[peers]]\nname = \"p{n}\"\nremote-as = 64500\naddress = \"{}\"\nhold-time-s = 90\n",
            address(n)
        );
    }
    let mut peers = Peers::start(lab, count * (1 + injected));
    let _forwarder = Forwarder::start(&socket);
    let start = Instant::now();
    let speaker = Speaker::spawn(lab.folder(), Some(&lab.sender()), &(config + &health));
    let took = peers.seconds_since(start);
    let of = rows(injected);
    figures.add(&format!("ours, {of}, s"), took);
    figures.add(&format!("ours, {of}, processor time, s"), speaker.cpu());
    figures.add(&format!("ours, {of}, MB"), speaker.memory_mb());
}

fn bird(lab: &Lab, count: u32, injected: u32, figures: &mut Figures) {
    let mut config = "router id 192.0.2.1;\nprotocol device {}\ntemplate bgp one {\n local 192.0.2.1 as 64500;\n connect delay time 1;\n hold time 90;\n ipv4 { import none; export all; next hop self; };\n}\nprotocol static {\n ipv4;\n route 203.0.113.200/32 blackhole;\n".to_owned();
    for n in 0..injected {
        let _ = writeln!(config, " route {}/32 blackhole;", host(n));
    }
    config.push_str("}\n");
    for n in 0..count {
        let _ = writeln!(config, "protocol bgp p{n} from one {{ neighbor {} as 64500; }}", address(n));
    }
    let file = lab.write("sender.conf", config);
    let socket = lab.folder().join("sender.ctl");
    let mut peers = Peers::start(lab, count * (1 + injected));
    let start = Instant::now();
    let sender = Process::spawn(&lab.sender(), &["bird", "-f", "-c", &file, "-s", socket.to_str().unwrap()]);
    let took = peers.seconds_since(start);
    let of = rows(injected);
    figures.add(&format!("BIRD, {of}, s"), took);
    figures.add(&format!("BIRD, {of}, processor time, s"), sender.cpu());
    figures.add(&format!("BIRD, {of}, MB"), sender.memory_mb());
}

fn rows(injected: u32) -> &'static str {
    if injected > 0 { "1001 routes to each" } else { "the private route to each" }
}

fn main() {
    if let [_, word, routes] = std::env::args().collect::<Vec<_>>().as_slice()
        && word == "--receive"
    {
        return receive(routes.parse().unwrap());
    }
    if !lab::is_bench() {
        return;
    }
    let Some(lab) = Lab::new("peers") else { return };
    let count = std::env::var("PEERS").ok().and_then(|count| count.parse().ok()).unwrap_or(500);
    run(&format!("ip -n {} route add 10.200.0.0/16 dev {}", lab.sender(), lab.sender_link()));
    let addresses: String =
        (0..count).map(|n| format!("addr add {}/32 dev {}\n", address(n), lab.receiver_link())).collect();
    let batch = lab.write("addresses", addresses);
    assert!(run(&format!("ip -n {} -batch {batch}", lab.receiver())), "no addresses for the peers");
    let mut figures = Figures::default();
    for _ in 0..lab::runs(3) {
        for injected in [0, INJECTED] {
            bird(&lab, count, injected, &mut figures);
            ours(&lab, count, injected, &mut figures);
        }
    }
    println!("{count} peers from a cold start");
    figures.print(|what| what.strip_prefix("ours, ").map(|rest| format!("BIRD, {rest}")));
}
