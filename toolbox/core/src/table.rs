//! The table: what an event does to sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cloakway_types::{PrefixMap, Timestamp};
use ipnet::IpNet;
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, Change, Nas, Record, SessionRecord, User};

use crate::closing::Ending;
use crate::ours::Ours;
use crate::packed::{Glances, Packed};
use crate::rows::{Cursor, Reset, ResetKey, Row};
use crate::session::{Holding, Mark, Order, Session, SessionKey, Standing, Told, Weight};
use crate::sessions::{Full, Sessions};
use crate::translate::Translator;

/// What the table is told about the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The addresses of this ISP's subscribers; nothing outside is ever bound.
    pub prefixes: PrefixMap<()>,
    /// How old the last proof of a binding may be.
    pub max_age: Duration,
    /// How long the network may hold a packet: events dated by arrival are in order beyond it only.
    pub max_delay: Duration,
    /// Translations that are computed.
    pub translators: Vec<Arc<dyn Translator>>,
}

/// What a source heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which kind of source.
    pub source: Source,
    /// Which configured client of it.
    pub client: String,
    /// What it said.
    pub record: Record,
    /// When it arrived here.
    pub arrival: Timestamp,
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It is older than what is known of the session.
    Older,
    /// The session is over.
    Ended,
    /// It is from before the last restart of its NAS.
    BeforeReset,
    /// It was heard before, word for word.
    Copy,
    /// Its kind says nothing about addresses.
    Other,
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A session was opened.
    Opened,
    /// A session was confirmed or changed.
    Refreshed,
    /// A session contradicts itself and is believed no more: an alarm.
    Doubted,
    /// Sessions were closed: by a Stop, or all of a NAS.
    Closed(usize),
    /// Nothing.
    Ignored(Ignored),
}

/// The outcome of [`Table::apply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What happened.
    pub effect: Effect,
    /// Addresses that became claimed by sessions of different subscribers: an alarm.
    pub overlaps: usize,
    /// Addresses outside the subscriber prefixes that were left out.
    pub foreign: usize,
    /// What to make durable before the event is acknowledged.
    pub rows: Vec<Row>,
}

/// The binding table.
#[derive(Debug)]
pub struct Table {
    pub(crate) settings: Settings,
    ours: Arc<Ours>,
    pub(crate) sessions: Sessions,
    pub(crate) resets: BTreeMap<ResetKey, Reset>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ours = Arc::new(Ours::new(&settings.prefixes));
        let packed = Packed::new(ours.clone(), settings.max_age);
        Self { settings, ours, sessions: Sessions::Packed(Box::new(packed)), resets: BTreeMap::new() }
    }

    /// An empty table that keeps sessions as they are, and is large and slow: what the other is held against.
    #[must_use]
    pub fn plain(settings: Settings) -> Self {
        let ours = Arc::new(Ours::new(&settings.prefixes));
        let sessions = Sessions::Full { sessions: Full::default(), ours: ours.clone() };
        Self { settings, ours, sessions, resets: BTreeMap::new() }
    }

    /// Looks addresses up beside this table, which one other changes, without waiting for it.
    #[must_use]
    pub fn glances(&self) -> Option<Glances> {
        match &self.sessions {
            Sessions::Packed(packed) => {
                let rules = (!self.settings.translators.is_empty()).then(|| Arc::new(self.settings.clone()));
                Some(packed.glances(rules))
            }
            Sessions::Full { .. } => None,
        }
    }

    /// Octets that the sessions take with all that belongs to them.
    #[must_use]
    pub fn octets(&self) -> usize {
        match &self.sessions {
            Sessions::Packed(packed) => packed.octets(),
            Sessions::Full { .. } => 0,
        }
    }

    /// Takes one event.
    pub fn apply(&mut self, event: &Event) -> Applied {
        let key = |session: &str, nas: &Nas| SessionKey {
            source: event.source,
            client: event.client.clone(),
            session: session.to_owned(),
            nas: nas.clone(),
        };
        match &event.record {
            Record::Session(record) => {
                let key = key(&record.session, &record.nas);
                let known = self.sessions.get(&key);
                match known {
                    Some(known) if known.has_heard(record) => Applied::ignored(Ignored::Copy),
                    _ if record.change == Change::Stop => self.stop(&key, record, event.arrival),
                    known => self.alive(key, known, record, event.arrival),
                }
            }
            Record::NasReset { nas, time } => self.reset(
                ResetKey { source: event.source, client: event.client.clone(), nas: nas.clone(), basis: time.basis },
                Reset { time: *time, heard: event.arrival },
            ),
            Record::Other { .. } => Applied::ignored(Ignored::Other),
        }
    }

    fn alive(
        &mut self,
        key: SessionKey,
        before_it: Option<Session>,
        record: &SessionRecord,
        arrival: Timestamp,
    ) -> Applied {
        let ours: Vec<Address> =
            record.addresses.iter().filter(|address| self.is_ours(&address.net)).copied().collect();
        let doubt = match self.place(&key, record) {
            Ok(doubt) => doubt,
            Err(why) => return Applied::ignored(why),
        };
        let max_delay = self.settings.max_delay;
        let mut before = BTreeSet::new();
        let (session, effect) = match (&before_it, doubt) {
            (Some(known), doubt) => {
                let holdings = known.holdings(max_delay).filter(|holding| holding.standing != Standing::Over);
                before.extend(holdings.map(|holding| (holding.net, holding.ports)));
                let mut session = known.clone();
                let told = if doubt.is_some() && known.weigh(record, max_delay) == Weight::Earlier {
                    session.object(record, &ours, arrival, max_delay);
                    Told::Doubted
                } else {
                    session.alive(record, &ours, arrival, max_delay)
                };
                let effect = match told {
                    Told::Older => return Applied::ignored(Ignored::Older),
                    Told::Ended => return Applied::ignored(Ignored::Ended),
                    Told::Doubted => Effect::Doubted,
                    Told::Changed if known.is_open() => Effect::Refreshed,
                    Told::Changed => Effect::Opened,
                };
                (session, effect)
            }
            (None, None) => (Session::open(record, &ours, arrival, max_delay), Effect::Opened),
            (None, Some(doubt)) => {
                let mut session = Session::open(record, &ours, arrival, max_delay);
                session.doubt(doubt, arrival);
                (session, Effect::Doubted)
            }
        };
        let mut session = session;
        session.remember(record, arrival, max_delay);
        let fresh = session.holdings(max_delay).filter(|of| !before.contains(&(of.net, of.ports)));
        let overlaps = fresh.filter(|of| self.contested(&key, &session.user, of, arrival)).count();
        let mut rows = vec![Row::session(&key, Some(&session))];
        if let Some(before) = &before_it {
            let ending = Ending::Moved(record.time);
            rows.extend(before.closed(&key, Some(&session), ending, self.settled()).iter().map(Row::history));
        }
        self.put(key, session, rows.first());
        Applied { effect, overlaps, foreign: record.addresses.len() - ours.len(), rows }
    }

    /// Refuses what is from before a restart of its NAS, or about a session that the NAS ended under another
    /// of its names. Where that cannot be told, a session is doubtful up to the mark.
    fn place(&self, key: &SessionKey, record: &SessionRecord) -> Result<Option<Mark>, Ignored> {
        let max_delay = self.settings.max_delay;
        let mark = Mark::of(record.time);
        let mut doubt = None;
        for (of, reset) in &self.resets {
            if of.concerns(key) {
                let reset = Mark::of(reset.time);
                match mark.order(reset, max_delay) {
                    Order::Before => return Err(Ignored::BeforeReset),
                    // Resets of the other clock are no reason: a NAS that mixes clocks says both.
                    Order::Unclear if of.basis == record.time.basis => doubt = Some(reset),
                    Order::Unclear | Order::After => {}
                }
            }
        }
        for (_, ended) in self.sessions.related(key, Some(key)).iter().filter(|(_, session)| !session.is_open()) {
            match ended.weigh(record, max_delay) {
                Weight::Ended => return Err(Ignored::Ended),
                Weight::Doubtful => doubt = Some(mark),
                Weight::Anew | Weight::Continues | Weight::Earlier | Weight::Older => {}
            }
        }
        Ok(doubt)
    }

    fn stop(&mut self, key: &SessionKey, record: &SessionRecord, arrival: Timestamp) -> Applied {
        let related = self.sessions.related(key, None);
        let mut keys: Vec<SessionKey> = related.into_iter().map(|(key, _)| key).collect();
        if !keys.contains(key) {
            // The Stop overtook the Start: the session is over before it is known.
            self.put(key.clone(), Session::stopped(record, arrival), None);
            keys.push(key.clone());
        }
        let mut tally = Tally::default();
        for key in keys {
            let Some(mut session) = self.sessions.get(&key) else { continue };
            let was_open = session.is_open();
            let told = session.stop(record, arrival, self.settings.max_delay);
            // What changes nothing is not kept either: a copy of it will change nothing again.
            if key.nas == record.nas && !matches!(told, Told::Older | Told::Ended) {
                session.remember(record, arrival, self.settings.max_delay);
            }
            if let Some(before) = self.sessions.get(&key) {
                let closed = before.closed(&key, Some(&session), Ending::Stop(record), self.settled());
                tally.rows.extend(closed.iter().map(Row::history));
            }
            let row = Row::session(&key, Some(&session));
            let closed = was_open && !session.is_open();
            self.put(key, session, Some(&row));
            tally.count(told, closed, || row);
        }
        tally.applied()
    }

    fn reset(&mut self, key: ResetKey, reset: Reset) -> Applied {
        let mut tally = Tally::default();
        for of in self.sessions.at_devices(|of| key.concerns(of)) {
            let Some(mut session) = self.sessions.get(&of) else { continue };
            if let Some(told) = session.reset(reset.time, reset.heard, self.settings.max_delay) {
                if let Some(before) = self.sessions.get(&of) {
                    // Who could have been forgotten was there no longer than if it had been done in time.
                    let forgettable = before.is_forgettable(reset.heard, self.settings.max_age);
                    let ending = if forgettable { Ending::Silence } else { Ending::Reset(reset.time) };
                    let closed = before.closed(&of, Some(&session), ending, self.settled());
                    tally.rows.extend(closed.iter().map(Row::history));
                }
                let row = Row::session(&of, Some(&session));
                let closed = !session.is_open();
                self.put(of, session, Some(&row));
                tally.count(told, closed, || row);
            }
        }
        if self.resets.get(&key).is_none_or(|known| known.time.at < reset.time.at) {
            tally.rows.push(Row::reset(&key, Some(&reset)));
            self.resets.insert(key, reset);
        }
        tally.applied()
    }

    /// Forgets sessions and restarts that were not heard of for twice the age that a proof may have, and hold no
    /// longer by their own words.
    ///
    /// By then every event from before them would be stale on arrival, so they guard against nothing more.
    pub fn forget(&mut self, now: Timestamp) -> Vec<Row> {
        let mut rows = self.forget_resets(now);
        let (all, _) = self.sessions.forgettable(0, usize::MAX, now, self.settings.max_age, true);
        self.forget_those(all, &mut rows);
        rows.sort_by_key(|row| row.table);
        rows
    }

    /// [`Table::forget`], of about `limit` sessions that are looked at, from `cursor` on; none at the end. Where none can be forgotten
    /// yet nobody looks, so that a session may stay for a quarter of the age of a proof longer.
    pub fn forget_some(&mut self, now: Timestamp, cursor: &mut Cursor, limit: usize) -> Option<Vec<Row>> {
        if cursor.place() == usize::MAX {
            return None;
        }
        let mut rows = if cursor.begin() { self.forget_resets(now) } else { Vec::new() };
        let (some, next) = self.sessions.forgettable(cursor.place(), limit, now, self.settings.max_age, false);
        self.forget_those(some, &mut rows);
        cursor.go_on(next.unwrap_or(usize::MAX));
        Some(rows)
    }

    fn forget_those(&mut self, some: Vec<(SessionKey, Session)>, rows: &mut Vec<Row>) {
        for (key, session) in some {
            let closed = session.closed(&key, None, Ending::Silence, self.settled());
            rows.extend(closed.iter().map(Row::history));
            self.sessions.remove(&key);
            rows.push(Row::session(&key, None));
        }
    }

    fn forget_resets(&mut self, now: Timestamp) -> Vec<Row> {
        let gone = |heard: Timestamp| now.since(heard) > self.settings.max_age * 2;
        let keys: Vec<ResetKey> = self.resets.iter().filter(|(_, r)| gone(r.heard)).map(|(k, _)| k.clone()).collect();
        for key in &keys {
            self.resets.remove(key);
        }
        keys.iter().map(|key| Row::reset(key, None)).collect()
    }

    pub(crate) fn is_ours(&self, net: &IpNet) -> bool {
        self.ours.holds(net)
    }

    /// Whether a session of anyone else claims some of these.
    fn contested(&self, key: &SessionKey, user: &User, holding: &Holding, now: Timestamp) -> bool {
        let one = |other: &User| match user {
            User::Named(_) | User::Behind(_) if user == other => true,
            User::Named(_) | User::Behind(_) => {
                self.name_of(user, now).is_some_and(|name| Some(name) == self.name_of(other, now))
            }
            User::Unstated | User::Unusable => false,
        };
        self.sessions.touching(holding.net, holding.ports).iter().any(|(net, other, session)| {
            let meets = |of: &Holding| of.net == *net && of.standing != Standing::Over && of.ports.meets(holding.ports);
            other != key
                && !session.is_silent(now, self.settings.max_age)
                && session.holdings(self.settings.max_delay).any(|of| meets(&of))
                && !one(&session.user)
        })
    }

    pub(crate) fn put(&mut self, key: SessionKey, session: Session, row: Option<&Row>) {
        self.sessions.put(key, session, row);
    }
}

/// What one event did to several sessions.
#[derive(Default)]
struct Tally {
    closed: usize,
    doubted: usize,
    rows: Vec<Row>,
}

impl Tally {
    fn count(&mut self, told: Told, closed: bool, row: impl FnOnce() -> Row) {
        match told {
            Told::Older | Told::Ended => return,
            Told::Doubted => self.doubted += 1,
            Told::Changed => self.closed += usize::from(closed),
        }
        self.rows.push(row());
    }

    fn applied(self) -> Applied {
        let effect = match self {
            Self { doubted: 1.., .. } => Effect::Doubted,
            Self { closed, ref rows, .. } if closed > 0 || !rows.is_empty() => Effect::Closed(closed),
            Self { .. } => Effect::Ignored(Ignored::Older),
        };
        Applied { effect, overlaps: 0, foreign: 0, rows: self.rows }
    }
}

impl Applied {
    fn ignored(why: Ignored) -> Self {
        Self { effect: Effect::Ignored(why), overlaps: 0, foreign: 0, rows: Vec::new() }
    }
}
