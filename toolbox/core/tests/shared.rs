//! Addresses that several subscribers share: port blocks, translations learnt and computed, other sources.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use proptest::prelude::*;
use toolbox_core::{Answer, Applied, Computed, Effect, Event, Question, Settings, Sight, Table, Translator, Unknown};
use toolbox_wire::http::{Reason, Source};
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, FOREVER, Nas, Ports, Record, SessionRecord, User};

const OUTSIDE: &str = "198.51.100.70";
const INSIDE: &str = "100.64.0.5";
const UDP: u8 = 17;

fn settings(translators: Vec<Arc<dyn Translator>>) -> Settings {
    let prefixes = ["198.51.100.64/26", "100.64.0.0/10"];
    Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
        max_age: Duration::from_secs(1800),
        max_delay: Duration::from_secs(20),
        translators,
    }
}

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(name: &str) -> SubscriberId {
    name.parse().unwrap()
}

fn named(name: &str) -> User {
    User::Named(id(name))
}

fn ports(text: &str) -> Ports {
    text.parse().unwrap()
}

struct Bench(Table);

impl Bench {
    fn new() -> Self {
        Self(Table::new(settings(Vec::new())))
    }

    fn tell(
        &mut self,
        source: Source,
        change: Change,
        session: &str,
        user: User,
        addresses: Vec<Address>,
        s: u64,
    ) -> Applied {
        self.tell_until(source, change, session, user, addresses, s, None)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a word of the record")]
    fn tell_until(
        &mut self,
        source: Source,
        change: Change,
        session: &str,
        user: User,
        addresses: Vec<Address>,
        s: u64,
        until: Option<Timestamp>,
    ) -> Applied {
        let record = Record::Session(SessionRecord {
            change,
            session: session.to_owned(),
            user,
            nas: Nas::default(),
            addresses,
            time: EventTime::ordered(at(s)),
            until,
        });
        self.0.apply(&Event { source, client: "one".to_owned(), record, arrival: at(s) })
    }

    /// A subscriber's session at the internal address.
    fn session(&mut self, change: Change, name: &str, s: u64) -> Applied {
        let addresses = vec![Address::whole(AddressKind::FramedV4, ip(INSIDE).into())];
        self.tell(Source::Radius, change, &format!("s-{name}"), named(name), addresses, s)
    }

    /// A translation of ports to the internal address.
    fn block(&mut self, change: Change, block: &str, s: u64) -> Applied {
        let user = User::Behind(ip(INSIDE));
        let addresses = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports(block))];
        self.tell(Source::Cgnat, change, block, user, addresses, s)
    }

    /// Who is seen there without waiting for the writer; none: the table has to be asked.
    fn glance(&self, address: IpAddr, port: Option<u16>, s: u64) -> Option<Result<String, Unknown>> {
        let answer = self.0.lookup(Question::new(address, port), at(s));
        let glances = self.0.glances().unwrap();
        let told = |sight: Sight<'_>| match sight {
            Sight::Bound(seen) => {
                let live = self.0.verify(&id(seen.subscriber()), Question::new(address, port), at(s));
                assert_eq!(seen.live(), live.ok(), "{answer:?}");
                Some(Ok(seen.subscriber().to_owned()))
            }
            Sight::Nobody => {
                assert_eq!(answer, Answer::Unknown(Unknown::NoSession));
                Some(Err(Unknown::NoSession))
            }
            Sight::Ask => None,
        };
        let question = Question::new(address, port);
        let mut listed = None;
        glances.find_each(&[question], at(s), |_, sight| listed = told(sight));
        let alone = glances.find(question, at(s), told);
        assert_eq!(alone, listed);
        alone
    }

    fn who(&self, port: u16, s: u64) -> Result<String, Unknown> {
        self.ask(Question::new(ip(OUTSIDE), Some(port)), s)
    }

    fn ask(&self, question: impl Into<Question>, s: u64) -> Result<String, Unknown> {
        match self.0.lookup(question, at(s)) {
            Answer::Bound { subscriber, .. } => Ok(subscriber.to_string()),
            Answer::Unknown(why) => Err(why),
            Answer::NotOurs => panic!("one of ours"),
        }
    }
}

#[test]
fn blocks_of_one_address_are_told_apart_by_their_ports_alone() {
    let mut bench = Bench::new();
    for (name, block) in [("alice", "1024-2047"), ("bob", "2048-3071")] {
        let addresses = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports(block))];
        let applied = bench.tell(Source::Radius, Change::Start, name, named(name), addresses, 10);
        assert_eq!(applied.overlaps, 0, "the blocks do not meet");
    }
    assert_eq!(bench.who(1024, 11), Ok("alice".into()));
    assert_eq!(bench.who(2047, 11), Ok("alice".into()));
    assert_eq!(bench.who(2048, 11), Ok("bob".into()));
    assert_eq!(bench.who(1023, 11), Err(Unknown::NoSession));
    assert_eq!(bench.who(3072, 11), Err(Unknown::NoSession));
    assert_eq!(bench.ask(ip(OUTSIDE), 11), Err(Unknown::PortsNeeded));
    let verify = |name, question: Question| bench.0.verify(&id(name), question, at(11)).map(|_| ());
    assert_eq!(verify("alice", ip(OUTSIDE).into()), Err(Reason::PortNeeded));
    assert_eq!(verify("alice", (ip(OUTSIDE), 1500).into()), Ok(()));
    assert_eq!(verify("alice", (ip(OUTSIDE), 2500).into()), Err(Reason::NoSession));
    let seen: Vec<_> = bench.0.bindings(at(11)).map(|b| (b.ports.unwrap().to_string(), b.state)).collect();
    assert_eq!(seen, [("1024-2047".into(), "bound".into()), ("2048-3071".into(), "bound".into())]);
}

#[test]
fn two_subscribers_on_one_port_are_an_overlap_and_on_two_protocols_are_none() {
    let mut bench = Bench::new();
    for (name, block) in [("alice", "1024-2047/17"), ("bob", "1024-2047/6"), ("carol", "2000-3000/17")] {
        let addresses = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports(block))];
        let applied = bench.tell(Source::Radius, Change::Start, name, named(name), addresses, 10);
        assert_eq!(applied.overlaps, usize::from(name == "carol"));
    }
    let udp = |port| Question { protocol: Some(UDP), ..Question::new(ip(OUTSIDE), Some(port)) };
    assert_eq!(bench.ask(udp(1500), 11), Ok("alice".into()));
    assert_eq!(bench.who(1500, 11), Err(Unknown::Overlap), "whose depends on the protocol");
    assert_eq!(bench.ask(udp(2000), 11), Err(Unknown::Overlap));
    assert_eq!(bench.ask(udp(2048), 11), Ok("carol".into()));
}

#[test]
fn a_translation_answers_by_who_is_at_the_internal_address() {
    let mut bench = Bench::new();
    bench.block(Change::Start, "1024-2047", 10);
    assert_eq!(bench.who(1500, 11), Err(Unknown::NoSession), "nobody is inside");
    bench.session(Change::Start, "alice", 20);
    let Answer::Bound { subscriber, session, span, through } = bench.0.lookup((ip(OUTSIDE), 1500), at(21)) else {
        panic!("alice is there")
    };
    assert_eq!((subscriber, session.source, through), (id("alice"), Source::Radius, Some(ip(INSIDE))));
    assert_eq!((span.since, span.proof), (at(20), at(10)), "both have to be there");
    assert!(bench.0.verify(&id("alice"), (ip(OUTSIDE), 1500), at(21)).is_ok());
    bench.session(Change::Stop, "alice", 30);
    assert_eq!(bench.who(1500, 31), Err(Unknown::NoSession));
    assert_eq!(bench.0.verify(&id("alice"), (ip(OUTSIDE), 1500), at(31)), Err(Reason::Ended));
    assert_eq!(bench.0.verify(&id("bob"), (ip(OUTSIDE), 1500), at(31)), Err(Reason::NoSession));
    bench.session(Change::Start, "bob", 40);
    assert_eq!(bench.who(1500, 41), Ok("bob".into()));
    bench.block(Change::Stop, "1024-2047", 50);
    assert_eq!(bench.who(1500, 51), Err(Unknown::NoSession));
    assert_eq!(bench.0.verify(&id("bob"), (ip(OUTSIDE), 1500), at(51)), Err(Reason::Ended));
}

#[test]
fn a_block_that_is_given_on_replaces_the_one_before_though_its_end_was_lost() {
    let mut bench = Bench::new();
    bench.session(Change::Start, "alice", 10);
    bench.block(Change::Start, "1024-2047", 11);
    let other = vec![Address::whole(AddressKind::FramedV4, ip("100.64.0.6").into())];
    bench.tell(Source::Radius, Change::Start, "s-bob", named("bob"), other, 12);
    let block = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports("1024-2047"))];
    bench.tell(Source::Cgnat, Change::Start, "1024-2047", User::Behind(ip("100.64.0.6")), block, 20);
    assert_eq!(bench.who(1500, 21), Ok("bob".into()));
}

#[test]
fn a_translation_that_leads_to_nobodys_address_or_to_another_one_is_no_answer() {
    let mut bench = Bench::new();
    let block = |text: &str| vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports(text))];
    bench.tell(Source::Cgnat, Change::Start, "1", User::Behind(ip("10.0.0.1")), block("1-9"), 10);
    assert_eq!(bench.who(5, 11), Err(Unknown::Astray), "not a subscriber's address");
    bench.session(Change::Start, "alice", 10);
    bench.block(Change::Start, "1024-2047", 10);
    let inner = vec![Address::whole(AddressKind::PortBlock, ip("100.64.0.9").into())];
    bench.tell(Source::Cgnat, Change::Start, "2", User::Behind(ip(INSIDE)), inner, 10);
    bench.tell(Source::Cgnat, Change::Start, "3", User::Behind(ip("100.64.0.9")), block("10-19"), 10);
    assert_eq!(bench.who(15, 11), Err(Unknown::Astray), "two translations in a row");
    bench.tell(Source::Cgnat, Change::Start, "4", User::Behind(ip(OUTSIDE)), block("20-29"), 10);
    assert!(bench.who(25, 11).is_err(), "a loop");
}

#[test]
fn a_session_and_a_translation_have_to_lead_to_one_subscriber() {
    let mut bench = Bench::new();
    bench.session(Change::Start, "alice", 10);
    bench.block(Change::Start, "1024-2047", 10);
    let block = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports("1024-2047"))];
    let applied = bench.tell(Source::Radius, Change::Start, "x", named("alice"), block.clone(), 11);
    assert_eq!(applied.overlaps, 0);
    assert_eq!(bench.who(1500, 12), Ok("alice".into()));
    bench.session(Change::Stop, "alice", 20);
    assert_eq!(bench.who(1500, 21), Err(Unknown::Overlap), "one of the two is out of date");
    bench.session(Change::Start, "alice", 30);
    let applied = bench.tell(Source::Radius, Change::Start, "y", named("bob"), block, 31);
    assert_eq!(applied.overlaps, 1);
    assert_eq!(bench.who(1500, 32), Err(Unknown::Overlap));
}

/// Ten blocks of a thousand ports from 10 000 on, for 100.64.0.0 and the nine behind it.
#[derive(Debug)]
struct Tenths;

impl Translator for Tenths {
    fn translate(&self, question: Question, when: Timestamp) -> Computed {
        let Some(port) = question.port.filter(|_| question.address == ip(OUTSIDE) && when >= at(5)) else {
            return if question.address == ip(OUTSIDE) { Computed::PortNeeded } else { Computed::Elsewhere };
        };
        match port {
            10_000..20_000 => {
                Computed::Behind(IpAddr::from([100, 64, 0, u8::try_from((port - 10_000) / 1000).unwrap()]))
            }
            _ => Computed::Nobody,
        }
    }
}

#[test]
fn arithmetic_answers_as_a_learnt_translation_does_and_what_is_learnt_has_to_agree() {
    let mut bench = Bench(Table::new(settings(vec![Arc::new(Tenths)])));
    assert_eq!(bench.who(15_500, 9), Err(Unknown::NoSession));
    bench.session(Change::Start, "alice", 10);
    assert_eq!(bench.who(15_500, 11), Ok("alice".into()));
    assert_eq!(bench.glance(ip(OUTSIDE), Some(15_500), 11), Some(Ok("alice".into())), "nobody waits for arithmetic");
    assert_eq!(bench.glance(ip(INSIDE), None, 11), Some(Ok("alice".into())));
    assert_eq!(bench.glance(ip(OUTSIDE), Some(9_999), 11), Some(Err(Unknown::NoSession)));
    assert_eq!(bench.glance(ip(OUTSIDE), Some(14_999), 11), None);
    assert_eq!(bench.glance(ip(OUTSIDE), None, 11), None);
    assert_eq!(bench.who(14_999, 11), Err(Unknown::NoSession));
    assert_eq!(bench.who(9_999, 11), Err(Unknown::NoSession));
    assert_eq!(bench.ask(ip(OUTSIDE), 11), Err(Unknown::PortsNeeded));
    assert_eq!(bench.0.verify(&id("alice"), ip(OUTSIDE), at(11)), Err(Reason::PortNeeded));
    assert_eq!(bench.0.verify(&id("bob"), (ip(OUTSIDE), 15_500), at(11)), Err(Reason::NoSession));
    let block = |text: &str| vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports(text))];
    bench.tell(Source::Radius, Change::Start, "a", named("alice"), block("15000-15499"), 12);
    bench.tell(Source::Radius, Change::Start, "b", named("bob"), block("15500-15999"), 12);
    bench.tell(Source::Radius, Change::Start, "c", named("bob"), block("100-199"), 12);
    assert_eq!(bench.who(15_100, 13), Ok("alice".into()));
    assert_eq!(bench.who(15_600, 13), Err(Unknown::Overlap));
    assert_eq!(bench.glance(ip(OUTSIDE), Some(15_600), 13), None, "what is learnt does not agree");
    assert_eq!(bench.who(150, 13), Err(Unknown::Overlap), "the rule gives the port to nobody");
    bench.session(Change::Stop, "alice", 20);
    assert_eq!(bench.0.verify(&id("alice"), (ip(OUTSIDE), 15_050), at(21)).map(|_| ()), Err(Reason::Ambiguous));
}

/// As a NAT tells of its connections: each a port of the external address.
#[test]
fn an_address_with_thousands_of_translations_of_one_port_says_that_it_needs_one() {
    for (mut bench, count) in [(Bench::new(), 3000), (Bench(Table::plain(settings(Vec::new()))), 300)] {
        bench.session(Change::Start, "alice", 10);
        let flow = |bench: &mut Bench, change, port: u16, s| {
            let addresses = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), Ports::new(port, port).unwrap())];
            bench.tell(Source::Cgnat, change, &port.to_string(), User::Behind(ip(INSIDE)), addresses, s)
        };
        for n in 0..count {
            flow(&mut bench, Change::Start, 65_535 - n * 7, 11);
        }
        assert_eq!(bench.ask(ip(OUTSIDE), 12), Err(Unknown::PortsNeeded));
        assert_eq!(bench.who(65_535, 12), Ok("alice".into()));
        assert_eq!(bench.who(65_534, 12), Err(Unknown::NoSession));
        // All but a few are over: still it is shared by ports.
        for n in 1..count {
            flow(&mut bench, Change::Stop, 65_535 - n * 7, 13);
        }
        assert_eq!(bench.ask(ip(OUTSIDE), 14), Err(Unknown::PortsNeeded));
        assert_eq!(bench.who(65_535, 14), Ok("alice".into()));
        assert_eq!(bench.who(65_528, 14), Err(Unknown::NoSession));
        flow(&mut bench, Change::Stop, 65_535, 15);
        // Without a port, many that are over need not be looked through: nobody is named either way.
        let said = bench.ask(ip(OUTSIDE), 16);
        assert!(said == Err(Unknown::NoSession) || (count > 256 && said == Err(Unknown::PortsNeeded)), "{said:?}");
        bench.0.forget(at(100_000));
        assert_eq!(bench.ask(ip(OUTSIDE), 100_001), Err(Unknown::NoSession));
    }
}

#[test]
fn a_lease_holds_until_its_end_and_a_line_of_a_file_for_ever() {
    let mut bench = Bench::new();
    let day = 86_400;
    let lease = vec![Address::whole(AddressKind::Lease, ip(INSIDE).into())];
    let line = vec![Address::whole(AddressKind::Static, ip("100.64.0.6").into())];
    bench.tell_until(Source::Dhcp, Change::Start, INSIDE, named("alice"), lease.clone(), 0, Some(at(day)));
    bench.tell_until(Source::Static, Change::Start, "6", named("bob"), line, 0, Some(FOREVER));
    assert_eq!(bench.ask(ip(INSIDE), day), Ok("alice".into()));
    assert_eq!(bench.ask(ip(INSIDE), day + 1), Err(Unknown::Stale));
    assert_eq!(bench.0.forget(at(day + 1)), [], "late news of it would still count");
    assert_eq!(bench.0.forget(at(100 * day)).len(), 2, "the session, and that it came to an end");
    assert_eq!(bench.ask(ip("100.64.0.6"), 1000 * day), Ok("bob".into()));
    // Released early, the lease is forgotten as any other session that is over.
    bench.tell_until(Source::Dhcp, Change::Start, INSIDE, named("alice"), lease, 200 * day, Some(at(300 * day)));
    let stopped = bench.tell(Source::Dhcp, Change::Stop, INSIDE, named("alice"), vec![], 200 * day + 1);
    assert_eq!(stopped.effect, Effect::Closed(1));
    assert_eq!(bench.0.forget(at(201 * day)).len(), 1);
}

#[test]
fn what_is_seen_in_order_is_in_order_within_a_millisecond() {
    let mut bench = Bench::new();
    let mut tell = |change, name: &str, ms: u64| {
        let record = Record::Session(SessionRecord {
            change,
            session: INSIDE.to_owned(),
            user: named(name),
            nas: Nas::default(),
            addresses: vec![Address::whole(AddressKind::Lease, ip(INSIDE).into())],
            time: EventTime::ordered(Timestamp::from_millis(at(10).as_millis() + ms)),
            until: None,
        });
        bench.0.apply(&Event { source: Source::Dhcp, client: "kea".to_owned(), record, arrival: at(11) }).effect
    };
    assert_eq!(tell(Change::Start, "alice", 0), Effect::Opened);
    assert_eq!(tell(Change::Stop, "alice", 1), Effect::Closed(1));
    assert_eq!(tell(Change::Start, "bob", 2), Effect::Opened);
    assert_eq!(tell(Change::Start, "carol", 3), Effect::Refreshed, "another in its place");
    assert_eq!(bench.ask(ip(INSIDE), 12), Ok("carol".into()));
}

#[test]
fn a_reset_without_a_name_ends_every_session_of_its_client_and_of_no_other() {
    let mut bench = Bench::new();
    bench.session(Change::Start, "alice", 10);
    bench.block(Change::Start, "1024-2047", 10);
    bench.block(Change::Start, "2048-3071", 10);
    let record = Record::NasReset { nas: Nas::default(), time: EventTime::ordered(at(20)) };
    let reset = bench.0.apply(&Event { source: Source::Cgnat, client: "one".to_owned(), record, arrival: at(20) });
    assert_eq!(reset.effect, Effect::Closed(2));
    assert_eq!(bench.who(1500, 21), Err(Unknown::NoSession));
    assert_eq!(bench.ask(ip(INSIDE), 21), Ok("alice".into()));
    bench.block(Change::Start, "1024-2047", 21);
    assert_eq!(bench.who(1500, 22), Ok("alice".into()));
}

proptest! {
    /// Blocks of several subscribers, allotted and given back: a list of who has each port is the oracle.
    #[test]
    fn ports_are_answered_as_a_list_of_all_ports_would(
        steps in proptest::collection::vec((0_u16..8, 0_usize..3, any::<bool>()), 1..40),
    ) {
        let users = ["alice", "bob", "carol"];
        let mut bench = Bench::new();
        let mut owners = [None::<usize>; 8];
        for (s, (block, user, starts)) in steps.into_iter().enumerate() {
            let s = 10 + s as u64;
            let text = format!("{}-{}", block * 100, block * 100 + 99);
            let addresses = vec![Address::ports(AddressKind::PortBlock, ip(OUTSIDE), ports(&text))];
            let change = if starts { Change::Start } else { Change::Stop };
            bench.tell(Source::Cgnat, change, &text, if starts { named(users[user]) } else { User::Unstated }, addresses, s);
            owners[usize::from(block)] = starts.then_some(user);
            for (at, owner) in (0_u16..).zip(owners) {
                let expected = owner.map_or(Err(Unknown::NoSession), |owner| Ok(users[owner].to_owned()));
                prop_assert_eq!(bench.who(at * 100, s), expected.clone());
                prop_assert_eq!(bench.who(at * 100 + 99, s), expected);
            }
        }
    }
}
