//! Accounting records made durable by the real path (table, journal, group commit), and the time to serve again.
//!
//! `cargo bench -p toolbox --bench durable`. BINDINGS=10000000 is the size that the figures are stated for; 400 000 unless
//! given, in sessions of four (an address, a /56, two port blocks). FLIGHT=4096 records are under way at once. FOLDER=/var/tmp
//! names a disk; the system's folder for temporary files unless given. What is measured: Starts that fill the table and
//! Interim-Updates of any session, each counted when it is on disk; opening again from the log, as after a kill, and from a
//! snapshot. Then, with TAIL=300000 more Interim-Updates in the log behind the snapshot, the toolbox is run as it is run, killed with
//! SIGKILL and started again KILLS=3 times: how long until an HTTP verification has the right answer, all before being refused.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

mod serving;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use cloakway_runtime::clock;
use cloakway_store::StoreError;
use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toolbox::bindings::Bindings;
use toolbox_core::{Effect, Event, Settings};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn event(n: u32, change: Change, at: Timestamp) -> Event {
    let mut addresses = vec![
        Address::whole(AddressKind::FramedV4, Ipv4Net::from(Ipv4Addr::from((10 << 24) + n)).into()),
        Address::whole(
            AddressKind::DelegatedPrefixV6,
            Ipv6Net::new(Ipv6Addr::from((0x2001_0db8_u128 << 96) + (u128::from(n) << 72)), 56).unwrap().into(),
        ),
    ];
    for block in [2 * n, 2 * n + 1] {
        let first = 1024 + (block % 126) as u16 * 512;
        let ports = Ports::new(first, first + 511).unwrap();
        let address = Ipv4Addr::from((100 << 24) + block / 126);
        addresses.push(Address::ports(AddressKind::PortBlock, address.into(), ports));
    }
    let record = Record::Session(SessionRecord {
        change,
        session: format!("{n:08x}"),
        user: User::Named(format!("user{n:07}@isp.example").parse().unwrap()),
        nas: Nas { identifier: Some(format!("bng{}", n % 50)), ..Nas::default() },
        addresses,
        time: EventTime::stated(at, at),
        until: None,
    });
    Event { source: Source::Radius, client: "bng".to_owned(), record, arrival: at }
}

/// A record that is not known to be on disk yet.
type UnderWay = Pin<Box<dyn Future<Output = Result<Effect, StoreError>>>>;

async fn durable(bindings: &Bindings, events: impl Iterator<Item = Event>, flight: usize) -> (u64, f64) {
    let (began, mut count) = (Instant::now(), 0);
    let mut under_way: VecDeque<UnderWay> = VecDeque::with_capacity(flight);
    for event in events {
        if under_way.len() == flight {
            let oldest = under_way.pop_front().unwrap();
            oldest.await.unwrap();
            count += 1;
        }
        under_way.push_back(Box::pin(bindings.apply(&event)));
    }
    for rest in under_way {
        rest.await.unwrap();
        count += 1;
    }
    (count, began.elapsed().as_secs_f64())
}

const PREFIXES: [&str; 3] = ["10.0.0.0/8", "100.0.0.0/8", "2001:db8::/32"];

fn open(folder: &Path) -> (Bindings, f64) {
    let settings = Settings {
        prefixes: PREFIXES.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(86_400),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    };
    let began = Instant::now();
    let bindings = Bindings::open(folder, settings, Duration::from_secs(86_400)).unwrap();
    (bindings, began.elapsed().as_secs_f64())
}

fn size(folder: &Path) -> f64 {
    let files = std::fs::read_dir(folder.join("bindings")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>() as f64 / 1e6
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let sessions = (setting("BINDINGS", 400_000) / 4) as u32;
    let flight = setting("FLIGHT", 4096) as usize;
    let parent = std::env::var("FOLDER").map_or_else(|_| std::env::temp_dir(), Into::into);
    let folder = tempfile::tempdir_in(parent).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = Timestamp::from_secs(clock::wall().as_secs() - 3600);
    let (bindings, _) = open(folder.path());
    let starts = (0..sessions).map(|n| event(n, Change::Start, start));
    let (count, seconds) = runtime.block_on(durable(&bindings, starts, flight));
    println!("starts:   {:.0} k records/s durable ({count} in {seconds:.1} s)", count as f64 / seconds / 1e3);
    let updates = (0..300_000_u32).map(|n| {
        let session = (u64::from(n) * 2_654_435_761 % u64::from(sessions)) as u32;
        event(session, Change::Interim, start + Duration::from_secs(600 + u64::from(n / 1000)))
    });
    let (count, seconds) = runtime.block_on(durable(&bindings, updates, flight));
    println!("updates:  {:.0} k records/s durable ({count} in {seconds:.1} s)", count as f64 / seconds / 1e3);
    drop(bindings);
    let (bindings, seconds) = open(folder.path());
    println!("restart:  {seconds:.2} s from a log of {:.0} MB", size(folder.path()));
    let began = Instant::now();
    runtime.block_on(bindings.write_snapshot()).unwrap();
    println!("snapshot: {:.2} s", began.elapsed().as_secs_f64());
    drop(bindings);
    let (bindings, seconds) = open(folder.path());
    println!("restart:  {seconds:.2} s from a snapshot of {:.0} MB", size(folder.path()));
    assert_eq!(bindings.open_sessions(), sessions as usize);
    let tail = setting("TAIL", 300_000) as u32;
    let updates = (0..tail).map(|n| {
        let session = (u64::from(n) * 2_654_435_761 % u64::from(sessions)) as u32;
        event(session, Change::Interim, start + Duration::from_secs(1800 + u64::from(n / 1000)))
    });
    runtime.block_on(durable(&bindings, updates, flight));
    drop(bindings);
    let server = serving::Server::new(folder.path(), &PREFIXES);
    for kill in 0..=setting("KILLS", 3) {
        let n = (kill as u32 * 7919 + 1) % sessions;
        let (address, name) = (Ipv4Addr::from((10 << 24) + n), format!("user{n:07}@isp.example"));
        let started = runtime.block_on(server.start(&address.to_string(), &name));
        println!(
            "serving:  {:.2} s after {}, listening after {:.2} s, {} refused until then; {:.0} MB resident",
            started.answers.as_secs_f64(),
            if kill == 0 { "a start" } else { "SIGKILL" },
            started.listens.as_secs_f64(),
            started.refused,
            started.resident()
        );
        started.kill();
    }
}
