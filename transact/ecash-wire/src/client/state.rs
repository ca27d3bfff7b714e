//! What a wallet keeps, record by record. A shell seals it at rest: secrets are among it.

use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::canonical::Digest;
use crate::message::{Kind, Problem};
use crate::suite::{Kept, ReplySecret, SessionSecrets, Suite};
use crate::value::{Bytes, Currency, Functions, Minutes, Money, OrderId, PersonaId, SessionId};

/// Who this is, and the numbers that are never used twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The suite of the server's key.
    pub suite: Suite,
    /// The value of `serverkey`.
    pub server_id: String,
    /// The server's public key.
    pub server_key: Bytes,
    /// The version of the software.
    pub software: String,
    /// The persona, once registered.
    pub persona: Option<PersonaId>,
    /// The private key.
    pub key: Kept,
    /// What to add to the own clock for the server's.
    pub clock_offset_ms: i64,
    /// The last transaction number.
    pub last_transaction: u64,
    /// The last number of a response.
    pub last_response: u64,
    /// The last number of a binding.
    pub last_binding: u64,
    /// The server does not serve this version of the software.
    pub blocked: bool,
}

/// Money that is not in a session, as the server last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// To be spent.
    pub available: Money,
    /// Neither here nor gone.
    pub on_hold: Money,
}

/// A bound instrument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBinding {
    /// Its number in this wallet.
    pub number: u64,
    /// What its owner calls it.
    pub description: String,
    /// What it may be used for.
    pub functions: Functions,
    /// How far it has come.
    pub status: String,
    /// Every `instrument` field of BI4, to be sent again with each load. The number is among them.
    pub recurring: Kept,
}

/// A session of this wallet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldSession {
    /// Number, key and salt.
    pub secrets: SessionSecrets,
    /// What was put in; nothing for a payee.
    pub opening: Money,
    /// What is left, or was collected, as far as is known here.
    pub current: Money,
    /// The last index used.
    pub last_index: u16,
    /// How many there are.
    pub use_limit: u16,
    /// How long it lives.
    pub lifetime: Minutes,
    /// Since when, by the server's clock.
    pub opened_at: Timestamp,
    /// The note.
    pub memo: String,
    /// Whether it has ended.
    pub closed: bool,
    /// Whether it is not to be used although it has not: a receipt was wrong.
    pub alarmed: bool,
}

impl HeldSession {
    /// The session's currency.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.opening.currency()
    }

    /// Whether it was opened to pay.
    #[must_use]
    pub fn is_payer(&self) -> bool {
        self.opening.minor() > 0
    }

    /// Whether another message can be sent in it, by the server's clock.
    #[must_use]
    pub fn is_usable(&self, server_time: Timestamp) -> bool {
        !self.closed
            && !self.alarmed
            && self.last_index < self.use_limit
            && server_time.since(self.opened_at) <= self.lifetime.as_duration()
    }
}

/// When something is sent again: after 5 seconds, then twice as long each time up to 5 minutes, a bit more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// The next time.
    pub next: Timestamp,
    wait_ms: u64,
}

impl Tries {
    const FIRST: u64 = 5_000;
    const LONGEST: u64 = 300_000;

    /// It is sent now, for the first time.
    #[must_use]
    pub fn begun(now: Timestamp) -> Self {
        Self { next: now + Duration::from_millis(Self::FIRST), wait_ms: Self::FIRST }
    }

    /// After a restart everything is due.
    #[must_use]
    pub fn due() -> Self {
        Self { next: Timestamp::from_millis(0), wait_ms: Self::FIRST }
    }

    /// It is sent again now.
    pub fn again(&mut self, now: Timestamp, random: &mut dyn Randomness) {
        let mut byte = [0];
        random.fill(&mut byte);
        self.wait_ms = (self.wait_ms * 2).min(Self::LONGEST);
        let jitter = self.wait_ms / 8 * u64::from(byte[0]) / 256;
        self.next = now + Duration::from_millis(self.wait_ms - jitter);
    }
}

/// A request that was not answered: stored before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRequest {
    /// Its number.
    pub transaction: u64,
    /// What it is.
    pub kind: Kind,
    /// The date in it, which the reply echoes.
    pub date: Timestamp,
    /// The exact bytes.
    pub message: Bytes,
    /// F18 of them.
    pub digest: Digest,
    /// What opens the reply.
    pub secret: ReplySecret,
    /// What was asked, for the reply to be held against.
    pub asked: Asked,
    /// When it is sent again.
    pub tries: Tries,
    /// Whether the server was told of a reply that could not be read.
    pub diagnosed: bool,
}

/// What a request asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// R1.
    Register,
    /// R1 as an update.
    Update,
    /// BI1 or BI3.
    Bind {
        /// What its owner calls the instrument.
        description: String,
    },
    /// LU1.
    Move,
    /// OS1.
    Open {
        /// How much.
        amount: Money,
        /// How long.
        lifetime: Minutes,
        /// How often.
        use_limit: u16,
        /// The note.
        memo: String,
    },
    /// CS1: which session, or all of them.
    Close {
        /// `None` for all.
        session: Option<SessionId>,
        /// Whether the log was asked for.
        log: bool,
    },
    /// AC1.
    Autoclose,
}

/// An offer, by payee and order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OfferKey {
    /// Who offers.
    pub payee: PersonaId,
    /// What.
    pub order: OrderId,
}

/// A payment that was made, or is under way: 253, and 263 once it has an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The session.
    pub session: SessionId,
    /// The use of it.
    pub index: u16,
    /// The payee.
    pub payee: PersonaId,
    /// The order.
    pub order: OrderId,
    /// What was authorised.
    pub amount: Money,
    /// The offer's note.
    pub note: String,
    /// Where CA1 goes.
    pub pay_to: String,
    /// The exact bytes of CA1.
    pub message: Bytes,
    /// When it is sent again.
    pub tries: Tries,
    /// What became of it; unknown until a receipt, or the log of the closed session, says.
    pub outcome: Option<SentOutcome>,
    /// The receipt, as it came.
    pub receipt: Option<Bytes>,
}

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SentOutcome {
    /// It was collected, and this was charged.
    Paid(Money),
    /// It was refused, for ever.
    Refused(Option<Problem>),
    /// The session ended before it was collected: it never will be.
    NeverCollected,
}

/// How an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// Offered.
    Pending,
    /// Paid.
    Paid,
    /// A payment for it was refused.
    NotPaid,
}

/// An order that was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// What is expected.
    pub amount: Money,
    /// What stands for the offer's note.
    pub note_hash: Bytes,
    /// How it stands.
    pub flag: Flag,
}

/// How a payment that came in stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowStatus {
    /// It waits for a batch.
    Waiting,
    /// It is in a batch that was not answered.
    Attempt,
    /// It was collected.
    Success,
    /// It was not.
    Failure(Problem),
}

/// A payment that came in: a line of the cash log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The payer's session.
    pub session: SessionId,
    /// The use of it.
    pub index: u16,
    /// The order.
    pub order: OrderId,
    /// What was asked for it.
    pub asked: Money,
    /// CA1 as it came.
    pub message: Bytes,
    /// In which batch it went.
    pub batch: Option<(SessionId, u16)>,
    /// How it stands.
    pub status: RowStatus,
    /// What was credited.
    pub credited: Option<Money>,
    /// CA4, for the payer, and for asking payers again.
    pub relay: Option<Bytes>,
}

/// A CA2 that was not answered: stored before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The own session.
    pub session: SessionId,
    /// The use of it.
    pub index: u16,
    /// The exact bytes.
    pub message: Bytes,
    /// F18 of them.
    pub digest: Digest,
    /// The payments in it, in order.
    pub items: Vec<(SessionId, u16)>,
    /// When it is sent again.
    pub tries: Tries,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Counted from 1.
    pub number: u64,
    /// To what.
    pub kind: Kind,
    /// Its number.
    pub transaction: u64,
    /// When.
    pub at: Timestamp,
    /// Whether it was done; why not, if not.
    pub problem: Option<Problem>,
    /// What the server says.
    pub message: Option<String>,
}

/// Something that is stored under its [`RecordKey`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as the types")]
pub enum Record {
    Identity(Identity),
    Container(Container),
    Binding(Box<HeldBinding>),
    Session(Box<HeldSession>),
    Request(Box<PendingRequest>),
    Offer(OfferKey, Bytes),
    Sent(Box<Sent>),
    Order(Box<Order>),
    Row(Box<Row>),
    Batch(Box<Batch>),
    Response(Response),
}

/// Where a [`Record`] is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as the records")]
pub enum RecordKey {
    Identity,
    Container(Currency),
    Binding(u64),
    Session(SessionId),
    Request(u64),
    Offer(OfferKey),
    Sent(SessionId, u16),
    Order(OrderId),
    Row(SessionId, u16),
    Batch(SessionId, u16),
    Response(u64),
}

impl Record {
    /// Where it is stored.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Identity(_) => RecordKey::Identity,
            Self::Container(container) => RecordKey::Container(container.available.currency()),
            Self::Binding(binding) => RecordKey::Binding(binding.number),
            Self::Session(session) => RecordKey::Session(session.secrets.id()),
            Self::Request(request) => RecordKey::Request(request.transaction),
            Self::Offer(key, _) => RecordKey::Offer(key.clone()),
            Self::Sent(sent) => RecordKey::Sent(sent.session, sent.index),
            Self::Order(order) => RecordKey::Order(order.id.clone()),
            Self::Row(row) => RecordKey::Row(row.session, row.index),
            Self::Batch(batch) => RecordKey::Batch(batch.session, batch.index),
            Self::Response(response) => RecordKey::Response(response.number),
        }
    }
}

/// A change of what is stored.
#[derive(Debug, Clone)]
pub enum Write {
    /// Store it, in the place of what was there.
    Put(Record),
    /// Remove it.
    Delete(RecordKey),
}
