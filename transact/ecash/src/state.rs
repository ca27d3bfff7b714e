//! What the server keeps, record by record.

use std::collections::BTreeSet;

use cloakway_types::Timestamp;
use ecash_wire::canonical::Digest;
use ecash_wire::message::{Kind, Problem};
use ecash_wire::suite::{ReplySecret, SessionSecrets, Suite};
use ecash_wire::value::{Bytes, Currency, Functions, Minutes, Money, OrderId, PersonaId, SessionId};
use serde::{Deserialize, Serialize};
use transact_ledger::{BindingId, Entry, Hold, HoldId, Limit, Use};

/// By this a passphrase is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifier {
    pub(crate) salt: Bytes,
    pub(crate) hash: Bytes,
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
}

/// A client, known by an id and a key; no name, no address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persona {
    /// 120A.
    pub id: PersonaId,
    /// The suite of everything it does.
    pub suite: Suite,
    /// 120B.
    pub email: String,
    /// 120C.
    pub key: Bytes,
    /// 120D, by the server's clock.
    pub registered_at: Timestamp,
    /// 120E.
    pub language: String,
    /// 120F.
    pub passphrase: Option<Verifier>,
    /// 120I.
    pub agreements: BTreeSet<u32>,
    /// From R1.
    pub default_currency: Currency,
    /// Whether it was closed.
    pub closed: bool,
    /// Kinds of message that the operator switched off.
    pub disabled: BTreeSet<Kind>,
    /// When wrong passphrases were tried.
    pub wrong_tries: Vec<Timestamp>,
}

/// How far the binding of an instrument has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindingStatus {
    /// Nothing was done yet.
    Created,
    /// The signed form is there, the trial transfer is not.
    PendingPrenote,
    /// The trial transfer is there, the signed form is not.
    PendingSignature,
    /// It can be used.
    Enabled,
    /// It cannot be used any longer.
    Disabled,
}

impl BindingStatus {
    /// The text of `instrument-status`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::PendingPrenote => "pending-prenote",
            Self::PendingSignature => "pending-signature",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }

    /// Whether it may become `next`.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Created => !matches!(next, Self::Created),
            Self::PendingPrenote | Self::PendingSignature => matches!(next, Self::Enabled | Self::Disabled),
            Self::Enabled => matches!(next, Self::Disabled),
            Self::Disabled => false,
        }
    }
}

/// A bound instrument. Its number is not kept, but for autoclose, sealed to the operator's key off line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Its number here.
    pub id: BindingId,
    /// Whose.
    pub persona: PersonaId,
    /// bank-account, debit-card, credit-card.
    pub category: String,
    /// `visa`, for instance.
    pub sub_type: String,
    /// Sealed; only for autoclose.
    pub sealed_number: Option<Bytes>,
    /// F15.
    pub hash: Bytes,
    /// The first two and last four digits.
    pub prefix: String,
    /// The issuer's number.
    pub issuer_id: String,
    /// The one currency that it takes.
    pub native: Option<Currency>,
    /// What it may be used for.
    pub functions: Functions,
    /// How much may come in.
    pub load_limit: Limit,
    /// How much may go out.
    pub unload_limit: Limit,
    /// How far it has come.
    pub status: BindingStatus,
    /// Whether a closed persona's money goes to it.
    pub autoclose: bool,
    /// When it was bound, by the server's clock.
    pub bound_at: Timestamp,
    /// When it first moved money.
    pub first_used: Option<Timestamp>,
}

/// What a session is for; for all of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It was opened with money.
    Payer,
    /// It was opened with none.
    Payee,
}

/// What ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClosedBy {
    /// CS1.
    Client,
    /// Its time.
    Lifetime,
    /// Its last use.
    UseLimit,
    /// The persona was closed.
    Autoclose,
    /// The operator.
    Operator,
}

/// Which uses of a session were made, in whatever order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bitmap(Vec<u64>);

impl Bitmap {
    fn place(index: u16) -> (usize, u64) {
        (usize::from(index / 64), 1 << (index % 64))
    }

    /// Whether `index` was used.
    #[must_use]
    pub fn has(&self, index: u16) -> bool {
        let (word, bit) = Self::place(index);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Uses `index`, for ever.
    pub fn set(&mut self, index: u16) {
        let (word, bit) = Self::place(index);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// How many were used.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// A session. What is in it, the books know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// 130A.
    pub id: SessionId,
    /// 130B and 130C. They go with the session, when what was paid in it is not kept any longer.
    pub secrets: SessionSecrets,
    /// The suite.
    pub suite: Suite,
    /// 130E, with 130D.
    pub opening: Money,
    /// 130G.
    pub opened_at: Timestamp,
    /// 130H, and why.
    pub closed: Option<(Timestamp, ClosedBy)>,
    /// 130I.
    pub use_limit: u16,
    /// 130J.
    pub lifetime: Minutes,
    /// 130K.
    pub persona: PersonaId,
    /// 130M.
    pub memo: String,
    /// Payer or payee.
    pub role: Role,
    /// Which uses were made.
    pub used: Bitmap,
}

impl Session {
    /// The session's currency.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.opening.currency()
    }

    /// Whether there is a use of this number.
    #[must_use]
    pub fn has_index(&self, index: u16) -> bool {
        (1..=self.use_limit).contains(&index)
    }

    /// Whether every use was made.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.used.count() >= u32::from(self.use_limit)
    }
}

/// How a payment was decided, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PaymentOutcome {
    /// Money moved.
    Collected,
    /// None did, and none will.
    Refused(Problem),
}

/// The decision on one use of a payer's session: the link between the two sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The payer's session.
    pub session: SessionId,
    /// Which use of it.
    pub index: u16,
    /// F19.
    pub digest: Bytes,
    /// The decision.
    pub outcome: PaymentOutcome,
    /// The payee's persona.
    pub payee: PersonaId,
    /// The payee's session, the use of it, and the place in the batch.
    pub collected_by: (SessionId, u16, u8),
    /// The order.
    pub order_id: OrderId,
    /// What left the payer's session.
    pub debit: Money,
    /// What came into the payee's.
    pub credit: Money,
    /// The rate that was exchanged at.
    pub rate: Option<u64>,
    /// The sealed receipt.
    pub receipt: Bytes,
    /// When.
    pub decided_at: Timestamp,
}

/// By what a request is known, beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogKey {
    /// A signed request.
    Transaction(PersonaId, u64),
    /// R1: there is no id yet, so the key's fingerprint stands for it.
    Registration(Bytes, u64),
    /// CA2.
    Index(SessionId, u16),
}

/// A request that was answered, with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Counted from 1.
    pub number: u64,
    /// F18 of the request.
    pub digest: Digest,
    /// What it was.
    pub kind: Kind,
    /// By what it is known; none for refusals that burn no number.
    pub key: Option<LogKey>,
    /// When it came.
    pub at: Timestamp,
    /// The exact bytes of the reply.
    pub reply: Bytes,
}

/// A load or unload that the issuer is asked about. No number of an instrument is in it: if the process dies, the issuer
/// is told to take back whatever it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMove {
    /// The number of the log record that will be made, and of the question.
    pub number: u64,
    /// F18 of LU1.
    pub digest: Digest,
    /// Who asks.
    pub persona: PersonaId,
    /// The transaction number.
    pub transaction: u64,
    /// The instrument.
    pub binding: BindingId,
    /// Positive loads, negative unloads.
    pub amount: Money,
    /// The hold that keeps an unload's money.
    pub hold: Option<HoldId>,
    /// For the reply: the clear fields, as they are written.
    pub head: String,
    /// For the reply: suite, secret and the warning about software.
    pub suite: Suite,
    /// For the reply.
    pub secret: ReplySecret,
    /// For the reply.
    pub warning: Option<String>,
    /// When it came.
    pub at: Timestamp,
}

/// Numbers that are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Numbers {
    /// The last session.
    pub session: u64,
    /// The last log record.
    pub log: u64,
    /// The last binding.
    pub binding: u64,
}

/// Something that is stored under its [`RecordKey`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// A client.
    Persona(Persona),
    /// An instrument.
    Binding(Binding),
    /// A session.
    Session(Box<Session>),
    /// A decision.
    Payment(Box<Payment>),
    /// A request and its answer.
    Log(LogRecord),
    /// A movement of money. Never deleted.
    Entry(Entry),
    /// Money on hold.
    Hold(Hold),
    /// What counts against a limit, with the number of the log record that made it.
    Use(u64, Use),
    /// What the issuer is asked.
    Pending(Box<PendingMove>),
    /// The last numbers.
    Numbers(Numbers),
}

/// Where a [`Record`] is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as the records")]
pub enum RecordKey {
    Persona(PersonaId),
    Binding(BindingId),
    Session(SessionId),
    Payment(SessionId, u16),
    Log(u64),
    Entry(u64),
    Hold(HoldId),
    Use(u64),
    Pending(u64),
    Numbers,
}

impl Record {
    /// Where it is stored.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Persona(persona) => RecordKey::Persona(persona.id.clone()),
            Self::Binding(binding) => RecordKey::Binding(binding.id),
            Self::Session(session) => RecordKey::Session(session.id),
            Self::Payment(payment) => RecordKey::Payment(payment.session, payment.index),
            Self::Log(log) => RecordKey::Log(log.number),
            Self::Entry(entry) => RecordKey::Entry(entry.number),
            Self::Hold(hold) => RecordKey::Hold(hold.id),
            Self::Use(number, _) => RecordKey::Use(*number),
            Self::Pending(pending) => RecordKey::Pending(pending.number),
            Self::Numbers(_) => RecordKey::Numbers,
        }
    }
}

/// A change of what is stored.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "hardly any write is a deletion")]
pub enum Write {
    /// Store it, in the place of what was there.
    Put(Record),
    /// Remove it.
    Delete(RecordKey),
}
