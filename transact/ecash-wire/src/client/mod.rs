//! A client's end, payer and payee alike: a wallet that is told the time and handed its randomness.
//!
//! Every call returns a [`Step`]: what has to be durable first, then what may be sent. A message is built once; what was
//! not answered is sent again byte for byte, and no transaction number and no index is ever used for another message.

mod collect;
mod pay;
mod reply;
mod setup;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;

pub use pay::PayError;
pub use setup::{Instrument, NotPossible};
pub use state::{
    Asked, Batch, Container, Flag, HeldBinding, HeldSession, Identity, OfferKey, Order, PendingRequest, Record,
    RecordKey, Response, Row, RowStatus, Sent, SentOutcome, Tries, Write,
};

use crate::frame::Frame;
use crate::message::{Kind, Notice, Problem};
use crate::suite::{Kept, ServerKey, SigningKey, Suite};
use crate::value::{Bytes, Currency, Money, OrderId, PersonaId, SessionId};

/// Who gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The server.
    Server,
    /// The address that an offer named.
    Payee(String),
    /// Whoever sent the payment with this session and index.
    Payer(SessionId, u16),
}

/// What happened, for whoever uses the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The persona is there.
    Registered(PersonaId),
    /// The id is taken; this one is free.
    Taken(String),
    /// An instrument is bound, and for what.
    Bound(u64),
    /// The issuer wants to know.
    Asked(Bytes, Vec<String>),
    /// Money moved between instrument and container: how much, and the fee.
    Moved(Money, Money),
    /// A session is open; `true` when less was granted than asked.
    Opened(SessionId, bool),
    /// Sessions were closed, and this came back.
    Closed(Vec<Money>),
    /// The persona was closed.
    Autoclosed,
    /// A request was refused.
    Failed(Kind, Option<Problem>, Option<String>),
    /// The server says something about the software.
    Software(String),
    /// Somebody offers.
    Offered(OfferKey),
    /// A payment went through: what was charged.
    Paid(OrderId, Money),
    /// A payment did not, and nothing was charged.
    NotPaid(OrderId, Option<Problem>),
    /// A receipt charges more than was authorised. It is kept; the session is not used any longer.
    Alarm(OrderId, Money),
    /// A payment came in and waits to be collected.
    Waiting(OrderId),
    /// An order was paid: what was credited.
    Collected(OrderId, Money),
    /// A payment was refused, or could not be taken.
    Uncollected(OrderId, Problem),
    /// A batch was refused as a whole.
    BatchFailed(Problem),
    /// Somebody said that something is wrong. Nobody vouches for it, and nothing changed.
    Notice(Problem),
    /// A reply could not be read; the request stays, and is sent again.
    Unreadable(Kind),
}

/// One change.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// To be made durable together.
    pub writes: Vec<Write>,
    /// To be sent afterwards.
    pub send: Vec<(To, Vec<u8>)>,
    /// What happened.
    pub events: Vec<Event>,
}

/// A wallet.
#[derive(Debug, Clone)]
pub struct Client {
    identity: Identity,
    containers: BTreeMap<Currency, Container>,
    bindings: BTreeMap<u64, HeldBinding>,
    sessions: BTreeMap<SessionId, HeldSession>,
    requests: BTreeMap<u64, PendingRequest>,
    offers: BTreeMap<OfferKey, Bytes>,
    sent: BTreeMap<(SessionId, u16), Sent>,
    orders: BTreeMap<OrderId, Order>,
    rows: BTreeMap<(SessionId, u16), Row>,
    batches: BTreeMap<(SessionId, u16), Batch>,
    responses: BTreeMap<u64, Response>,
    index: Index,
}

/// What is looked for among many payments. It follows from the records.
#[derive(Debug, Clone, Default)]
struct Index {
    /// Payments that came in and wait for a batch.
    waiting: BTreeSet<(SessionId, u16)>,
    /// Payments that wait, or are in a batch that was not answered, by order.
    taken: BTreeMap<OrderId, BTreeSet<(SessionId, u16)>>,
    /// Payments that were made and whose outcome is not known.
    unknown: BTreeSet<(SessionId, u16)>,
    /// Payments that were made, by what they were for.
    made: BTreeMap<OfferKey, Vec<(SessionId, u16)>>,
}

impl Index {
    fn row(&mut self, row: &Row) {
        let key = (row.session, row.index);
        if row.status == RowStatus::Waiting {
            self.waiting.insert(key);
        } else {
            self.waiting.remove(&key);
        }
        if matches!(row.status, RowStatus::Waiting | RowStatus::Attempt) {
            self.taken.entry(row.order.clone()).or_default().insert(key);
        } else if let Some(taken) = self.taken.get_mut(&row.order) {
            taken.remove(&key);
            if taken.is_empty() {
                self.taken.remove(&row.order);
            }
        }
    }

    fn sent(&mut self, sent: &Sent) {
        let key = (sent.session, sent.index);
        if sent.outcome.is_none() {
            self.unknown.insert(key);
        } else {
            self.unknown.remove(&key);
        }
        let of = OfferKey { payee: sent.payee.clone(), order: sent.order.clone() };
        let made = self.made.entry(of).or_default();
        if !made.contains(&key) {
            made.push(key);
        }
    }
}

impl Client {
    /// A wallet without a persona: a key pair, and the server's public key.
    #[must_use]
    pub fn new(server: &ServerKey, software: &str, key: &SigningKey) -> (Self, Step) {
        let identity = Identity {
            suite: server.suite,
            server_id: server.id.clone(),
            server_key: Bytes(server.as_bytes()),
            software: software.to_owned(),
            persona: None,
            key: Kept(key.secret()),
            clock_offset_ms: 0,
            last_transaction: 0,
            last_response: 0,
            last_binding: 0,
            blocked: false,
        };
        let mut step = Step::default();
        step.writes.push(Write::Put(Record::Identity(identity.clone())));
        (Self::of(identity), step)
    }

    fn of(identity: Identity) -> Self {
        Self {
            identity,
            containers: BTreeMap::new(),
            bindings: BTreeMap::new(),
            sessions: BTreeMap::new(),
            requests: BTreeMap::new(),
            offers: BTreeMap::new(),
            sent: BTreeMap::new(),
            orders: BTreeMap::new(),
            rows: BTreeMap::new(),
            batches: BTreeMap::new(),
            responses: BTreeMap::new(),
            index: Index::default(),
        }
    }

    /// The wallet as its records left it; `None` when there is no identity among them. What was not answered is due.
    #[must_use]
    pub fn restore(records: impl IntoIterator<Item = Record>) -> Option<Self> {
        let mut identity = None;
        let mut rest = Vec::new();
        for record in records {
            match record {
                Record::Identity(found) => identity = Some(found),
                other => rest.push(other),
            }
        }
        let mut client = Self::of(identity?);
        for record in rest {
            client.take(record);
        }
        Some(client)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Identity(identity) => self.identity = identity,
            Record::Container(container) => {
                self.containers.insert(container.available.currency(), container);
            }
            Record::Binding(binding) => {
                self.bindings.insert(binding.number, *binding);
            }
            Record::Session(session) => {
                self.sessions.insert(session.secrets.id(), *session);
            }
            Record::Request(mut request) => {
                request.tries = Tries::due();
                self.requests.insert(request.transaction, *request);
            }
            Record::Offer(key, offer) => {
                self.offers.insert(key, offer);
            }
            Record::Sent(mut sent) => {
                sent.tries = Tries::due();
                self.index.sent(&sent);
                self.sent.insert((sent.session, sent.index), *sent);
            }
            Record::Order(order) => {
                self.orders.insert(order.id.clone(), *order);
            }
            Record::Row(row) => {
                self.index.row(&row);
                self.rows.insert((row.session, row.index), *row);
            }
            Record::Batch(mut batch) => {
                batch.tries = Tries::due();
                self.batches.insert((batch.session, batch.index), *batch);
            }
            Record::Response(response) => {
                self.responses.insert(response.number, response);
            }
        }
    }

    /// Applies a change to the wallet and to what is stored.
    fn put(&mut self, step: &mut Step, record: Record) {
        step.writes.push(Write::Put(record.clone()));
        self.take_as_is(record);
    }

    /// As [`Client::take`], for what was made now: its next try has its time.
    fn take_as_is(&mut self, record: Record) {
        match record {
            Record::Request(request) => {
                self.requests.insert(request.transaction, *request);
            }
            Record::Sent(sent) => {
                self.index.sent(&sent);
                self.sent.insert((sent.session, sent.index), *sent);
            }
            Record::Batch(batch) => {
                self.batches.insert((batch.session, batch.index), *batch);
            }
            other => self.take(other),
        }
    }

    fn save_identity(&self, step: &mut Step) {
        step.writes.push(Write::Put(Record::Identity(self.identity.clone())));
    }

    /// A message came in, from whomever.
    pub fn receive(&mut self, message: &[u8], now: Timestamp, random: &mut dyn Randomness) -> Step {
        let mut step = Step::default();
        let Ok(frame) = Frame::parse(message) else { return step };
        if frame.suite != self.identity.suite {
            return step;
        }
        let kind = frame.clear.get("type", 0).map(str::to_owned);
        let is = |kind: &str, expected: Kind| kind == expected.type_text();
        match kind.as_deref() {
            None => self.replied(&frame, now, random, &mut step),
            Some(kind) if is(kind, Kind::PR1) => self.offered(&frame, message, &mut step),
            Some(kind) if is(kind, Kind::CA1) => self.payment_came(&frame, message, &mut step),
            Some(kind) if is(kind, Kind::CA3) => self.batch_decided(&frame, &mut step),
            Some(kind) if is(kind, Kind::CA4) => self.receipt_came(&frame, &mut step),
            Some(kind) if is(kind, Kind::ER1) => {
                if let Ok(notice) = Notice::read(&frame.clear, 0) {
                    step.events.push(Event::Notice(notice.problem));
                }
            }
            Some(_) => {}
        }
        step
    }

    /// Sends again, unchanged, what was not answered in time.
    pub fn tick(&mut self, now: Timestamp, random: &mut dyn Randomness) -> Step {
        let mut step = Step::default();
        for request in self.requests.values_mut().filter(|request| request.tries.next <= now) {
            request.tries.again(now, random);
            step.send.push((To::Server, request.message.0.clone()));
        }
        for key in &self.index.unknown {
            let Some(sent) = self.sent.get_mut(key).filter(|sent| sent.tries.next <= now) else { continue };
            sent.tries.again(now, random);
            step.send.push((To::Payee(sent.pay_to.clone()), sent.message.0.clone()));
        }
        for batch in self.batches.values_mut().filter(|batch| batch.tries.next <= now) {
            batch.tries.again(now, random);
            step.send.push((To::Server, batch.message.0.clone()));
        }
        step
    }

    /// When [`Client::tick`] has something to send.
    #[must_use]
    pub fn next_tick(&self) -> Option<Timestamp> {
        let requests = self.requests.values().map(|request| request.tries.next);
        let sent = self.index.unknown.iter().filter_map(|key| self.sent.get(key)).map(|sent| sent.tries.next);
        let batches = self.batches.values().map(|batch| batch.tries.next);
        requests.chain(sent).chain(batches).min()
    }

    /// The server's clock, as far as it is known.
    #[must_use]
    pub fn server_time(&self, now: Timestamp) -> Timestamp {
        let offset = Duration::from_millis(self.identity.clock_offset_ms.unsigned_abs());
        if self.identity.clock_offset_ms < 0 { now - offset } else { now + offset }
    }

    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.identity.suite
    }

    /// The containers, as the last reply had them.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.values()
    }

    /// What can be put into a session.
    #[must_use]
    pub fn available(&self, currency: Currency) -> Money {
        self.containers.get(&currency).map_or(Money::zero(currency), |container| container.available)
    }

    /// The bound instruments.
    pub fn bindings(&self) -> impl Iterator<Item = &HeldBinding> {
        self.bindings.values()
    }

    /// The sessions, open ones and those that were.
    pub fn sessions(&self) -> impl Iterator<Item = &HeldSession> {
        self.sessions.values()
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&HeldSession> {
        self.sessions.get(&id)
    }

    /// Requests that were not answered.
    pub fn requests(&self) -> impl Iterator<Item = &PendingRequest> {
        self.requests.values()
    }

    /// Payments that were made.
    pub fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.sent.values()
    }

    /// The orders that were offered.
    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    /// A payment that came in.
    #[must_use]
    pub fn row(&self, session: SessionId, index: u16) -> Option<&Row> {
        self.rows.get(&(session, index))
    }

    /// How many payments wait for a batch.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.index.waiting.len()
    }

    /// Whether the outcome of every payment that was made is known.
    #[must_use]
    pub fn knows_all_outcomes(&self) -> bool {
        self.index.unknown.is_empty()
    }

    /// A payment that was made.
    #[must_use]
    pub fn payment(&self, session: SessionId, index: u16) -> Option<&Sent> {
        self.sent.get(&(session, index))
    }

    /// An order that was offered.
    #[must_use]
    pub fn order(&self, id: &OrderId) -> Option<&Order> {
        self.orders.get(id)
    }

    /// The cash log.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Batches that were not answered.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.values()
    }

    /// What was answered, in order.
    pub fn responses(&self) -> impl Iterator<Item = &Response> {
        self.responses.values()
    }
}
