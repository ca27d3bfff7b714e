//! The binding table as an ISP's operator would describe it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::{PrefixMap, SubscriberId, Timestamp};
use ipnet::IpNet;
use proptest::prelude::*;
use toolbox_core::{Answer, Applied, Cursor, Effect, Event, Ignored, Row, Rows, Settings, Sight, Table, Unknown};
use toolbox_wire::http::{Reason, Source};
use toolbox_wire::record::{Address, AddressKind, Basis, Change, EventTime, Nas, Record, SessionRecord, User};

const MAX_AGE_S: u64 = 1800;
const P: &str = "198.51.100.70/32";
const Q: &str = "198.51.100.71/32";
const V6: &str = "2001:db8:5100:64::/64";

fn settings() -> Settings {
    let prefixes = ["198.51.100.64/26", "2001:db8:5100::/48"];
    Settings {
        prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect::<PrefixMap<()>>(),
        max_age: Duration::from_secs(MAX_AGE_S),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    }
}

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

fn stated(s: u64) -> EventTime {
    EventTime::stated(at(s), at(s))
}

fn derived(s: u64) -> EventTime {
    EventTime::derived(at(s))
}

fn nas(name: &str) -> Nas {
    Nas { identifier: Some(name.to_owned()), ..Nas::default() }
}

fn id(name: &str) -> SubscriberId {
    name.parse().unwrap()
}

fn record(change: Change, session: &str, user: &str, nets: &[&str], time: EventTime) -> SessionRecord {
    let addresses = nets.iter().map(|net| {
        let net: IpNet = net.parse().unwrap();
        let kind = if net.addr().is_ipv4() { AddressKind::FramedV4 } else { AddressKind::FramedPrefixV6 };
        Address::whole(kind, net)
    });
    SessionRecord {
        change,
        session: session.to_owned(),
        user: if user.is_empty() { User::Unstated } else { User::Named(id(user)) },
        nas: nas("edge"),
        addresses: addresses.collect(),
        time,
        until: None,
    }
}

fn event(record: Record, arrival: Timestamp) -> Event {
    Event { source: Source::Radius, client: "edge".to_owned(), record, arrival }
}

/// A table and its clock: each call says what arrives when.
struct Bench(Table);

impl Bench {
    fn new() -> Self {
        Self(Table::new(settings()))
    }

    fn tell(&mut self, record: SessionRecord) -> Applied {
        let arrival = record.time.at;
        self.tell_late(record, arrival)
    }

    fn tell_late(&mut self, record: SessionRecord, arrival: Timestamp) -> Applied {
        self.0.apply(&event(Record::Session(record), arrival))
    }

    fn start(&mut self, session: &str, user: &str, nets: &[&str], s: u64) -> Applied {
        self.tell(record(Change::Start, session, user, nets, stated(s)))
    }

    fn interim(&mut self, session: &str, user: &str, nets: &[&str], s: u64) -> Applied {
        self.tell(record(Change::Interim, session, user, nets, stated(s)))
    }

    fn stop(&mut self, session: &str, user: &str, s: u64) -> Applied {
        self.tell(record(Change::Stop, session, user, &[], stated(s)))
    }

    fn reset(&mut self, name: Nas, time: EventTime) -> Applied {
        self.0.apply(&event(Record::NasReset { nas: name, time }, time.at))
    }

    fn who(&self, address: &str, s: u64) -> Result<String, Unknown> {
        match self.0.lookup(ip(address), at(s)) {
            Answer::Bound { subscriber, .. } => Ok(subscriber.to_string()),
            Answer::Unknown(why) => Err(why),
            Answer::NotOurs => panic!("{address} is one of ours"),
        }
    }

    fn verify(&self, user: &str, address: &str, s: u64) -> Result<(), Reason> {
        self.0.verify(&id(user), ip(address), at(s)).map(|_| ())
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[test]
fn start_binds_stop_frees_and_the_reason_tells_the_subscriber_it_ended() {
    let mut bench = Bench::new();
    assert_eq!(bench.verify("alice", "198.51.100.70", 9), Err(Reason::NoSession));
    assert_eq!(bench.start("s1", "alice", &[P, V6], 10).effect, Effect::Opened);
    assert_eq!(bench.verify("alice", "198.51.100.70", 11), Ok(()));
    assert_eq!(bench.verify("alice", "2001:db8:5100:64::70", 11), Ok(()));
    assert_eq!(bench.verify("alice", "::ffff:198.51.100.70", 11), Ok(()));
    assert_eq!(bench.verify("bob", "198.51.100.70", 11), Err(Reason::NoSession));
    assert_eq!(bench.verify("alice", "198.51.100.71", 11), Err(Reason::NoSession));
    assert_eq!(bench.verify("alice", "203.0.113.1", 11), Err(Reason::NotOurs));
    assert_eq!(bench.stop("s1", "alice", 20).effect, Effect::Closed(1));
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::NoSession));
    assert_eq!(bench.verify("alice", "198.51.100.70", 21), Err(Reason::Ended));
    assert_eq!(bench.verify("bob", "198.51.100.70", 21), Err(Reason::NoSession));
}

#[test]
fn the_address_may_come_first_in_an_interim_update_as_ocserv_sends_it() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[], 10);
    assert_eq!(bench.who("198.51.100.70", 11), Err(Unknown::NoSession));
    assert_eq!(bench.interim("s1", "alice", &[P], 20).effect, Effect::Refreshed);
    assert_eq!(bench.who("198.51.100.70", 21), Ok("alice".into()));
}

#[test]
fn a_record_proves_what_it_names_and_since_stays_at_the_first_one() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P, V6], 10);
    bench.interim("s1", "", &[P], 610);
    let live = bench.0.verify(&id("alice"), ip("198.51.100.70"), at(611)).unwrap();
    assert_eq!((live.span.since, live.span.proof), (at(10), at(610)));
    let live = bench.0.verify(&id("alice"), ip("2001:db8:5100:64::70"), at(611)).unwrap();
    assert_eq!((live.span.since, live.span.proof), (at(10), at(10)));
}

#[test]
fn a_binding_is_stale_one_second_after_its_age() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 0);
    assert_eq!(bench.verify("alice", "198.51.100.70", MAX_AGE_S), Ok(()));
    assert_eq!(bench.verify("alice", "198.51.100.70", MAX_AGE_S + 1), Err(Reason::Stale));
    assert_eq!(bench.who("198.51.100.70", MAX_AGE_S + 1), Err(Unknown::Stale));
    bench.interim("s1", "alice", &[P], MAX_AGE_S + 5);
    assert_eq!(bench.verify("alice", "198.51.100.70", MAX_AGE_S + 6), Ok(()));
}

#[test]
fn an_interim_after_stop_reopens_nothing_whatever_its_time() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 10);
    bench.stop("s1", "alice", 20);
    for s in [15, 20] {
        assert_eq!(bench.interim("s1", "alice", &[P], s).effect, Effect::Ignored(Ignored::Ended));
    }
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::NoSession));
    assert_eq!(bench.interim("s1", "alice", &[P], 25).effect, Effect::Doubted);
    assert_eq!(bench.who("198.51.100.70", 26), Err(Unknown::Contradiction));
    bench.interim("s1", "alice", &[P], 35);
    assert_eq!(bench.verify("alice", "198.51.100.70", 36), Err(Reason::Ambiguous));
    bench.stop("s1", "alice", 40);
    assert_eq!(bench.verify("alice", "198.51.100.70", 41), Err(Reason::Ended));
}

#[test]
fn what_was_closed_in_error_still_speaks_against_another_claimant() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 10);
    bench.stop("s1", "alice", 20);
    bench.interim("s1", "alice", &[P], 40);
    bench.start("s2", "bob", &[P], 30);
    assert_eq!(bench.who("198.51.100.70", 41), Err(Unknown::Overlap));
}

#[test]
fn a_stop_that_overtakes_its_start_keeps_the_session_shut() {
    let mut bench = Bench::new();
    bench.stop("s1", "alice", 20);
    assert_eq!(bench.start("s1", "alice", &[P], 20).effect, Effect::Ignored(Ignored::Ended));
    assert_eq!(bench.start("s1", "alice", &[P], 10).effect, Effect::Ignored(Ignored::Ended));
    assert_eq!(bench.start("s1", "alice", &[P], 21).effect, Effect::Opened, "a later start uses the id again");
}

#[test]
fn without_event_timestamp_a_start_soon_after_the_stop_is_a_late_copy_and_reopens_nothing() {
    let mut bench = Bench::new();
    bench.tell(record(Change::Start, "s1", "alice", &[P], derived(10)));
    bench.tell(record(Change::Stop, "s1", "alice", &[], derived(20)));
    let late = bench.tell(record(Change::Start, "s1", "alice", &[P], derived(40)));
    assert_eq!(late.effect, Effect::Ignored(Ignored::Ended));
    assert_eq!(bench.tell(record(Change::Start, "s2", "alice", &[Q], derived(40))).effect, Effect::Opened);
    assert_eq!(bench.tell(record(Change::Start, "s1", "alice", &[P], derived(41))).effect, Effect::Opened);
}

#[test]
fn without_event_timestamp_records_closer_than_the_delay_have_no_order() {
    let mut bench = Bench::new();
    bench.tell(record(Change::Interim, "s1", "alice", &[P], derived(10)));
    bench.tell(record(Change::Interim, "s1", "alice", &[Q], derived(20)));
    assert_eq!(bench.who("198.51.100.70", 21), Ok("alice".into()), "either may be the newer");
    assert_eq!(bench.who("198.51.100.71", 21), Ok("alice".into()));
    bench.tell(record(Change::Interim, "s1", "alice", &[Q], derived(31)));
    assert_eq!(bench.who("198.51.100.70", 32), Err(Unknown::NoSession));
}

#[test]
fn an_older_event_and_a_duplicate_change_nothing() {
    let mut bench = Bench::new();
    bench.interim("s1", "alice", &[Q], 30);
    let older = bench.interim("s1", "alice", &[P], 20);
    assert_eq!((older.effect, older.rows), (Effect::Ignored(Ignored::Older), vec![]));
    let first = bench.interim("s1", "alice", &[Q], 30);
    assert_eq!(bench.interim("s1", "alice", &[Q], 30), first);
    assert_eq!(bench.who("198.51.100.71", 31), Ok("alice".into()));
    assert_eq!(bench.who("198.51.100.70", 31), Err(Unknown::NoSession));
}

#[test]
fn a_newer_record_moves_the_session_to_another_address() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P, V6], 10);
    bench.interim("s1", "alice", &[Q], 20);
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::NoSession));
    assert_eq!(bench.who("198.51.100.71", 21), Ok("alice".into()));
    assert_eq!(bench.who("2001:db8:5100:64::70", 21), Ok("alice".into()), "the attribute that it did not have stays");
}

#[test]
fn a_stop_from_before_the_start_makes_the_session_doubtful_until_it_is_heard_of_again() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 600);
    assert_eq!(bench.stop("s1", "alice", 5).effect, Effect::Doubted);
    assert_eq!(bench.who("198.51.100.70", 601), Err(Unknown::Contradiction));
    bench.interim("s1", "alice", &[P], 610);
    assert_eq!(bench.who("198.51.100.70", 611), Ok("alice".into()));
}

#[test]
fn a_late_stop_of_the_previous_use_of_a_session_id_leaves_the_present_one() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 10);
    bench.start("s1", "bob", &[Q], 50);
    assert_eq!(bench.who("198.51.100.70", 51), Err(Unknown::NoSession));
    assert_eq!(bench.stop("s1", "alice", 40).effect, Effect::Ignored(Ignored::Older));
    assert_eq!(bench.who("198.51.100.71", 52), Ok("bob".into()));
}

#[test]
fn another_user_under_one_session_id_is_believed_only_when_it_is_certainly_later() {
    let mut bench = Bench::new();
    bench.tell(record(Change::Start, "s1", "alice", &[P], derived(10)));
    bench.tell(record(Change::Interim, "s1", "bob", &[P], derived(20)));
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::Contradiction));
    assert_eq!(bench.verify("alice", "198.51.100.70", 21), Err(Reason::Ambiguous));
    bench.tell(record(Change::Interim, "s1", "bob", &[P], derived(41)));
    assert_eq!(bench.who("198.51.100.70", 42), Ok("bob".into()));
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 10);
    bench.interim("s1", "bob", &[P], 10);
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::Contradiction));
    bench.interim("s1", "bob", &[P], 11);
    assert_eq!(bench.who("198.51.100.70", 21), Ok("bob".into()));
}

#[test]
fn an_address_claimed_by_two_subscribers_is_unknown_and_an_alarm_until_one_stops() {
    let mut bench = Bench::new();
    assert_eq!(bench.start("s1", "alice", &[P], 10).overlaps, 0);
    assert_eq!(bench.start("s2", "bob", &[P], 20).overlaps, 1);
    assert_eq!(bench.interim("s2", "bob", &[P], 25).overlaps, 0, "one alarm for one overlap");
    assert_eq!(bench.who("198.51.100.70", 26), Err(Unknown::Overlap));
    assert_eq!(bench.verify("alice", "198.51.100.70", 26), Err(Reason::Ambiguous));
    assert_eq!(bench.verify("carol", "198.51.100.70", 26), Err(Reason::NoSession));
    bench.stop("s1", "alice", 15);
    assert_eq!(bench.who("198.51.100.70", 27), Ok("bob".into()));
}

#[test]
fn an_overlap_ends_when_one_session_falls_silent() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 0);
    bench.start("s2", "bob", &[P], 1000);
    assert_eq!(bench.who("198.51.100.70", MAX_AGE_S), Err(Unknown::Overlap));
    assert_eq!(bench.who("198.51.100.70", MAX_AGE_S + 1), Ok("bob".into()));
}

#[test]
fn a_session_of_a_nas_with_a_slow_clock_still_contradicts() {
    let mut bench = Bench::new();
    bench.tell_late(record(Change::Start, "s1", "alice", &[P], stated(0)), at(5000));
    assert_eq!(bench.who("198.51.100.70", 5001), Err(Unknown::Stale));
    bench.start("s2", "bob", &[P], 5000);
    assert_eq!(bench.who("198.51.100.70", 5001), Err(Unknown::Overlap));
}

#[test]
fn a_delegated_prefix_overlaps_what_lies_inside_it_and_around_it() {
    for (first, second) in
        [("2001:db8:5100:6400::/56", "2001:db8:5100:6401::/64"), ("2001:db8:5100:6401::/64", "2001:db8:5100:6400::/56")]
    {
        let mut bench = Bench::new();
        bench.start("s1", "alice", &[first], 10);
        assert_eq!(bench.start("s2", "bob", &[second], 11).overlaps, 1);
        assert_eq!(bench.who("2001:db8:5100:6401::1", 12), Err(Unknown::Overlap));
        let wide = if first.ends_with("56") { "alice" } else { "bob" };
        assert_eq!(bench.who("2001:db8:5100:6402::1", 12), Ok(wide.into()));
    }
}

#[test]
fn two_sessions_of_one_subscriber_do_not_contradict_each_other() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 10);
    assert_eq!(bench.start("s2", "alice", &[P], 20).overlaps, 0);
    assert_eq!(bench.who("198.51.100.70", 21), Ok("alice".into()));
    bench.stop("s1", "alice", 19);
    assert_eq!(bench.who("198.51.100.70", 22), Ok("alice".into()));
}

#[test]
fn a_session_without_a_usable_name_is_nobodys_and_still_in_the_way() {
    let mut bench = Bench::new();
    bench.tell(SessionRecord { user: User::Unusable, ..record(Change::Start, "s1", "", &[P], stated(10)) });
    assert_eq!(bench.who("198.51.100.70", 11), Err(Unknown::Unnamed));
    assert_eq!(bench.start("s2", "bob", &[P], 12).overlaps, 1);
    assert_eq!(bench.who("198.51.100.70", 13), Err(Unknown::Overlap));
}

#[test]
fn accounting_on_closes_every_session_of_its_nas_and_of_no_other() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 10);
    bench.tell(SessionRecord { nas: nas("other"), ..record(Change::Start, "s1", "bob", &[Q], stated(10)) });
    assert_eq!(bench.reset(nas("edge"), stated(20)).effect, Effect::Closed(1));
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::NoSession));
    assert_eq!(bench.who("198.51.100.71", 21), Ok("bob".into()));
    let late = bench.start("s3", "alice", &[P], 19);
    assert_eq!(late.effect, Effect::Ignored(Ignored::BeforeReset), "a start from before the restart");
    assert_eq!(bench.start("s4", "alice", &[P], 21).effect, Effect::Opened);
    assert_eq!(bench.reset(nas("edge"), stated(20)).effect, Effect::Ignored(Ignored::Older), "a late copy");
    assert_eq!(bench.who("198.51.100.70", 22), Ok("alice".into()));
    assert_eq!(bench.start("s5", "alice", &[Q], 20).effect, Effect::Doubted, "of the same second");
}

#[test]
fn a_nas_that_names_itself_differently_in_its_stop_has_ended_the_session() {
    let both = Nas { v4: Some([198, 51, 100, 1].into()), ..nas("edge") };
    let by_address = Nas { v4: both.v4, ..Nas::default() };
    let mut bench = Bench::new();
    bench.tell(SessionRecord { nas: both.clone(), ..record(Change::Start, "s1", "alice", &[P], stated(10)) });
    bench.tell(SessionRecord { nas: by_address, ..record(Change::Stop, "s1", "alice", &[], stated(20)) });
    assert_eq!(bench.who("198.51.100.70", 21), Err(Unknown::NoSession));
    let again = SessionRecord { nas: both, ..record(Change::Interim, "s1", "alice", &[P], stated(20)) };
    assert_eq!(bench.tell(again).effect, Effect::Ignored(Ignored::Ended));
}

#[test]
fn addresses_outside_the_subscriber_prefixes_are_never_bound() {
    let mut bench = Bench::new();
    let applied = bench.start("s1", "alice", &["203.0.113.9/32", "2001:db8::/32"], 10);
    assert_eq!(applied.foreign, 2);
    assert_eq!(bench.0.lookup(ip("203.0.113.9"), at(11)), Answer::NotOurs);
    assert_eq!(bench.0.bindings(at(11)).count(), 0);
}

#[test]
fn what_was_silent_for_twice_the_age_is_forgotten_with_its_rows() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P], 0);
    bench.stop("s1", "alice", 10);
    bench.reset(nas("other"), stated(10));
    assert_eq!(bench.0.forget(at(10 + 2 * MAX_AGE_S)), []);
    let rows = bench.0.forget(at(11 + 2 * MAX_AGE_S));
    assert_eq!(
        rows.iter().map(|row| (row.table, row.value.is_none())).collect::<Vec<_>>(),
        [(Rows::Sessions, true), (Rows::Resets, true)]
    );
    assert_eq!(bench.verify("alice", "198.51.100.70", 20), Err(Reason::NoSession));
}

#[test]
fn the_operator_sees_every_address_with_its_state() {
    let mut bench = Bench::new();
    bench.start("s1", "alice", &[P, V6], 10);
    bench.start("s2", "bob", &[P], 20);
    let seen: Vec<_> = bench.0.bindings(at(21)).map(|b| (b.prefix.to_string(), b.session, b.state)).collect();
    let expect = |net: &str, session: &str, state: &str| (net.to_owned(), session.to_owned(), state.to_owned());
    assert_eq!(seen, [expect(P, "s1", "overlap"), expect(P, "s2", "overlap"), expect(V6, "s1", "bound")]);
}

// --- properties --------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Op {
    Session(SessionRecord, u64),
    Reset(EventTime),
    Forget(u64),
}

fn any_time() -> impl Strategy<Value = EventTime> {
    (0_u64..60, any::<bool>()).prop_map(|(s, known)| if known { stated(s) } else { derived(s) })
}

fn any_op() -> impl Strategy<Value = Op> {
    let nets =
        proptest::sample::subsequence(vec![P, Q, V6, "2001:db8:5100:6400::/56", "2001:db8:5100:6401::/64"], 0..3);
    let session = (
        prop_oneof![Just(Change::Start), Just(Change::Interim), Just(Change::Stop)],
        0_u8..4,
        prop_oneof![Just(""), Just("alice"), Just("bob")],
        nets,
        any_time(),
        0_u64..90,
    );
    prop_oneof![
        20 => session.prop_map(|(change, session, user, nets, time, arrival)| {
            Op::Session(record(change, &format!("s{session}"), user, &nets, time), arrival)
        }),
        1 => any_time().prop_map(Op::Reset),
        1 => (0_u64..10_000).prop_map(Op::Forget),
    ]
}

fn carry_out(table: &mut Table, op: &Op) -> Vec<Row> {
    match op {
        Op::Session(record, arrival) => table.apply(&event(Record::Session(record.clone()), at(*arrival))).rows,
        Op::Reset(time) => table.apply(&event(Record::NasReset { nas: nas("edge"), time: *time }, time.at)).rows,
        Op::Forget(s) => table.forget(at(*s)),
    }
}

fn picture(table: &Table) -> Vec<String> {
    let bindings = table.bindings(at(60)).map(|binding| format!("{binding:?}"));
    bindings.chain(answers(table)).collect()
}

/// All rows, `limit` at a time.
fn listed(table: &Table, limit: usize) -> Vec<Row> {
    let (mut cursor, mut all) = (Cursor::default(), Vec::new());
    loop {
        let rows = table.list(&mut cursor, limit);
        if rows.is_empty() {
            all.sort_by(|one: &Row, other: &Row| (one.table, &one.key).cmp(&(other.table, &other.key)));
            return all;
        }
        all.extend(rows);
    }
}

fn answers(table: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    for address in ["198.51.100.70", "198.51.100.71", "2001:db8:5100:64::70", "2001:db8:5100:6401::1"] {
        lines.push(format!("{:?}", table.lookup(ip(address), at(60))));
        lines.push(format!("{:?}", table.verify(&id("alice"), ip(address), at(60))));
    }
    lines
}

proptest! {
    #[test]
    fn the_rows_alone_rebuild_the_table_after_any_history(ops in proptest::collection::vec(any_op(), 0..60)) {
        let mut table = Table::new(settings());
        let mut disk = std::collections::BTreeMap::new();
        for op in &ops {
            for row in carry_out(&mut table, op) {
                match row.value {
                    Some(value) => disk.insert((row.table, row.key), value),
                    None => disk.remove(&(row.table, row.key)),
                };
            }
        }
        let rows = disk.iter().map(|((which, key), value)| (*which, key.as_slice(), value.as_slice()));
        let restored = Table::restore(settings(), rows).unwrap();
        prop_assert_eq!(picture(&restored), picture(&table));
        // Not only the answers: what is said next does the same to both.
        prop_assert_eq!(listed(&restored, 3), listed(&table, 1000));
    }

    #[test]
    fn a_packed_table_does_and_answers_what_a_plain_one_does(ops in proptest::collection::vec(any_op(), 0..60)) {
        let (mut packed, mut plain) = (Table::new(settings()), Table::plain(settings()));
        let glances = packed.glances().unwrap();
        for op in &ops {
            let same = |mut rows: Vec<Row>| {
                rows.sort_by(|one, other| (one.table, &one.key).cmp(&(other.table, &other.key)));
                rows
            };
            prop_assert_eq!(same(carry_out(&mut packed, op)), same(carry_out(&mut plain, op)));
            prop_assert_eq!(packed.open_sessions(), plain.open_sessions());
            prop_assert_eq!(packed.sessions(), plain.sessions());
        }
        prop_assert_eq!(picture(&packed), picture(&plain));
        prop_assert_eq!(listed(&packed, 3), listed(&plain, 1000));
        for address in ["198.51.100.70", "198.51.100.71", "2001:db8:5100:64::70", "2001:db8:5100:6401::1"] {
            // A glance may leave it to the table, and never says anything else.
            let answer = plain.lookup(ip(address), at(60));
            let right = glances.find(ip(address), at(60), |sight| match sight {
                Sight::Bound(seen) => {
                    let who: SubscriberId = seen.subscriber().parse().unwrap();
                    let live = plain.verify(&who, ip(address), at(60));
                    seen.live().is_none_or(|seen| Ok(seen) == live) && live.is_ok()
                }
                Sight::Nobody => answer == Answer::Unknown(Unknown::NoSession),
                Sight::Ask => true,
            });
            prop_assert!(right, "{}: {:?}", address, answer);
        }
    }

    #[test]
    fn a_copy_of_any_event_right_behind_it_changes_no_answer(ops in proptest::collection::vec(any_op(), 0..40)) {
        let (mut once, mut twice) = (Table::new(settings()), Table::new(settings()));
        for op in &ops {
            carry_out(&mut once, op);
            carry_out(&mut twice, op);
            carry_out(&mut twice, op);
        }
        prop_assert_eq!(answers(&once), answers(&twice));
    }

    #[test]
    fn a_late_copy_of_any_event_binds_nobody_who_was_not_bound(
        ops in proptest::collection::vec(any_op(), 1..30), from in 0_usize..30, to in 0_usize..30,
    ) {
        // What is forgotten is stale before anything of it could arrive again; here time is not in order.
        // Two clocks cannot be put in order, and a copy may then tell which of two records was later.
        let by_one_clock = |op: &Op| match op {
            Op::Session(SessionRecord { time, .. }, _) | Op::Reset(time) => time.basis == Basis::Stated,
            Op::Forget(_) => false,
        };
        let ops: Vec<Op> = ops.into_iter().filter(by_one_clock).collect();
        let (mut once, mut twice) = (Table::new(settings()), Table::new(settings()));
        for (index, op) in ops.iter().enumerate() {
            carry_out(&mut once, op);
            carry_out(&mut twice, op);
            if index == to && from < to {
                carry_out(&mut twice, &ops[from]);
            }
        }
        for address in ["198.51.100.70", "198.51.100.71", "2001:db8:5100:64::70", "2001:db8:5100:6401::1"] {
            if let Answer::Bound { subscriber, .. } = twice.lookup(ip(address), at(60)) {
                let without = once.lookup(ip(address), at(60));
                prop_assert!(matches!(&without, Answer::Bound { subscriber: who, .. } if *who == subscriber), "{subscriber}: {without:?}");
            }
        }
    }

    #[test]
    fn nobody_is_bound_whom_no_record_named_there(ops in proptest::collection::vec(any_op(), 0..40)) {
        let mut table = Table::new(settings());
        ops.iter().for_each(|op| drop(carry_out(&mut table, op)));
        for address in ["198.51.100.70", "198.51.100.71", "2001:db8:5100:64::70", "2001:db8:5100:6401::1"] {
            let Answer::Bound { subscriber, session, span, .. } = table.lookup(ip(address), at(60)) else { continue };
            let of_session = |record: &&SessionRecord| record.session == session.session && record.change != Change::Stop;
            let records = || ops.iter().filter_map(|op| match op { Op::Session(record, _) => Some(record), _ => None }).filter(of_session);
            let named = records().any(|r| r.addresses.iter().any(|of| of.net.contains(&ip(address))) && r.time.proof == span.proof);
            let owned = records().any(|r| r.user == User::Named(subscriber.clone()));
            prop_assert!(named && owned, "{subscriber} at {address}");
        }
    }
}
