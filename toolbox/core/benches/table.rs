//! The binding table at size: memory, look-ups while updates land, filling; beside a radix tree (prefix-trie) of the same content.
//!
//! `cargo bench -p toolbox-core --bench table`. BINDINGS=10000000 is the size that the figures are stated for; 400 000 unless given.
//! Half of the bindings are port blocks, a quarter IPv4 addresses, a quarter IPv6 prefixes: each session has one address, one /56
//! and two blocks of 512 ports. UPDATES=100000 a second are due (Interim-Updates of any session), for SECONDS=5; what landed is
//! shown. Look-ups are of bindings that are there, each as likely as another; "together" are those of a list, "in turn" one is begun
//! when the one before is answered, "alone" each is timed by itself, with the clock's own time in it. Look-ups, updates and filling
//! have a thread each and share what cores there are: the rate is also given by the processor time that the looking thread had.
//! "Restored" is the table made anew from its rows, by as many threads as there are processors.
//!
//! Half of a look-up that is not in the processor's cache goes to finding its page: GLIBC_TUNABLES=glibc.malloc.hugetlb=1 has the
//! library ask for large ones.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a bench prints, reads the clock and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toolbox_core::{Cursor, Event, Loading, Question, Row, Settings, Sight, Table};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

const BLOCK: u16 = 512;
/// Blocks of one external address: those from port 1024 on.
const BLOCKS: u32 = 126;
const TOGETHER: usize = 4096;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

/// Seconds that this thread has had of a processor.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn v4(n: u32) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24) + n)
}

fn v6(n: u32) -> Ipv6Net {
    Ipv6Net::new(Ipv6Addr::from((0x2001_0db8_u128 << 96) + (u128::from(n) << 72)), 56).unwrap()
}

fn block(n: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from((100 << 24) + n / BLOCKS), 1024 + (n % BLOCKS) as u16 * BLOCK)
}

fn name(n: u32) -> String {
    format!("user{n:07}@isp.example")
}

fn event(n: u32, change: Change, at: Timestamp) -> Event {
    let mut addresses = vec![
        Address::whole(AddressKind::FramedV4, Ipv4Net::from(v4(n)).into()),
        Address::whole(AddressKind::DelegatedPrefixV6, v6(n).into()),
    ];
    for at in [2 * n, 2 * n + 1] {
        let (address, first) = block(at);
        let ports = Ports::new(first, first + (BLOCK - 1)).unwrap();
        addresses.push(Address::ports(AddressKind::PortBlock, address.into(), ports));
    }
    let record = Record::Session(SessionRecord {
        change,
        session: format!("{n:08x}"),
        user: User::Named(name(n).parse().unwrap()),
        nas: Nas { identifier: Some(format!("bng{}", n % 50)), ..Nas::default() },
        addresses,
        time: EventTime::stated(at, at),
        until: None,
    });
    Event { source: Source::Radius, client: "bng".to_owned(), record, arrival: at }
}

fn question(numbers: &mut Numbers, sessions: u32) -> (Question, u32) {
    let n = numbers.below(sessions.into()) as u32;
    let question = match numbers.below(4) {
        0 => Question::new(v4(n).into(), Some(numbers.below(65_536) as u16)),
        1 => {
            let address = u128::from(v6(n).addr()) + u128::from(numbers.below(1 << 60));
            Question::new(Ipv6Addr::from(address).into(), Some(443))
        }
        which => {
            let (address, first) = block(2 * n + (which as u32 & 1));
            Question::new(address.into(), Some(first + numbers.below(BLOCK.into()) as u16))
        }
    };
    (question, n)
}

/// The same content in radix trees: an address and a block of ports are a prefix of 32 and 7 bits.
struct Tree {
    v4: prefix_trie::PrefixMap<Ipv4Net, u32>,
    v6: prefix_trie::PrefixMap<Ipv6Net, u32>,
    blocks: prefix_trie::PrefixMap<Ipv6Net, u32>,
    /// What a binding is: whose, by which session, from when to when.
    sessions: Vec<(Box<str>, Box<str>, u64, u64)>,
}

fn with_port(address: Ipv4Addr, port: u16) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(u32::from(address)) << 96 | u128::from(port) << 80)
}

impl Tree {
    fn new(sessions: u32) -> Self {
        let mut tree =
            Self { v4: Default::default(), v6: Default::default(), blocks: Default::default(), sessions: Vec::new() };
        for n in 0..sessions {
            tree.v4.insert(Ipv4Net::from(v4(n)), n);
            tree.v6.insert(v6(n), n);
            for at in [2 * n, 2 * n + 1] {
                let (address, first) = block(at);
                tree.blocks.insert(Ipv6Net::new(with_port(address, first), 32 + 7).unwrap(), n);
            }
            tree.sessions.push((name(n).into(), format!("{n:08x}").into(), 1, 2));
        }
        tree
    }

    fn find(&self, question: Question) -> Option<&str> {
        let port = question.port.unwrap_or(0);
        let n = match question.address {
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).map(|(_, n)| *n),
            IpAddr::V4(address) => {
                let whole = self.v4.get_lpm(&Ipv4Net::from(address)).map(|(_, n)| *n);
                whole.or_else(|| self.blocks.get_lpm(&Ipv6Net::from(with_port(address, port))).map(|(_, n)| *n))
            }
        };
        n.and_then(|n| self.sessions.get(n as usize)).map(|(name, ..)| &**name)
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds / 1e6
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bindings = setting("BINDINGS", 400_000);
    let sessions = (bindings / 4) as u32;
    let bindings = f64::from(sessions) * 4.0;
    let (updates, seconds) = (setting("UPDATES", 100_000), Duration::from_secs(setting("SECONDS", 5)));
    let prefixes = ["10.0.0.0/8", "100.0.0.0/8", "2001:db8::/32"];
    let settings = Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(86_400),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    };
    let start = Timestamp::from_secs(1_800_000_000);
    let before = resident();
    let mut table = Table::new(settings.clone());
    let began = Instant::now();
    for n in 0..sessions {
        table.apply(&event(n, Change::Start, start + Duration::from_millis(u64::from(n) / 100)));
    }
    let filled = began.elapsed().as_secs_f64();
    let ours = (resident() - before) / bindings;
    println!(
        "{bindings:.1e} bindings in {sessions} sessions, filled in {filled:.1} s ({:.0} k records/s)",
        f64::from(sessions) / filled / 1e3
    );
    println!("memory:   {:.1} B a binding by its own account, {ours:.1} B resident", table.octets() as f64 / bindings);
    let began = Instant::now();
    for n in 0..sessions {
        let at = start + Duration::from_secs(600 + u64::from(n) / 100_000);
        black_box(table.apply(&event(n, Change::Interim, at)));
    }
    let renewed = began.elapsed().as_secs_f64();
    let ours = (resident() - before) / bindings;
    println!(
        "memory:   {:.1} B by its own account, {ours:.1} B resident after an Interim-Update of each ({:.0} k records/s)",
        table.octets() as f64 / bindings,
        f64::from(sessions) / renewed / 1e3
    );

    let glances = table.glances().unwrap();
    let now = start + Duration::from_secs(43_200);
    let stop = AtomicBool::new(false);
    let landed = AtomicU64::new(0);
    let mut numbers = Numbers(7);
    let questions: Vec<(Question, u32)> = (0..1 << 20).map(|_| question(&mut numbers, sessions)).collect();
    let lists: Vec<Vec<Question>> =
        questions.chunks(TOGETHER).map(|some| some.iter().map(|(of, _)| *of).collect()).collect();
    for (question, n) in questions.iter().take(10_000) {
        glances.find(*question, now, |sight| match sight {
            Sight::Bound(seen) => assert_eq!(seen.subscriber(), name(*n), "{question:?}"),
            Sight::Nobody | Sight::Ask => panic!("{question:?}: {sight:?}"),
        });
    }
    let whole = Instant::now();
    let (together, wall, in_turn, alone) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (began, mut numbers) = (Instant::now(), Numbers(9));
            while !stop.load(Ordering::Relaxed) {
                let due = (began.elapsed().as_secs_f64() * updates as f64) as u64;
                let done = landed.load(Ordering::Relaxed);
                if done >= due {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                for at in done..due.min(done + 1000) {
                    let n = numbers.below(sessions.into()) as u32;
                    let time = start + Duration::from_secs(3600 + at / 100_000);
                    black_box(table.apply(&event(n, Change::Interim, time)));
                }
                landed.store(due.min(done + 1000), Ordering::Relaxed);
            }
        });
        let (mut count, mut bound) = (0_u64, 0_u64);
        let (began, processor) = (Instant::now(), processor_time());
        'all: loop {
            for list in &lists {
                glances.find_each(list, now, |_, sight| bound += u64::from(matches!(sight, Sight::Bound(_))));
                count += list.len() as u64;
                if began.elapsed() >= seconds {
                    break 'all;
                }
            }
        }
        let together = per_second(count, processor_time() - processor);
        let wall = per_second(count, began.elapsed().as_secs_f64());
        println!(
            "          {:.4} % of the look-ups were left to the table",
            (count - bound) as f64 * 100.0 / count as f64
        );
        let (mut count, began, processor) = (0_u64, Instant::now(), processor_time());
        'turn: loop {
            for some in questions.chunks(TOGETHER) {
                for (question, _) in some {
                    bound += glances.find(*question, now, |sight| u64::from(matches!(sight, Sight::Bound(_))));
                }
                count += some.len() as u64;
                if began.elapsed() >= seconds {
                    break 'turn;
                }
            }
        }
        black_box(bound);
        let in_turn = per_second(count, processor_time() - processor);
        let mut times: Vec<u32> = Vec::with_capacity(4 << 20);
        let began = Instant::now();
        for (question, _) in questions.iter().cycle() {
            let from = Instant::now();
            glances.find(*question, now, |sight| black_box(matches!(sight, Sight::Bound(_))));
            times.push(from.elapsed().as_nanos() as u32);
            if times.len() == times.capacity() || began.elapsed() >= seconds {
                break;
            }
        }
        times.sort_unstable();
        stop.store(true, Ordering::Relaxed);
        (together, wall, in_turn, times)
    });
    let at = |part: f64| alone[((alone.len() - 1) as f64 * part) as usize];
    println!(
        "look-ups: {together:.1} M/s together by processor time, {wall:.1} M/s by the clock; {in_turn:.1} M/s in turn; alone p50 {} ns, p99 {} ns, p99.9 {} ns, worst {} ns",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    let spent = whole.elapsed().as_secs_f64();
    println!("updates:  {:.0} k/s landed meanwhile", landed.load(Ordering::Relaxed) as f64 / spent / 1e3);

    let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
    loop {
        let some = table.list(&mut cursor, 1024);
        if some.is_empty() {
            break;
        }
        rows.extend(some.iter().map(Row::encode));
    }
    drop((table, glances));
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let (loading, mut parts) = Loading::new(settings, threads);
    std::thread::scope(|scope| {
        for (n, part) in parts.iter_mut().enumerate() {
            let groups = (0..).step_by(1000).zip(rows.chunks(1000)).skip(n).step_by(threads);
            scope.spawn(move || {
                for (first, some) in groups {
                    let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                    part.take(first, &some).unwrap();
                }
            });
        }
    });
    let taken = began.elapsed().as_secs_f64();
    let (restored, _) = loading.finish(parts).unwrap();
    let seconds_taken = began.elapsed().as_secs_f64();
    println!(
        "restored: {seconds_taken:.2} s by {threads} threads ({taken:.2} s of it taking), from {} rows of {:.0} MB",
        rows.len(),
        rows.iter().map(Vec::len).sum::<usize>() as f64 / 1e6
    );
    assert_eq!(restored.open_sessions(), sessions as usize);
    drop((restored, rows));
    let before = resident();
    let tree = Tree::new(sessions);
    let theirs = (resident() - before).max(1.0) / bindings;
    let (mut count, mut bound) = (0_u64, 0_u64);
    let (began, processor) = (Instant::now(), processor_time());
    'tree: loop {
        for list in &lists {
            for question in list {
                bound += u64::from(tree.find(*question).is_some_and(|name| !black_box(name).is_empty()));
            }
            count += list.len() as u64;
            if began.elapsed() >= seconds {
                break 'tree;
            }
        }
    }
    assert_eq!(count, bound);
    let rate = per_second(count, processor_time() - processor);
    println!("tree:     {rate:.1} M/s without updates, {theirs:.1} B a binding resident");
    println!("ratio:    {:.1} x the look-ups, {:.2} x the memory", together / rate, ours / theirs);
}
