//! A reader who keeps a copy of the bindings by what changes, held against the table itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use proptest::prelude::*;
use toolbox_core::{Answer, Cursor, Event, Question, Row, Settings, Table};
use toolbox_wire::follow::{Known, State};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

const MAX_AGE_S: u64 = 600;

fn settings() -> Settings {
    let prefixes = ["198.51.100.0/24", "10.0.0.0/24"];
    Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(MAX_AGE_S),
        max_delay: Duration::from_secs(5),
        translators: Vec::new(),
    }
}

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

/// The copy of a reader, by the rules of `toolbox_wire::follow`.
#[derive(Default)]
struct Copy(BTreeMap<(IpNet, Option<Ports>), Known>);

impl Copy {
    fn take(&mut self, known: Vec<Known>) {
        for known in known {
            let place = (known.prefix, known.ports);
            match known.state {
                State::Gone => drop(self.0.remove(&place)),
                State::Bound | State::Translated | State::Unknown => drop(self.0.insert(place, known)),
            }
        }
    }

    fn hear(&mut self, table: &Table, rows: &[Row], now: Timestamp) {
        for row in rows {
            self.take(table.known_around(&row.places().unwrap(), now));
        }
    }

    /// Who is there, if all that is known around it says the same.
    fn who(&self, address: IpAddr, port: Option<u16>, now: Timestamp, outer: bool) -> Option<SubscriberId> {
        let around = self.0.values().filter(|of| of.prefix.contains(&address));
        let around: Vec<&Known> =
            around.filter(|of| of.ports.is_none_or(|ports| port.is_none_or(|port| ports.holds(port, None)))).collect();
        if port.is_none() && around.iter().any(|of| of.ports.is_some()) {
            return None;
        }
        let mut names = around.iter().map(|of| {
            if of.until.as_ref().is_some_and(|until| until.parse::<Timestamp>().unwrap() < now) {
                return None;
            }
            match of.state {
                State::Bound => of.subscriber.clone(),
                State::Translated if outer => self.who(of.behind.unwrap(), None, now, false),
                State::Translated | State::Unknown | State::Gone => None,
            }
        });
        let first = names.next()??;
        names.all(|name| name.as_ref() == Some(&first)).then_some(first)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Tell { change: Change, session: u8, user: u8, net: u8, ports: u8, delay: u64 },
    Reset,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let change = prop_oneof![Just(Change::Start), Just(Change::Interim), Just(Change::Stop)];
    let tell = (change, 0..6_u8, 0..6_u8, 0..6_u8, 0..4_u8, 0..8_u64)
        .prop_map(|(change, session, user, net, ports, delay)| Step::Tell { change, session, user, net, ports, delay });
    let step = prop_oneof![20 => tell, 1 => Just(Step::Reset), 1 => Just(Step::Forget)];
    proptest::collection::vec((prop_oneof![8 => 0..20_u64, 1 => 200..900_u64], step), 1..60)
}

fn nets() -> Vec<IpNet> {
    let nets =
        ["198.51.100.7/32", "198.51.100.8/32", "198.51.100.0/28", "198.51.100.4/30", "10.0.0.1/32", "10.0.0.2/32"];
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn event(step: &Step, now: Timestamp) -> Event {
    let nas = Nas { identifier: Some("edge".into()), ..Nas::default() };
    let record = match step {
        Step::Tell { change, session, user, net, ports, delay } => {
            let net = nets()[usize::from(*net)];
            let ports = match (ports, net.prefix_len()) {
                (1, 32) => Ports::new(1000, 1999).unwrap(),
                (2, 32) => Ports::new(1500, 2999).unwrap(),
                (3, 32) => Ports::new(1000, 1999).unwrap().of(6),
                _ => Ports::ALL,
            };
            let sent = now - Duration::from_secs(*delay);
            Record::Session(SessionRecord {
                change: *change,
                session: format!("s{session}"),
                user: match user {
                    0 => User::Unstated,
                    1 | 2 => User::Behind([10, 0, 0, *user].into()),
                    name => User::Named(format!("user{name}").parse().unwrap()),
                },
                nas,
                addresses: vec![Address { kind: AddressKind::Static, net, ports }],
                time: EventTime::stated(sent, sent),
                until: None,
            })
        }
        Step::Reset | Step::Forget => Record::NasReset { nas, time: EventTime::stated(now, now) },
    };
    Event { source: Source::Radius, client: "edge".into(), record, arrival: now }
}

fn compare(copy: &Copy, table: &Table, now: Timestamp) -> usize {
    let mut bound = 0;
    for address in ["198.51.100.7", "198.51.100.8", "198.51.100.5", "198.51.100.1", "10.0.0.1", "10.0.0.2"] {
        for port in [None, Some(999), Some(1000), Some(1700), Some(2500)] {
            let question = Question::new(address.parse().unwrap(), port);
            if let Some(name) = copy.who(question.address, port, now, true) {
                bound += 1;
                let answer = table.lookup(question, now);
                let same = matches!(&answer, Answer::Bound { subscriber, .. } if *subscriber == name);
                assert!(same, "{question:?}: the copy says {name}, the table {answer:?}");
            }
        }
    }
    bound
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_copy_never_says_what_the_table_does_not(steps in steps(), later in 0..700_u64) {
        let (mut table, mut copy, mut now) = (Table::new(settings()), Copy::default(), 0);
        for (wait, step) in steps {
            now += wait;
            // Time alone makes nothing true.
            compare(&copy, &table, at(now));
            let rows = match step {
                Step::Forget => table.forget(at(now)),
                step => table.apply(&event(&step, at(now))).rows,
            };
            copy.hear(&table, &rows, at(now));
            compare(&copy, &table, at(now));
        }
        // A list says the same as all that changed.
        let (mut listed, mut cursor) = (Copy::default(), Cursor::default());
        loop {
            let rows = table.list(&mut cursor, 3);
            if rows.is_empty() {
                break;
            }
            for row in rows {
                listed.take(table.known(&row.places().unwrap(), at(now)));
            }
        }
        compare(&listed, &table, at(now));
        compare(&copy, &table, at(now + later));
        compare(&listed, &table, at(now + later));
    }
}

#[test]
fn a_copy_knows_who_is_there_through_a_translation_and_when_it_ends() {
    let (mut table, mut copy) = (Table::new(settings()), Copy::default());
    let tell = |change, session, user, net, ports| Step::Tell { change, session, user, net, ports, delay: 0 };
    let mut s = 0;
    let mut hear = |copy: &mut Copy, step| {
        s += 10;
        let rows = table.apply(&event(&step, at(s))).rows;
        copy.hear(&table, &rows, at(s));
        compare(copy, &table, at(s))
    };
    let outside = |copy: &Copy, s| copy.who([198, 51, 100, 7].into(), Some(1500), at(s), true).map(|n| n.to_string());
    hear(&mut copy, tell(Change::Start, 0, 1, 0, 1));
    assert_eq!(outside(&copy, 10), None, "nobody is inside");
    hear(&mut copy, tell(Change::Start, 1, 4, 4, 0));
    assert_eq!(outside(&copy, 20).as_deref(), Some("user4"));
    hear(&mut copy, tell(Change::Stop, 1, 4, 4, 0));
    hear(&mut copy, tell(Change::Start, 2, 5, 4, 0));
    assert_eq!(outside(&copy, 40).as_deref(), Some("user5"));
    assert_eq!(outside(&copy, 611), None, "the translation was not heard of since");
    hear(&mut copy, tell(Change::Stop, 0, 1, 0, 1));
    assert_eq!((outside(&copy, 50), copy.0.len()), (None, 1));
}

#[test]
fn translations_that_lead_to_each_other_are_nobodys() {
    let mut table = Table::new(settings());
    let behind = |session: &str, net: &str, inside: u8| {
        let step = Step::Tell { change: Change::Start, session: 0, user: 0, net: 0, ports: 0, delay: 0 };
        let Event { record: Record::Session(mut record), arrival, .. } = event(&step, at(0)) else { panic!() };
        record.session = session.into();
        record.user = User::Behind([10, 0, 0, inside].into());
        record.addresses = vec![Address::whole(AddressKind::Static, net.parse().unwrap())];
        Event { source: Source::Cgnat, client: "nat".into(), record: Record::Session(record), arrival }
    };
    let each = [("a", "10.0.0.1/32", 2), ("b", "10.0.0.2/32", 1), ("c", "10.0.0.1/32", 1), ("d", "10.0.0.2/32", 2)];
    for (session, net, inside) in each {
        table.apply(&behind(session, net, inside));
        for address in [[10, 0, 0, 1], [10, 0, 0, 2]] {
            let answer = table.lookup(Question::new(address.into(), None), at(0));
            assert!(matches!(answer, Answer::Unknown(_)), "{answer:?}");
        }
    }
}
