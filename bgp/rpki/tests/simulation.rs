//! A cache over virtual days in which it restarts under a new session, forgets what changed (Cache Reset), has no data yet,
//! reports errors, says nonsense, answers slowly, stops in the middle or hangs up, and counts its serial numbers past
//! their end. The client never has anything but what the cache had at one serial number, forgets it when it is too old,
//! and has the latest once the cache behaves. `SIM_SEED=…` replays one run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bgp_rpki::{Client, ErrorKind, Event, Framer, Input, Output, Pdu, Settings, State, Timing, Version, Vrp};
use bgp_wire::Asn;
use cloakway_sim::{Faults, Net, seeds};
use cloakway_types::Instant;

const CLIENT: usize = 0;
const CACHE: usize = 1;
const TROUBLE: Duration = Duration::from_secs(4 * 24 * 3600);
/// Serial numbers whose difference to the present the cache still knows.
const HISTORY: usize = 4;

fn timing() -> Timing {
    let seconds = Duration::from_secs;
    Timing { refresh: seconds(3600), retry: seconds(600), expire: seconds(7200) }
}

#[derive(Debug, Clone)]
enum Told {
    /// The client's timer.
    Tick,
    /// The client connects, or the cache has taken it, or has not.
    Syn(u64),
    Taken(u64),
    Refused(u64),
    /// Octets of a connection.
    Data(u64, Vec<u8>),
    /// Its end.
    Fin(u64),
    Trouble,
}

/// What a cache that behaves is, and what makes it misbehave.
struct Cache {
    session: u16,
    serial: u32,
    data: BTreeSet<Vrp>,
    /// What each of the last serial numbers changed.
    history: VecDeque<(u32, Vec<(bool, Vrp)>)>,
    /// The connection that it has, and what has come on it.
    conn: Option<(u64, Framer)>,
    up: bool,
    /// It has not loaded its data.
    empty: bool,
    version: Version,
    /// The next answer: as it should be, or otherwise.
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// The answer stops in the middle, and nothing comes any more.
    Stops,
    /// The connection ends in the middle of the answer.
    HangsUp,
    /// Octets that are no units.
    Babbles,
    /// An error in place of an answer.
    Reports,
    /// Half a minute between units.
    Slow,
}

struct World {
    net: Net<Told>,
    client: Client,
    conn: Option<u64>,
    conns: u64,
    cache: Cache,
    /// What the cache had, by session and serial.
    had: BTreeMap<(u16, u32), BTreeSet<Vrp>>,
    planned: Option<Instant>,
    troubled: bool,
    seed: u64,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    updates: u64,
    resets: u64,
    sessions: u64,
    downs: u64,
    expired: u64,
    wraps: u64,
}

fn vrp(n: u64) -> Vrp {
    let prefix = format!("10.{}.0.0/16", n % 200).parse().unwrap();
    Vrp { prefix, max_length: 16 + u8::try_from(n % 8).unwrap(), asn: Asn(64500 + u32::try_from(n % 3).unwrap()) }
}

impl World {
    fn new(seed: u64) -> Self {
        let net = Net::new(seed, Faults { delay_max: Duration::from_millis(200), ..Faults::none() });
        let cache = Cache {
            session: 1,
            // Two steps before the numbers begin anew (RFC 1982).
            serial: u32::MAX - 1,
            data: (0..20).map(vrp).collect(),
            history: VecDeque::new(),
            conn: None,
            up: true,
            empty: false,
            version: if seed.is_multiple_of(3) { Version::V0 } else { Version::V1 },
            mood: Mood::Well,
        };
        let client = Client::new(Settings { max_payloads: 1000, timing: timing() }, Instant::ORIGIN);
        let mut world = Self {
            net,
            client,
            conn: None,
            conns: 0,
            had: BTreeMap::from([((cache.session, cache.serial), cache.data.clone())]),
            cache,
            planned: None,
            troubled: true,
            seed,
            seen: Seen::default(),
        };
        world.plan();
        world.net.after(Duration::from_secs(60), CACHE, Told::Trouble);
        world
    }

    fn now(&self) -> Instant {
        Instant::after_origin(self.net.now())
    }

    fn run(&mut self, end: Duration) {
        while let Some((node, told)) = self.net.step_until(end) {
            match (node, told) {
                (_, Told::Trouble) => self.trouble(),
                (CLIENT, told) => self.client_hears(told),
                (_, told) => self.cache_hears(told),
            }
            self.check();
        }
    }

    fn client_hears(&mut self, told: Told) {
        match told {
            Told::Tick => {
                self.planned = None;
                self.input(Input::Tick);
            }
            Told::Taken(conn) if self.conn == Some(conn) => self.input(Input::Connected),
            Told::Data(conn, bytes) if self.conn == Some(conn) => self.input(Input::Received(&bytes)),
            Told::Refused(conn) | Told::Fin(conn) if self.conn == Some(conn) => {
                self.conn = None;
                self.input(Input::Closed("gone"));
            }
            _ => {}
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.client.handle(input, now);
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Connect => {
                    self.conns += 1;
                    self.conn = Some(self.conns);
                    self.net.send_ordered(CLIENT, CACHE, Told::Syn(self.conns));
                }
                Output::Send(bytes) => {
                    if let Some(conn) = self.conn {
                        self.net.send_ordered(CLIENT, CACHE, Told::Data(conn, bytes));
                    }
                }
                Output::Close => {
                    if let Some(conn) = self.conn.take() {
                        self.net.send_ordered(CLIENT, CACHE, Told::Fin(conn));
                    }
                }
                Output::Event(Event::Updated { serial, .. }) => {
                    self.seen.updates += 1;
                    let status = self.client.status();
                    let had = &self.had[&(status.session.unwrap(), serial)];
                    let has: BTreeSet<Vrp> = self.client.data().unwrap().iter().collect();
                    assert_eq!(has, *had, "SIM_SEED={}: serial {serial}", self.seed);
                }
                Output::Event(Event::Down(_)) => self.seen.downs += 1,
                Output::Event(Event::Expired) => self.seen.expired += 1,
            }
        }
        self.plan();
    }

    fn plan(&mut self) {
        let now = self.now();
        if let Some(due) = self.client.poll_timeout()
            && self.planned.is_none_or(|planned| due < planned)
        {
            self.planned = Some(due);
            self.net.after(due.since(now), CLIENT, Told::Tick);
        }
    }

    fn cache_hears(&mut self, told: Told) {
        match told {
            Told::Syn(conn) if self.cache.up => {
                self.cache.conn = Some((conn, Framer::default()));
                self.net.send_ordered(CACHE, CLIENT, Told::Taken(conn));
            }
            // A host that is off says nothing.
            Told::Syn(conn) if self.net.rng.chance(70) => {
                self.net.send_ordered(CACHE, CLIENT, Told::Refused(conn));
            }
            Told::Data(conn, bytes) => {
                let Some((ours, framer)) = &mut self.cache.conn else { return };
                if *ours != conn {
                    return;
                }
                framer.push(&bytes);
                let mut asked = Vec::new();
                while let Some(unit) = framer.next_pdu().unwrap() {
                    asked.push(Pdu::decode(unit).unwrap());
                }
                for (version, pdu) in asked {
                    self.answer(conn, version, &pdu);
                }
            }
            Told::Fin(conn) if self.cache.conn.as_ref().is_some_and(|(ours, _)| *ours == conn) => {
                self.cache.conn = None
            }
            _ => {}
        }
    }

    fn say(&mut self, conn: u64, pdu: &Pdu) {
        self.net.send_ordered(CACHE, CLIENT, Told::Data(conn, pdu.encode(self.cache.version)));
    }

    fn answer(&mut self, conn: u64, version: Version, asked: &Pdu) {
        let error = |kind, text: &str| Pdu::ErrorReport { kind, about: Vec::new(), text: text.to_owned() };
        if version.octet() > self.cache.version.octet() {
            // RFC 8210 §7: an old cache says so, or answers in its own version.
            if self.net.rng.chance(50) {
                self.say(conn, &error(ErrorKind::UnsupportedVersion, "old"));
                self.hang_up();
                return;
            }
        }
        if let Pdu::ErrorReport { .. } = asked {
            return;
        }
        if self.cache.empty {
            return self.say(conn, &error(ErrorKind::NoData, "not yet"));
        }
        let mood = std::mem::replace(&mut self.cache.mood, Mood::Well);
        if mood == Mood::Reports {
            self.say(conn, &error(ErrorKind::Internal, "out of sorts"));
            return self.hang_up();
        }
        if mood == Mood::Babbles {
            let mut bytes = vec![0; 40];
            self.net.rng.fill(&mut bytes);
            self.net.send_ordered(CACHE, CLIENT, Told::Data(conn, bytes));
        }
        let changes: Vec<(bool, Vrp)> = match asked {
            Pdu::ResetQuery => self.cache.data.iter().map(|vrp| (true, *vrp)).collect(),
            Pdu::SerialQuery { session, serial } => {
                let known = self.cache.history.iter().position(|(before, _)| before == serial);
                let same = *serial == self.cache.serial;
                if *session != self.cache.session || (known.is_none() && !same) {
                    self.seen.resets += 1;
                    return self.say(conn, &Pdu::CacheReset);
                }
                let since = known.map_or(self.cache.history.len(), |at| at);
                let mut net: BTreeMap<Vrp, i32> = BTreeMap::new();
                for (announce, vrp) in self.cache.history.iter().skip(since).flat_map(|(_, changes)| changes) {
                    *net.entry(*vrp).or_default() += if *announce { 1 } else { -1 };
                }
                net.into_iter().filter(|(_, by)| *by != 0).map(|(vrp, by)| (by > 0, vrp)).collect()
            }
            other => panic!("SIM_SEED={}: the client says {other:?}", self.seed),
        };
        let (session, serial) = (self.cache.session, self.cache.serial);
        let timing = (self.cache.version == Version::V1).then(timing);
        let mut pdus = vec![Pdu::CacheResponse { session }];
        pdus.extend(changes.into_iter().map(|(announce, vrp)| Pdu::Prefix { announce, vrp }));
        pdus.push(Pdu::EndOfData { session, serial, timing });
        let whole = pdus.len();
        let cut = match mood {
            Mood::Stops | Mood::HangsUp => usize::try_from(self.net.rng.between(0, whole as u64 - 1)).unwrap(),
            _ => whole,
        };
        let mut wait = Duration::ZERO;
        for pdu in &pdus[..cut] {
            let bytes = pdu.encode(self.cache.version);
            if mood == Mood::Slow {
                wait += Duration::from_secs(30);
                self.net.after(wait, CLIENT, Told::Data(conn, bytes));
            } else {
                self.net.send_ordered(CACHE, CLIENT, Told::Data(conn, bytes));
            }
        }
        if mood == Mood::HangsUp {
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        if let Some((conn, _)) = self.cache.conn.take() {
            self.net.send_ordered(CACHE, CLIENT, Told::Fin(conn));
        }
    }

    /// The data are others from now on; the client hears so, if it is there.
    fn change(&mut self) {
        let changed = vrp(self.net.rng.between(0, 60));
        let announce = !self.cache.data.contains(&changed);
        if announce {
            self.cache.data.insert(changed)
        } else {
            self.cache.data.remove(&changed)
        };
        self.cache.history.push_back((self.cache.serial, vec![(announce, changed)]));
        if self.cache.history.len() > HISTORY {
            self.cache.history.pop_front();
        }
        self.cache.serial = self.cache.serial.wrapping_add(1);
        self.seen.wraps += u64::from(self.cache.serial == 0);
        self.had.insert((self.cache.session, self.cache.serial), self.cache.data.clone());
        if let Some((conn, _)) = &self.cache.conn
            && self.net.rng.chance(70)
        {
            let notify = Pdu::SerialNotify { session: self.cache.session, serial: self.cache.serial };
            self.say(*conn, &notify);
        }
    }

    fn restart(&mut self) {
        self.hang_up();
        self.cache.session = self.cache.session.wrapping_add(1);
        self.cache.serial = if self.net.rng.chance(50) { 0 } else { u32::MAX - 3 };
        self.cache.history.clear();
        self.had.insert((self.cache.session, self.cache.serial), self.cache.data.clone());
        self.seen.sessions += 1;
    }

    fn trouble(&mut self) {
        if !self.troubled {
            return;
        }
        match self.net.rng.between(0, 15) {
            0 => self.restart(),
            1 => self.cache.history.clear(),
            2 => {
                self.hang_up();
                self.cache.up = false;
            }
            3..=5 => self.cache.up = true,
            6 => self.cache.empty = !self.cache.empty,
            7 => self.cache.empty = false,
            8 => self.hang_up(),
            9 | 10 => {
                let moods = [Mood::Stops, Mood::HangsUp, Mood::Babbles, Mood::Reports, Mood::Slow];
                self.cache.mood = *self.net.rng.pick(&moods).unwrap();
            }
            _ => self.change(),
        }
        let wait =
            if self.net.rng.chance(40) { self.net.rng.between(1, 2000) } else { self.net.rng.between(2000, 3_000_000) };
        self.net.after(Duration::from_millis(wait), CACHE, Told::Trouble);
    }

    /// What the client has, the cache had, and not too long ago.
    fn check(&self) {
        let status = self.client.status();
        let Some(updated) = status.updated.filter(|_| self.client.data().is_some()) else { return };
        let age = self.now().since(updated);
        assert!(age <= timing().expire, "SIM_SEED={}: {age:?} old", self.seed);
    }
}

#[test]
fn what_counts_is_what_the_cache_had_at_one_time_and_in_the_end_what_it_has() {
    let mut all = Seen::default();
    for seed in seeds(30) {
        let mut world = World::new(seed);
        world.run(TROUBLE);
        world.troubled = false;
        (world.cache.up, world.cache.empty, world.cache.mood) = (true, false, Mood::Well);
        // Within a refresh interval, and what it takes to come back.
        world.run(TROUBLE + timing().refresh + timing().retry * 2 + Duration::from_secs(600));
        let status = world.client.status();
        let has: BTreeSet<Vrp> = world.client.data().map(|data| data.iter().collect()).unwrap_or_default();
        assert_eq!((status.state, has), (State::Synchronised, world.cache.data.clone()), "SIM_SEED={seed}: {status:?}");
        all.updates += world.seen.updates;
        all.resets += world.seen.resets;
        all.sessions += world.seen.sessions;
        all.downs += world.seen.downs;
        all.expired += world.seen.expired;
        all.wraps += world.seen.wraps;
    }
    let happened =
        all.updates > 500 && all.resets > 5 && all.sessions > 20 && all.downs > 50 && all.expired > 2 && all.wraps > 5;
    assert!(happened || std::env::var_os("SIM_SEED").is_some(), "this shows nothing: {all:?}");
}
