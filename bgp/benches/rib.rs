//! Routes of peers: decoding, keeping and looking up a full table, loading a dump, and a full table from BIRD beside
//! BIRD as the receiver of the same, over one veth between two namespaces.
//!
//! `cargo bench -p bgp --bench rib`; the parts with BIRD take root, `bird` and `ip`, and are skipped aloud without. RUNS=5
//! repeats everything that often, 1 unless given. ONLY takes parts, with commas between them: table, dump, replay, live.
//! The table is made from a seed: 1 M IPv4 prefixes of 18 to 24 bits, 176 k attribute sets.
//!
//! BIRD as a sender is slower than either receiver. So its UPDATEs are taken down once, and then sent at line speed: what
//! `replay` shows is the receivers', what `live` shows is mostly the sender's.
//!
//! Sketch: 1 M x (12 + 16 + 5 B) + 176 k x (48 + 70 + 16 B) = 33 + 24 MB; 176 k messages x 0.5 us + 1 M x 0.15 us = 0.25 s.
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

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bgp_rib::{Import, PeerSettings, Rib, Settings};
use bgp_wire::{
    AsPath, Asn, Attributes, Bulk, Community, Context, Family, HoldTime, Message, Open, Origin, RouterId, Update,
};
use facilitation::dump::read_rib;
use flate2::Compression;
use lab::replay::{Replayer, connected, recorder};
use lab::{Bird, Figures, Lab, Process, memory_mb, receiver, until, wanted};

const ROUTES: usize = 1_000_000;
const SETS: usize = 176_000;
const FEEDER_AS: u32 = 64502;

/// Numbers from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Distinct prefixes, in order: /24s from 1.0.0.0 on, one in eight replaced by a shorter one over its neighbours.
fn prefixes() -> Vec<(Ipv4Addr, u8)> {
    let mut numbers = Numbers(1);
    let mut prefixes: Vec<(Ipv4Addr, u8)> = Vec::with_capacity(ROUTES);
    let mut at: u32 = 0x0100_0000;
    while prefixes.len() < ROUTES {
        let bits = if at.trailing_zeros() >= 14 && numbers.below(2) == 0 { 18 + numbers.below(6) as u8 } else { 24 };
        prefixes.push((at.into(), bits));
        if bits < 24 && prefixes.len() < ROUTES {
            prefixes.push((at.into(), 24));
        }
        at += 256 * (1 + numbers.below(4) as u32);
        // Neither 10/8 nor 127/8, nor what is beyond unicast.
        if at >> 24 == 10 || at >> 24 == 127 {
            at += 1 << 24;
        }
    }
    prefixes
}

fn attributes(set: usize, numbers: &mut Numbers) -> Attributes {
    let mut path = vec![Asn(FEEDER_AS)];
    path.extend((0..2 + numbers.below(4)).map(|_| Asn(1 + numbers.below(60_000) as u32)));
    // What makes it one of a kind.
    path.push(Asn(100_000 + set as u32));
    Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(path)),
        communities: (0..numbers.below(8)).map(|_| Community(numbers.below(0xfff0_0000) as u32)).collect(),
        ..Attributes::default()
    }
}

/// UPDATEs of the whole table, as an external peer sends them: each attribute set with its prefixes.
fn stream(context: Context) -> Vec<u8> {
    let mut numbers = Numbers(2);
    let mut out = Vec::new();
    let prefixes = prefixes();
    for set in 0..SETS {
        let (from, until) = (set * ROUTES / SETS, (set + 1) * ROUTES / SETS);
        let bulk = Bulk::announce_v4(&attributes(set, &mut numbers), [192, 0, 2, 2].into(), context).unwrap();
        let mut list = Vec::new();
        for (address, bits) in &prefixes[from..until] {
            bulk.push(&address.octets(), *bits, &mut list);
        }
        bulk.write(&list, &mut out);
    }
    out
}

fn frames(stream: &[u8]) -> Vec<&[u8]> {
    let (mut frames, mut rest) = (Vec::new(), stream);
    while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, ..] = rest {
        let (frame, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        frames.push(frame);
        rest = behind;
    }
    frames
}

fn table(figures: &mut Figures) {
    let context = Context { external: true, ..Context::default() };
    let stream = stream(context);
    let frames = frames(&stream);
    let start = Instant::now();
    let mut routes = 0;
    for frame in &frames {
        if let Ok(Message::Update(update)) = Message::decode(frame, context) {
            routes += update.announced.len();
        }
    }
    let took = start.elapsed().as_secs_f64();
    assert_eq!(routes, ROUTES);
    figures.add("decode, M routes/s a core", routes as f64 / took / 1e6);

    let mut rib = Rib::new(Settings {
        local_as: Asn(64500),
        router_id: RouterId::new([10, 0, 0, 1].into()).unwrap(),
        private: Vec::new(),
        own: Vec::new(),
        always_compare_med: false,
    });
    let peer = rib.add_peer(PeerSettings {
        name: "feeder".to_owned(),
        address: [192, 0, 2, 1].into(),
        asn: Asn(FEEDER_AS),
        internal: false,
        role: None,
        import: Import::All,
        accept_blackhole: false,
        enforce_first_as: true,
    });
    rib.peer_up(peer, RouterId::new([10, 0, 0, 2].into()).unwrap(), None);
    let before = memory_mb("self").unwrap();
    let start = Instant::now();
    for frame in &frames {
        if let Ok(Message::Update(update)) = Message::decode(frame, context) {
            rib.apply(peer, update);
        }
    }
    figures.add("decode, keep, best path chosen, s", start.elapsed().as_secs_f64());
    assert_eq!((rib.prefixes(Family::Ipv4), rib.attribute_sets()), (ROUTES, SETS));
    figures.add("decode, keep, best path chosen, MB", memory_mb("self").unwrap() - before);
    for (kind, addresses) in addresses() {
        let took = seconds_of(|| addresses.iter().filter(|address| rib.origin(**address).is_some()).count());
        figures.add(&format!("look-ups in the live table, {kind}, M/s a core"), addresses.len() as f64 / took / 1e6);
    }
    let start = Instant::now();
    rib.peer_lost(peer);
    figures.add("the peer lost, all taken out, s", start.elapsed().as_secs_f64());
}

/// Addresses to look up. "Any": evenly from the part of the address space that the table covers, a third of which it
/// holds. "Held": in prefixes that are there, each as likely as another. "Popular": of those 20 000, the first a lot more
/// often than the last (Zipf), as clients of a service come.
fn addresses() -> [(&'static str, Vec<IpAddr>); 3] {
    const COUNT: usize = 1 << 20;
    const POPULAR: usize = 20_000;
    let mut numbers = Numbers(3);
    let prefixes = prefixes();
    let end = u32::from(prefixes.last().unwrap().0);
    let any =
        (0..COUNT).map(|_| Ipv4Addr::from(0x0100_0000 + numbers.below(u64::from(end) - 0x0100_0000) as u32).into());
    let any = any.collect();
    let inside = |numbers: &mut Numbers| {
        let (network, _) = prefixes[numbers.below(ROUTES as u64) as usize];
        IpAddr::V4(Ipv4Addr::from(u32::from(network) + numbers.below(256) as u32))
    };
    let held = (0..COUNT).map(|_| inside(&mut numbers)).collect();
    let known: Vec<IpAddr> = (0..POPULAR).map(|_| inside(&mut numbers)).collect();
    let popular = |numbers: &mut Numbers| {
        // The rank of a Zipf distribution with exponent 1, by its inverse: POPULAR^u.
        let share = numbers.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        known[(POPULAR as f64).powf(share) as usize % POPULAR]
    };
    let popular = (0..COUNT).map(|_| popular(&mut numbers)).collect();
    [("any", any), ("held", held), ("popular", popular)]
}

/// How long it takes, the second time.
fn seconds_of<T>(mut work: impl FnMut() -> T) -> f64 {
    std::hint::black_box(work());
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed().as_secs_f64()
}

fn from_dump(figures: &mut Figures) {
    let dump = dump();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&dump).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bzip2.write_all(&dump).unwrap();
    let mut map = None;
    for (name, bytes) in [("plain", &dump), ("gzip", &gzip.finish().unwrap()), ("bzip2", &bzip2.finish().unwrap())] {
        let start = Instant::now();
        let rib = read_rib(bytes.as_slice()).unwrap();
        figures.add(&format!("MRT of 1 M entries loaded, {name}, s"), start.elapsed().as_secs_f64());
        map = Some(rib);
    }
    let map = map.unwrap();
    assert_eq!(map.len(), ROUTES);
    figures.add("MRT of 1 M entries, kept, MB", map.octets() as f64 / 1e6);
    for (kind, addresses) in addresses() {
        let took = seconds_of(|| addresses.iter().filter(|address| map.find(**address).is_some()).count());
        figures.add(&format!("look-ups in the dump, {kind}, M/s a core"), addresses.len() as f64 / took / 1e6);
    }
}

/// TABLE_DUMP_V2 with one peer.
fn dump() -> Vec<u8> {
    let record = |subtype: u16, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[0; 4][..], &[0, 13], &subtype.to_be_bytes(), &length, body].concat()
    };
    let mut out = record(1, &[192, 0, 2, 9, 0, 0, 0, 1, 2, 192, 0, 2, 1, 192, 0, 2, 1, 0, 0, 0xfb, 0xf6]);
    let mut numbers = Numbers(2);
    let prefixes = prefixes();
    for set in 0..SETS {
        let mut list = Vec::new();
        attributes(set, &mut numbers).encode(Some([192, 0, 2, 1].into()), Context::default(), &mut list).unwrap();
        for (address, bits) in &prefixes[set * ROUTES / SETS..(set + 1) * ROUTES / SETS] {
            let mut body = vec![0, 0, 0, 0, *bits];
            body.extend(address.octets().iter().take(usize::from(*bits).div_ceil(8)));
            body.extend([0, 1, 0, 0, 0, 0, 0, 0]);
            body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
            body.extend(&list);
            out.extend(record(2, &body));
        }
    }
    out
}

/// Runs inside the sender's namespace: tells BIRD the table, and keeps the session until it is killed.
fn feed() {
    let mut stream: TcpStream = connected("127.0.0.2:0", "127.0.0.1:179");
    let context = Context { external: true, ..Context::default() };
    let open = Open::new(
        Asn(FEEDER_AS),
        HoldTime::from_secs(0).unwrap(),
        RouterId::new([127, 0, 0, 2].into()).unwrap(),
        [Family::Ipv4],
    );
    for message in [Message::Open(open), Message::KeepAlive] {
        stream.write_all(&message.encode(context).unwrap()).unwrap();
    }
    stream.write_all(&self::stream(context)).unwrap();
    stream.write_all(&Message::Update(Update::end_of_rib(Family::Ipv4)).encode(context).unwrap()).unwrap();
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

const SENDER_CONFIG: &str = "router id 192.0.2.1;\nprotocol device {}\nprotocol direct { ipv4; }\n\
protocol bgp feeder {\n local 127.0.0.1 as 64500;\n neighbor 127.0.0.2 as 64502;\n multihop;\n passive on;\n hold time 0;\n ipv4 { import all; export none; };\n}\n\
protocol bgp session1 {\n disabled;\n local 192.0.2.1 as 64500;\n neighbor 192.0.2.2 as 64500;\n connect delay time 1;\n hold time 90;\n ipv4 { import none; export where source = RTS_BGP; next hop self; };\n}\n";

/// BIRD with the whole table, told by a session of its own, and who told it.
fn loaded(lab: &Lab) -> (Bird, Process) {
    let mut sender = Bird::start(lab, &lab.sender(), "sender", SENDER_CONFIG);
    let bench = std::env::current_exe().unwrap();
    let feeder = Process::spawn(&lab.sender(), &[bench.to_str().unwrap(), "--feed"]);
    until("BIRD's table", || (sender.imported("feeder") as usize >= ROUTES).then_some(()));
    (sender, feeder)
}

/// Prefixes that the speaker keeps, by `show rib`; not asked so often that it is busy with that.
fn kept(socket: &Path) -> usize {
    std::thread::sleep(Duration::from_millis(4));
    let Ok(mut stream) = UnixStream::connect(socket) else { return 0 };
    stream.write_all(b"{\"topic\":\"rib\"}\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let count = text.split("\"ipv4_prefixes\":").nth(1).and_then(|rest| rest.split(',').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

/// Our speaker as the receiver, and where it is asked.
fn speaker(lab: &Lab) -> (Process, std::path::PathBuf) {
    let admin = lab.folder().join("admin");
    let _ = std::fs::remove_file(&admin);
    let text = format!(
        "admin-socket = {admin:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.2\"\nlisten = [\"192.0.2.2:179\"]\n\
         [[peers]]\nname = \"bird\"\nremote-as = 64500\naddress = \"192.0.2.1\"\nhold-time-s = 90\npassive = true\n\
         import = \"all\"\n[rib]\n"
    );
    let config = lab.write("speaker.toml", text);
    let speaker = Process::spawn(&lab.receiver(), &[env!("CARGO_BIN_EXE_bgp-speaker"), "run", "--config", &config]);
    until("the admin socket", || UnixStream::connect(&admin).ok());
    (speaker, admin)
}

/// Seconds from BIRD's session to the last route, as `count` sees it.
fn transfer(sender: &mut Bird, mut count: impl FnMut() -> usize) -> f64 {
    sender.ask("enable session1");
    until("BIRD's session", || sender.has_session().then_some(()));
    let start = Instant::now();
    until("the routes", || (count() == ROUTES).then_some(()));
    start.elapsed().as_secs_f64()
}

/// From BIRD, live.
fn live(lab: &Lab, sender: &mut Bird, figures: &mut Figures) {
    let mut bird = receiver(lab);
    figures.add(BIRD_LIVE, transfer(sender, || bird.imported("session1") as usize));
    sender.ask("disable session1");
    drop(bird);
    let (speaker, admin) = speaker(lab);
    figures.add("from BIRD live: we, s", transfer(sender, || kept(&admin)));
    sender.ask("disable session1");
    drop(speaker);
}

/// What BIRD sent, at line speed: from the first UPDATE to the last best path.
fn replayed(lab: &Lab, file: &str, figures: &mut Figures) {
    let mut bird = receiver(lab);
    let mut replayer = Replayer::start(lab, file);
    until("the session", || bird.has_session().then_some(()));
    let start = replayer.go();
    until("the routes", || (bird.imported("session1") as usize == ROUTES).then_some(()));
    figures.add(BIRD_REPLAYED, start.elapsed().as_secs_f64());
    figures.add(BIRD_MEMORY, bird.process.memory_mb());
    drop((bird, replayer));

    let (speaker, admin) = speaker(lab);
    figures.add("we, idle, MB", speaker.memory_mb());
    let mut replayer = Replayer::start(lab, file);
    until("the session", || is_up(&admin).then_some(()));
    let (start, cpu) = (replayer.go(), speaker.cpu());
    until("the routes", || (kept(&admin) == ROUTES).then_some(()));
    figures.add("BIRD's UPDATEs at line speed: we, s", start.elapsed().as_secs_f64());
    figures.add("we, processor time for it, s", speaker.cpu() - cpu);
    figures.add("with them: we, MB", speaker.memory_mb());
}

fn is_up(socket: &Path) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"{\"topic\":\"sessions\"}\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.contains("Established")
}

const BIRD_LIVE: &str = "from BIRD live: BIRD, s";
const BIRD_REPLAYED: &str = "BIRD's UPDATEs at line speed: BIRD, s";
const BIRD_MEMORY: &str = "with them: BIRD, MB";

fn beside(what: &str) -> Option<String> {
    let other = match what {
        "from BIRD live: we, s" => BIRD_LIVE,
        "BIRD's UPDATEs at line speed: we, s" => BIRD_REPLAYED,
        "with them: we, MB" => BIRD_MEMORY,
        _ => return None,
    };
    Some(other.to_owned())
}

fn main() {
    if lab::replay::inside() {
        return;
    }
    if std::env::args().any(|argument| argument == "--feed") {
        return feed();
    }
    if !lab::is_bench() {
        return;
    }
    let mut figures = Figures::default();
    let lab = if wanted("replay") || wanted("live") { Lab::new("rib") } else { None };
    let mut sender = lab.as_ref().map(|lab| {
        let (mut sender, feeder) = loaded(lab);
        let file = lab.write("updates", "");
        if wanted("replay") {
            let mut recorder = recorder(lab, &file, ROUTES);
            sender.ask("enable session1");
            assert!(recorder.0.wait().unwrap().success(), "not recorded");
            sender.ask("disable session1");
        }
        (sender, feeder, file)
    });
    for _ in 0..lab::runs(1) {
        if wanted("table") {
            table(&mut figures);
        }
        if wanted("dump") {
            from_dump(&mut figures);
        }
        if let (Some(lab), Some((sender, _, file))) = (&lab, &mut sender) {
            if wanted("live") {
                live(lab, sender, &mut figures);
            }
            if wanted("replay") {
                replayed(lab, file, &mut figures);
            }
        }
    }
    figures.print(beside);
}
