//! Who was at an address at a moment.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use toolbox_core::{Answer, Event, Interval, Moment, Past, Question, Rows, Settings, Table, Unknown};
use toolbox_wire::http::{Reason, Source};
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, FOREVER, Nas, Ports, Record, SessionRecord, User};

const A: &str = "198.51.100.70";
const INSIDE: &str = "100.64.0.5";
const MAX_AGE: u64 = 1800;
const DELAY: u64 = 20;

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn named(name: &str) -> User {
    User::Named(name.parse().unwrap())
}

fn settings() -> Settings {
    let prefixes = ["198.51.100.64/26", "100.64.0.0/10"];
    Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(MAX_AGE),
        max_delay: Duration::from_secs(DELAY),
        translators: Vec::new(),
    }
}

/// Everything that came to an end.
#[derive(Default)]
struct Shelf(Vec<Interval>);

impl Past for Shelf {
    type Error = Infallible;

    fn intervals(&self, _: IpAddr, _: Timestamp) -> Result<Vec<Interval>, Infallible> {
        Ok(self.0.clone())
    }

    fn horizon(&self) -> Timestamp {
        at(0)
    }
}

struct Bench {
    table: Table,
    shelf: Shelf,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        Self { table: Table::new(settings()), shelf: Shelf::default(), now: at(0) }
    }

    fn event(&mut self, source: Source, record: Record, arrival: Timestamp) {
        self.now = self.now.max(arrival);
        let event = Event { source, client: "edge".to_owned(), record, arrival };
        let rows = self.table.apply(&event).rows;
        self.keep(rows);
    }

    fn keep(&mut self, rows: Vec<toolbox_core::Row>) {
        let history = rows.into_iter().filter(|row| row.table == Rows::History);
        self.shelf.0.extend(history.map(|row| Interval::decode(&row.value.unwrap()).unwrap()));
    }

    fn record(change: Change, session: &str, user: User, addresses: Vec<Address>, time: EventTime) -> Record {
        let nas = Nas { identifier: Some("edge".to_owned()), ..Nas::default() };
        let until = None;
        Record::Session(SessionRecord { change, session: session.to_owned(), user, nas, addresses, time, until })
    }

    /// A record with the NAS's time `s`, which arrives a second later.
    fn radius(&mut self, change: Change, session: &str, user: &str, address: &str, s: u64) {
        self.radius_late(change, session, user, address, s, s + 1);
    }

    fn radius_late(&mut self, change: Change, session: &str, user: &str, address: &str, s: u64, arrival: u64) {
        let address = Address::whole(AddressKind::FramedV4, ip(address).into());
        let time = EventTime::stated(at(s), at(arrival));
        self.event(Source::Radius, Self::record(change, session, named(user), vec![address], time), at(arrival));
    }

    fn was(&self, question: impl Into<Question>, s: u64) -> Result<String, Unknown> {
        match self.table.lookup_at(question, at(s), self.now, &self.shelf).unwrap() {
            Answer::Bound { subscriber, .. } => Ok(subscriber.to_string()),
            Answer::Unknown(why) => Err(why),
            Answer::NotOurs => panic!("one of ours"),
        }
    }

    fn forget(&mut self, s: u64) {
        self.now = at(s);
        let rows = self.table.forget(at(s));
        self.keep(rows);
    }
}

#[test]
fn a_restart_says_nothing_of_a_session_that_was_silent_for_so_long_that_it_could_have_been_forgotten() {
    for forgets in [false, true] {
        let mut bench = Bench::new();
        bench.radius(Change::Start, "s1", "alice", A, 100);
        bench.radius(Change::Interim, "s1", "alice", A, 700);
        bench.radius(Change::Start, "s2", "bob", A, 6000);
        bench.radius(Change::Stop, "s2", "bob", A, 7000);
        if forgets {
            bench.forget(8000);
        }
        let nas = Nas { identifier: Some("edge".to_owned()), ..Nas::default() };
        let record = Record::NasReset { nas, time: EventTime::stated(at(9000), at(9001)) };
        bench.event(Source::Radius, record, at(9001));
        assert_eq!(bench.was(ip(A), 650), Ok("alice".into()), "{forgets}");
        assert_eq!(bench.was(ip(A), 701 + MAX_AGE), Err(Unknown::Unproved), "{forgets}");
        assert_eq!(bench.was(ip(A), 702 + MAX_AGE), Err(Unknown::NoSession), "{forgets}");
        assert_eq!(bench.was(ip(A), 6500), Ok("bob".into()), "{forgets}");
    }
}

#[test]
fn each_subscriber_of_an_address_is_found_in_his_time_and_nobody_between() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.radius(Change::Interim, "s1", "alice", A, 700);
    bench.radius(Change::Stop, "s1", "alice", A, 1000);
    bench.radius(Change::Start, "s2", "bob", A, 2000);
    bench.radius(Change::Stop, "s2", "bob", A, 3000);
    bench.now = at(5000);
    // The Stop was sent at 1001: it may have been made twenty seconds before.
    for s in [101, 500, 1001 - DELAY] {
        assert_eq!(bench.was(ip(A), s), Ok("alice".into()), "{s}");
    }
    for s in [2001, 2900] {
        assert_eq!(bench.was(ip(A), s), Ok("bob".into()), "{s}");
    }
    for s in [99, 1001 - DELAY + 1, 1001, 1999, 2000, 3001] {
        assert_eq!(bench.was(ip(A), s), Err(Unknown::Unproved), "{s}: perhaps");
    }
    for s in [50, 1500, 1002, 3002] {
        assert_eq!(bench.was(ip(A), s), Err(Unknown::NoSession), "{s}");
    }
    assert_eq!(bench.was(ip(A), 5001), Err(Unknown::Future));
    let moment = |s| bench.table.lookup_at(ip("203.0.113.1"), at(s), at(5000), &bench.shelf).unwrap();
    assert_eq!(moment(2000), Answer::NotOurs);
}

#[test]
fn an_open_session_was_there_as_it_is_there_now() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.now = at(1500);
    assert_eq!(bench.was(ip(A), 101), Ok("alice".into()));
    assert_eq!(bench.was(ip(A), 1500), Ok("alice".into()));
    bench.now = at(100 + MAX_AGE + 2);
    assert_eq!(bench.was(ip(A), 1500), Err(Unknown::Unproved), "nothing was heard since");
    assert_eq!(bench.was(ip(A), 90), Err(Unknown::Unproved));
}

#[test]
fn a_session_whose_stop_was_lost_is_certain_up_to_its_last_proof() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.radius(Change::Interim, "s1", "alice", A, 700);
    bench.forget(100_000);
    assert_eq!(bench.table.open_sessions(), 0);
    assert_eq!(bench.was(ip(A), 700 - DELAY), Ok("alice".into()));
    assert_eq!(bench.was(ip(A), 702), Err(Unknown::Unproved));
    assert_eq!(bench.was(ip(A), 701 + MAX_AGE), Err(Unknown::Unproved));
    assert_eq!(bench.was(ip(A), 702 + MAX_AGE), Err(Unknown::NoSession));
}

#[test]
fn who_may_still_have_been_there_speaks_against_who_was() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.radius(Change::Start, "s2", "bob", A, 600);
    bench.forget(100_000);
    assert_eq!(bench.was(ip(A), 601), Err(Unknown::Overlap));
}

#[test]
fn a_session_that_moved_was_at_each_address_in_its_time() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.radius(Change::Interim, "s1", "alice", A, 500);
    bench.radius(Change::Interim, "s1", "alice", "198.51.100.71", 900);
    assert_eq!(bench.was(ip(A), 300), Ok("alice".into()));
    assert_eq!(bench.was(ip(A), 700), Err(Unknown::Unproved), "she moved some time before 900");
    assert_eq!(bench.was(ip("198.51.100.71"), 901), Ok("alice".into()));
}

#[test]
fn a_slow_clock_and_a_fast_one_shift_nobody_into_the_time_of_another() {
    for skew in [-300_i64, 0, 300] {
        let nas = |s: u64| s.checked_add_signed(skew).unwrap();
        let mut bench = Bench::new();
        // Truly alice until 1000 and bob from 1001 on; the NAS's clock is wrong by the skew.
        for (change, session, user, s) in [
            (Change::Start, "s1", "alice", 400),
            (Change::Stop, "s1", "alice", 1000),
            (Change::Start, "s2", "bob", 1001),
            (Change::Stop, "s2", "bob", 2000),
        ] {
            bench.radius_late(change, session, user, A, nas(s), s + 1);
        }
        for s in 380..2100 {
            let truth = match s {
                400..=1000 => Some("alice"),
                1001..=2000 => Some("bob"),
                _ => None,
            };
            if let Ok(name) = bench.was(ip(A), s) {
                assert_eq!(Some(name.as_str()), truth, "skew {skew} at {s}");
            }
        }
        assert_eq!(bench.was(ip(A), 600), Ok("alice".into()), "skew {skew}");
        assert_eq!(bench.was(ip(A), 1500), Ok("bob".into()), "skew {skew}");
    }
}

#[test]
fn a_restart_leaves_open_when_sessions_ended() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.radius(Change::Interim, "s1", "alice", A, 500);
    let nas = Nas { identifier: Some("edge".to_owned()), ..Nas::default() };
    let time = EventTime::stated(at(900), at(901));
    bench.event(Source::Radius, Record::NasReset { nas, time }, at(901));
    assert_eq!(bench.was(ip(A), 480), Ok("alice".into()));
    assert_eq!(bench.was(ip(A), 700), Err(Unknown::Unproved));
    bench.now = at(2000);
    assert_eq!(bench.was(ip(A), 902), Err(Unknown::NoSession));
}

#[test]
fn what_contradicted_itself_answers_for_nobody_about_that_time() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 600);
    // Of a second that cannot be told from the first.
    bench.radius(Change::Interim, "s1", "bob", A, 600);
    assert_eq!(bench.was(ip(A), 601), Err(Unknown::Contradiction));
    bench.radius(Change::Interim, "s1", "alice", A, 700);
    bench.radius(Change::Stop, "s1", "alice", A, 900);
    assert_eq!(bench.was(ip(A), 650), Err(Unknown::Contradiction));
    assert_eq!(bench.was(ip(A), 800), Ok("alice".into()));
}

#[test]
fn ports_and_translations_have_a_past_as_addresses_have() {
    let mut bench = Bench::new();
    let cgnat = |bench: &mut Bench, change, inside: &str, s: u64| {
        let ports: Ports = "1024-2047".parse().unwrap();
        let addresses = vec![Address::ports(AddressKind::PortBlock, ip(A), ports)];
        let time = EventTime::ordered(at(s));
        let Record::Session(mut record) =
            Bench::record(change, "198.51.100.70:1024-2047", User::Behind(ip(inside)), addresses, time)
        else {
            panic!("a session")
        };
        record.until = Some(FOREVER);
        bench.event(Source::Cgnat, Record::Session(record), at(s));
    };
    bench.radius(Change::Start, "s1", "alice", INSIDE, 100);
    bench.radius(Change::Start, "s2", "bob", "100.64.0.6", 100);
    cgnat(&mut bench, Change::Start, INSIDE, 200);
    // The end of the first use was lost.
    cgnat(&mut bench, Change::Start, "100.64.0.6", 600);
    cgnat(&mut bench, Change::Stop, "100.64.0.6", 900);
    bench.radius(Change::Stop, "s1", "alice", INSIDE, 1000);
    bench.radius(Change::Stop, "s2", "bob", "100.64.0.6", 1000);
    assert_eq!(bench.was((ip(A), 1500), 400), Ok("alice".into()));
    assert_eq!(bench.was((ip(A), 1500), 600), Err(Unknown::Overlap), "in this millisecond it went on");
    assert_eq!(bench.was((ip(A), 1500), 700), Ok("bob".into()));
    assert_eq!(bench.was((ip(A), 1500), 150), Err(Unknown::NoSession));
    assert_eq!(bench.was((ip(A), 1500), 950), Err(Unknown::NoSession));
    assert_eq!(bench.was((ip(A), 2048), 400), Err(Unknown::NoSession));
    assert_eq!(bench.was(ip(A), 400), Err(Unknown::PortsNeeded));
    assert_eq!(bench.was(ip(INSIDE), 400), Ok("alice".into()));
}

#[test]
fn what_is_told_late_counts_from_when_it_happened() {
    let mut bench = Bench::new();
    let cgnat = |bench: &mut Bench, change, inside: &str, told: u64, earliest: u64, latest: u64| {
        let ports: Ports = "1024-2047".parse().unwrap();
        let addresses = vec![Address::ports(AddressKind::PortBlock, ip(A), ports)];
        let time = EventTime::reported(at(told), at(earliest), at(latest));
        let record = Bench::record(change, "block", User::Behind(ip(inside)), addresses, time);
        bench.event(Source::Cgnat, record, at(told));
    };
    bench.radius(Change::Start, "s1", "alice", INSIDE, 100);
    bench.radius(Change::Start, "s2", "bob", "100.64.0.6", 100);
    cgnat(&mut bench, Change::Start, INSIDE, 300, 190, 200);
    // Both are told at 900, of about 600.
    cgnat(&mut bench, Change::Stop, INSIDE, 900, 590, 600);
    cgnat(&mut bench, Change::Start, "100.64.0.6", 901, 590, 600);
    let was = |bench: &Bench, s: u64| bench.was((ip(A), 1500), s);
    bench.now = at(1000);
    assert_eq!(was(&bench, 250), Ok("alice".into()));
    assert_eq!(was(&bench, 589), Ok("alice".into()));
    assert_eq!(was(&bench, 595), Err(Unknown::Overlap), "one of the two");
    assert_eq!(was(&bench, 601), Ok("bob".into()), "long before it was told");
    assert_eq!(was(&bench, 195), Err(Unknown::Unproved));
    assert_eq!(was(&bench, 150), Err(Unknown::NoSession));
    // Nobody watched from 950 on; it is told at 1100.
    let time = EventTime::reported(at(1100), at(950), at(1100));
    bench.event(Source::Cgnat, Record::NasReset { nas: Nas::default(), time }, at(1100));
    bench.now = at(1200);
    assert_eq!(was(&bench, 949), Ok("bob".into()));
    assert_eq!(was(&bench, 1000), Err(Unknown::Unproved));
    assert_eq!(was(&bench, 1150), Err(Unknown::NoSession));
}

#[test]
fn a_yes_or_no_about_the_past_tells_of_nobody_else() {
    let mut bench = Bench::new();
    bench.radius(Change::Start, "s1", "alice", A, 100);
    bench.radius(Change::Stop, "s1", "alice", A, 1000);
    bench.radius(Change::Start, "s2", "bob", A, 2000);
    bench.now = at(2500);
    let shelf = &Shelf([bench.shelf.0.clone(), bench.table.intervals(ip(A), bench.now)].concat());
    let settings = &settings();
    let was = |name: &str, s: u64| {
        let subscriber: SubscriberId = name.parse().unwrap();
        let moment = Moment { settings, at: at(s), now: bench.now, past: shelf };
        moment.verify(&subscriber, ip(A)).unwrap().map(|live| live.source)
    };
    assert_eq!(was("alice", 500), Ok(Source::Radius));
    assert_eq!(was("bob", 500), Err(Reason::NoSession));
    assert_eq!(was("bob", 2400), Ok(Source::Radius));
    assert_eq!(was("alice", 2400), Err(Reason::NoSession));
    assert_eq!(was("alice", 990), Err(Reason::Ambiguous));
    assert_eq!(was("bob", 990), Err(Reason::NoSession));
}
