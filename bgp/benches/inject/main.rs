//! The injector beside BIRD and OpenBGPD as senders, with BIRD as receiver, over one veth between two
//! namespaces; then what takes a closer look: latencies, messages, memory.
//!
//! `cargo bench -p bgp --bench inject` as root, with `ip` and `bird` installed; OpenBGPD is left out where it is
//! not. Routes are IPv4 hosts from 10.0.0.0 upwards with one attribute set, counted by the receiver. RUNS=5 repeats everything that often, 3
//! unless given; ONLY=ours leaves OpenBGPD out. Best and median are shown.
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

mod lab;
mod others;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use lab::{Bird, MILLION, Namespaces, SENDER, Speaker, host, receiver, run, sort, stream, until};

/// Figures of all runs, by what they are of.
#[derive(Default)]
struct Table(BTreeMap<(usize, String), Vec<f64>>);

impl Table {
    fn add(&mut self, what: &str, value: f64) {
        let known = self.0.keys().find(|(_, name)| name == what).cloned();
        let key = known.unwrap_or((self.0.len(), what.to_owned()));
        self.0.entry(key).or_default().push(value);
    }

    fn best(&self, what: &str) -> Option<f64> {
        let (_, values) = self.0.iter().find(|((_, name), _)| name == what)?;
        sort(values.clone()).first().copied()
    }

    /// Best, median, and the best as a part of the best of what it is compared with.
    fn print(&self, beside: &str) {
        println!("\n| what | best | median | beside {beside} |\n| --- | --- | --- | --- |");
        for ((_, what), values) in &self.0 {
            let values = sort(values.clone());
            let ratio = match self.best(beside) {
                Some(bird) if what.contains("1 M") && what.ends_with(", s") => format!("{:.2}", values[0] / bird),
                _ => String::new(),
            };
            println!("| {what} | {:.3} | {:.3} | {ratio} |", values[0], values[values.len() / 2]);
        }
    }
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

fn speaker(folder: &Path, table: &mut Table) {
    let mut receiver = receiver(folder);
    let mut speaker = Speaker::start(folder);
    until("our session", || receiver.has_session().then_some(()));
    table.add("ours, idle, MB", speaker.process.memory_mb());
    let (hundred, all) = (stream("a", true, 0..100_000), stream("a", true, 0..MILLION));
    let start = Instant::now();
    speaker.ask(&hundred);
    let (seconds, _) = receiver.seconds_until(start, 100_000, 0);
    table.add("ours, 100 k live by the API, s", seconds);
    speaker.ask("{\"delete\":{\"set\":\"a\"}}\n");
    until("no routes", || (receiver.routes() == 0).then_some(()));

    let (start, cpu) = (Instant::now(), speaker.process.cpu());
    speaker.ask(&all);
    let accepted = start.elapsed().as_secs_f64();
    let (seconds, tail) = receiver.seconds_until(start, MILLION, 0);
    table.add("ours, 1 M live by the API, s", seconds);
    table.add("ours, of that until accepted, s", accepted);
    table.add("ours, of that the last 1 %, s", tail);
    table.add("ours, processor time for it, s", speaker.process.cpu() - cpu);
    table.add("ours, with 1 M and one peer, MB", speaker.process.memory_mb());

    // One in a hundred goes, and as many come.
    let mut patch = stream("a", false, MILLION..MILLION + 10_000);
    patch.truncate(patch.len() - 2);
    for n in 0..10_000 {
        let _ = writeln!(patch, "-{}/32", host(n * 100));
    }
    patch.push_str(".\n");
    let start = Instant::now();
    speaker.ask(&patch);
    speaker.ask("{\"wait\":{}}\n");
    table.add("ours, 1 % change by delta, acknowledged by the peer, s", start.elapsed().as_secs_f64());
    let whole = stream("a", true, (0..MILLION + 10_000).filter(|n| n % 100 != 1));
    let start = Instant::now();
    speaker.ask(&whole);
    speaker.ask("{\"wait\":{}}\n");
    table.add("ours, 1 % change by sending all again, acknowledged, s", start.elapsed().as_secs_f64());
    let before = receiver.routes();
    let (start, cpu) = (Instant::now(), speaker.process.cpu());
    speaker.ask("{\"delete\":{\"set\":\"a\"}}\n");
    let (seconds, _) = receiver.seconds_until(start, 0, before);
    table.add("ours, withdraw 1 M, s", seconds);
    table.add("ours, processor time for it (withdraw), s", speaker.process.cpu() - cpu);
}

fn others(folder: &Path, table: &mut Table) {
    let all: [(&str, others::Measure); 1] = [("OpenBGPD", others::openbgpd)];
    for (name, measure) in all {
        let Some(figures) = measure(folder) else {
            println!("{name} is not installed: left out");
            continue;
        };
        let count = if figures.routes == MILLION { "1 M".to_owned() } else { format!("{} k", figures.routes / 1000) };
        table.add(&format!("{name}, {count} live, s"), figures.announce);
        table.add(&format!("{name}, withdraw {count}, s"), figures.withdraw);
        table.add(&format!("{name}, with {count}, MB"), figures.memory);
    }
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
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut table = Table::default();
    for _ in 0..runs {
        let (all, withdrawn, memory) = bird_preloaded(folder.path());
        table.add("BIRD preloaded, 1 M, s", all);
        table.add("BIRD, session closed with 1 M, s", withdrawn);
        table.add("BIRD, with 1 M, MB", memory);
        speaker(folder.path(), &mut table);
        if only != "ours" {
            others(folder.path(), &mut table);
        }
    }
    table.print("BIRD preloaded, 1 M, s");
    println!();
    wire::latencies(folder.path(), "disk");
    let memory = tempfile::tempdir_in("/dev/shm").ok();
    if let Some(memory) = memory {
        wire::latencies(memory.path(), "memory");
    }
    wire::messages_and_memory(folder.path());
    wire::health(folder.path());
}
