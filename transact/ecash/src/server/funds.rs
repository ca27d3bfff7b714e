//! LU1: money comes in from an instrument, or goes out to it.

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;
use ecash_wire::frame::{Draft, Pairs};
use ecash_wire::message::{Kind, LoadUnload, LoadUnloadResult, Problem};
use ecash_wire::value::{Money, PersonaId, Signed};
use transact_ledger::{Account, BindingId, Direction, Event, Function, Outcome, Posting, Use};

use super::request::{Asker, Request, failure, success};
use super::{Asked, Asking, Effect, IssuerQuestion, QuestionId, Server, Step, Ticket};
use crate::policy::LoadHold;
use crate::state::{BindingStatus, LogKey, PendingMove, Record, RecordKey, Role, Write};

impl Server {
    pub(super) fn load_unload(
        &mut self,
        request: &Request<'_>,
        id: PersonaId,
        body: LoadUnload,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let (suite, now) = (request.asker.suite, request.now);
        let Signed(amount) = body.amount;
        let Some(moved) = Money::new(amount.currency(), amount.minor().abs()).filter(|moved| moved.minor() > 0) else {
            return self.fail(request, Problem::Form, random, step);
        };
        let binding = match self.check_move(&id, &body, request, amount, moved) {
            Ok(binding) => binding,
            Err(problem) => return self.fail(request, problem, random, step),
        };
        let number = self.next_log_number(step);
        let mut hold = None;
        if amount.minor() < 0 {
            // The money waits where nobody can spend it until the issuer has said something.
            let postings = vec![
                Posting::take(Account::Available(id.clone()), moved),
                Posting::add(Account::OnHold(id.clone()), moved),
            ];
            if !self.post(Event::Unload, (now, Some(number)), postings, step) {
                return self.fail(request, Problem::InsufficientFunds, random, step);
            }
            let opened = self.holds.open(id.clone(), Direction::Unload, moved, binding, (now, None));
            hold = Some(opened.id);
            step.writes.push(Write::Put(Record::Hold(opened)));
        }
        let transaction = match &request.asker.key {
            Some(LogKey::Transaction(_, transaction)) => *transaction,
            _ => 0,
        };
        let pending = PendingMove {
            number,
            digest: request.asker.digest,
            persona: id.clone(),
            transaction,
            binding,
            amount,
            hold,
            head: request.asker.head.render(),
            suite,
            secret: request.asker.secret.clone(),
            warning: request.asker.warning.clone(),
            at: now,
        };
        step.writes.push(Write::Put(Record::Pending(Box::new(pending.clone()))));
        self.pending.insert(number, pending);
        let asking =
            Asking { digest: request.asker.digest, persona: id.clone(), what: Asked::Move(request.asker.ticket) };
        self.asking.insert(QuestionId(number), asking);
        let recurring = request.sealed.iter().filter(|(label, _)| label.starts_with("instrument-"));
        let question = IssuerQuestion::Move {
            persona: id,
            binding,
            number: body.number,
            recurring: recurring.map(|(label, value)| (label.to_owned(), value.to_owned())).collect(),
            amount,
        };
        step.effects.push(Effect::Ask(QuestionId(number), Box::new(question)));
    }

    fn check_move(
        &self,
        id: &PersonaId,
        body: &LoadUnload,
        request: &Request<'_>,
        amount: Money,
        moved: Money,
    ) -> Result<BindingId, Problem> {
        let found = self.binding_of(id, request.asker.suite, body.number.0.expose(), &body.salt.0);
        let sealed = self.is_sealed(id, request.sealed, body.seal.as_ref());
        let binding = found.and_then(|found| self.bindings.get(&found)).filter(|_| sealed);
        let binding = binding.ok_or(Problem::NoSuchBinding)?;
        if binding.status != BindingStatus::Enabled {
            return Err(Problem::BindingNotEnabled);
        }
        let load = amount.minor() > 0;
        let (function, limit, enabled) = if load {
            (Function::Load, binding.load_limit, binding.functions.load)
        } else {
            (Function::Unload, binding.unload_limit, binding.functions.unload)
        };
        if !enabled {
            return Err(Problem::FunctionNotEnabled);
        }
        let currency = amount.currency();
        // A limit is in the native currency, or US dollars.
        let limited = limit.most.is_some() && binding.native.is_none();
        let wrong = binding.native.is_some_and(|native| native != currency) || (limited && currency.code() != "usd");
        if wrong || !self.is_served(request.asker.suite, currency) {
            return Err(Problem::CurrencyMismatch);
        }
        if !self.limits.allows(binding.id, function, limit, moved, request.now) {
            return Err(Problem::LimitExceeded);
        }
        let free = i128::from(self.books.container(id, currency).available.minor());
        let fee = i128::from(self.policy.tariff.fee(Kind::LU1, currency).minor());
        let minor = i128::from(moved.minor());
        let enough = match (load, self.policy.load_hold) {
            (false, _) => free >= minor + fee,
            (true, LoadHold::None) => free + minor >= fee,
            (true, _) => free >= fee,
        };
        if enough { Ok(binding.id) } else { Err(Problem::InsufficientFunds) }
    }

    pub(super) fn is_served(&self, suite: ecash_wire::suite::Suite, currency: ecash_wire::value::Currency) -> bool {
        let listed = self.policy.currencies.is_empty() || self.policy.currencies.contains(&currency);
        listed && self.policy.suites.allows(suite, currency)
    }

    /// The issuer answered, or nobody is there any more to hear it: `ticket` is `None` after a restart.
    pub(super) fn move_decided(
        &mut self,
        number: u64,
        ticket: Option<Ticket>,
        done: bool,
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let Some(pending) = self.pending.remove(&number) else { return };
        step.writes.push(Write::Delete(RecordKey::Pending(number)));
        let asker = Asker {
            suite: pending.suite,
            digest: pending.digest,
            secret: pending.secret.clone(),
            head: redraft(&pending.head),
            ticket: ticket.unwrap_or(Ticket(0)),
            warning: pending.warning.clone(),
            key: Some(LogKey::Transaction(pending.persona.clone(), pending.transaction)),
        };
        let reply = if done { self.moved(&pending, now, step) } else { self.not_moved(&pending, now, step) };
        self.answer_as(number, &asker, reply, now, random, step);
        if ticket.is_none() {
            step.effects.pop();
        }
    }

    fn not_moved(
        &mut self,
        pending: &PendingMove,
        now: Timestamp,
        step: &mut Step,
    ) -> (Kind, ecash_wire::message::Outcome, Draft) {
        if let Some(hold) = pending.hold {
            self.end_hold(hold, Outcome::Reversed, now, step);
        }
        (Kind::LU2, failure(Problem::IssuerDeclined, now), Draft::default())
    }

    fn moved(
        &mut self,
        pending: &PendingMove,
        now: Timestamp,
        step: &mut Step,
    ) -> (Kind, ecash_wire::message::Outcome, Draft) {
        let (id, currency) = (&pending.persona, pending.amount.currency());
        let log = Some(pending.number);
        let function = if pending.amount.minor() > 0 { Function::Load } else { Function::Unload };
        let amount = Money::new(currency, pending.amount.minor().abs()).unwrap_or(Money::zero(currency));
        if function == Function::Load {
            let held = !matches!(self.policy.load_hold, LoadHold::None);
            let to = if held { Account::OnHold(id.clone()) } else { Account::Available(id.clone()) };
            let postings = vec![Posting::take(Account::Clearing, amount), Posting::add(to, amount)];
            self.post(Event::Load, (now, log), postings, step);
            if held {
                let release = match self.policy.load_hold {
                    LoadHold::For(time) => Some(now + time),
                    _ => None,
                };
                let hold = self.holds.open(id.clone(), Direction::Load, amount, pending.binding, (now, release));
                step.writes.push(Write::Put(Record::Hold(hold)));
            }
        }
        let free = self.books.container(id, currency).available;
        let fee = Self::affordable(self.policy.tariff.fee(Kind::LU1, currency), free);
        self.charge(Account::Available(id.clone()), fee, (now, log), step);
        let operation = Use { binding: pending.binding, function, amount, at: now };
        self.limits.record(&operation);
        step.writes.push(Write::Put(Record::Use(pending.number, operation)));
        if let Some(binding) = self.bindings.get_mut(&pending.binding).filter(|binding| binding.first_used.is_none()) {
            binding.first_used = Some(now);
            step.writes.push(Write::Put(Record::Binding(binding.clone())));
        }
        let container = self.books.container(id, currency);
        let result = LoadUnloadResult {
            amount: Some(Signed(pending.amount)),
            fee: Some(fee),
            balance: Some(container.available),
            session_funds: Some(self.session_funds(id, currency)),
            on_hold: Some(container.on_hold),
        };
        let mut fields = Draft::default();
        result.write(&mut fields, 0);
        (Kind::LU2, success(now), fields)
    }

    pub(super) fn charge(&mut self, from: Account, fee: Money, at: (Timestamp, Option<u64>), step: &mut Step) {
        if fee.minor() > 0 {
            let postings = vec![Posting::take(from, fee), Posting::add(Account::Fees, fee)];
            self.post(Event::Fee, at, postings, step);
        }
    }

    /// What a persona's open sessions were opened with.
    pub(super) fn session_funds(&self, id: &PersonaId, currency: ecash_wire::value::Currency) -> Money {
        let open = self.open_sessions.get(id).into_iter().flatten().filter_map(|session| self.sessions.get(session));
        let payers = open.filter(|session| session.role == Role::Payer && session.currency() == currency);
        let sum = payers.map(|session| session.opening.minor()).sum();
        Money::new(currency, sum).unwrap_or(Money::zero(currency))
    }
}

/// The clear fields of a stored reply.
fn redraft(text: &str) -> Draft {
    let mut draft = Draft::default();
    if let Ok(pairs) = Pairs::parse(text) {
        pairs.iter().for_each(|(label, value)| draft.own(label.to_owned(), value.to_owned()));
    }
    draft
}
