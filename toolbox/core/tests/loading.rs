//! A table that threads make of rows at a start is the one that the rows make one by one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use cloakway_sim::{Rng, seeds};
use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv6Net};
use toolbox_core::{
    Answer, Cursor, Event, Interval, Loading, Question, RestoreError, Row, Rows, Settings, Sight, Table, Unknown,
};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

fn settings() -> Settings {
    let prefixes = ["198.51.100.0/24", "100.64.0.0/10", "2001:db8::/32"];
    Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(900),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    }
}

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

fn address(rng: &mut Rng) -> Address {
    let v4 = IpAddr::from([198, 51, 100, rng.between(0, 40) as u8]);
    match rng.between(0, 9) {
        0..4 => Address::whole(AddressKind::FramedV4, v4.into()),
        4 => {
            let length = rng.between(24, 31) as u8;
            Address::whole(AddressKind::Static, IpNet::new(v4, length).unwrap().trunc())
        }
        5..7 => {
            let first = rng.between(0, 63) as u16 * 1024;
            let ports = Ports::new(first, first + [511, 1023][rng.between(0, 1) as usize]).unwrap();
            Address::ports(AddressKind::PortBlock, v4, ports)
        }
        7 => Address::whole(AddressKind::FramedV4, IpAddr::from([203, 0, 113, 1]).into()),
        _ => {
            let prefix = (0x2001_0db8_u128 << 96) + (u128::from(rng.between(0, 20)) << 64);
            let length = [56, 60, 64][rng.between(0, 2) as usize];
            let net = Ipv6Net::new(prefix.into(), length).unwrap().trunc();
            Address::whole(AddressKind::DelegatedPrefixV6, net.into())
        }
    }
}

fn event(rng: &mut Rng, s: u64) -> Event {
    let nas = Nas { identifier: Some(format!("nas{}", rng.between(0, 2))), ..Nas::default() };
    let time = EventTime::stated(at(s), at(s));
    let record = if rng.chance(2) {
        Record::NasReset { nas, time }
    } else {
        Record::Session(SessionRecord {
            change: [Change::Start, Change::Interim, Change::Interim, Change::Stop][rng.between(0, 3) as usize],
            session: format!("s{}", rng.between(0, 30)),
            user: match rng.between(0, 5) {
                0 => User::Behind("198.51.100.7".parse().unwrap()),
                n => User::Named(format!("user{n}").parse().unwrap()),
            },
            nas,
            addresses: (0..rng.between(0, 3)).map(|_| address(rng)).collect(),
            time,
            until: rng.chance(10).then(|| at(s + 2000)),
        })
    };
    Event { source: Source::Radius, client: "edge".to_owned(), record, arrival: at(s) }
}

/// As threads do: each group of rows goes to one of the parts.
fn load(rows: &[Row], parts: usize, rng: &mut Rng) -> Result<(Table, Vec<Interval>), RestoreError> {
    let (loading, mut parts) = Loading::new(settings(), parts);
    let rows: Vec<Vec<u8>> = rows.iter().map(Row::encode).collect();
    let mut left: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    let mut first = 0;
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(rng.between(1, 20) as usize));
        let part = rng.between(0, parts.len() as u64 - 1) as usize;
        parts[part].take(first, &left)?;
        first += left.len() as u64;
        left = rest;
    }
    loading.finish(parts)
}

fn one_by_one(rows: &[Row]) -> (Table, Vec<Interval>) {
    let (mut table, mut ended) = (Table::new(settings()), Vec::new());
    let rows: Vec<Vec<u8>> = rows.iter().map(Row::encode).collect();
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    table.replay_all(&rows, |interval| ended.push(Interval::decode(interval).unwrap())).unwrap();
    (table, ended)
}

fn listed(table: &Table) -> Vec<Row> {
    let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
    loop {
        let some = table.list(&mut cursor, 7);
        if some.is_empty() {
            break;
        }
        rows.extend(some);
    }
    rows.sort_by(|one, other| (one.table, &one.key).cmp(&(other.table, &other.key)));
    rows
}

/// All that can be asked.
fn picture(table: &Table, now: Timestamp) -> Vec<String> {
    let mut lines: Vec<String> = table.bindings(now).map(|binding| format!("{binding:?}")).collect();
    lines.push(format!("{} of {}", table.open_sessions(), table.sessions()));
    let v4 = (0..=41).map(|n| IpAddr::from([198, 51, 100, n]));
    let v6 = (0..=21).map(|n| IpAddr::V6(((0x2001_0db8_u128 << 96) + (n << 64) + 1).into()));
    let glances = table.glances().unwrap();
    for address in v4.chain(v6) {
        for port in [None, Some(80), Some(1500), Some(5000), Some(65_535)] {
            let question = Question::new(address, port);
            lines.push(format!("{question:?} {:?}", table.lookup(question, now)));
            let answer = table.lookup(question, now);
            glances.find(question, now, |sight| match sight {
                Sight::Bound(seen) => {
                    assert!(matches!(&answer, Answer::Bound { subscriber, .. } if seen.is(subscriber.as_str())));
                }
                Sight::Nobody => assert_eq!(answer, Answer::Unknown(Unknown::NoSession)),
                Sight::Ask => {}
            });
        }
    }
    lines
}

/// What is forgotten, a few at a time.
fn forgotten(table: &mut Table, now: Timestamp) -> Vec<Row> {
    let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
    while let Some(some) = table.forget_some(now, &mut cursor, 3) {
        rows.extend(some);
    }
    rows
}

#[test]
fn what_is_forgotten_a_few_at_a_time_goes_a_quarter_of_the_age_later_at_most() {
    let sessions = |table: &Table| -> Vec<Vec<u8>> {
        let rows = listed(table).into_iter().filter(|row| row.table == Rows::Sessions);
        rows.map(|row| row.key).collect()
    };
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let (mut table, mut s) = (Table::new(settings()), 0);
        for _ in 0..rng.between(0, 300) {
            s += rng.between(0, 60);
            table.apply(&event(&mut rng, s));
            if rng.chance(10) {
                let (mut now, mut earlier) = (one_by_one(&listed(&table)).0, one_by_one(&listed(&table)).0);
                now.forget(at(s));
                earlier.forget(at(s.saturating_sub(226)));
                forgotten(&mut table, at(s));
                let left = sessions(&table);
                assert!(sessions(&now).iter().all(|of| left.contains(of)), "SIM_SEED={seed}: nobody goes early");
                assert!(
                    left.iter().all(|of| sessions(&earlier).contains(of)),
                    "SIM_SEED={seed}: nobody stays for long"
                );
            }
        }
        forgotten(&mut table, at(s + 10_000));
        assert_eq!(table.sessions(), 0, "SIM_SEED={seed}");
    }
}

#[test]
fn parts_make_the_table_that_the_rows_make_one_by_one() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let (mut table, mut rows, mut s) = (Table::new(settings()), Vec::new(), 0);
        for _ in 0..rng.between(0, 300) {
            s += rng.between(0, 20);
            rows.extend(table.apply(&event(&mut rng, s)).rows);
            if rng.chance(2) {
                rows.extend(table.forget(at(s)));
            }
        }
        let parts = rng.between(1, 4) as usize;
        let (mut loaded, ended) = load(&rows, parts, &mut rng).unwrap();
        let (mut expected, expected_ended) = one_by_one(&rows);
        assert_eq!(ended, expected_ended, "SIM_SEED={seed}");
        assert_eq!(listed(&loaded), listed(&expected), "SIM_SEED={seed}");
        assert_eq!(picture(&loaded, at(s)), picture(&expected, at(s)), "SIM_SEED={seed}");
        // Not only the answers: what is said next does the same to both.
        for _ in 0..100 {
            s += rng.between(0, 20);
            let event = event(&mut rng, s);
            assert_eq!(loaded.apply(&event), expected.apply(&event), "SIM_SEED={seed}");
            if rng.chance(5) {
                let (mut one, mut other) = (forgotten(&mut loaded, at(s)), forgotten(&mut expected, at(s)));
                one.sort_by(|a, b| a.key.cmp(&b.key));
                other.sort_by(|a, b| a.key.cmp(&b.key));
                assert_eq!(one, other, "SIM_SEED={seed}");
            }
        }
        assert_eq!(picture(&loaded, at(s)), picture(&expected, at(s)), "SIM_SEED={seed}");
    }
}

/// The rows of a session with so many addresses.
fn rows_of(session: &str, addresses: u64, s: u64) -> Vec<Row> {
    let mut table = Table::new(settings());
    let prefix = |n: u64| Ipv6Net::new(((0x2001_0db8_u128 << 96) + (u128::from(n) << 64)).into(), 64).unwrap();
    let record = SessionRecord {
        change: Change::Start,
        session: session.to_owned(),
        user: User::Named("alice".parse().unwrap()),
        nas: Nas::default(),
        addresses: (0..addresses).map(|n| Address::whole(AddressKind::DelegatedPrefixV6, prefix(n).into())).collect(),
        time: EventTime::stated(at(s), at(s)),
        until: None,
    };
    let event =
        Event { source: Source::Radius, client: "edge".into(), record: Record::Session(record), arrival: at(s) };
    table.apply(&event).rows
}

#[test]
fn sessions_that_are_too_long_for_the_arena_come_and_go_in_their_order() {
    let gone = |rows: &[Row]| Row { value: None, ..rows[0].clone() };
    let (long, short) = (rows_of("s", 9000, 1), rows_of("s", 2, 2));
    let (other, others) = (rows_of("t", 9000, 1), rows_of("u", 3, 1));
    let orders: [Vec<Row>; 6] = [
        [&long[..], &short].concat(),
        [&short[..], &long].concat(),
        [&short[..], &[gone(&short)], &others].concat(),
        [&long[..], &[gone(&long)], &short].concat(),
        [&other[..], &long, &[gone(&long)], &others].concat(),
        [&short[..], &long, &short, &other].concat(),
    ];
    for (n, rows) in orders.iter().enumerate() {
        for seed in 0..2 {
            let (loaded, _) = load(rows, 2, &mut Rng::new(seed)).unwrap();
            let (expected, _) = one_by_one(rows);
            assert_eq!(listed(&loaded), listed(&expected), "{n}");
            assert_eq!(loaded.sessions(), expected.sessions(), "{n}");
            for prefix in [0_u128, 1, 2, 8999, 9000] {
                let address = IpAddr::V6(((0x2001_0db8_u128 << 96) + (prefix << 64) + 1).into());
                assert_eq!(loaded.lookup(address, at(3)), expected.lookup(address, at(3)), "{n}");
            }
        }
    }
}

#[test]
fn a_row_that_does_not_read_back_is_refused_whichever_part_takes_it() {
    let mut rows = rows_of("s", 2, 1);
    rows.push(Row { table: Rows::Sessions, key: rows[0].key.clone(), value: Some(vec![9, 9, 9]) });
    assert!(load(&rows, 2, &mut Rng::new(1)).is_err());
    rows.pop();
    rows.push(Row { table: Rows::Sessions, key: vec![1], value: None });
    assert!(load(&rows, 3, &mut Rng::new(1)).is_err());
}
