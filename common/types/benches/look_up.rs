//! Whose an address is, in a map of 1 M IPv4 prefixes: building it, and look-ups on one core.
//!
//! `cargo bench -p cloakway-types --bench look_up`. RUNS=9 repeats the look-ups that often, 5 unless given; best and median
//! are shown. Prefixes and addresses are made from a seed. "Any": evenly from the part of the address space that the table
//! covers. "Held": in prefixes that are there, each as likely as another. "Popular": of 20 000 of those, the first a lot more
//! often than the last (Zipf), as clients of a service come.
//!
//! Sketch: two loads that miss the nearer caches, 10 to 40 ns each; nothing waits for another address's: > 25 M/s.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use cloakway_types::AddressMapBuilder;
use ipnet::{IpNet, Ipv4Net};

const PREFIXES: usize = 1_000_000;
const ORIGINS: u64 = 80_000;
const LOOK_UPS: usize = 1 << 20;
const POPULAR: usize = 20_000;

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

/// Seconds that this process has had of a processor: what others take of it is not ours.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    let mut numbers = Numbers(1);
    let mut prefixes: Vec<Ipv4Net> = Vec::with_capacity(PREFIXES);
    let mut at: u32 = 0x0100_0000;
    // As the unicast space is: four in five of its /24s belong to some prefix, most of which are /24s themselves.
    while prefixes.len() < PREFIXES {
        let bits = match numbers.below(20) {
            0..=11 => 24,
            12..=14 => 23,
            15..=17 => 22,
            18 => 20,
            _ => 19,
        };
        let size = 1_u32 << (32 - bits);
        at = at.next_multiple_of(size);
        prefixes.push(Ipv4Net::new(at.into(), bits).unwrap());
        if bits < 22 && prefixes.len() < PREFIXES {
            prefixes.push(Ipv4Net::new((at + 256).into(), 24).unwrap());
        }
        at += size + 256 * numbers.below(3) as u32;
    }
    let mut builder = AddressMapBuilder::default();
    let start = Instant::now();
    for prefix in &prefixes {
        builder.push(IpNet::V4(*prefix), numbers.below(ORIGINS) as u32);
    }
    let map = builder.build(|first, _| first);
    println!(
        "{} prefixes from 1.0.0.0 to {}: built in {:.3} s, {:.1} MB",
        map.len(),
        Ipv4Addr::from(at),
        start.elapsed().as_secs_f64(),
        map.octets() as f64 / 1e6
    );
    let inside = |numbers: &mut Numbers| {
        let prefix = prefixes[numbers.below(PREFIXES as u64) as usize];
        let offset = numbers.below(1 << (32 - prefix.prefix_len())) as u32;
        IpAddr::V4(Ipv4Addr::from(u32::from(prefix.addr()) + offset))
    };
    let known: Vec<IpAddr> = (0..POPULAR).map(|_| inside(&mut numbers)).collect();
    let any = |numbers: &mut Numbers| {
        IpAddr::V4(Ipv4Addr::from(0x0100_0000 + numbers.below(u64::from(at - 0x0100_0000)) as u32))
    };
    let popular = |numbers: &mut Numbers| {
        // The rank of a Zipf distribution with exponent 1, by its inverse: POPULAR^u.
        let share = numbers.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        known[(POPULAR as f64).powf(share) as usize % POPULAR]
    };
    let of = |choose: &dyn Fn(&mut Numbers) -> IpAddr, numbers: &mut Numbers| -> Vec<IpAddr> {
        (0..LOOK_UPS).map(|_| choose(numbers)).collect()
    };
    let kinds =
        [("any", of(&any, &mut numbers)), ("held", of(&inside, &mut numbers)), ("popular", of(&popular, &mut numbers))];
    for (kind, addresses) in kinds {
        let mut rates: Vec<f64> = (0..runs)
            .map(|_| {
                let start = processor_time();
                let found = addresses.iter().filter(|address| map.find(**address).is_some()).count();
                black_box(found);
                LOOK_UPS as f64 / (processor_time() - start) / 1e6
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        println!("{kind} addresses: best {:.1}, median {:.1} M look-ups/s a core", rates[runs - 1], rates[runs / 2]);
    }
}
