//! The injector beside BIRD, OpenBGPD, GoBGP and ExaBGP as senders, with BIRD as receiver, over one veth between two
//! namespaces; then what takes a closer look: latencies, messages, memory.
//!
//! `cargo bench -p bgp --bench inject` as root, with `ip` and `bird` installed; a sender that is not installed is left
//! out. Routes are IPv4 hosts from 10.0.0.0 upwards with one attribute set, counted by the receiver's own counter.
//! GoBGP injects 50 000 of them and ExaBGP 20 000, as a million would take minutes, and what they took is shown a
//! route, too. RUNS=5 repeats everything that often, 3 unless given. ONLY takes parts, with commas between them: floor,
//! bird, ours, openbgpd, gobgp, exabgp, latency, messages, health. Best and median are shown.
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

#[path = "../lab/mod.rs"]
mod lab;
mod others;
mod wire;

use std::fmt::Write as _;
use std::time::Instant;

use bgp_wire::{AsPath, Attributes, Bulk, Community, Context, Origin};
use lab::replay::Replayer;
use lab::{Bird, Figures, Lab, MILLION, Speaker, host, receiver, stream, until, wanted};

const BIRD: &str = "BIRD preloaded, 1 M, s";

/// UPDATEs that were encoded before: what the receiver takes at best.
fn floor(lab: &Lab, figures: &mut Figures) {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([])),
        local_pref: Some(100),
        communities: vec![Community(64500 << 16 | 1)],
        ..Attributes::default()
    };
    let bulk = Bulk::announce_v4(&attributes, [192, 0, 2, 1].into(), Context::default()).unwrap();
    let (mut list, mut bytes) = (Vec::new(), Vec::new());
    (0..MILLION).for_each(|n| bulk.push(&host(n).octets(), 32, &mut list));
    bulk.write(&list, &mut bytes);
    let file = lab.write("updates", bytes);
    let mut receiver = receiver(lab);
    let mut replayer = Replayer::start(lab, &file);
    until("the session", || receiver.has_session().then_some(()));
    let start = replayer.go();
    let (seconds, _) = receiver.seconds_until(start, MILLION, 0);
    figures.add("encoded before, 1 M, s", seconds);
}

/// BIRD with the routes preloaded, from the session on, and its memory.
fn bird_preloaded(lab: &Lab, figures: &mut Figures) {
    let mut config = "router id 192.0.2.1;\nprotocol device {}\nprotocol bgp session1 {\n disabled;\n local 192.0.2.1 as 64500;\n neighbor 192.0.2.2 as 64500;\n connect delay time 1;\n ipv4 { import none; export all; next hop self; };\n}\nprotocol static {\n ipv4;\n".to_owned();
    for n in 0..MILLION {
        let _ = writeln!(config, " route {}/32 blackhole;", host(n));
    }
    config.push_str("}\n");
    let mut receiver = receiver(lab);
    let start = Instant::now();
    let mut sender = Bird::start(lab, &lab.sender(), "sender", &config);
    until("BIRD's own routes", || (sender.routes() == MILLION).then_some(()));
    figures.add("BIRD, loading 1 M before, s", start.elapsed().as_secs_f64());
    sender.ask("enable session1");
    // From the session on: the handshake's delay is no part of the transfer.
    until("BIRD's session", || receiver.has_session().then_some(()));
    let start = Instant::now();
    let (all, tail) = receiver.seconds_until(start, MILLION, 0);
    figures.add(BIRD, all);
    figures.add("BIRD, of that the last 1 %, s", tail);
    figures.add("BIRD, with 1 M, MB", sender.process.memory_mb());
    sender.ask("disable session1");
    let start = Instant::now();
    let (withdrawn, _) = receiver.seconds_until(start, 0, MILLION);
    figures.add("BIRD, session closed with 1 M, s", withdrawn);
}

fn speaker(lab: &Lab, figures: &mut Figures) {
    let mut receiver = receiver(lab);
    let mut speaker = Speaker::start(lab);
    until("our session", || receiver.has_session().then_some(()));
    figures.add("ours, idle, MB", speaker.process.memory_mb());
    let (hundred, all) = (stream("a", true, 0..100_000), stream("a", true, 0..MILLION));
    let start = Instant::now();
    speaker.ask(&hundred);
    let (seconds, _) = receiver.seconds_until(start, 100_000, 0);
    figures.add("ours, 100 k live by the API, s", seconds);
    speaker.ask("{\"delete\":{\"set\":\"a\"}}\n");
    until("no routes", || (receiver.imported("session1") == 0).then_some(()));

    let (start, cpu) = (Instant::now(), speaker.process.cpu());
    speaker.ask(&all);
    let accepted = start.elapsed().as_secs_f64();
    let (seconds, tail) = receiver.seconds_until(start, MILLION, 0);
    figures.add("ours, 1 M live by the API, s", seconds);
    figures.add("ours, of that until accepted, s", accepted);
    figures.add("ours, of that the last 1 %, s", tail);
    figures.add("ours, processor time for it, s", speaker.process.cpu() - cpu);
    figures.add("ours, with 1 M and one peer, MB", speaker.process.memory_mb());

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
    figures.add("ours, 1 % change by delta, acknowledged by the peer, s", start.elapsed().as_secs_f64());
    let whole = stream("a", true, (0..MILLION + 10_000).filter(|n| n % 100 != 1));
    let start = Instant::now();
    speaker.ask(&whole);
    speaker.ask("{\"wait\":{}}\n");
    figures.add("ours, 1 % change by sending all again, acknowledged, s", start.elapsed().as_secs_f64());
    let before = receiver.imported("session1");
    let (start, cpu) = (Instant::now(), speaker.process.cpu());
    speaker.ask("{\"delete\":{\"set\":\"a\"}}\n");
    let (seconds, _) = receiver.seconds_until(start, 0, before);
    figures.add("ours, withdraw 1 M, s", seconds);
    figures.add("ours, processor time for it (withdraw), s", speaker.process.cpu() - cpu);
}

fn others(lab: &Lab, figures: &mut Figures) {
    let all: [(&str, others::Measure); 3] =
        [("OpenBGPD", others::openbgpd), ("GoBGP", others::gobgp), ("ExaBGP", others::exabgp)];
    for (name, measure) in all {
        if !wanted(&name.to_lowercase()) {
            continue;
        }
        let Some(taken) = measure(lab) else {
            println!("{name} is not installed: left out");
            continue;
        };
        let count = if taken.routes == MILLION { "1 M".to_owned() } else { format!("{} k", taken.routes / 1000) };
        figures.add(&format!("{name}, {count} live, s"), taken.announce);
        figures.add(&format!("{name}, withdraw {count}, s"), taken.withdraw);
        figures.add(&format!("{name}, with {count}, MB"), taken.memory);
        if taken.routes != MILLION {
            figures.add(&format!("{name}, live, us a route"), taken.announce / f64::from(taken.routes) * 1e6);
        }
    }
}

fn main() {
    if lab::replay::inside() || !lab::is_bench() {
        return;
    }
    let Some(lab) = Lab::new("inject") else { return };
    let mut figures = Figures::default();
    for _ in 0..lab::runs(3) {
        if wanted("floor") {
            floor(&lab, &mut figures);
        }
        if wanted("bird") {
            bird_preloaded(&lab, &mut figures);
        }
        if wanted("ours") {
            speaker(&lab, &mut figures);
        }
        others(&lab, &mut figures);
    }
    figures.print(|what| (what.contains("1 M live") || what == "encoded before, 1 M, s").then(|| BIRD.to_owned()));
    if wanted("latency") {
        wire::latencies(lab.folder(), "disk");
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            wire::latencies(memory.path(), "memory");
        }
    }
    if wanted("messages") {
        wire::messages_and_memory(lab.folder());
    }
    if wanted("health") {
        wire::health(lab.folder());
    }
}
