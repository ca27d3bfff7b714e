//! Routes of peers: decoding, keeping and looking up a full table, loading a dump, and a full table from BIRD beside
//! BIRD as the receiver of the same, over one veth between two namespaces.
//!
//! `cargo bench -p bgp --bench rib`; the part with BIRD takes root, `bird` and `ip`, and is skipped aloud without. RUNS=3
//! repeats everything. The table is made from a seed: 1 M IPv4 prefixes of 18 to 24 bits, 176 k attribute sets.
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

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp_rib::{Import, PeerSettings, Rib, Settings};
use bgp_wire::{
    AsPath, Asn, Attributes, Bulk, Community, Context, Family, Framer, HoldTime, Message, Open, Origin, RouterId,
    Update,
};
use facilitation::dump::read_rib;
use flate2::Compression;

const SENDER: &str = "rib-sender";
const RECEIVER: &str = "rib-receiver";
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

fn in_process() {
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
    println!(
        "decode {} MB, {} messages: {took:.3} s, {:.1} M routes/s a core",
        stream.len() >> 20,
        frames.len(),
        routes as f64 / took / 1e6
    );

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
    let before = memory_mb("self");
    let start = Instant::now();
    for frame in &frames {
        if let Ok(Message::Update(update)) = Message::decode(frame, context) {
            rib.apply(peer, update);
        }
    }
    let took = start.elapsed().as_secs_f64();
    assert_eq!((rib.prefixes(Family::Ipv4), rib.attribute_sets()), (ROUTES, SETS));
    println!("decode and keep, best path chosen: {took:.3} s, {:.1} MB", memory_mb("self") - before);

    let mut numbers = Numbers(3);
    let addresses: Vec<IpAddr> =
        (0..1 << 20).map(|_| IpAddr::V4(Ipv4Addr::from(0x0100_0000 + numbers.below(0x3000_0000) as u32))).collect();
    let start = Instant::now();
    let found = addresses.iter().filter(|address| rib.origin(**address).is_some()).count();
    let took = start.elapsed().as_secs_f64();
    println!("look-ups in the live table: {:.1} M/s a core ({found} found)", addresses.len() as f64 / took / 1e6);
    let start = Instant::now();
    rib.peer_lost(peer);
    println!("the peer lost, all taken out: {:.3} s", start.elapsed().as_secs_f64());
    drop(rib);

    let dump = dump();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&dump).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bzip2.write_all(&dump).unwrap();
    let mut map = None;
    for (name, bytes) in [("plain", &dump), ("gzip", &gzip.finish().unwrap()), ("bzip2", &bzip2.finish().unwrap())] {
        let start = Instant::now();
        let rib = read_rib(bytes.as_slice()).unwrap();
        println!(
            "MRT of {} entries, {name}, {:.1} MB: loaded in {:.3} s, {:.1} MB kept",
            rib.len(),
            bytes.len() as f64 / 1e6,
            start.elapsed().as_secs_f64(),
            rib.octets() as f64 / 1e6
        );
        map = Some(rib);
    }
    let map = map.unwrap();
    let start = Instant::now();
    let mut found = 0;
    for _ in 0..16 {
        found += addresses.iter().filter(|address| map.find(**address).is_some()).count();
    }
    let took = start.elapsed().as_secs_f64();
    let count = 16 * addresses.len();
    println!("look-ups in it, random addresses: {:.1} M/s a core ({found} found)", count as f64 / took / 1e6);
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
            format!("ip link add rib0 netns {SENDER} type veth peer name rib1 netns {RECEIVER}"),
            format!("ip -n {SENDER} addr add 192.0.2.1/30 dev rib0"),
            format!("ip -n {RECEIVER} addr add 192.0.2.2/30 dev rib1"),
            format!("ip -n {SENDER} link set rib0 up"),
            format!("ip -n {SENDER} link set lo up"),
            format!("ip -n {RECEIVER} link set rib1 up"),
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

fn memory_mb(pid: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// A process in a namespace, killed when dropped.
struct Process(Child);

impl Process {
    fn spawn(namespace: &str, words: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(words);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Resident memory, in MB. `ip netns exec` becomes the program, so the child is it.
    fn memory_mb(&self) -> f64 {
        memory_mb(&self.0.id().to_string())
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
        std::thread::sleep(Duration::from_millis(1));
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
        let words = ["bird", "-f", "-c", file.to_str().unwrap(), "-s", socket.to_str().unwrap()];
        let process = Process::spawn(namespace, &words);
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

    fn routes(&mut self) -> usize {
        let text = self.ask("show route table master4 count");
        let count = text.split(" of ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    fn has_session(&mut self) -> bool {
        self.ask("show protocols session1").contains("Established")
    }
}

/// Runs inside the sender's namespace: tells BIRD the table, and keeps the session until it is killed.
fn feed() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.2:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&"127.0.0.1:179".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let mut stream: TcpStream = socket.into();
    let context = Context { external: true, ..Context::default() };
    let open = Open::new(
        Asn(FEEDER_AS),
        HoldTime::from_secs(0).unwrap(),
        RouterId::new([127, 0, 0, 2].into()).unwrap(),
        [Family::Ipv4],
    );
    stream.write_all(&Message::Open(open).encode(context).unwrap()).unwrap();
    stream.write_all(&Message::KeepAlive.encode(context).unwrap()).unwrap();
    let (mut framer, mut up) = (Framer::default(), false);
    while !up {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "BIRD hung up");
        framer.push(&bytes[..count]);
        while let Some(frame) = framer.next_frame().unwrap() {
            up |= Message::decode(frame, context).unwrap() == Message::KeepAlive;
        }
    }
    stream.write_all(&self::stream(context)).unwrap();
    stream.write_all(&Message::Update(Update::end_of_rib(Family::Ipv4)).encode(context).unwrap()).unwrap();
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

const SENDER_CONFIG: &str = "router id 192.0.2.1;\nprotocol device {}\nprotocol direct { ipv4; }\n\
protocol bgp feeder {\n local 127.0.0.1 as 64500;\n neighbor 127.0.0.2 as 64502;\n multihop;\n passive on;\n hold time 0;\n ipv4 { import all; export none; };\n}\n\
protocol bgp session1 {\n disabled;\n local 192.0.2.1 as 64500;\n neighbor 192.0.2.2 as 64500;\n connect delay time 1;\n hold time 90;\n ipv4 { import none; export where source = RTS_BGP; next hop self; };\n}\n";
const RECEIVER_CONFIG: &str = "router id 192.0.2.2;\nprotocol device {}\nprotocol bgp session1 {\n local 192.0.2.2 as 64500;\n neighbor 192.0.2.1 as 64500;\n passive on;\n hold time 90;\n ipv4 { import all; export none; };\n}\n";

/// Seconds from BIRD's session to the last route, as `count` sees it, and the receiver's memory.
fn transfer(sender: &mut Bird, mut count: impl FnMut() -> usize, memory: impl Fn() -> f64) -> (f64, f64) {
    sender.ask("enable session1");
    until("BIRD's session", || sender.has_session().then_some(()));
    let start = Instant::now();
    until("the routes", || (count() == ROUTES).then_some(()));
    let took = start.elapsed().as_secs_f64();
    let memory = memory();
    sender.ask("disable session1");
    (took, memory)
}

/// Prefixes that the speaker keeps, by `show rib`.
fn kept(socket: &PathBuf) -> usize {
    let Ok(mut stream) = UnixStream::connect(socket) else { return 0 };
    stream.write_all(b"{\"topic\":\"rib\"}\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let count = text.split("\"ipv4_prefixes\":").nth(1).and_then(|rest| rest.split(',').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

fn beside_bird(folder: &Path) {
    let mut sender = Bird::start(SENDER, folder, "sender", SENDER_CONFIG);
    let bench = std::env::current_exe().unwrap();
    let _feeder = Process::spawn(SENDER, &[bench.to_str().unwrap(), "--feed"]);
    until("BIRD's table", || (sender.routes() >= ROUTES).then_some(()));

    let receiver = Bird::start(RECEIVER, folder, "receiver", RECEIVER_CONFIG);
    let pid = receiver.process.0.id().to_string();
    let mut asked = receiver;
    let (bird, bird_mb) = transfer(&mut sender, || asked.routes(), || memory_mb(&pid));
    drop(asked);

    let admin = folder.join("admin");
    let text = format!(
        "admin-socket = {admin:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.2\"\nlisten = [\"192.0.2.2:179\"]\n\
         [[peers]]\nname = \"bird\"\nremote-as = 64500\naddress = \"192.0.2.1\"\nhold-time-s = 90\npassive = true\n\
         import = \"all\"\n[rib]\n"
    );
    let config = folder.join("speaker.toml");
    std::fs::write(&config, text).unwrap();
    let words = [env!("CARGO_BIN_EXE_bgp-speaker"), "run", "--config", config.to_str().unwrap()];
    let speaker = Process::spawn(RECEIVER, &words);
    until("the admin socket", || UnixStream::connect(&admin).ok());
    let idle = speaker.memory_mb();
    let (ours, ours_mb) = transfer(&mut sender, || kept(&admin), || speaker.memory_mb());
    println!("full table from BIRD: BIRD {bird:.3} s, {bird_mb:.0} MB");
    println!(
        "full table from BIRD: we {ours:.3} s, {ours_mb:.0} MB ({idle:.0} MB idle): {:.2} of BIRD's time, {:.2} of its memory",
        ours / bird,
        ours_mb / bird_mb
    );
}

fn main() {
    if std::env::args().any(|argument| argument == "--feed") {
        return feed();
    }
    // `cargo test` runs benches too, to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    let namespaces = (run("ip -V") && run("bird --version")).then(Namespaces::new).flatten();
    if namespaces.is_none() {
        println!("skipped beside BIRD: this takes root, iproute2 and BIRD 2");
    }
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..runs {
        in_process();
        if namespaces.is_some() {
            beside_bird(folder.path());
        }
    }
}
