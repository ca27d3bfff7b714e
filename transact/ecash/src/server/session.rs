//! OS1 and CS1, and every other way in which a session ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;
use ecash_wire::frame::Draft;
use ecash_wire::message::{Close, CloseResult, Kind, OpenSession, OpenSessionResult, Outcome, Problem};
use ecash_wire::suite::SessionSecrets;
use ecash_wire::value::{Amounts, Bytes, Currency, Money, PersonaId, SessionId, Value};
use transact_ledger::{Account, Ends, Event, Posting};

use super::request::{Request, success};
use super::{Server, Step};
use crate::state::{ClosedBy, Payment, PaymentOutcome, Record, Role, Session, Write};

/// The most text of a log in one reply; what is beyond is told to be there.
const LOG_MOST: usize = 600_000;

impl Server {
    pub(super) fn open(
        &mut self,
        request: &Request<'_>,
        id: PersonaId,
        body: &OpenSession,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let (suite, now, currency) = (request.asker.suite, request.now, body.amount.currency());
        if body.key_use_limit == 0 {
            return self.fail(request, Problem::Form, random, step);
        }
        if !self.is_served(suite, currency) {
            return self.fail(request, Problem::CurrencyMismatch, random, step);
        }
        let role = if body.amount.minor() > 0 { Role::Payer } else { Role::Payee };
        let (longest, most) = if role == Role::Payer { self.policy.payer_most } else { self.policy.payee_most };
        let available = self.books.container(&id, currency).available;
        let fee = self.policy.tariff.fee(Kind::OS1, currency);
        let free = available.minor().saturating_sub(fee.minor());
        let granted = body.amount.minor().min(free);
        if free < 0 || (role == Role::Payer && granted <= 0) {
            return self.fail(request, Problem::InsufficientFunds, random, step);
        }
        let granted = Money::new(currency, granted.max(0)).unwrap_or(Money::zero(currency));
        self.numbers.session += 1;
        let session_id = SessionId(self.numbers.session);
        let Some(secrets) = SessionSecrets::generate(suite, session_id, random) else { return };
        let number = self.next_log_number(step);
        if granted.minor() > 0 {
            let postings = vec![
                Posting::take(Account::Available(id.clone()), granted),
                Posting::add(Account::Session(session_id), granted),
            ];
            self.post(Event::Open, (now, Some(number)), postings, step);
        }
        self.charge(Account::Available(id.clone()), fee, (now, Some(number)), step);
        let session = Session {
            id: session_id,
            suite,
            opening: granted,
            opened_at: now,
            closed: None,
            use_limit: body.key_use_limit.min(most),
            lifetime: body.key_lifetime.min(longest),
            persona: id.clone(),
            memo: body.record_note.as_ref().map_or(String::new(), |note| note.0.clone()),
            role,
            used: crate::state::Bitmap::default(),
            secrets: secrets.clone(),
        };
        step.writes.push(Write::Put(Record::Session(Box::new(session.clone()))));
        self.ends.add(session_id, now, session.lifetime.as_duration());
        self.open_sessions.entry(id.clone()).or_default().insert(session_id);
        let container = self.books.container(&id, currency);
        let rates = self.policy.exchange.rates(currency);
        let result = OpenSessionResult {
            key_lifetime: Some(session.lifetime),
            key_use_limit: Some(session.use_limit),
            amount: Some(granted),
            foreign_exchange: (!rates.0.is_empty()).then_some(rates),
            session_funds: None,
            balance: Some(container.available),
            on_hold: Some(container.on_hold),
            fee: Some(fee),
            session_id: Some(session_id),
            session_key: Some(Bytes(secrets.key().expose().clone())),
            session_salt: Some(Bytes(secrets.salt().expose().clone())),
        };
        self.sessions.insert(session_id, session);
        let result = OpenSessionResult { session_funds: Some(self.session_funds(&id, currency)), ..result };
        let mut fields = Draft::default();
        result.write(&mut fields, 0);
        self.answer_as(number, &request.asker, (Kind::OS2, success(now), fields), now, random, step);
    }

    pub(super) fn close(
        &mut self,
        request: &Request<'_>,
        id: &PersonaId,
        body: &Close,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let now = request.now;
        let sessions: Vec<SessionId> = match body.session_id {
            Some(session) if self.sessions.get(&session).is_some_and(|session| session.persona == *id) => vec![session],
            Some(_) => return self.fail(request, Problem::NoSuchSession, random, step),
            None => self.open_sessions.get(id).into_iter().flatten().copied().collect(),
        };
        let number = self.next_log_number(step);
        let mut fees: BTreeMap<Currency, i64> = BTreeMap::new();
        let mut returned: BTreeMap<Currency, i64> = BTreeMap::new();
        let mut already = body.session_id.is_some();
        for session in &sessions {
            let Some(found) = self.sessions.get(session) else { continue };
            let currency = found.currency();
            let (mut fee, mut back) = (Money::zero(currency), Money::zero(currency));
            if found.closed.is_none() {
                already = false;
                fee = self.policy.tariff.capped(Kind::CS1, self.books.session(*session, currency));
                self.charge(Account::Session(*session), fee, (now, Some(number)), step);
                back = self.end_session(*session, ClosedBy::Client, (now, Some(number)), step);
            }
            *fees.entry(currency).or_default() += fee.minor();
            *returned.entry(currency).or_default() += back.minor();
            if let (Some(note), Some(session)) = (&body.record_note, self.sessions.get_mut(session)) {
                if !session.memo.is_empty() {
                    session.memo.push('\n');
                }
                session.memo.push_str(&note.0);
                step.writes.push(Write::Put(Record::Session(Box::new(session.clone()))));
            }
        }
        let amounts = |sums: &BTreeMap<Currency, i64>| {
            Amounts(sums.iter().filter_map(|(currency, minor)| Money::new(*currency, *minor)).collect())
        };
        let containers = returned.keys().map(|currency| self.books.container(id, *currency));
        let (balance, on_hold): (Vec<Money>, Vec<Money>) =
            containers.map(|container| (container.available, container.on_hold)).unzip();
        let (log, more) = if body.request_log { self.session_logs(&sessions) } else { (String::new(), false) };
        let result = CloseResult {
            fee: Some(amounts(&fees)),
            amount: Some(amounts(&returned)),
            balance: Some(Amounts(balance)),
            on_hold: Some(Amounts(on_hold)),
            log_more: more.then_some(true),
        };
        let mut fields = Draft::default();
        result.write(&mut fields, 0);
        fields.text("log", 0, log);
        let outcome = Outcome { problem: already.then_some(Problem::AlreadyClosed), ..success(now) };
        self.answer_as(number, &request.asker, (Kind::CS2, outcome, fields), now, random, step);
    }

    /// One line for each decided payment, in the order of indices; for a payee, in the order of decisions. With several
    /// sessions, a line of each one's own stands in front of its payments.
    fn session_logs(&self, sessions: &[SessionId]) -> (String, bool) {
        let mut log = String::new();
        for id in sessions {
            let Some(session) = self.sessions.get(id) else { continue };
            if sessions.len() > 1 {
                line(&mut log, format_args!("session;{}", id.write()));
            }
            match session.role {
                Role::Payer => {
                    for payment in self.payments.range((*id, 0)..=(*id, u16::MAX)).map(|(_, payment)| payment) {
                        if log.len() > LOG_MOST {
                            return (log, true);
                        }
                        log_line(&mut log, payment.index, payment.debit, payment.payee.as_str(), payment);
                    }
                }
                Role::Payee => {
                    let decided = self.decided.get(id).into_iter().flatten();
                    for payment in decided.filter_map(|key| self.payments.get(key)) {
                        if log.len() > LOG_MOST {
                            return (log, true);
                        }
                        let payer = format!("{}/{}", payment.session.write(), payment.index);
                        log_line(&mut log, payment.collected_by.1, payment.credit, &payer, payment);
                    }
                }
            }
        }
        (log, false)
    }

    /// Ends a session: what is in it goes back to its owner's container. Once, whoever finds that it is over.
    pub(super) fn end_session(
        &mut self,
        id: SessionId,
        by: ClosedBy,
        at: (Timestamp, Option<u64>),
        step: &mut Step,
    ) -> Money {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.closed.is_none()) else {
            return Money::zero(Currency::TEST);
        };
        session.closed = Some((at.0, by));
        self.ends.remove(id, session.opened_at, session.lifetime.as_duration());
        if let Some(open) = self.open_sessions.get_mut(&session.persona) {
            open.remove(&id);
        }
        step.writes.push(Write::Put(Record::Session(Box::new(session.clone()))));
        let (currency, owner) = (session.currency(), session.persona.clone());
        let left = self.books.session(id, currency);
        if left.minor() > 0 {
            let postings =
                vec![Posting::take(Account::Session(id), left), Posting::add(Account::Available(owner), left)];
            self.post(Event::Sweep, at, postings, step);
        }
        left
    }

    /// Before anything else is done for a persona, what is over ends: whether a timer came by or not cannot be seen.
    pub(super) fn end_overdue(&mut self, id: &PersonaId, now: Timestamp, step: &mut Step) {
        let open: Vec<SessionId> = self.open_sessions.get(id).into_iter().flatten().copied().collect();
        for session in open {
            self.end_if_over(session, now, step);
        }
    }

    pub(super) fn end_if_over(&mut self, id: SessionId, now: Timestamp, step: &mut Step) {
        let over = self
            .sessions
            .get(&id)
            .is_some_and(|session| Ends::is_over(session.opened_at, session.lifetime.as_duration(), now));
        if over {
            self.end_session(id, ClosedBy::Lifetime, (now, None), step);
        }
    }
}

fn line(log: &mut String, text: std::fmt::Arguments<'_>) {
    if !log.is_empty() {
        log.push('\n');
    }
    // Writing to a String does not fail.
    let _ = log.write_fmt(text);
}

fn log_line(log: &mut String, index: u16, amount: Money, other: &str, payment: &Payment) {
    let outcome = match payment.outcome {
        PaymentOutcome::Collected => "collected",
        PaymentOutcome::Refused(problem) => problem.text(),
    };
    let (order, at) = (payment.order_id.as_str(), payment.decided_at.write());
    line(log, format_args!("{index};{amount};{order};{other};{at};{outcome}"));
}
