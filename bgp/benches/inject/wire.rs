//! What takes a peer that notes when each octet came: on the loopback, a thread of the bench.

use std::fmt::Write as _;
use std::io::{BufRead as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{MILLION, Sink, Speaker, percentiles, spread, stream, until};

fn one(n: u32) -> String {
    format!(
        "{{\"patch\":{{\"set\":\"one\",\"routes\":[{{\"next-hop\":\"192.0.2.1\",\"prefixes\":[\"10.255.{}.{}/32\"]}}]}}}}\n",
        n >> 8,
        n & 255
    )
}

/// Milliseconds from the request to the wire, and to its answer, which comes behind the disk.
fn single(speaker: &mut Speaker, sink: &Sink, n: u32) -> (f64, f64) {
    let start = Instant::now();
    speaker.ask(&one(n));
    let answered = start.elapsed().as_secs_f64() * 1e3;
    let key = (false, [(n >> 8) as u8, n as u8]);
    let seen = until("it on the wire", || sink.marked.lock().unwrap().get(&key).copied());
    ((seen - start).as_secs_f64() * 1e3, answered)
}

/// What no journal in this folder can beat: as many octets as an announcement takes, written behind the last and flushed.
fn flushes(folder: &Path, place: &str) {
    let mut file = std::fs::File::create(folder.join("flushed")).unwrap();
    let mut flush = || {
        let start = Instant::now();
        file.write_all(&[0; 96]).unwrap();
        file.sync_data().unwrap();
        start.elapsed().as_secs_f64() * 1e3
    };
    let (half, most) = percentiles((0..1000).map(|_| flush()).collect());
    println!("a flush of as much to {place}, nothing else: p50 {half:.2} ms p99 {most:.2} ms");
}

/// Single announcements: while nothing else goes on, and beside bulks of a million and listings.
pub(crate) fn latencies(folder: &Path, place: &str) {
    flushes(folder, place);
    let sink = Sink::start();
    let mut speaker = Speaker::with(folder, None, &sink.peer(0));
    until("both End-of-RIB", || (sink.ends.load(Ordering::Relaxed) >= 2).then_some(()));
    for n in 0..20 {
        single(&mut speaker, &sink, 60_000 + n);
    }
    let took: Vec<(f64, f64)> = (0..1000).map(|n| single(&mut speaker, &sink, n)).collect();
    let (wire, answer) = took.into_iter().unzip();
    let (wire, answer) = (percentiles(wire), percentiles(answer));
    println!(
        "one announcement, idle, journal on {place}: API to wire p50 {:.2} ms p99 {:.2} ms; to the answer p50 {:.2} ms p99 {:.2} ms",
        wire.0, wire.1, answer.0, answer.1
    );
    let busy = Arc::new(AtomicBool::new(true));
    let of = |text: String, folder: &Path| {
        let (busy, (mut api, mut answers)) = (busy.clone(), Speaker::client(folder));
        std::thread::spawn(move || {
            let mut rounds = 0;
            while busy.load(Ordering::Relaxed) {
                api.write_all(text.as_bytes()).unwrap();
                loop {
                    let mut line = String::new();
                    answers.read_line(&mut line).unwrap();
                    if line.starts_with("{\"ok\"") {
                        break;
                    }
                }
                rounds += 1;
            }
            rounds
        })
    };
    // Bulks of other routes each time: all of them go over the wire.
    let bulks = stream("a", true, 0..MILLION) + "{\"delete\":{\"set\":\"a\"}}\n{\"wait\":{\"timeout-ms\":60000}}\n";
    let bulk = {
        let (busy, (mut api, mut answers)) = (busy.clone(), Speaker::client(folder));
        std::thread::spawn(move || {
            let mut rounds = 0;
            while busy.load(Ordering::Relaxed) {
                api.write_all(bulks.as_bytes()).unwrap();
                for _ in 0..3 {
                    let mut line = String::new();
                    answers.read_line(&mut line).unwrap();
                    assert!(line.starts_with("{\"ok\""), "{line}");
                }
                rounds += 1;
            }
            rounds
        })
    };
    let listing = of("{\"get\":{\"set\":\"a\"}}\n".to_owned(), folder);
    let start = Instant::now();
    let mut took = Vec::new();
    for n in 1000.. {
        if start.elapsed() > Duration::from_secs(20) {
            break;
        }
        took.push(single(&mut speaker, &sink, n % 50_000));
        sink.marked.lock().unwrap().clear();
        // Asked anew, it is announced anew only if it was withdrawn meanwhile.
        speaker.ask("{\"delete\":{\"set\":\"one\"}}\n");
        std::thread::sleep(Duration::from_millis(1));
    }
    busy.store(false, Ordering::Relaxed);
    let (bulks, listings) = (bulk.join().unwrap(), listing.join().unwrap());
    let count = took.len();
    let (wire, answer) = took.into_iter().unzip();
    let (wire, answer) = (percentiles(wire), percentiles(answer));
    println!(
        "one announcement beside {bulks} bulks of 1 M and {listings} listings, {count} of them: API to wire p50 {:.2} ms p99 {:.2} ms; to the answer p50 {:.2} ms p99 {:.2} ms",
        wire.0, wire.1, answer.0, answer.1
    );
}

/// Routes a message, live and for a peer that comes later, and what further peers cost.
pub(crate) fn messages_and_memory(folder: &Path) {
    let sinks: Vec<Sink> = (0..11).map(|_| Sink::start()).collect();
    let mut alone = Speaker::with(folder, None, &sinks[0].peer(0));
    until("both End-of-RIB", || (sinks[0].ends.load(Ordering::Relaxed) >= 2).then_some(()));
    alone.ask(&stream("a", true, 0..MILLION));
    sinks[0].quiet();
    println!("routes a message, IPv4 hosts, live: {}", u64::from(MILLION) / sinks[0].messages.load(Ordering::Relaxed));
    let memory = alone.process.memory_mb();
    drop(alone);
    let before = sinks[0].messages.load(Ordering::Relaxed);
    let peers: String = sinks.iter().enumerate().map(|(n, sink)| sink.peer(n)).collect();
    let mut all = Speaker::with(folder, None, &peers);
    until("all peers", || sinks.iter().all(|sink| sink.ends.load(Ordering::Relaxed) >= 2).then_some(()));
    all.ask(&stream("a", true, 0..MILLION));
    sinks.iter().for_each(Sink::quiet);
    let with_ten = all.process.memory_mb();
    println!(
        "memory with 1 M: one peer {memory:.1} MB, eleven {with_ten:.1} MB: {:.2} MB each further",
        (with_ten - memory) / 10.0
    );
    assert!(sinks[0].messages.load(Ordering::Relaxed) > before);
    drop(all);
    // A peer that comes when everything is there, and IPv6.
    let sink = Sink::start();
    let mut speaker = Speaker::with(folder, None, &sink.peer(0));
    until("both End-of-RIB", || (sink.ends.load(Ordering::Relaxed) >= 2).then_some(()));
    let mut text =
        "{\"stream\":{\"set\":\"a\",\"replace\":true}}\n{\"next-hop\":\"2001:db8::1\",\"communities\":[\"64500:1\"]}\n"
            .to_owned();
    for n in 0..230_000_u32 {
        let _ = writeln!(text, "2001:db8::{:x}:{:x}/128", n >> 16, n & 0xffff);
    }
    speaker.ask(&(text + ".\n"));
    sink.quiet();
    println!("routes a message, IPv6 hosts, live: {}", 230_000 / sink.messages.load(Ordering::Relaxed));
    let late = Sink::start();
    std::fs::write(folder.join("speaker.toml"), {
        let text = std::fs::read_to_string(folder.join("speaker.toml")).unwrap();
        text.replace("[inject]", &format!("{}[inject]", late.peer(1)))
    })
    .unwrap();
    // SIGHUP: it reloads.
    crate::lab::run(&format!("kill -HUP {}", speaker.process.0.id()));
    until("the late peer's End-of-RIB", || (late.ends.load(Ordering::Relaxed) >= 2).then_some(()));
    late.quiet();
    println!(
        "routes a message, IPv6 hosts, to a peer that comes later: {}",
        230_000 / late.messages.load(Ordering::Relaxed)
    );
}

/// From the forwarder's bad word to the withdrawal on the wire.
pub(crate) fn health(folder: &Path) {
    let sink = Sink::start();
    let socket = folder.join("health");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let more = format!(
        "{}[[private-routes]]\nprefix = \"10.255.1.2/32\"\nnext-hop = \"192.0.2.1\"\n[health]\nsocket = {socket:?}\n",
        sink.peer(0)
    );
    let _speaker = Speaker::with(folder, None, &more);
    let (mut stream, _) = listener.accept().unwrap();
    let mut sequence = 0;
    let mut say = |healthy: bool| {
        let (prefix, reason) = ("10.255.1.2/32".parse().unwrap(), "bench".to_owned());
        let beat = forwarder_wire::encode(&forwarder_wire::Message::Heartbeat { sequence });
        let word = forwarder_wire::encode(&forwarder_wire::Message::Prefix { prefix, healthy, reason });
        sequence += 1;
        let start = Instant::now();
        stream.write_all(format!("{beat}{word}").as_bytes()).unwrap();
        start
    };
    until("the session", || (sink.ends.load(Ordering::Relaxed) >= 2).then_some(()));
    let mut took = Vec::new();
    for _ in 0..500 {
        say(true);
        until("the route", || sink.marked.lock().unwrap().remove(&(false, [1, 2])));
        let start = say(false);
        let seen = until("its withdrawal", || sink.marked.lock().unwrap().remove(&(true, [1, 2])));
        took.push((seen - start).as_secs_f64() * 1e3);
    }
    println!("forwarder unhealthy to WITHDRAW on the wire, ms: {}", spread(took));
}
