//! A generated history against an oracle that knows the truth: who was at which address, and which ports, when.
//!
//! NASes with clocks that are off by minutes either way, a NAT whose translations lead to their subscribers, and records that
//! are late, doubled, reordered and lost; NASes restart. Moments of the past are asked about all the while. What the table says
//! has to be true, whatever was lost: the only excuse is a session that is still open for the table because its end is yet to
//! come or never will. And it has to say it, where all that was told of the time around is there and in time. What readers see at a
//! glance has to be what the table says.
//!
//! EVENTS=100000000 for a long run (`--release`), of which each of SIM_SEEDS seeds has a part; SIM_SEED=7 replays one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cloakway_sim::{Rng, seeds};
use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv4Net};
use toolbox_core::{Answer, Event, Glances, Interval, Past, Question, Row, Rows, Settings, Sight, Table, Unknown};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

const MAX_AGE: u64 = 1_800_000;
const MAX_DELAY: u64 = 20_000;
const EPOCH: u64 = 1_700_000_000_000;
/// Internal addresses, each with a block of ports outside.
const ADDRESSES: usize = 96;
/// Blocks of one external address.
const BLOCKS: usize = 16;
const NASES: usize = 6;
/// How far back is asked.
const BACK: u64 = 4 * 3_600_000;

fn inside(n: usize) -> Ipv4Addr {
    Ipv4Addr::from((100 << 24) + (64 << 16) + n as u32)
}

fn outside(n: usize) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from([198, 51, 100, (n / BLOCKS) as u8]), (n % BLOCKS) as u16 * 1024 + 4096)
}

/// A session as it truly was.
#[derive(Debug, Clone)]
struct Truth {
    number: u64,
    user: String,
    nas: usize,
    from: u64,
    to: Option<u64>,
    /// When its first record came and its Stop, and whether they came in time.
    start_in_time: bool,
    stop_came: Option<u64>,
    stop_in_time: bool,
    last_told: u64,
}

/// On its way to the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: u64,
    order: u64,
    place: usize,
    number: u64,
    /// 0 Start, 1 Interim, 2 Stop, 3 the restart of NAS `place`.
    what: u8,
    /// When it happened, and what of that the record says as delay.
    happened: u64,
    delay: u64,
    in_time: bool,
}

#[derive(Default)]
struct Shelf {
    by_address: HashMap<IpAddr, VecDeque<Interval>>,
    horizon: u64,
}

impl Past for Shelf {
    type Error = Infallible;

    fn intervals(&self, address: IpAddr, at: Timestamp) -> Result<Vec<Interval>, Infallible> {
        let all = self.by_address.get(&address);
        Ok(all.into_iter().flatten().filter(|interval| interval.may_hold(at)).cloned().collect())
    }

    fn horizon(&self) -> Timestamp {
        Timestamp::from_millis(self.horizon)
    }
}

struct World {
    rng: Rng,
    /// Nothing is lost or late, and most clocks are right: nearly all has to be known.
    gentle: bool,
    now: u64,
    order: u64,
    /// What each NAS's clock is ahead, in seconds.
    skew: [i64; NASES],
    truth: Vec<VecDeque<Truth>>,
    packets: BinaryHeap<Reverse<Packet>>,
    table: Table,
    glances: Glances,
    shelf: Shelf,
    sessions: u64,
    events: u64,
    bound: u64,
    unknown: u64,
    expected: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let prefixes = ["198.51.100.0/24", "100.64.0.0/10"];
        let settings = Settings {
            prefixes: prefixes.iter().map(|text| (text.parse::<IpNet>().unwrap(), ())).collect(),
            max_age: Duration::from_millis(MAX_AGE),
            max_delay: Duration::from_millis(MAX_DELAY),
            translators: Vec::new(),
        };
        let table = Table::new(settings);
        let mut rng = Rng::new(seed);
        let gentle = seed.is_multiple_of(2);
        let right = if gentle { NASES - 1 } else { 2 };
        let skew = std::array::from_fn(|nas| if nas < right { 0 } else { rng.between(0, 600) as i64 - 300 });
        let mut world = Self {
            rng,
            gentle,
            now: EPOCH,
            order: 0,
            skew,
            truth: vec![VecDeque::new(); ADDRESSES],
            packets: BinaryHeap::new(),
            glances: table.glances().unwrap(),
            table,
            shelf: Shelf::default(),
            sessions: 0,
            events: 0,
            bound: 0,
            unknown: 0,
            expected: 0,
        };
        // Each block of ports is one internal address's for good.
        for n in 0..ADDRESSES {
            let (address, first) = outside(n);
            let ports = Ports::new(first, first + 1023).unwrap();
            let record = SessionRecord {
                change: Change::Start,
                session: format!("{address}:{ports}"),
                user: User::Behind(inside(n).into()),
                nas: Nas::default(),
                addresses: vec![Address::ports(AddressKind::PortBlock, address.into(), ports)],
                time: EventTime::ordered(Timestamp::from_millis(EPOCH)),
                until: Some(toolbox_wire::record::FOREVER),
            };
            let rows = world.apply(Source::Cgnat, Record::Session(record));
            world.keep(rows);
        }
        world
    }

    fn apply(&mut self, source: Source, record: Record) -> Vec<Row> {
        let arrival = Timestamp::from_millis(self.now);
        self.table.apply(&Event { source, client: "all".to_owned(), record, arrival }).rows
    }

    fn keep(&mut self, rows: Vec<Row>) {
        for row in rows.into_iter().filter(|row| row.table == Rows::History) {
            let interval = Interval::decode(&row.value.unwrap()).unwrap();
            let shelf = self.shelf.by_address.entry(interval.net.addr()).or_default();
            shelf.push_back(interval);
            while shelf.front().is_some_and(|first| first.gone.as_millis() + BACK + 2 * MAX_AGE < self.now) {
                shelf.pop_front();
            }
        }
    }

    fn run(&mut self, events: u64) {
        while self.events < events {
            self.now += self.rng.between(1, 4_000);
            while let Some(Reverse(packet)) = self.packets.peek()
                && packet.at <= self.now
            {
                let packet = self.packets.pop().unwrap().0;
                self.deliver(&packet);
            }
            self.act();
            if self.rng.chance(8) {
                self.ask();
            }
            if self.rng.between(0, 2_000) == 0 {
                let rows = self.table.forget(Timestamp::from_millis(self.now));
                self.keep(rows);
                self.shelf.horizon = self.now.saturating_sub(BACK).max(EPOCH);
            }
        }
    }

    // --- the network ---

    fn act(&mut self) {
        if self.rng.between(0, 20_000) == 0 {
            let nas = self.rng.between(0, NASES as u64 - 1) as usize;
            for sessions in &mut self.truth {
                if let Some(of) = sessions.back_mut().filter(|of| of.nas == nas && of.to.is_none()) {
                    of.to = Some(self.now);
                }
            }
            return self.tell(nas, 0, 3);
        }
        let place = self.rng.between(0, ADDRESSES as u64 - 1) as usize;
        let ends = self.rng.chance(25);
        let (now, number) = (self.now, self.sessions + 1);
        let sessions = &mut self.truth[place];
        match sessions.back_mut() {
            Some(last) if last.to.is_none() => {
                let of = last.number;
                if ends {
                    last.to = Some(now);
                }
                self.tell(place, of, if ends { 2 } else { 1 });
            }
            _ => {
                self.sessions = number;
                let nas = self.rng.between(0, NASES as u64 - 1) as usize;
                let user = format!("user{}", self.rng.between(0, 999));
                let sessions = &mut self.truth[place];
                sessions.push_back(Truth {
                    number,
                    user,
                    nas,
                    from: now,
                    to: None,
                    start_in_time: false,
                    stop_came: None,
                    stop_in_time: false,
                    last_told: 0,
                });
                while sessions.front().is_some_and(|first| first.to.is_some_and(|to| to + 2 * BACK < now)) {
                    sessions.pop_front();
                }
                self.tell(place, number, 0);
            }
        }
    }

    /// One in eight is lost, one in six comes twice, some come late: in order of magnitude as the network may hold them, or much
    /// later with the delay stated.
    fn tell(&mut self, place: usize, number: u64, what: u8) {
        let copies = 1 + u64::from(self.rng.chance(16));
        for _ in 0..copies {
            if !self.gentle && self.rng.chance(12) {
                continue;
            }
            let (wait, delay) = match self.rng.between(0, 9) {
                _ if self.gentle => (self.rng.between(1, 900), 0),
                // The clock here goes in steps of up to 4 s, which the network must not seem to hold a packet longer by.
                0 => (self.rng.between(0, MAX_DELAY - 5000), 0),
                1 => {
                    let queued = self.rng.between(0, 600) * 1000;
                    (queued + self.rng.between(0, 900), queued)
                }
                _ => (self.rng.between(1, 900), 0),
            };
            self.order += 1;
            let in_time = wait < 1000;
            let (at, happened) = (self.now + wait, self.now);
            let packet = Packet { at, order: self.order, place, number, what, happened, delay, in_time };
            self.packets.push(Reverse(packet));
        }
    }

    fn deliver(&mut self, packet: &Packet) {
        self.events += 1;
        let arrival = Timestamp::from_millis(self.now);
        let sent = arrival - Duration::from_millis(packet.delay);
        let nas = match packet.what {
            3 => packet.place,
            _ => match self.truth[packet.place].iter().rev().find(|of| of.number == packet.number) {
                Some(of) => of.nas,
                None => return,
            },
        };
        let seconds = (packet.happened / 1000).checked_add_signed(self.skew[nas]).unwrap();
        // One NAS states no time.
        let time = match nas {
            1 => EventTime::derived(sent),
            _ => EventTime::stated(Timestamp::from_secs(seconds), sent),
        };
        let device = Nas { identifier: Some(format!("nas{nas}")), ..Nas::default() };
        if packet.what == 3 {
            let rows = self.apply(Source::Radius, Record::NasReset { nas: device, time });
            return self.keep(rows);
        }
        let now = self.now;
        let of = self.truth[packet.place].iter_mut().rev().find(|of| of.number == packet.number).unwrap();
        match packet.what {
            0 => of.start_in_time |= packet.in_time,
            2 => {
                of.stop_came.get_or_insert(now);
                of.stop_in_time |= packet.in_time;
            }
            _ => {}
        }
        of.last_told = now;
        let record = SessionRecord {
            change: [Change::Start, Change::Interim, Change::Stop][usize::from(packet.what)],
            session: format!("{:x}", packet.number),
            user: User::Named(of.user.parse().unwrap()),
            nas: device,
            addresses: vec![Address::whole(AddressKind::FramedV4, Ipv4Net::from(inside(packet.place)).into())],
            time,
            until: None,
        };
        let rows = self.apply(Source::Radius, Record::Session(record));
        self.keep(rows);
    }

    // --- the oracle ---

    fn ask(&mut self) {
        let place = self.rng.between(0, ADDRESSES as u64 - 1) as usize;
        let at = self.now - self.rng.between(0, BACK.min(self.now - EPOCH));
        let question = if self.rng.chance(50) {
            Question::new(inside(place).into(), None)
        } else {
            let (address, first) = outside(place);
            Question::new(address.into(), Some(first + self.rng.between(0, 1023) as u16))
        };
        let (when, now) = (Timestamp::from_millis(at), Timestamp::from_millis(self.now));
        self.glance(place, now);
        let answer = self.table.lookup_at(question, when, now, &self.shelf).unwrap();
        let context = || {
            let address = IpAddr::from(inside(place));
            let mut claims = self.shelf.intervals(address, when).unwrap();
            claims.extend(self.table.intervals(address, now).into_iter().filter(|of| of.may_hold(when)));
            format!("{question:?} at {when}, now {now}: {answer:?}; told: {claims:?}; true: {:?}", self.truth[place])
        };
        match &answer {
            Answer::Bound { subscriber, session, .. } => {
                self.bound += 1;
                self.expected += u64::from(self.has_to_be_known(place, at));
                let true_then = |of: &&Truth| of.from <= at && of.to.is_none_or(|to| at <= to);
                let right = self.truth[place].iter().filter(true_then).any(|of| of.user == subscriber.as_str());
                let number = u64::from_str_radix(&session.session, 16).unwrap();
                // Its end has not come, so it goes on as far as anybody can tell.
                let excused =
                    self.truth[place].iter().any(|of| of.number == number && of.stop_came.is_none() && of.from <= at);
                assert!(right || excused, "{}", context());
            }
            Answer::Unknown(why) => {
                assert!(
                    !matches!(why, Unknown::Forgotten | Unknown::Future | Unknown::PortsNeeded | Unknown::Astray),
                    "{}",
                    context()
                );
                self.unknown += 1;
                assert!(!self.has_to_be_known(place, at), "{}", context());
            }
            Answer::NotOurs => panic!("{}", context()),
        }
    }

    /// What is seen at a glance now, by itself and in a list, is what the table says.
    fn glance(&self, place: usize, now: Timestamp) {
        let around = (0..4).map(|n| (place + n) % ADDRESSES);
        let questions: Vec<Question> = around
            .flat_map(|place| {
                let (address, first) = outside(place);
                [Question::new(inside(place).into(), None), Question::new(address.into(), Some(first + 7))]
            })
            .collect();
        let check = |question: Question, sight: Sight<'_>| {
            let answer = self.table.lookup(question, now);
            match (sight, &answer) {
                (Sight::Bound(seen), Answer::Bound { subscriber, .. }) => seen.is(subscriber.as_str()),
                (Sight::Nobody, answer) => *answer == Answer::Unknown(Unknown::NoSession),
                (Sight::Ask, _) => true,
                (Sight::Bound(_), _) => false,
            }
        };
        self.glances.find_each(&questions, now, |n, sight| assert!(check(questions[n], sight), "{questions:?} {n}"));
        assert!(self.glances.find(questions[0], now, |sight| check(questions[0], sight)), "{:?}", questions[0]);
    }

    /// Whether all that happened around `at` was told, in time and by right clocks.
    fn has_to_be_known(&self, place: usize, at: u64) -> bool {
        let margin = MAX_DELAY + 2_000;
        let sessions = &self.truth[place];
        let Some(index) =
            sessions.iter().position(|of| of.from + margin <= at && of.to.is_some_and(|to| at + margin <= to))
        else {
            return false;
        };
        // Those without a stated time are unordered where they come close together.
        let clear = |of: &Truth| self.skew[of.nas] == 0 && of.nas != 1 && of.start_in_time && of.stop_in_time;
        // Who was there before and after may reach into this time, if his end was not told.
        let around = |of: &Truth| clear(of) || of.last_told + 2 * MAX_AGE < at || of.from > at + 2 * MAX_AGE;
        clear(&sessions[index]) && sessions.iter().enumerate().all(|(n, of)| n == index || around(of))
    }
}

#[test]
fn nobody_is_said_to_have_been_where_he_was_not_and_who_was_is_known_where_all_was_told() {
    let seeds = seeds(24);
    let events = std::env::var("EVENTS").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(240_000);
    let (mut bound, mut unknown, mut expected, mut total) = (0, 0, 0, 0);
    for seed in &seeds {
        eprintln!("SIM_SEED={seed}");
        let mut world = World::new(*seed);
        world.run(events / seeds.len() as u64);
        (bound, unknown, total) = (bound + world.bound, unknown + world.unknown, total + world.events);
        expected += world.expected;
    }
    eprintln!("{total} events, {bound} times somebody, {unknown} times nobody");
    assert!(bound > unknown / 20 && expected > 0, "it has to answer too: {expected} had to be known");
}
