//! What readers see beside the writer: never one of two who claim an address, however either of them changes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cloakway_sim::{Rng, seeds};
use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_core::{Event, Glances, Question, Settings, Sight, Table};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, FOREVER, Nas, Ports, Record, SessionRecord, User};

const ROUNDS: u64 = 5_000;

fn table() -> Table {
    let prefixes = ["198.51.100.0/24", "100.64.0.0/10"];
    Table::new(Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(100_000_000),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    })
}

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

fn whole(text: &str) -> Address {
    Address::whole(AddressKind::FramedV4, text.parse::<IpNet>().unwrap())
}

fn tell(table: &mut Table, session: &str, user: User, addresses: Vec<Address>, s: u64) {
    say(table, Change::Interim, session, user, addresses, s);
}

fn say(table: &mut Table, change: Change, session: &str, user: User, addresses: Vec<Address>, s: u64) {
    let (arrival, client) = (at(s), "nas".to_owned());
    let time = EventTime::ordered(arrival);
    let (session, nas) = (session.to_owned(), Nas::default());
    let record = SessionRecord { change, session, user, nas, addresses, time, until: Some(FOREVER) };
    table.apply(&Event { source: Source::Dhcp, client, record: Record::Session(record), arrival });
}

fn named(name: &str) -> User {
    User::Named(name.parse().unwrap())
}

/// Asks again and again while `write` runs `ROUNDS` times; gives how often each of `names` was the answer, and how often it
/// was somebody else.
fn beside(table: &mut Table, question: Question, names: [&str; 2], mut write: impl FnMut(&mut Table, u64)) -> [u64; 3] {
    let glances: Glances = table.glances().unwrap();
    let (end, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = [0; 3];
            let mut count = |sight: Sight<'_>| {
                if let Sight::Bound(who) = sight {
                    seen[names.iter().position(|name| who.is(name)).unwrap_or(2)] += 1;
                }
            };
            while !end.load(Ordering::Relaxed) {
                glances.find(question, at(0), &mut count);
                glances.find_each(&[question; 100], at(0), |_, sight| count(sight));
                begun.fetch_add(1, Ordering::Relaxed);
            }
            seen
        });
        while begun.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        for round in 1..=ROUNDS {
            write(table, round);
        }
        end.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    })
}

#[test]
fn nobody_is_seen_at_an_address_that_two_claim_while_one_of_them_changes() {
    let mut table = table();
    tell(&mut table, "one", named("alice"), vec![whole("198.51.100.7/32")], 0);
    tell(&mut table, "two", named("bob"), vec![whole("198.51.100.7/32")], 0);
    let question = Question::new("198.51.100.7".parse::<IpAddr>().unwrap(), None);
    let seen = beside(&mut table, question, ["alice", "bob"], |table, round| {
        // Another address beside it comes and goes, so that what is stored is taken out and put in anew.
        let mut addresses = vec![whole("198.51.100.7/32")];
        if round % 2 == 0 {
            addresses.push(whole("198.51.100.8/32"));
        }
        tell(table, "one", named("alice"), addresses, round);
    });
    assert_eq!(seen, [0, 0, 0]);
}

#[test]
fn who_is_alone_at_an_address_is_seen_there_while_others_move() {
    let mut table = table();
    tell(&mut table, "one", named("alice"), vec![whole("198.51.100.7/32")], 0);
    let question = Question::new("198.51.100.7".parse::<IpAddr>().unwrap(), Some(4500));
    let seen = beside(&mut table, question, ["alice", "bob"], |table, round| {
        let block = Ports::new(4096, 4351 + (round % 3) as u16 * 256).unwrap();
        let other = Address::ports(AddressKind::PortBlock, "198.51.100.8".parse().unwrap(), block);
        tell(table, "two", named("bob"), vec![other], round);
        tell(table, "one", named("alice"), vec![whole("198.51.100.7/32")], round);
    });
    assert_eq!(seen[1..], [0, 0], "{seen:?}");
    assert!(seen[0] > 0, "{seen:?}");
}

#[test]
fn who_comes_while_another_has_the_prefix_around_him_is_seen_by_nobody() {
    let mut table = table();
    let question = Question::new("198.51.100.7".parse::<IpAddr>().unwrap(), None);
    let seen = beside(&mut table, question, ["alice", "bob"], |table, round| {
        let around = Address { kind: AddressKind::Static, ..whole(&format!("198.51.100.0/{}", 24 + round % 5)) };
        let of = [(Change::Start, "two", "bob", around), (Change::Start, "one", "alice", whole("198.51.100.7/32"))];
        for (n, (change, session, user, address)) in (0..).zip(of) {
            say(table, change, session, named(user), vec![address], 10 * round + n);
        }
        for (n, (_, session, user, address)) in (2..).zip(of.into_iter().rev()) {
            say(table, Change::Stop, session, named(user), vec![address], 10 * round + n);
        }
    });
    assert_eq!((seen[0], seen[2]), (0, 0), "{seen:?}");
}

/// Who is seen; none: nobody or the table has to be asked.
fn sight(table: &Table, address: &str, port: Option<u16>) -> Result<String, &'static str> {
    let question = Question::new(address.parse().unwrap(), port);
    table.glances().unwrap().find(question, at(5), |sight| match sight {
        Sight::Bound(seen) => {
            assert!(seen.live().is_some());
            Ok(seen.subscriber().to_owned())
        }
        Sight::Nobody => Err("nobody"),
        Sight::Ask => Err("ask"),
    })
}

#[test]
fn a_translation_is_answered_for_beside_port_blocks_and_a_shared_address_only_with_a_port() {
    let mut table = table();
    let block = |first, last| {
        Address::ports(AddressKind::PortBlock, "198.51.100.8".parse().unwrap(), Ports::new(first, last).unwrap())
    };
    tell(&mut table, "in", named("alice"), vec![whole("100.64.0.7/32")], 0);
    tell(&mut table, "nat", User::Behind("100.64.0.7".parse().unwrap()), vec![block(1024, 2047)], 1);
    tell(&mut table, "block", named("bob"), vec![block(4096, 4607)], 1);
    tell(&mut table, "whole", named("carol"), vec![whole("198.51.100.9/32")], 1);
    assert_eq!(sight(&table, "198.51.100.8", Some(1500)).as_deref(), Ok("alice"));
    assert_eq!(sight(&table, "198.51.100.8", Some(4100)).as_deref(), Ok("bob"));
    assert_eq!(sight(&table, "198.51.100.8", Some(3000)), Err("nobody"));
    assert_eq!(sight(&table, "198.51.100.8", None), Err("ask"));
    for port in [None, Some(1500)] {
        assert_eq!(sight(&table, "198.51.100.9", port).as_deref(), Ok("carol"), "in the midst of shared addresses");
        assert_eq!(sight(&table, "100.64.0.7", port).as_deref(), Ok("alice"));
        assert_eq!(sight(&table, "198.51.100.10", port), Err("nobody"));
    }
    // The address is one subscriber's again when the last of its ports is given back.
    say(&mut table, Change::Stop, "nat", User::Unstated, vec![], 2);
    assert_eq!(sight(&table, "198.51.100.8", Some(1500)), Err("nobody"));
    assert_eq!(sight(&table, "198.51.100.8", None), Err("ask"));
    tell(
        &mut table,
        "block",
        named("bob"),
        vec![Address { kind: AddressKind::PortBlock, ..whole("198.51.100.8/32") }],
        3,
    );
    assert_eq!(sight(&table, "198.51.100.8", Some(4100)).as_deref(), Ok("bob"));
    let list: Vec<Question> = (0..100).map(|n| Question::new(IpAddr::from([198, 51, 100, n]), Some(9))).collect();
    let mut seen = Vec::new();
    table.glances().unwrap().find_each(&list, at(5), |n, sight| {
        if let Sight::Bound(who) = sight {
            seen.push((n, who.subscriber().to_owned()));
        }
    });
    assert_eq!(seen, [(8, "bob".to_owned()), (9, "carol".to_owned())]);
}

#[test]
fn of_a_list_each_is_answered_as_by_itself_and_in_its_order() {
    for seed in seeds(30) {
        let mut rng = Rng::new(seed);
        let mut table = table();
        for n in 0..rng.between(1, 400) {
            let address = |rng: &mut Rng| IpAddr::from([198, 51, 100, rng.between(0, 60) as u8]);
            let length = if rng.chance(10) { rng.between(24, 31) } else { 32 } as u8;
            let first = rng.between(0, 63) as u16 * 1024;
            let some = Ports::new(first, first + [0, 255, 511, 1023][rng.between(0, 3) as usize]).unwrap();
            let claimed = match rng.between(0, 9) {
                0..5 => Address::whole(AddressKind::Static, IpNet::new(address(&mut rng), length).unwrap().trunc()),
                5..9 => Address::ports(AddressKind::PortBlock, address(&mut rng), some),
                _ => whole("100.64.0.7/32"),
            };
            let user = match rng.between(0, 9) {
                0 => User::Behind("100.64.0.7".parse().unwrap()),
                1 => User::Unstated,
                n => named(&format!("user{}", n % 4)),
            };
            let session = format!("s{}", rng.between(0, 200));
            let change = if rng.chance(25) { Change::Stop } else { Change::Interim };
            say(&mut table, change, &session, user, vec![claimed], n);
        }
        let list: Vec<Question> = (0..rng.between(0, 500))
            .map(|_| {
                let port = rng.chance(70).then(|| rng.between(0, 65_535) as u16);
                let address: IpAddr = match rng.between(0, 9) {
                    0 => [100, 64, 0, 7].into(),
                    1 => "::ffff:198.51.100.7".parse().unwrap(),
                    2 => "2001:db8::1".parse().unwrap(),
                    _ => [198, 51, 100, rng.between(0, 62) as u8].into(),
                };
                Question { address, port, protocol: rng.chance(20).then_some(17) }
            })
            .collect();
        let glances = table.glances().unwrap();
        let told = |sight: Sight<'_>| match sight {
            Sight::Bound(seen) => format!("{} {:?}", seen.subscriber(), seen.live()),
            other => format!("{other:?}"),
        };
        let mut together = Vec::new();
        glances.find_each(&list, at(500), |n, sight| {
            assert_eq!(n, together.len());
            together.push(told(sight));
        });
        let alone: Vec<String> = list.iter().map(|question| glances.find(*question, at(500), told)).collect();
        assert_eq!(together, alone, "SIM_SEED={seed}");
    }
}
