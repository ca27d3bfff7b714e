//! A full table's UPDATEs, read by our decoder, by netgauze-bgp-pkt's and by bgpkit-parser's.
//!
//! `cargo bench -p bgp-wire --bench decode`. A million routes in 176 000 attribute sets, 18 MB, from a fixed seed; each
//! decoder reads all of them, in turn, and the best and the median of RUNS (5) count, in time of one core.
//!
//! Sketch: 1e6 routes / 1e7 per second = 0.1 s; 176e3 messages, so 0.57 µs a message: four or five attributes and some
//! six prefixes. Five allocations a message are what that leaves room for.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use bgp_wire::{AsPath, Asn, Attributes, Community, Context, LargeCommunity, Message, Origin, announce_v4};
use bgpkit_parser::models::{AsnLength, BgpMessage as Bgpkit};
use bgpkit_parser::parser::bgp::parse_bgp_message;
use cloakway_sim::Rng;
use ipnet::Ipv4Net;
use netgauze_bgp_pkt::BgpMessage as Netgauze;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

const ROUTES: usize = 1_000_000;
const SETS: usize = 176_000;

/// The messages, as a session's stream would hold them.
fn table() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    let mut messages = Vec::with_capacity(SETS);
    let mut next = 0x0100_0000_u32;
    let mut routes = 0;
    for set in 0..SETS {
        let left = SETS - set;
        // Most sets have a few routes, some have dozens.
        let fair = (ROUTES - routes) / left;
        let many =
            if left == 1 { ROUTES - routes } else { usize::try_from(rng.between(1, 2 * fair as u64 - 1)).unwrap() };
        routes += many;
        let path: Vec<Asn> = (0..rng.between(2, 6)).map(|_| Asn(rng.between(1, 400_000) as u32)).collect();
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(path)),
            multi_exit_disc: rng.chance(30).then(|| rng.between(0, 200) as u32),
            communities: (0..rng.between(0, 8)).map(|_| Community(rng.next_u64() as u32)).collect(),
            large_communities: (0..rng.between(0, 5) / 4).map(|n| LargeCommunity(64500, n as u32, 1)).collect(),
            ..Attributes::default()
        };
        let prefixes = (0..many).map(|_| {
            let length = if rng.chance(60) { 24 } else { rng.between(16, 23) as u8 };
            let prefix = Ipv4Net::new(Ipv4Addr::from(next), length).unwrap().trunc();
            next = u32::from(prefix.broadcast()).wrapping_add(1);
            // Wrap around before the groups.
            if next > 0xdf00_0000 {
                next = 0x0100_0000;
            }
            prefix
        });
        let updates = announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, Context::default()).unwrap();
        messages.extend(updates.into_iter().map(|update| Message::Update(update).encode(Context::default()).unwrap()));
    }
    messages
}

fn ours(messages: &[Vec<u8>]) -> usize {
    let mut routes = 0;
    for message in messages {
        let Ok(Message::Update(update)) = Message::decode(message, Context::default()) else { panic!() };
        routes += black_box(update).announced.len();
    }
    routes
}

fn netgauze(messages: &[Vec<u8>]) -> usize {
    let mut context = BgpParsingContext::default();
    let mut routes = 0;
    for message in messages {
        let Ok(Netgauze::Update(update)) = Netgauze::parse(&mut SliceReader::new(message), &mut context) else {
            panic!()
        };
        routes += black_box(update).nlri().len();
    }
    routes
}

fn bgpkit(messages: &[bytes::Bytes]) -> usize {
    let mut routes = 0;
    for message in messages {
        let mut message = message.clone();
        let Ok(Bgpkit::Update(update)) = parse_bgp_message(&mut message, false, &AsnLength::Bits32) else { panic!() };
        routes += black_box(update).announced_prefixes.len();
    }
    routes
}

/// What this thread has had of a core: others on the machine do not count.
fn on_core() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(said.split(' ').next().unwrap().parse().unwrap())
}

fn time(read: impl FnOnce() -> usize) -> Duration {
    let began = on_core();
    assert_eq!(read(), ROUTES);
    on_core() - began
}

fn main() {
    let runs = std::env::var("RUNS").ok().map_or(5, |text| text.parse().unwrap());
    let messages = table();
    let shared: Vec<_> = messages.iter().cloned().map(bytes::Bytes::from).collect();
    let octets: usize = messages.iter().map(Vec::len).sum();
    println!("{} messages, {ROUTES} routes, {:.1} MB", messages.len(), octets as f64 / 1e6);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..runs {
        times[0].push(time(|| ours(&messages)));
        times[1].push(time(|| netgauze(&messages)));
        times[2].push(time(|| bgpkit(&shared)));
    }
    for took in &mut times {
        took.sort();
    }
    let ours = times[0][0].as_secs_f64();
    for (name, took) in ["bgp-wire", "netgauze-bgp-pkt", "bgpkit-parser"].iter().zip(&times) {
        let (best, median) = (took[0].as_secs_f64(), took[runs / 2].as_secs_f64());
        println!(
            "{name:16} best {best:.3} s, median {median:.3} s, {:.1} M routes/s, {:.2} of ours",
            ROUTES as f64 / best / 1e6,
            best / ours
        );
    }
}
