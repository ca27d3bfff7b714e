//! A NAS whose accounting packets are lost, doubled, delayed and reordered, beside an oracle that knows
//! the truth. Replay one seed with `SIM_SEED=17 cargo test -p toolbox-core --test simulation`.
//!
//! The NAS hands out few addresses quickly, moves sessions, loses Stops, restarts and then uses its
//! session ids again. The table is asked at random moments. A yes must be true for the moment of its
//! proof, and nothing that was delivered may speak against it. What was lost on the way excuses the
//! table; what it was told does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_sim::{Faults, Net, seeds};
use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_core::{Answer, Event, Question, Settings, Sight, Table, Unknown};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Record, SessionRecord, User};

const NAS: usize = 0;
const TOOLBOX: usize = 1;
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const ADDRESSES: u64 = 3;
const MAX_AGE: Duration = Duration::from_secs(900);
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// Origin of virtual time.
const EPOCH: u64 = 1_700_000_000_000;

#[derive(Debug, Clone)]
enum Message {
    /// The NAS does something of its own accord.
    Act,
    /// A packet, numbered by the true event that it tells of.
    Packet { event: usize, delay_s: u64 },
    /// Somebody asks.
    Ask,
}

/// What truly happened, known to the oracle alone.
#[derive(Debug, Clone)]
struct Truth {
    at: Duration,
    /// Which of all sessions ever; none for Accounting-On.
    session: Option<usize>,
    change: Option<Change>,
    address: Option<u64>,
}

#[derive(Debug)]
struct TrueSession {
    user: &'static str,
    name: String,
    /// Who had what when: (address, from, to).
    held: Vec<(u64, Duration, Option<Duration>)>,
    over: bool,
    /// The events of it that reached the toolbox, and when the newest did.
    delivered: BTreeSet<usize>,
    heard: Duration,
}

struct World {
    net: Net<Message>,
    stated: bool,
    boots: usize,
    started: usize,
    sessions: Vec<TrueSession>,
    events: Vec<Truth>,
    /// The newest restart that reached the toolbox.
    reset: Option<usize>,
    table: Table,
    yes: usize,
    no: usize,
}

fn address(n: u64) -> IpAddr {
    IpAddr::from([198, 51, 100, 70 + u8::try_from(n).unwrap()])
}

fn wall(at: Duration) -> Timestamp {
    Timestamp::from_millis(EPOCH) + at
}

impl World {
    fn new(seed: u64, stated: bool) -> Self {
        let faults = Faults {
            loss_percent: 25,
            duplicate_percent: 20,
            delay_min: Duration::from_millis(1),
            delay_max: LONGEST_DELAY,
        };
        let prefixes = [("198.51.100.64/26".parse::<IpNet>().unwrap(), ())].into_iter().collect();
        let mut net = Net::new(seed, faults);
        net.after(Duration::ZERO, NAS, Message::Act);
        net.after(Duration::ZERO, TOOLBOX, Message::Ask);
        Self {
            net,
            stated,
            boots: 0,
            started: 0,
            sessions: Vec::new(),
            events: Vec::new(),
            reset: None,
            table: Table::new(Settings {
                prefixes,
                max_age: MAX_AGE,
                max_delay: LONGEST_DELAY,
                translators: Vec::new(),
            }),
            yes: 0,
            no: 0,
        }
    }

    fn run(&mut self, hours: u64) {
        let end = Duration::from_secs(hours * 3600);
        while let Some((_, message)) = self.net.step_until(end) {
            match message {
                Message::Act => {
                    self.act();
                    let pause = Duration::from_millis(self.net.rng.between(50, 30_000));
                    self.net.after(pause, NAS, Message::Act);
                }
                Message::Packet { event, delay_s } => self.deliver(event, delay_s),
                Message::Ask => {
                    self.ask();
                    let pause = Duration::from_millis(self.net.rng.between(10, 5_000));
                    self.net.after(pause, TOOLBOX, Message::Ask);
                }
            }
        }
    }

    // --- the NAS ---

    fn act(&mut self) {
        let open: Vec<usize> = (0..self.sessions.len()).filter(|n| !self.sessions[*n].over).collect();
        let free: Vec<u64> = (0..ADDRESSES).filter(|a| open.iter().all(|n| self.address_of(*n) != Some(*a))).collect();
        let chosen = self.net.rng.pick(&open).copied();
        match (self.net.rng.between(0, 99), chosen) {
            (0, _) => self.restart(&open),
            (1..=30, _) => self.connect(&free),
            (31..=55, Some(session)) => self.disconnect(session),
            (56..=62, Some(session)) => {
                let to = self.net.rng.pick(&free).copied();
                self.hold(session, to);
                self.tell(Some(session), Some(Change::Interim), to);
            }
            (_, Some(session)) => {
                let address = self.address_of(session);
                self.tell(Some(session), Some(Change::Interim), address);
            }
            (_, None) => self.connect(&free),
        }
    }

    fn connect(&mut self, free: &[u64]) {
        let Some(address) = self.net.rng.pick(free).copied() else { return };
        let user = self.net.rng.pick(&USERS).copied().unwrap();
        // Session ids count from 1 again after each restart: the field's worst habit.
        self.started += 1;
        let session = self.sessions.len();
        let name = format!("{:08X}", self.started);
        self.sessions.push(TrueSession {
            user,
            name,
            held: Vec::new(),
            over: false,
            delivered: BTreeSet::new(),
            heard: Duration::ZERO,
        });
        // As with ocserv, the address may be left to the first Interim-Update.
        let named = self.net.rng.chance(70);
        self.hold(session, Some(address));
        self.tell(Some(session), Some(Change::Start), named.then_some(address));
    }

    fn disconnect(&mut self, session: usize) {
        self.hold(session, None);
        self.sessions[session].over = true;
        self.tell(Some(session), Some(Change::Stop), None);
    }

    fn restart(&mut self, open: &[usize]) {
        for session in open {
            self.hold(*session, None);
            self.sessions[*session].over = true;
        }
        self.boots += 1;
        self.started = 0;
        self.tell(None, None, None);
    }

    fn address_of(&self, session: usize) -> Option<u64> {
        self.sessions[session].held.last().filter(|(_, _, to)| to.is_none()).map(|(address, _, _)| *address)
    }

    fn hold(&mut self, session: usize, address: Option<u64>) {
        let now = self.net.now();
        let held = &mut self.sessions[session].held;
        if let Some((_, _, to @ None)) = held.last_mut() {
            *to = Some(now);
        }
        held.extend(address.map(|address| (address, now, None)));
    }

    /// Sends the packet, and again a few times as a NAS does which had no answer.
    fn tell(&mut self, session: Option<usize>, change: Option<Change>, address: Option<u64>) {
        let at = self.net.now();
        let event = self.events.len();
        self.events.push(Truth { at, session, change, address });
        self.net.send(NAS, TOOLBOX, Message::Packet { event, delay_s: 0 });
        for n in 1..=self.net.rng.between(0, 2) {
            // A packet sent again says how long ago the event was.
            let faults = self.net.faults.clone();
            self.net.faults.delay_min = Duration::from_secs(5 * n);
            self.net.faults.delay_max = Duration::from_secs(5 * n) + LONGEST_DELAY;
            self.net.send(NAS, TOOLBOX, Message::Packet { event, delay_s: 5 * n });
            self.net.faults = faults;
        }
    }

    // --- the toolbox ---

    fn deliver(&mut self, event: usize, delay_s: u64) {
        let now = self.net.now();
        let truth = self.events[event].clone();
        let arrival = wall(now);
        let sent = wall(now.saturating_sub(Duration::from_secs(delay_s)));
        let time = if self.stated {
            EventTime::stated(Timestamp::from_secs(wall(truth.at).as_secs()), sent)
        } else {
            EventTime::derived(sent)
        };
        let nas = Nas { identifier: Some("edge".to_owned()), ..Nas::default() };
        let record = match (truth.session, truth.change) {
            (Some(session), Some(change)) => Record::Session(SessionRecord {
                change,
                session: self.sessions[session].name.clone(),
                user: User::Named(self.sessions[session].user.parse().unwrap()),
                nas,
                addresses: truth
                    .address
                    .map(|a| Address::whole(AddressKind::FramedV4, IpNet::from(address(a))))
                    .into_iter()
                    .collect(),
                time,
                until: None,
            }),
            _ => Record::NasReset { nas, time },
        };
        self.table.apply(&Event { source: Source::Radius, client: "edge".to_owned(), record, arrival });
        match truth.session {
            Some(session) => {
                let session = &mut self.sessions[session];
                // A copy, or what is older than known, is no sign of life.
                if session.delivered.last() < Some(&event) {
                    session.heard = now;
                }
                session.delivered.insert(event);
            }
            None => self.reset = self.reset.max(Some(event)),
        }
        if self.net.rng.chance(2) {
            self.table.forget(arrival);
        }
    }

    fn ask(&mut self) {
        let now = self.net.now();
        let asked = self.net.rng.between(0, ADDRESSES - 1);
        let all: Vec<Question> = (0..ADDRESSES).map(|of| address(of).into()).collect();
        self.table.glances().unwrap().find_each(&all, wall(now), |of, sight| {
            let answer = self.table.lookup(all[of], wall(now));
            let same = match (sight, &answer) {
                (Sight::Bound(seen), Answer::Bound { subscriber, .. }) => seen.is(subscriber.as_str()),
                (Sight::Nobody, answer) => *answer == Answer::Unknown(Unknown::NoSession),
                (Sight::Ask, _) => true,
                (Sight::Bound(_), _) => false,
            };
            assert!(same, "at a glance {sight:?}, and {answer:?}");
        });
        match self.table.lookup(address(asked), wall(now)) {
            Answer::Bound { subscriber, span, .. } => {
                self.yes += 1;
                self.check(asked, subscriber.as_str(), span.proof);
            }
            _ => self.no += 1,
        }
    }

    // --- the oracle ---

    fn check(&self, asked: u64, user: &str, proof: Timestamp) {
        let context = || format!("{user} at {asked}, proved {proof}, now {}", wall(self.net.now()));
        // True for the moment of the proof, within what its clock can tell: a second of Event-Timestamp,
        // or the time that the network may hold a packet.
        let slack = if self.stated { Duration::from_secs(1) } else { LONGEST_DELAY + Duration::from_secs(1) };
        let (from, to) = if self.stated { (proof, proof + slack) } else { (early(proof, slack), proof) };
        let held = self.sessions.iter().filter(|session| session.user == user).flat_map(|session| &session.held);
        let true_then = held
            .filter(|(address, _, _)| *address == asked)
            .any(|(_, since, until)| wall(*since) <= to && until.is_none_or(|until| wall(until) >= from));
        assert!(true_then, "was not there at the moment of the proof: {}", context());
        for session in self.claimants(asked) {
            assert_eq!(self.sessions[session].user, user, "what was delivered names another: {}", context());
        }
        if self.stated {
            assert!(
                self.claimants(asked).iter().any(|session| self.sessions[*session].user == user),
                "what was delivered says it is over: {}",
                context()
            );
        }
    }

    /// The sessions at `asked`, as far as the delivered packets say, judged by the true order of events.
    fn claimants(&self, asked: u64) -> Vec<usize> {
        let now = self.net.now();
        let silent = |n: &usize| now.saturating_sub(self.sessions[*n].heard) > MAX_AGE;
        let told_of = (0..self.sessions.len()).filter(|n| !self.sessions[*n].delivered.is_empty() && !silent(n));
        told_of.filter(|n| self.claims(&self.sessions[*n], *n, asked)).collect()
    }

    fn claims(&self, session: &TrueSession, n: usize, asked: u64) -> bool {
        let own = || session.delivered.iter().map(|event| &self.events[*event]);
        let stopped = own().any(|event| event.change == Some(Change::Stop));
        let reset = session.delivered.first() < self.reset.as_ref();
        // A later session under the same id shows that this one is over.
        let replaced = self.sessions.iter().skip(n + 1).any(|of| of.name == session.name && !of.delivered.is_empty());
        // Event-Timestamp cannot tell apart what happened within one second.
        let second = |event: &Truth| wall(event.at).as_secs();
        let newest = own().filter(|event| event.address.is_some()).map(second).max();
        let here = own().any(|event| event.address == Some(asked) && Some(second(event)) == newest);
        here && !stopped && !reset && !replaced
    }
}

fn early(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(time.as_millis().saturating_sub(u64::try_from(by.as_millis()).unwrap()))
}

fn simulate(stated: bool) {
    let (mut yes, mut no, mut boots) = (0, 0, 0);
    for seed in seeds(40) {
        eprintln!("SIM_SEED={seed} stated={stated}");
        let mut world = World::new(seed, stated);
        world.run(3);
        (yes, no, boots) = (yes + world.yes, no + world.no, boots + world.boots);
    }
    eprintln!("{yes} times somebody, {no} times nobody, {boots} restarts of the NAS");
    assert!(yes > no / 20, "the table must also answer: {yes} of {}", yes + no);
    assert!(boots > 0);
}

#[test]
fn with_event_timestamps_no_answer_is_a_wrong_person() {
    simulate(true);
}

#[test]
fn without_event_timestamps_no_answer_is_a_wrong_person_beyond_the_delay_of_the_network() {
    simulate(false);
}
