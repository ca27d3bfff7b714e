//! The table: sessions by key, an index from prefix to sessions, and the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::{PrefixMap, SubscriberId, Timestamp};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use toolbox_wire::accounting::{AddressKind, Basis, Change, EventTime, Nas, Record, SessionRecord, User};
use toolbox_wire::http::{Reason, Source};

use crate::session::{Holding, Mark, Order, Session, SessionKey, Span, Standing, Told, Weight};

/// What the table is told about the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The addresses of this ISP's subscribers; nothing outside is ever bound.
    pub prefixes: PrefixMap<()>,
    /// How old the last proof of a binding may be.
    pub max_age: Duration,
    /// How long the network may hold a packet: events dated by arrival are in order beyond it only.
    pub max_delay: Duration,
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

/// Which of the durable tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// Sessions.
    Sessions,
    /// Restarts of NASes.
    Resets,
}

/// One durable row: set, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub table: Rows,
    /// The key, JSON.
    pub key: Vec<u8>,
    /// The value, JSON; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// A row that does not read back: the store was written by something else.
#[derive(Debug, thiserror::Error)]
#[error("a stored row does not read back: {0}")]
pub struct RestoreError(#[from] serde_json::Error);

/// Why an address has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// No open session has it.
    NoSession,
    /// Its session was not heard of for too long.
    Stale,
    /// Sessions of different subscribers claim it.
    Overlap,
    /// Its session's records contradict each other, or cannot be put in order.
    Contradiction,
    /// Its session has no usable User-Name.
    Unnamed,
}

/// Who is at an address now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This subscriber.
    Bound {
        /// Who.
        subscriber: SubscriberId,
        /// By which session.
        session: SessionKey,
        /// From when to when it is proved.
        span: Span,
    },
    /// The address is not in our subscriber prefixes.
    NotOurs,
    /// No answer.
    Unknown(Unknown),
}

/// The evidence behind a yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Learnt from.
    pub source: Source,
    /// From when to when it is proved.
    pub span: Span,
}

/// One line of the table, for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// The address or prefix.
    pub prefix: IpNet,
    /// The subscriber; none when the session names nobody usable.
    pub subscriber: Option<SubscriberId>,
    /// `bound`, or why the address is unknown.
    pub state: String,
    /// The session's name at its NAS.
    pub session: String,
    /// The NAS by the best name it gives.
    pub nas: Option<String>,
    /// The client that reported it.
    pub client: String,
    /// The kind of source.
    pub source: Source,
    /// First proof, RFC 3339.
    pub since: String,
    /// Last proof, RFC 3339.
    pub proved_at: String,
}

/// Which NAS restarted, as which client reported it, by which clock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResetKey {
    source: Source,
    client: String,
    nas: Nas,
    basis: Basis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reset {
    time: EventTime,
    heard: Timestamp,
}

/// The binding table.
#[derive(Debug)]
pub struct Table {
    settings: Settings,
    sessions: BTreeMap<SessionKey, Session>,
    resets: BTreeMap<ResetKey, Reset>,
    /// Sessions that hold a prefix or held it at their end.
    index: BTreeMap<IpNet, BTreeSet<SessionKey>>,
    /// How many indexed prefixes have each length: a look-up tries these only.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sessions: BTreeMap::new(),
            resets: BTreeMap::new(),
            index: BTreeMap::new(),
            lengths: BTreeMap::new(),
        }
    }

    /// The table that these rows describe.
    ///
    /// Addresses that have left the subscriber prefixes since are not bound again.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore<'r>(
        settings: Settings,
        rows: impl IntoIterator<Item = (Rows, &'r [u8], &'r [u8])>,
    ) -> Result<Self, RestoreError> {
        let mut table = Self::new(settings);
        for (which, key, value) in rows {
            match which {
                Rows::Sessions => {
                    let key: SessionKey = serde_json::from_slice(key)?;
                    let session: Session = serde_json::from_slice(value)?;
                    table.put(key, session);
                }
                Rows::Resets => {
                    table.resets.insert(serde_json::from_slice(key)?, serde_json::from_slice(value)?);
                }
            }
        }
        Ok(table)
    }

    /// Takes one event.
    pub fn apply(&mut self, event: &Event) -> Applied {
        let key = |session: &str, nas: &Nas| SessionKey {
            source: event.source,
            client: event.client.clone(),
            session: session.to_owned(),
            nas: nas.clone(),
        };
        if let Record::Session(record) = &event.record
            && let Some(session) = self.sessions.get(&key(&record.session, &record.nas))
            && session.has_heard(record)
        {
            return Applied::ignored(Ignored::Copy);
        }
        match &event.record {
            Record::Session(record) if record.change == Change::Stop => {
                self.stop(&key(&record.session, &record.nas), record, event.arrival)
            }
            Record::Session(record) => self.alive(key(&record.session, &record.nas), record, event.arrival),
            Record::NasReset { nas, time } => self.reset(
                ResetKey { source: event.source, client: event.client.clone(), nas: nas.clone(), basis: time.basis },
                Reset { time: *time, heard: event.arrival },
            ),
            Record::Other { .. } => Applied::ignored(Ignored::Other),
        }
    }

    fn alive(&mut self, key: SessionKey, record: &SessionRecord, arrival: Timestamp) -> Applied {
        let ours: Vec<(AddressKind, IpNet)> =
            record.addresses.iter().filter(|(_, net)| self.is_ours(net)).copied().collect();
        let doubt = match self.place(&key, record) {
            Ok(doubt) => doubt,
            Err(why) => return Applied::ignored(why),
        };
        let max_delay = self.settings.max_delay;
        let mut before = BTreeSet::new();
        let (session, effect) = match (self.sessions.get(&key), doubt) {
            (Some(known), doubt) => {
                let holdings = known.holdings(max_delay).filter(|holding| holding.standing != Standing::Over);
                before.extend(holdings.map(|holding| holding.net));
                let mut session = known.clone();
                let told = if doubt.is_some() && known.weigh(record, max_delay) == Weight::Earlier {
                    session.object(record, &ours, arrival);
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
            (None, None) => (Session::open(record, &ours, arrival), Effect::Opened),
            (None, Some(doubt)) => {
                let mut session = Session::open(record, &ours, arrival);
                session.doubt(doubt, arrival);
                (session, Effect::Doubted)
            }
        };
        let mut session = session;
        session.remember(record, arrival, max_delay);
        let fresh = session.nets().filter(|net| !before.contains(net));
        let overlaps = fresh.filter(|net| self.contested(&key, &session.user, *net, arrival)).count();
        let row = Row::session(&key, Some(&session));
        self.put(key, session);
        Applied { effect, overlaps, foreign: record.addresses.len() - ours.len(), rows: vec![row] }
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
        for (_, ended) in self.related(key).filter(|(of, session)| *of != key && !session.is_open()) {
            match ended.weigh(record, max_delay) {
                Weight::Ended => return Err(Ignored::Ended),
                Weight::Doubtful => doubt = Some(mark),
                Weight::Anew | Weight::Continues | Weight::Earlier | Weight::Older => {}
            }
        }
        Ok(doubt)
    }

    fn stop(&mut self, key: &SessionKey, record: &SessionRecord, arrival: Timestamp) -> Applied {
        let mut keys: Vec<SessionKey> = self.related(key).map(|(key, _)| key.clone()).collect();
        if !keys.contains(key) {
            // The Stop overtook the Start: the session is over before it is known.
            self.sessions.insert(key.clone(), Session::stopped(record, arrival));
            keys.push(key.clone());
        }
        let mut tally = Tally::default();
        for key in keys {
            let Some(mut session) = self.sessions.get(&key).cloned() else { continue };
            let was_open = session.is_open();
            let told = session.stop(record, arrival, self.settings.max_delay);
            if key.nas == record.nas {
                session.remember(record, arrival, self.settings.max_delay);
            }
            tally.count(told, was_open && !session.is_open(), || Row::session(&key, Some(&session)));
            self.put(key, session);
        }
        tally.applied()
    }

    fn reset(&mut self, key: ResetKey, reset: Reset) -> Applied {
        let mut tally = Tally::default();
        let concerned: Vec<SessionKey> = self.sessions.keys().filter(|of| key.concerns(of)).cloned().collect();
        for of in concerned {
            let Some(mut session) = self.sessions.get(&of).cloned() else { continue };
            if let Some(told) = session.reset(reset.time, reset.heard, self.settings.max_delay) {
                tally.count(told, !session.is_open(), || Row::session(&of, Some(&session)));
                self.put(of, session);
            }
        }
        if self.resets.get(&key).is_none_or(|known| known.time.at < reset.time.at) {
            tally.rows.push(Row::reset(&key, Some(&reset)));
            self.resets.insert(key, reset);
        }
        tally.applied()
    }

    /// Forgets sessions and restarts that were not heard of for twice the age that a proof may have.
    ///
    /// By then every event from before them would be stale on arrival, so they guard against nothing more.
    pub fn forget(&mut self, now: Timestamp) -> Vec<Row> {
        let gone = |heard: Timestamp| now.since(heard) > self.settings.max_age * 2;
        let keys: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, s)| gone(s.heard)).map(|(k, _)| k.clone()).collect();
        let resets: Vec<ResetKey> = self.resets.iter().filter(|(_, r)| gone(r.heard)).map(|(k, _)| k.clone()).collect();
        let mut rows = Vec::with_capacity(keys.len() + resets.len());
        for key in keys {
            self.remove(&key);
            rows.push(Row::session(&key, None));
        }
        for key in resets {
            self.resets.remove(&key);
            rows.push(Row::reset(&key, None));
        }
        rows
    }

    /// Who is at `address` now?
    #[must_use]
    pub fn lookup(&self, address: IpAddr, now: Timestamp) -> Answer {
        let address = address.to_canonical();
        if self.settings.prefixes.lookup(address).is_none() {
            return Answer::NotOurs;
        }
        self.judge(&self.holders(address), now)
    }

    fn judge(&self, holders: &Holders<'_>, now: Timestamp) -> Answer {
        let mut claimants = holders.iter().filter(|(_, (_, holding))| holding.standing != Standing::Over).peekable();
        if claimants.peek().is_none() {
            return Answer::Unknown(Unknown::NoSession);
        }
        // By arrival, not by proof: a session whose clock is slow still contradicts another one.
        let rivals: Vec<_> = claimants.filter(|(_, (session, _))| !self.is_silent(session, now)).collect();
        let Some((key, (session, Holding { span, .. }))) = rivals.iter().max_by_key(|(_, (_, of))| of.span.proof)
        else {
            return Answer::Unknown(Unknown::Stale);
        };
        if rivals.iter().any(|(_, (rival, _))| rival.user != session.user) {
            return Answer::Unknown(Unknown::Overlap);
        }
        if rivals.iter().any(|(_, (_, holding))| holding.standing == Standing::Objects) {
            return Answer::Unknown(Unknown::Contradiction);
        }
        match &session.user {
            User::Unstated | User::Unusable if rivals.len() > 1 => Answer::Unknown(Unknown::Overlap),
            User::Unstated | User::Unusable => Answer::Unknown(Unknown::Unnamed),
            User::Named(_) if now.since(span.proof) > self.settings.max_age => Answer::Unknown(Unknown::Stale),
            User::Named(name) => {
                Answer::Bound { subscriber: name.clone(), session: SessionKey::clone(key), span: *span }
            }
        }
    }

    /// Is `subscriber` live at `address` now?
    ///
    /// # Errors
    /// The [`Reason`] for a no; it depends on what is known of this subscriber, and of others only in
    /// that they claim the same address.
    pub fn verify(&self, subscriber: &SubscriberId, address: IpAddr, now: Timestamp) -> Result<Live, Reason> {
        let address = address.to_canonical();
        let answer = self.lookup(address, now);
        let holders = self.holders(address);
        let own = || holders.values().filter(|(session, _)| session.is_of(subscriber));
        match answer {
            Answer::NotOurs => Err(Reason::NotOurs),
            Answer::Bound { subscriber: bound, session, span } if bound == *subscriber => {
                Ok(Live { source: session.source, span })
            }
            _ if own().next().is_none() => Err(Reason::NoSession),
            _ if own().all(|(_, holding)| holding.standing == Standing::Over) => Err(Reason::Ended),
            Answer::Unknown(Unknown::Overlap | Unknown::Contradiction) => Err(Reason::Ambiguous),
            Answer::Bound { .. } | Answer::Unknown(Unknown::NoSession | Unknown::Stale | Unknown::Unnamed) => {
                Err(Reason::Stale)
            }
        }
    }

    /// Every address of every session that claims it, in the order of addresses.
    pub fn bindings(&self, now: Timestamp) -> impl Iterator<Item = Binding> + '_ {
        self.index.iter().flat_map(move |(net, keys)| {
            keys.iter().filter_map(move |key| {
                let session = self.sessions.get(key)?;
                let mut holdings = session.holdings(self.settings.max_delay);
                let holding = holdings.find(|holding| holding.net == *net && holding.standing != Standing::Over)?;
                Some(self.binding(key, session, holding, now))
            })
        })
    }

    fn binding(&self, key: &SessionKey, session: &Session, holding: Holding, now: Timestamp) -> Binding {
        let Holding { net, span, .. } = holding;
        let state = match self.judge(&self.holders(net.addr()), now) {
            _ if self.is_silent(session, now) => "stale".to_owned(),
            Answer::Bound { .. } => "bound".to_owned(),
            Answer::NotOurs => Reason::NotOurs.as_str().to_owned(),
            Answer::Unknown(Unknown::NoSession) => "no-session".to_owned(),
            Answer::Unknown(Unknown::Stale) => "stale".to_owned(),
            Answer::Unknown(Unknown::Overlap) => "overlap".to_owned(),
            Answer::Unknown(Unknown::Contradiction) => "contradiction".to_owned(),
            Answer::Unknown(Unknown::Unnamed) => "unnamed".to_owned(),
        };
        let nas = &key.nas;
        let best = nas.identifier.clone().or(nas.v4.map(|a| a.to_string())).or(nas.v6.map(|a| a.to_string()));
        Binding {
            prefix: net,
            subscriber: match &session.user {
                User::Named(name) => Some(name.clone()),
                User::Unstated | User::Unusable => None,
            },
            state,
            session: key.session.clone(),
            nas: best,
            client: key.client.clone(),
            source: key.source,
            since: span.since.to_string(),
            proved_at: span.proof.to_string(),
        }
    }

    /// How many sessions are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.sessions.values().filter(|session| session.is_open()).count()
    }

    fn is_silent(&self, session: &Session, now: Timestamp) -> bool {
        now.since(session.heard) > self.settings.max_age
    }

    fn is_ours(&self, net: &IpNet) -> bool {
        self.settings.prefixes.lookup(net.addr()).is_some_and(|(prefix, ())| prefix.contains(net))
    }

    /// Sessions of the same name at what may be the same NAS.
    fn related<'t>(&'t self, key: &'t SessionKey) -> impl Iterator<Item = (&'t SessionKey, &'t Session)> {
        let first = SessionKey { nas: Nas::default(), ..key.clone() };
        self.sessions
            .range(first..)
            .take_while(|(of, _)| of.source == key.source && of.client == key.client && of.session == key.session)
            .filter(|(of, _)| of.nas.may_be(&key.nas))
    }

    /// Whether a session of anyone else claims some of `net`.
    fn contested(&self, key: &SessionKey, user: &User, net: IpNet, now: Timestamp) -> bool {
        let inside = self.index.range(lowest(net)..=highest(net)).filter(|(of, _)| net.contains(*of));
        let around = self
            .prefixes_around(net.addr())
            .filter(|of| of.contains(&net))
            .filter_map(|of| self.index.get_key_value(&of));
        inside.chain(around).flat_map(|(of, keys)| keys.iter().map(move |key| (of, key))).any(|(of, other)| {
            other != key
                && self.sessions.get(other).is_some_and(|session| {
                    let mut holdings = session.holdings(self.settings.max_delay);
                    !self.is_silent(session, now)
                        && (session.user != *user || !matches!(user, User::Named(_)))
                        && holdings.any(|holding| holding.net == *of && holding.standing != Standing::Over)
                })
        })
    }

    /// Sessions with a prefix that holds `address`, over or not, each with the claim that counts.
    fn holders(&self, address: IpAddr) -> Holders<'_> {
        let mut found = Holders::new();
        for net in self.prefixes_around(address) {
            for key in self.index.get(&net).into_iter().flatten() {
                let Some(session) = self.sessions.get(key) else { continue };
                for holding in session.holdings(self.settings.max_delay).filter(|holding| holding.net == net) {
                    let (_, counts) = found.entry(key).or_insert((session, holding));
                    if (holding.standing, holding.span.proof) > (counts.standing, counts.span.proof) {
                        *counts = holding;
                    }
                }
            }
        }
        found
    }

    fn prefixes_around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> + '_ {
        let (from, to) = ((address.is_ipv6(), 0), (address.is_ipv6(), u8::MAX));
        self.lengths
            .range(from..=to)
            .filter_map(move |((_, length), _)| IpNet::new(address, *length).ok())
            .map(|n| n.trunc())
    }

    fn put(&mut self, key: SessionKey, session: Session) {
        self.remove(&key);
        let nets: BTreeSet<IpNet> = session.nets().filter(|net| self.is_ours(net)).collect();
        for net in nets {
            let keys = self.index.entry(net).or_default();
            if keys.is_empty() {
                *self.lengths.entry((net.addr().is_ipv6(), net.prefix_len())).or_default() += 1;
            }
            keys.insert(key.clone());
        }
        self.sessions.insert(key, session);
    }

    fn remove(&mut self, key: &SessionKey) {
        let Some(session) = self.sessions.remove(key) else { return };
        for net in session.nets() {
            let Some(keys) = self.index.get_mut(&net) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.index.remove(&net);
                let length = (net.addr().is_ipv6(), net.prefix_len());
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }
}

type Holders<'t> = BTreeMap<&'t SessionKey, (&'t Session, Holding)>;

impl ResetKey {
    fn concerns(&self, session: &SessionKey) -> bool {
        self.source == session.source && self.client == session.client && self.nas.may_be(&session.nas)
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

impl Row {
    fn session(key: &SessionKey, value: Option<&Session>) -> Self {
        Self { table: Rows::Sessions, key: json(key), value: value.map(json) }
    }

    fn reset(key: &ResetKey, value: Option<&Reset>) -> Self {
        Self { table: Rows::Resets, key: json(key), value: value.map(json) }
    }
}

#[expect(clippy::expect_used, reason = "these types have no maps with other keys than words and no failing Serialize")]
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("the row types serialise")
}

/// Ends of the range that holds `net` and all inside it in the order of the index.
fn lowest(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(net) => Ipv4Net::new(net.network(), 0).unwrap_or_default().into(),
        IpNet::V6(net) => Ipv6Net::new(net.network(), 0).unwrap_or_default().into(),
    }
}

fn highest(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(net) => Ipv4Net::from(net.broadcast()).into(),
        IpNet::V6(net) => Ipv6Net::from(net.broadcast()).into(),
    }
}
