//! A hold time of three seconds with all cores busy, a bulk of a million, ten thousand changes a second and a listing,
//! all at once: no keepalive is missed. And a peer that stops reading delays nobody.
//!
//! `STARVE_S=600 cargo test --release -p bgp --test starvation -- --nocapture` does so for ten minutes and
//! prints the longest gaps; 20 seconds unless told. `BUSY=16` makes it harder, and
//! `BGP_SPEAKER=target/release/bgp-speaker` tries another build of the program.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod support;

use std::collections::HashMap;
use std::fmt;
use std::io::{BufWriter, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bgp_wire::{Context, Message};
use serde_json::Value;
use support::peer::Peer;
use support::program::{Api, Program};
use support::{HEAD, INJECT, encoded, free_port, open};

const HOLD: Duration = Duration::from_secs(3);
const BULK: u32 = 1_000_000;
/// Clients that change routes, each so many at a time.
const CLIENTS: u32 = 10;
const BATCH: u32 = 100;
/// How often each of them does: ten thousand changes a second in all, and what it takes to be sure of them.
const PACE: Duration = Duration::from_millis(98);
/// RFC 9687 §4.1, and something for the machine.
const SEND_HOLD: Duration = Duration::from_secs(480 + 15);
const READER: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);
const STUCK: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 2);
/// Announcements that are timed.
const PROBES: usize = 100;
/// One test at a time: each measures.
static ALONE: Mutex<()> = Mutex::new(());

/// A speaker with two neighbours and a private route, and where they connect.
fn speaker() -> (Program, SocketAddr) {
    let bgp = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let peer = |name, address| {
        let hold = HOLD.as_secs();
        format!(
            "[[peers]]\nname = \"{name}\"\naddress = \"{address}\"\nremote-as = 64500\npassive = true\nhold-time-s = {hold}\n"
        )
    };
    let (reader, stuck) = (peer("reader", READER), peer("stuck", STUCK));
    let private = "[[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n[health]\nsocket = \"$/health\"\n";
    (Program::start(&format!("{HEAD}listen = [\"{bgp}\"]\n{reader}{stuck}{private}{INJECT}")), bgp)
}

fn connect(bgp: SocketAddr, from: Ipv4Addr) -> TcpStream {
    let mut peer = Peer::connect(bgp, from);
    peer.say(&encoded(&Message::Open(open(64500, from.octets(), 3))));
    peer.say(&encoded(&Message::KeepAlive));
    peer.stream
}

/// Tells the speaker that its peer lives, until the end.
fn keep_alive(mut stream: TcpStream, end: Arc<AtomicBool>) -> JoinHandle<()> {
    let keepalive = encoded(&Message::KeepAlive);
    thread::spawn(move || {
        // A connection that the speaker has ended takes none.
        while !end.load(Ordering::Relaxed) && stream.write_all(&keepalive).is_ok() {
            thread::sleep(Duration::from_millis(500));
        }
    })
}

/// The gaps between what a peer that reads hears.
#[derive(Debug, Default)]
struct Gaps {
    between_keepalives: Vec<Duration>,
    longest_silence: Duration,
}

impl Gaps {
    fn longest(&self) -> Duration {
        self.between_keepalives.iter().max().copied().unwrap_or(Duration::MAX)
    }
}

/// What a peer that reads has heard so far.
#[derive(Debug, Default)]
struct Heard {
    octets: AtomicU64,
    /// It reads no more: what comes fills its window.
    deaf: AtomicBool,
}

/// Reads what comes: looks at the headers, and at the prefixes of announcements that stand alone, which are timed.
fn read(
    mut stream: TcpStream,
    heard: Arc<Heard>,
    seen: Sender<(String, Instant)>,
    end: Arc<AtomicBool>,
) -> JoinHandle<Gaps> {
    const SHORT: usize = 100;
    stream.set_read_timeout(Some(HOLD)).unwrap();
    thread::spawn(move || {
        let (mut bytes, mut filled) = (vec![0; 1 << 18], 0);
        let mut gaps = Gaps::default();
        let (mut last, mut kept) = (Instant::now(), None);
        while !end.load(Ordering::Relaxed) {
            if heard.deaf.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            let length = stream.read(&mut bytes[filled..]).expect("the session lives");
            assert!(length > 0, "the speaker closed");
            let now = Instant::now();
            gaps.longest_silence = gaps.longest_silence.max(now - std::mem::replace(&mut last, now));
            heard.octets.fetch_add(length as u64, Ordering::Relaxed);
            filled += length;
            let mut at = 0;
            while let Some(header) = bytes[at..filled].first_chunk::<19>() {
                let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
                let Some(message) = bytes[at..filled].get(..length) else { break };
                match header[18] {
                    4 => gaps.between_keepalives.extend(kept.replace(now).map(|kept| now - kept)),
                    2 if length < SHORT => {
                        let Ok(Message::Update(update)) = Message::decode(message, Context::default()) else {
                            panic!()
                        };
                        for prefix in update.reachable() {
                            // Nobody may be waiting.
                            let _ = seen.send((prefix.to_string(), now));
                        }
                    }
                    1 | 2 => {}
                    _ => panic!("{:?}", Message::decode(message, Context::default())),
                }
                at += length;
            }
            bytes.copy_within(at..filled, 0);
            filled -= at;
        }
        gaps
    })
}

/// A million routes, put again and again with another MED.
fn bulk(api: PathBuf, end: Arc<AtomicBool>) -> JoinHandle<u32> {
    thread::spawn(move || {
        let mut rounds = 0;
        while !end.load(Ordering::Relaxed) {
            put_bulk(&api, rounds);
            rounds += 1;
        }
        rounds
    })
}

fn put_bulk(api: &Path, med: u32) {
    let stream = UnixStream::connect(api).unwrap();
    let mut writer = BufWriter::with_capacity(1 << 16, stream.try_clone().unwrap());
    writeln!(writer, r#"{{"stream":{{"set":"bulk","replace":true}}}}"#).unwrap();
    writeln!(writer, r#"{{"next-hop":"192.0.2.1","med":{med}}}"#).unwrap();
    for n in 0..BULK {
        writeln!(writer, "{}/32", Ipv4Addr::from(0x0a00_0000 + n)).unwrap();
    }
    writeln!(writer, ".").unwrap();
    writer.flush().unwrap();
    let answer = Api::from(stream).answer();
    assert!(answer.get("ok").is_some(), "{answer}");
}

/// Routes that come and go, a batch at a time by the streaming interface, at a pace.
fn changes(api: PathBuf, client: u32, end: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut api = Api::connect(&api);
        let batch = |sign: &str| {
            let lines = (0..BATCH).map(|n| format!("{sign}10.200.{client}.{n}/32\n")).collect::<String>();
            format!("{{\"stream\":{{\"set\":\"changes {client}\"}}}}\n{{\"next-hop\":\"192.0.2.1\"}}\n{lines}.")
        };
        let batches = [batch(""), batch("-")];
        let began = Instant::now();
        let mut asked = 0;
        while !end.load(Ordering::Relaxed) {
            api.done(&batches[asked as usize % 2]);
            asked += 1;
            thread::sleep((PACE * asked).saturating_sub(began.elapsed()));
        }
        u64::from(asked) * u64::from(BATCH)
    })
}

/// Everything in the bulk's set, listed over and over: how many routes.
fn listings(api: PathBuf, end: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut listed = 0;
        loop {
            let mut api = Api::connect(&api);
            api.send("{\"get\":{\"set\":\"bulk\"}}\n");
            loop {
                if end.load(Ordering::Relaxed) {
                    return listed;
                }
                let line = api.read_line();
                assert!(!line.is_empty() && !line.starts_with("{\"error\""), "{line}");
                if line.starts_with("{\"ok\"") {
                    let answer: Value = serde_json::from_str(&line).unwrap();
                    listed += answer["ok"]["routes"].as_u64().unwrap();
                    break;
                }
            }
        }
    })
}

/// Keeps each core at work with something else; with as many threads as `BUSY` says, if it does.
fn busy_cores(end: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let told = std::env::var("BUSY").ok().map(|text| text.parse().unwrap());
    let cores = told.unwrap_or_else(|| thread::available_parallelism().map_or(2, usize::from));
    let busy = |_| {
        let end = end.clone();
        thread::spawn(move || {
            let mut n = 1_u64;
            while !end.load(Ordering::Relaxed) {
                n = std::hint::black_box(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        })
    };
    (0..cores).map(busy).collect()
}

#[test]
fn no_keepalive_is_missed_while_everything_happens_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let span = Duration::from_secs(std::env::var("STARVE_S").ok().map_or(20, |text| text.parse().unwrap()));
    let (speaker, bgp) = speaker();
    let (end, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Heard::default()));
    let (reader, stuck) = (connect(bgp, READER), connect(bgp, STUCK));
    let alive = [&reader, &stuck].map(|stream| keep_alive(stream.try_clone().unwrap(), end.clone()));
    let reading = read(reader, heard.clone(), channel().0, end.clone());
    for peer in ["reader", "stuck"] {
        speaker.established(peer);
    }
    let busy = busy_cores(&end);
    let api = speaker.path("api");
    let bulk = bulk(api.clone(), end.clone());
    let changing: Vec<_> = (0..CLIENTS).map(|client| changes(api.clone(), client, end.clone())).collect();
    let listings = listings(api.clone(), end.clone());

    thread::sleep(span);
    let [reader, stuck] = ["reader", "stuck"].map(|peer| speaker.session(peer));
    end.store(true, Ordering::Relaxed);
    let gaps = reading.join().unwrap();
    alive.into_iter().for_each(|thread| thread.join().unwrap());
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    let changed: u64 = changing.into_iter().map(|client| client.join().unwrap()).sum();
    let (listed, rounds) = (listings.join().unwrap(), bulk.join().unwrap());
    let (octets, keepalives) = (heard.octets.load(Ordering::Relaxed), gaps.between_keepalives.len());
    let a_second = |count: u64| count as f64 / span.as_secs_f64();
    eprintln!(
        "{span:?}: longest gap between {keepalives} keepalives {:?}, longest silence {:?}; {rounds} bulks of {BULK}, \
         {:.0} changes accepted a second, {:.0} routes listed a second, in listings of all of them; {:.1} MB heard a second",
        gaps.longest(),
        gaps.longest_silence,
        a_second(changed),
        a_second(listed),
        a_second(octets) / 1e6,
    );
    assert_eq!((&reader["state"], &reader["flaps"]), (&Value::from("Established"), &Value::from(0)), "{reader}");
    // Who takes nothing of what is sent is given up in the end, and nobody else.
    if span > SEND_HOLD {
        assert!(stuck["last_down"].to_string().contains("8/0"), "{stuck}");
    } else {
        assert_eq!((&stuck["state"], &stuck["flaps"]), (&Value::from("Established"), &Value::from(0)), "{stuck}");
    }
    // One is due in each third of the hold time. The test's own reading is as late as that of anything else here.
    assert!(gaps.longest() < HOLD * 2 / 3, "{:?}", gaps.longest());
    assert!(keepalives as u64 >= span.as_secs() - 1, "{keepalives} keepalives");
    // How much gets through is a matter of the build and the machine; that it does is not.
    assert!(rounds > 0 && changed > 0 && octets > 100_000, "{rounds} bulks, {changed} changes, {octets} octets");
    if !cfg!(debug_assertions) {
        assert!(a_second(changed) >= 10_000.0, "{} changes a second", a_second(changed));
    }
}

/// How long announcements took from the API to the peer that reads.
struct Latency(Vec<Duration>);

impl Latency {
    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).saturating_sub(1)]
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, all] = [50, 99, 100].map(|percent| self.at(percent).as_secs_f64() * 1e3);
        write!(f, "p50 {half:.2} ms, p99 {most:.2} ms, most {all:.2} ms")
    }
}

/// Announces routes one by one, and waits for each to arrive.
fn announcements(api: &mut Api, seen: &Receiver<(String, Instant)>, med: &mut u32) -> Latency {
    let mut sent: HashMap<String, Instant> = HashMap::new();
    let mut took = Vec::new();
    for n in 0..PROBES {
        let prefix = format!("10.255.{}.{}/32", n / 250, n % 250);
        // Of attributes of its own, and so in an UPDATE of its own.
        *med += 1;
        let line = format!(
            r#"{{"patch":{{"set":"probe","routes":[{{"next-hop":"192.0.2.9","med":{med},"prefixes":["{prefix}"]}}]}}}}"#
        );
        sent.insert(prefix.clone(), Instant::now());
        api.done(&line);
        loop {
            let (arrived, at) = seen.recv_timeout(support::PATIENCE).unwrap();
            if arrived == prefix {
                took.push(at - sent[&prefix]);
                break;
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    took.sort();
    Latency(took)
}

#[test]
fn a_peer_that_stops_reading_delays_nobody() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (speaker, bgp) = speaker();
    let end = Arc::new(AtomicBool::new(false));
    let (reader, stuck) = (connect(bgp, READER), connect(bgp, STUCK));
    let alive = [&reader, &stuck].map(|stream| keep_alive(stream.try_clone().unwrap(), end.clone()));
    let (tell, seen) = channel();
    let deafened = Arc::new(Heard::default());
    let reading = read(reader, Arc::default(), tell, end.clone());
    let stuck_reading = read(stuck, deafened.clone(), channel().0, end.clone());
    for peer in ["reader", "stuck"] {
        speaker.established(peer);
    }
    let path = speaker.path("api");
    let (mut api, mut med) = (speaker.api(), 0);
    let rounds = Mutex::new(0);
    let beside_a_bulk = |api: &mut Api, med: &mut u32| {
        let bulk_end = Arc::new(AtomicBool::new(false));
        let bulk = bulk(path.clone(), bulk_end.clone());
        let latency = announcements(api, &seen, med);
        bulk_end.store(true, Ordering::Relaxed);
        *rounds.lock().unwrap() += bulk.join().unwrap();
        latency
    };
    // The first has everything to tell.
    beside_a_bulk(&mut api, &mut med);
    api.done(r#"{"wait":{"timeout-ms":30000}}"#);
    let reads = (announcements(&mut api, &seen, &mut med), beside_a_bulk(&mut api, &mut med));

    deafened.deaf.store(true, Ordering::Relaxed);
    put_bulk(&path, 1_000_000);
    let waited = api.line(r#"{"wait":{"timeout-ms":2000}}"#);
    assert!(waited["error"].to_string().contains("not on the wire"), "its window takes a bulk whole: {waited}");
    let deaf = (announcements(&mut api, &seen, &mut med), beside_a_bulk(&mut api, &mut med));
    let sessions = ["reader", "stuck"].map(|peer| speaker.session(peer));
    end.store(true, Ordering::Relaxed);
    eprintln!("both read: {}\n  beside bulks of {BULK}: {}", reads.0, reads.1);
    eprintln!("one does not: {}\n  beside bulks of {BULK}: {}", deaf.0, deaf.1);
    for row in &sessions {
        assert_eq!((&row["state"], &row["flaps"]), (&Value::from("Established"), &Value::from(0)), "{row}");
    }
    for (reads, deaf) in [(&reads.0, &deaf.0), (&reads.1, &deaf.1)] {
        // Time is no matter of tests; a peer that is waited for would cost whole seconds, though.
        let bound = reads.at(50) * 4 + Duration::from_secs(1);
        assert!(deaf.at(50) <= bound, "{deaf} beside one that does not read, {reads} without");
    }
    reading.join().unwrap();
    stuck_reading.join().unwrap();
    alive.into_iter().for_each(|thread| thread.join().unwrap());
}
