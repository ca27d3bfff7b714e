//! The server: every message that comes in, and what is done about it.

mod autoclose;
mod bind;
mod collect;
mod funds;
mod keys;
mod register;
mod request;
mod restore;
mod session;

use std::collections::{BTreeMap, BTreeSet};

use cloakway_crypto::Randomness;
use cloakway_crypto::hash::keyed;
use cloakway_types::Timestamp;
use ecash_wire::canonical::Digest;
use ecash_wire::frame::{Draft, Frame, Pairs};
use ecash_wire::message::{Bind, Kind, Problem};
use ecash_wire::suite::{SessionSecrets, Suite};
use ecash_wire::value::{Currency, Functions, InstrumentNumber, Money, PersonaId, SessionId, Value};
use transact_ledger::{
    BindingId, Books, Cause, Direction, Ends, Entry, Event, Hold, HoldId, Holds, Limit, Limits, Outcome, Posting,
};

pub use keys::ServerKeys;
pub use restore::RestoreError;

use crate::policy::Policy;
use crate::state::{
    Binding, BindingStatus, ClosedBy, LogKey, LogRecord, Numbers, Payment, PendingMove, Persona, Record, RecordKey,
    Session, Write,
};

/// A caller that waits for an answer; numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A question to the issuer. The same question always has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub u64);

/// What the issuer is asked.
#[derive(Debug, Clone)]
pub enum IssuerQuestion {
    /// May this instrument be bound, and for what?
    Bind {
        /// Who asks.
        persona: PersonaId,
        /// What the client says of it.
        instrument: Box<Bind>,
        /// What was asked before, and answered.
        answers: Vec<(String, String)>,
    },
    /// Move money between the instrument and the operator's account.
    Move {
        /// Whose.
        persona: PersonaId,
        /// Which instrument.
        binding: BindingId,
        /// Its number.
        number: InstrumentNumber,
        /// What the issuer gave the client to keep.
        recurring: Vec<(String, String)>,
        /// Positive loads, negative unloads.
        amount: Money,
    },
}

/// What an issuer allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstrumentPolicy {
    /// For what the instrument may be used.
    pub functions: Functions,
    /// How much may come in.
    pub load_limit: Limit,
    /// How much may go out.
    pub unload_limit: Limit,
    /// The one currency that it takes, if there is one.
    pub native: Option<Currency>,
    /// How far the binding has come.
    pub status: BindingStatus,
    /// The issuer's number.
    pub issuer_id: String,
    /// Further fields for the client to keep; their labels begin with `instrument`.
    pub recurring: Vec<(String, String)>,
}

/// What an issuer says of an instrument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindDecision {
    /// It may be bound.
    Accept(InstrumentPolicy),
    /// Something has to be known first.
    Ask(Vec<String>),
    /// It may not.
    Refuse,
}

/// What an issuer answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerAnswer {
    /// To [`IssuerQuestion::Bind`].
    Bind(BindDecision),
    /// To [`IssuerQuestion::Move`]: whether it was done.
    Move(bool),
}

/// What leaves once the writes are durable.
#[derive(Debug)]
pub enum Effect {
    /// Answer a caller.
    Answer(Ticket, Vec<u8>),
    /// Answer a caller by the reply of the log record of this number, byte for byte. It is stored, or about to be.
    Repeat(Ticket, u64),
    /// Ask the issuer.
    Ask(QuestionId, Box<IssuerQuestion>),
    /// Make the issuer take back whatever came of a question whose answer was lost.
    TakeBack(QuestionId, BindingId, Money),
    /// A client could not read a reply; for the operator.
    Diagnostic(String),
}

/// One change: first the writes, all or none, then the effects in order.
#[derive(Debug, Default)]
pub struct Step {
    /// To be made durable together.
    pub writes: Vec<Write>,
    /// To be carried out afterwards.
    pub effects: Vec<Effect>,
}

/// What was spent on public keys, for those who count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Requests unwrapped with a private key.
    pub unwraps: u64,
    /// Signatures verified.
    pub verifications: u64,
}

/// A question that waits: who asked, and what is needed to answer.
struct Asking {
    digest: Digest,
    persona: PersonaId,
    what: Asked,
}

enum Asked {
    Bind(Box<bind::Waiting>),
    Move(Ticket),
}

/// Of a request that was answered; the answer itself is where the records are.
struct Logged {
    digest: Digest,
    key: Option<LogKey>,
    at: Timestamp,
}

impl From<&LogRecord> for Logged {
    fn from(record: &LogRecord) -> Self {
        Self { digest: record.digest, key: record.key.clone(), at: record.at }
    }
}

/// The server's end.
pub struct Server {
    policy: Policy,
    keys: ServerKeys,
    books: Books,
    holds: Holds,
    limits: Limits,
    ends: Ends,
    personas: BTreeMap<PersonaId, Persona>,
    key_owners: BTreeMap<Vec<u8>, PersonaId>,
    bindings: BTreeMap<BindingId, Binding>,
    sessions: BTreeMap<SessionId, Session>,
    open_sessions: BTreeMap<PersonaId, BTreeSet<SessionId>>,
    payments: BTreeMap<(SessionId, u16), Payment>,
    /// The payments that a payee's session decided, in order.
    decided: BTreeMap<SessionId, Vec<(SessionId, u16)>>,
    log: BTreeMap<u64, Logged>,
    by_digest: BTreeMap<Digest, u64>,
    by_key: BTreeMap<LogKey, u64>,
    pending: BTreeMap<u64, PendingMove>,
    asking: BTreeMap<QuestionId, Asking>,
    numbers: Numbers,
    /// Stands for sessions that are not there.
    decoy: Option<SessionSecrets>,
    cost: Cost,
    purged_at: Timestamp,
}

/// How often what is not kept any longer is looked for.
const PURGE_EVERY: std::time::Duration = std::time::Duration::from_hours(1);

impl Server {
    fn empty(policy: Policy, keys: ServerKeys) -> Self {
        let secret = |label: &[u8]| keyed(policy.secret.expose(), &[label]).to_vec();
        let decoy = SessionSecrets::new(Suite::Modern1, SessionId(0), secret(b"decoy key"), secret(b"decoy salt"));
        Self {
            policy,
            keys,
            books: Books::default(),
            holds: Holds::default(),
            limits: Limits::default(),
            ends: Ends::default(),
            personas: BTreeMap::new(),
            key_owners: BTreeMap::new(),
            bindings: BTreeMap::new(),
            sessions: BTreeMap::new(),
            open_sessions: BTreeMap::new(),
            payments: BTreeMap::new(),
            decided: BTreeMap::new(),
            log: BTreeMap::new(),
            by_digest: BTreeMap::new(),
            by_key: BTreeMap::new(),
            pending: BTreeMap::new(),
            asking: BTreeMap::new(),
            numbers: Numbers::default(),
            decoy,
            cost: Cost::default(),
            purged_at: Timestamp::from_millis(0),
        }
    }

    /// Takes a message. Nobody is answered whose message was damaged or means nothing here.
    pub fn handle(&mut self, message: &[u8], ticket: Ticket, now: Timestamp, random: &mut dyn Randomness) -> Step {
        let mut step = Step::default();
        let Ok(frame) = Frame::parse(message) else { return step };
        if !self.policy.suites.serves(frame.suite) {
            return step;
        }
        let digest = Digest::of(message);
        if let Some(number) = self.by_digest.get(&digest) {
            step.effects.push(Effect::Repeat(ticket, *number));
            return step;
        }
        if self.asking.values().any(|asking| asking.digest == digest) {
            step.effects.push(Effect::Answer(ticket, notice(&frame, Problem::InProgress)));
            return step;
        }
        let arrival = Arrival { frame, digest, ticket, now };
        if arrival.frame.clear.get("serverkey", 0).is_some() {
            self.request(&arrival, random, &mut step);
        } else if arrival.frame.clear.get("type", 0) == Some(Kind::CA2.type_text()) {
            self.collect(&arrival, random, &mut step);
        }
        step
    }

    /// Does what is due: sessions that are over, loads that are released, and what is not kept any longer.
    pub fn tick(&mut self, now: Timestamp) -> Step {
        let mut step = Step::default();
        let due: Vec<SessionId> = self.ends.due(now).collect();
        for session in due {
            self.end_session(session, ClosedBy::Lifetime, (now, None), &mut step);
        }
        for hold in self.holds.due(now) {
            self.end_hold(hold, Outcome::Done, now, &mut step);
        }
        if now.since(self.purged_at) >= PURGE_EVERY {
            self.purged_at = now;
            self.purge(now, &mut step);
        }
        step
    }

    /// When [`Server::tick`] has something to do that somebody may be waiting for.
    #[must_use]
    pub fn next_tick(&self) -> Option<Timestamp> {
        [self.ends.next(), self.holds.next()].into_iter().flatten().min()
    }

    /// The issuer answered. An answer to a question that nobody asks any longer changes nothing.
    pub fn issuer_answered(
        &mut self,
        question: QuestionId,
        answer: IssuerAnswer,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Step {
        let mut step = Step::default();
        match (self.asking.remove(&question), answer) {
            (Some(Asking { what: Asked::Bind(waiting), .. }), IssuerAnswer::Bind(decision)) => {
                self.bind_decided(*waiting, decision, now, random, &mut step);
            }
            (Some(Asking { what: Asked::Move(ticket), .. }), IssuerAnswer::Move(done)) => {
                self.move_decided(question.0, Some(ticket), done, now, random, &mut step);
            }
            (Some(asking), _) => {
                self.asking.insert(question, asking);
            }
            (None, _) => {}
        }
        step
    }

    /// The issuer says what became of money on hold. `false` when it ended before.
    pub fn hold_ended(&mut self, hold: HoldId, outcome: Outcome, now: Timestamp) -> (Step, bool) {
        let mut step = Step::default();
        let ended = self.end_hold(hold, outcome, now, &mut step);
        (step, ended)
    }

    /// The operator, or the issuer, changes how far a binding has come. `false` when it cannot.
    pub fn set_binding_status(&mut self, binding: BindingId, status: BindingStatus) -> (Step, bool) {
        let mut step = Step::default();
        let found = self.bindings.get_mut(&binding).filter(|binding| binding.status.may_become(status));
        let changed = found.is_some();
        if let Some(binding) = found {
            binding.status = status;
            step.writes.push(Write::Put(Record::Binding(binding.clone())));
        }
        (step, changed)
    }

    /// The operator switches a kind of message on or off for a persona. `false` when there is no such persona.
    pub fn set_right(&mut self, persona: &PersonaId, kind: Kind, on: bool) -> (Step, bool) {
        let mut step = Step::default();
        let Some(persona) = self.personas.get_mut(persona) else { return (step, false) };
        if on {
            persona.disabled.remove(&kind);
        } else {
            persona.disabled.insert(kind);
        }
        step.writes.push(Write::Put(Record::Persona(persona.clone())));
        (step, true)
    }

    /// The operator ends a session.
    pub fn close_session(&mut self, session: SessionId, now: Timestamp) -> Step {
        let mut step = Step::default();
        self.end_session(session, ClosedBy::Operator, (now, None), &mut step);
        step
    }

    /// The keys.
    pub fn keys_mut(&mut self) -> &mut ServerKeys {
        &mut self.keys
    }

    /// The rules, which the operator may change while the server runs.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// The books.
    #[must_use]
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// What public keys cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// A client.
    #[must_use]
    pub fn persona(&self, id: &PersonaId) -> Option<&Persona> {
        self.personas.get(id)
    }

    /// Every bound instrument.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    /// Every session that is known.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// Every decision that is kept.
    pub fn payments(&self) -> impl Iterator<Item = &Payment> {
        self.payments.values()
    }

    /// Money on hold.
    pub fn pending_holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.pending()
    }

    /// Unloads that the issuer carried out and that have not arrived: whoever hears that they have ends their holds.
    pub fn unsettled(&self) -> impl Iterator<Item = &Hold> {
        let asked = |hold: &Hold| self.pending.values().any(|pending| pending.hold == Some(hold.id));
        self.holds.pending().filter(move |hold| hold.direction == Direction::Unload && !asked(hold))
    }

    /// The clients that are known.
    pub fn personas(&self) -> impl Iterator<Item = &Persona> {
        self.personas.values()
    }

    /// The keys, and until when they serve.
    #[must_use]
    pub fn keys(&self) -> &ServerKeys {
        &self.keys
    }

    /// How many payments are kept, and how many sessions are open.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        (self.payments.len(), self.ends.len())
    }

    /// How many requests are logged.
    #[must_use]
    pub fn logged(&self) -> usize {
        self.log.len()
    }

    fn post(
        &mut self,
        event: Event,
        (at, log): (Timestamp, Option<u64>),
        postings: Vec<Posting>,
        step: &mut Step,
    ) -> bool {
        match self.books.post(at, Cause { event, log }, postings) {
            Ok(entry) => {
                step.writes.push(Write::Put(Record::Entry(entry)));
                true
            }
            Err(_) => false,
        }
    }

    fn end_hold(&mut self, hold: HoldId, outcome: Outcome, now: Timestamp, step: &mut Step) -> bool {
        match self.holds.end(hold, outcome, &mut self.books, (now, None)) {
            Ok((entry, hold)) => {
                step.writes.push(Write::Put(Record::Entry(entry)));
                step.writes.push(Write::Put(Record::Hold(hold)));
                true
            }
            Err(_) => false,
        }
    }

    fn next_log_number(&mut self, step: &mut Step) -> u64 {
        self.numbers.log += 1;
        step.writes.push(Write::Put(Record::Numbers(self.numbers)));
        self.numbers.log
    }

    fn put_log(&mut self, record: LogRecord, step: &mut Step) {
        self.by_digest.insert(record.digest, record.number);
        if let Some(key) = &record.key {
            self.by_key.insert(key.clone(), record.number);
        }
        self.log.insert(record.number, Logged::from(&record));
        step.writes.push(Write::Put(Record::Log(record)));
    }

    /// Forgets replies, and sessions that ended, once they are older than the retention time. A session's secrets go with its
    /// payments, so that nothing about it can be answered any more; its number is never given again.
    fn purge(&mut self, now: Timestamp, step: &mut Step) {
        let retention = self.policy.retention.max(self.policy.freshness.0 + self.policy.freshness.1);
        let over = |at: Timestamp| now.since(at) > retention;
        let ended = self.sessions.values().filter(|session| session.closed.is_some_and(|(at, _)| over(at)));
        let ended: Vec<SessionId> = ended.map(|session| session.id).collect();
        for id in ended {
            let payments: Vec<(SessionId, u16)> =
                self.payments.range((id, 0)..=(id, u16::MAX)).map(|(key, _)| *key).collect();
            for key in payments {
                self.payments.remove(&key);
                step.writes.push(Write::Delete(RecordKey::Payment(key.0, key.1)));
            }
            self.decided.remove(&id);
            self.sessions.remove(&id);
            step.writes.push(Write::Delete(RecordKey::Session(id)));
        }
        let old: Vec<u64> = self
            .log
            .iter()
            .filter(|(_, record)| match &record.key {
                Some(LogKey::Index(session, _)) => !self.sessions.contains_key(session),
                _ => over(record.at),
            })
            .map(|(number, _)| *number)
            .collect();
        for number in old {
            let Some(record) = self.log.remove(&number) else { continue };
            self.by_digest.remove(&record.digest);
            if let Some(key) = &record.key {
                self.by_key.remove(key);
            }
            step.writes.push(Write::Delete(RecordKey::Log(number)));
        }
    }

    /// Whether every entry that was stored leads to the balances that are held.
    ///
    /// # Errors
    /// [`transact_ledger::AuditError`].
    pub fn audit<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<transact_ledger::Audited, transact_ledger::AuditError> {
        self.books.audit(entries)
    }
}

/// A message on its way through.
struct Arrival<'a> {
    frame: Frame<'a>,
    digest: Digest,
    ticket: Ticket,
    now: Timestamp,
}

/// ER1: what nobody vouches for, and changes nothing at whoever reads it.
fn notice(frame: &Frame<'_>, problem: Problem) -> Vec<u8> {
    let mut draft = Draft::default();
    draft.text("type", 0, Kind::ER1.type_text().to_owned());
    // What is no value of its field is not said again: the notice has to be one.
    if frame.clear.get("serverkey", 0).is_some() {
        if let Some(date) = parse_value::<Timestamp>(&frame.clear, "date") {
            draft.put("date", 0, &date);
        }
    } else {
        if let Some(session) = parse_value::<SessionId>(&frame.clear, "session-id") {
            draft.put("session-id", 0, &session);
        }
        if let Some(index) = parse_value::<u16>(&frame.clear, "index") {
            draft.put("index", 0, &index);
        }
    }
    draft.put("problem", 0, &problem);
    draft.text("message", 0, problem.message().to_owned());
    draft.frame(frame.suite)
}

/// Whether values are such as a writer would have written them.
fn parse_value<T: Value>(pairs: &Pairs<'_>, label: &'static str) -> Option<T> {
    pairs.optional(label, 0).ok().flatten()
}
