//! CA2: payments are collected. 1660 for the batch, 1672 to 1680 for each payment, 3400 for the answer.

use std::collections::BTreeSet;

use cloakway_crypto::{Randomness, ct_eq};
use cloakway_types::Timestamp;
use ecash_wire::cash::{
    PaymentText, batch_receipt_context, batch_receipt_list, collection_context, collection_list, customer_opaques,
    receipt_context, receipt_head, receipt_list,
};
use ecash_wire::frame::{Draft, Pairs};
use ecash_wire::message::{
    BATCH_RECEIPT, BatchItem, COLLECTION, CollectionHead, Kind, PaymentSealed, Problem, ResponseCode, VERSION,
};
use ecash_wire::suite::{SessionSecrets, Suite};
use ecash_wire::value::{Bytes, Money, SessionId, Signed, Value};
use transact_ledger::{Account, Ends, Event, Exchange, Posting};

use super::{Arrival, Effect, Server, Step, notice, parse_value};
use crate::state::{ClosedBy, LogKey, LogRecord, Payment, PaymentOutcome, Record, Role, Session, Write};

/// What the payee is told of one payment.
struct Told {
    response: ResponseCode,
    problem: Option<Problem>,
    collected: Money,
    receipt: Option<Vec<u8>>,
    /// Newly collected: what the batch fee may be taken from.
    new: i64,
}

/// The batch as it stands: whose, and in what.
struct Batch<'a> {
    suite: Suite,
    head: CollectionHead,
    payee: Session,
    secrets: SessionSecrets,
    sealed: &'a Pairs<'a>,
    number: u64,
    now: Timestamp,
}

/// What one payment came to.
enum Verdict {
    /// Undecided: no receipt, nothing burnt.
    Rejected(Problem),
    /// Decided, against it.
    Refused(Problem),
    /// Decided, for it.
    Collected { cost: Money, credit: Money, rate: Option<u64> },
}

impl Server {
    /// 1660.
    pub(super) fn collect(&mut self, arrival: &Arrival<'_>, random: &mut dyn Randomness, step: &mut Step) {
        let (frame, now) = (&arrival.frame, arrival.now);
        let clear = &frame.clear;
        let refuse = |step: &mut Step, problem| {
            step.effects.push(Effect::Answer(arrival.ticket, notice(frame, problem)));
        };
        let id = parse_value::<SessionId>(clear, "session-id");
        let at = (parse_value(clear, "version").unwrap_or(0), parse_value(clear, "index").unwrap_or(0));
        let owner = id.and_then(|id| self.sessions.get(&id)).filter(|session| session.suite == frame.suite);
        let known = owner.map(|session| &session.secrets);
        // Whoever is not known costs as much time as whoever is.
        let Some(secrets) = known.or(self.decoy.as_ref()) else { return };
        let opaque = clear.get("merchant-opaque", 0).and_then(|text| Bytes::read(text).ok()).unwrap_or_default();
        let opaques = customer_opaques(clear).unwrap_or_default();
        let context = collection_context(frame.suite, clear.iter(), &opaques);
        let opened = secrets.open(Kind::CA2, at, &context, &opaque.0);
        let text = opened.as_ref().ok().and_then(|plain| std::str::from_utf8(plain).ok());
        let parsed = text.and_then(|text| Pairs::parse(text).ok());
        let authentic = match &parsed {
            Some(sealed) => {
                let code: Bytes = parse_value(sealed, "auth-code").unwrap_or_default();
                let list = collection_list(frame.suite, clear, sealed, sealed.largest_of_any());
                secrets.verify(Kind::CA2, &list, &code.0)
            }
            None => {
                let list: Vec<_> = clear.iter().collect();
                let _ = secrets.verify(Kind::CA2, &list, &opaque.0);
                false
            }
        };
        let (Some(sealed), Some(session), Some(_), true) = (&parsed, owner, known, authentic) else {
            return refuse(step, Problem::Unauthenticated);
        };
        let (version, index) = at;
        let key = LogKey::Index(session.id, index);
        if self.by_key.contains_key(&key) || session.used.has(index) {
            return refuse(step, Problem::IndexReused);
        }
        let session_id = session.id;
        let owner = session.persona.clone();
        let (secrets, suite) = (session.secrets.clone(), frame.suite);
        self.end_overdue(&owner, now, step);
        let Some(payee) = self.sessions.get(&session_id).cloned() else { return };
        let number = self.next_log_number(step);
        let head =
            CollectionHead { version, session_id, index, service_category: parse_value(clear, "service-category") };
        let batch = Batch { suite, head, payee, secrets, sealed, number, now };
        let told = match self.check_batch(&batch, clear, &opaques) {
            Err(problem) => Err(problem),
            Ok(items) => {
                let mut touched = BTreeSet::new();
                let told = self.decide_all(&batch, &items, &opaques, &mut touched, random, step);
                Ok((items, told, touched))
            }
        };
        let mut touched = match &told {
            Ok((_, _, touched)) => touched.clone(),
            Err(_) => BTreeSet::new(),
        };
        let fee = match &told {
            Ok((_, told, _)) => self.batch_fee(&batch, told, step),
            Err(_) => Money::zero(batch.payee.currency()),
        };
        if let Some(session) = self.sessions.get_mut(&session_id).filter(|session| session.has_index(index)) {
            session.used.set(index);
            touched.insert(session_id);
        }
        let reply = batch_reply(&batch, told.as_ref().map(|(items, told, _)| (items, told)), fee, arrival, random);
        for id in touched {
            let Some(session) = self.sessions.get(&id) else { continue };
            let over = session.closed.is_none() && session.is_used_up();
            step.writes.push(Write::Put(Record::Session(Box::new(session.clone()))));
            if over {
                self.end_session(id, ClosedBy::UseLimit, (now, None), step);
            }
        }
        let record = LogRecord {
            number,
            digest: arrival.digest,
            kind: Kind::CA2,
            key: Some(key),
            at: now,
            reply: Bytes(reply.clone()),
        };
        self.put_log(record, step);
        step.effects.push(Effect::Answer(arrival.ticket, reply));
    }

    /// 1668C to D4: the batch is its owner's; is it one that can be processed?
    fn check_batch(
        &self,
        batch: &Batch<'_>,
        clear: &Pairs<'_>,
        opaques: &[(u8, Vec<u8>)],
    ) -> Result<Vec<BatchItem>, Problem> {
        let sealed = batch.sealed;
        if clear.session_defect(batch.suite).or(sealed.session_defect(batch.suite)).is_some()
            || sealed.get("type", 0) != Some(COLLECTION)
            || sealed.get("version", 0).and_then(|text| u8::read(text).ok()) != Some(VERSION)
            || batch.head.version != VERSION
        {
            return Err(Problem::Form);
        }
        let count = sealed.largest_of_any();
        let complete = opaques.len() == usize::from(count) && clear.largest_of_any() == count;
        if count == 0 || !complete {
            return Err(Problem::Form);
        }
        let items = (1..=count).map(|n| BatchItem::read(sealed, n)).collect::<Result<Vec<_>, _>>();
        let items = items.map_err(|_| Problem::Form)?;
        let payee = &batch.payee;
        let over = Ends::is_over(payee.opened_at, payee.lifetime.as_duration(), batch.now);
        if payee.role != Role::Payee || payee.closed.is_some() || over {
            return Err(Problem::SessionClosed);
        }
        if !payee.has_index(batch.head.index) {
            return Err(Problem::IndexOutOfRange);
        }
        let owner = self.personas.get(&payee.persona);
        if owner.is_none_or(|owner| owner.closed || owner.disabled.contains(&Kind::CA2)) {
            return Err(Problem::ServiceDisabled);
        }
        Ok(items)
    }

    fn decide_all(
        &mut self,
        batch: &Batch<'_>,
        items: &[BatchItem],
        opaques: &[(u8, Vec<u8>)],
        touched: &mut BTreeSet<SessionId>,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) -> Vec<Told> {
        let mut seen = BTreeSet::new();
        let zero = Money::zero(batch.payee.currency());
        let mut all = Vec::with_capacity(items.len());
        for ((n, opaque), item) in opaques.iter().zip(items) {
            let twice = !seen.insert((item.payer_session_id, item.payer_index));
            let told = match self.decide(batch, *n, item, opaque, twice, random, step) {
                Ok(told) => {
                    touched.insert(item.payer_session_id);
                    told
                }
                Err(problem) => Told {
                    response: ResponseCode::Failure,
                    problem: Some(problem),
                    collected: zero,
                    receipt: None,
                    new: 0,
                },
            };
            all.push(told);
        }
        all
    }

    /// p1 to p13. An error is a rejection: it leaves no trace, and no receipt.
    #[expect(clippy::too_many_arguments, reason = "a payment and where it stands")]
    fn decide(
        &mut self,
        batch: &Batch<'_>,
        n: u8,
        item: &BatchItem,
        opaque: &[u8],
        twice: bool,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) -> Result<Told, Problem> {
        let text = PaymentText::of_collection(batch.sealed, n).ok_or(Problem::Form)?;
        let payer = self.sessions.get(&item.payer_session_id).filter(|payer| payer.suite == batch.suite);
        let known = payer.map(|payer| &payer.secrets);
        let secrets = known.or(self.decoy.as_ref()).ok_or(Problem::PayerAuth)?;
        if twice {
            return Err(Problem::DuplicateInBatch);
        }
        let sealed = open_payment(secrets, &text, item, opaque, batch.suite).filter(|_| known.is_some());
        let (Some(sealed), Some(payer)) = (sealed, payer) else { return Err(Problem::PayerAuth) };
        if item.payee_id != batch.payee.persona {
            return Err(Problem::WrongPayee);
        }
        let digest = text.digest(opaque);
        if let Some(payment) = self.payments.get(&(payer.id, item.payer_index)) {
            return repeated(payment, &digest, batch.payee.currency());
        }
        if item.merchant_amount.currency() != batch.payee.currency() {
            return Err(Problem::PayeeCurrency);
        }
        let verdict = self.judge(batch, item, payer, sealed.amount.0);
        if let Verdict::Rejected(problem) = verdict {
            return Err(problem);
        }
        let payer_id = payer.id;
        let (outcome, cost, credit, rate) = match verdict {
            Verdict::Collected { cost, credit, rate } => (PaymentOutcome::Collected, cost, credit, rate),
            Verdict::Refused(problem) | Verdict::Rejected(problem) => (
                PaymentOutcome::Refused(problem),
                Money::zero(payer.currency()),
                Money::zero(batch.payee.currency()),
                None,
            ),
        };
        let receipt = seal_receipt(secrets, item, &text, opaque, (outcome, cost), random).ok_or(Problem::TryLater)?;
        if outcome == PaymentOutcome::Collected && !self.effect(batch, payer_id, cost, credit, step) {
            return Err(Problem::TryLater);
        }
        if let Some(payer) = self.sessions.get_mut(&payer_id).filter(|payer| payer.has_index(item.payer_index)) {
            payer.used.set(item.payer_index);
        }
        let payment = Payment {
            session: payer_id,
            index: item.payer_index,
            digest: Bytes(digest.to_vec()),
            outcome,
            payee: batch.payee.persona.clone(),
            collected_by: (batch.payee.id, batch.head.index, n),
            order_id: item.order_id.clone(),
            debit: cost,
            credit,
            rate,
            receipt: Bytes(receipt.clone()),
            decided_at: batch.now,
        };
        step.writes.push(Write::Put(Record::Payment(Box::new(payment.clone()))));
        self.decided.entry(batch.payee.id).or_default().push((payer_id, item.payer_index));
        self.payments.insert((payer_id, item.payer_index), payment);
        let (response, problem) = match outcome {
            PaymentOutcome::Collected => (ResponseCode::Success, None),
            PaymentOutcome::Refused(problem) => (ResponseCode::Failure, Some(problem)),
        };
        Ok(Told { response, problem, collected: credit, receipt: Some(receipt), new: credit.minor() })
    }

    /// p8 to p12: the payer authenticated this. May it be?
    fn judge(&self, batch: &Batch<'_>, item: &BatchItem, payer: &Session, amount: Money) -> Verdict {
        let over = Ends::is_over(payer.opened_at, payer.lifetime.as_duration(), batch.now);
        if payer.role != Role::Payer || payer.closed.is_some() || over {
            return Verdict::Refused(Problem::SessionClosed);
        }
        if !payer.has_index(item.payer_index) {
            return Verdict::Refused(Problem::IndexOutOfRange);
        }
        let owner = self.personas.get(&payer.persona);
        if owner.is_none_or(|owner| owner.closed || owner.disabled.contains(&Kind::CA1)) {
            return Verdict::Refused(Problem::ServiceDisabled);
        }
        if amount.minor() <= 0 || item.merchant_amount.minor() <= 0 {
            return Verdict::Refused(Problem::AmountInvalid);
        }
        let currency = payer.currency();
        if amount.currency() != currency {
            return Verdict::Refused(Problem::CurrencyMismatch);
        }
        let credit = item.merchant_amount;
        let (cost, rate) = if credit.currency() == currency {
            if amount != credit {
                return Verdict::Refused(Problem::AmountMismatch);
            }
            (credit, None)
        } else {
            let exchange = &self.policy.exchange;
            if !exchange.is_on() {
                return Verdict::Refused(Problem::CurrencyMismatch);
            }
            let Some(rate) = exchange.rate(currency, credit.currency()) else {
                return Verdict::Rejected(Problem::TryLater);
            };
            match Exchange::cost(credit, currency, rate) {
                Some(cost) if cost.minor() <= amount.minor() => (cost, Some(rate)),
                _ => return Verdict::Refused(Problem::RateMoved),
            }
        };
        if cost.minor() > self.books.session(payer.id, currency).minor() {
            return Verdict::Refused(Problem::InsufficientFunds);
        }
        Verdict::Collected { cost, credit, rate }
    }

    /// p13: the money moves.
    fn effect(&mut self, batch: &Batch<'_>, payer: SessionId, cost: Money, credit: Money, step: &mut Step) -> bool {
        let (from, to) = (Account::Session(payer), Account::Session(batch.payee.id));
        let mut postings = vec![Posting::take(from, cost)];
        if cost.currency() != credit.currency() {
            postings.push(Posting::add(Account::Exchange, cost));
            postings.push(Posting::take(Account::Exchange, credit));
        }
        postings.push(Posting::add(to, credit));
        self.post(Event::Payment, (batch.now, Some(batch.number)), postings, step)
    }

    /// One fee a batch, only of what it newly collected.
    fn batch_fee(&mut self, batch: &Batch<'_>, told: &[Told], step: &mut Step) -> Money {
        let currency = batch.payee.currency();
        let new: i64 = told.iter().map(|told| told.new).sum();
        let most = Money::new(currency, new).unwrap_or(Money::zero(currency));
        let fee = self.policy.tariff.capped(Kind::CA2, most);
        self.charge(Account::Session(batch.payee.id), fee, (batch.now, Some(batch.number)), step);
        fee
    }
}

/// p3 and p4. Whether the seal does not open or the authenticator does not match takes the same time.
fn open_payment(
    secrets: &SessionSecrets,
    text: &PaymentText<'_>,
    item: &BatchItem,
    opaque: &[u8],
    suite: Suite,
) -> Option<PaymentSealed> {
    let at = (item.subversion, item.payer_index);
    let opened = secrets.open(Kind::CA1, at, &text.context(), opaque);
    let plain = opened.as_ref().ok().and_then(|plain| std::str::from_utf8(plain).ok());
    let pairs = plain.and_then(|plain| Pairs::parse(plain).ok());
    let amount = pairs.as_ref().and_then(|pairs| pairs.get("amount", 0)).unwrap_or_default();
    let code: Bytes = pairs.as_ref().and_then(|pairs| parse_value(pairs, "auth-code")).unwrap_or_default();
    let authentic = secrets.verify(Kind::CA1, &text.list(suite, amount), &code.0);
    let pairs = pairs
        .filter(|pairs| authentic && pairs.session_defect(suite).is_none() && text.kind == Kind::CA1.type_text())?;
    let amount: Signed = pairs.required("amount", 0).ok()?;
    Some(PaymentSealed { amount, auth_code: code })
}

/// p6: what was decided stays decided.
fn repeated(payment: &Payment, digest: &[u8; 32], currency: ecash_wire::value::Currency) -> Result<Told, Problem> {
    if !ct_eq(digest, &payment.digest.0) {
        return Err(Problem::IndexReused);
    }
    let (response, problem, collected) = match payment.outcome {
        PaymentOutcome::Collected => (ResponseCode::Success, Problem::AlreadyCollected, payment.credit),
        PaymentOutcome::Refused(problem) => (ResponseCode::Failure, problem, Money::zero(currency)),
    };
    Ok(Told { response, problem: Some(problem), collected, receipt: Some(payment.receipt.0.clone()), new: 0 })
}

/// 3400 for the payer: the part that only the payer can open, made for the CA4 that the payee will send.
fn seal_receipt(
    secrets: &SessionSecrets,
    item: &BatchItem,
    text: &PaymentText<'_>,
    opaque: &[u8],
    (outcome, cost): (PaymentOutcome, Money),
    random: &mut dyn Randomness,
) -> Option<Vec<u8>> {
    let mut sealed = Draft::default();
    let (code, problem) = match outcome {
        PaymentOutcome::Collected => (ResponseCode::Success, None),
        PaymentOutcome::Refused(problem) => (ResponseCode::Failure, Some(problem)),
    };
    sealed.put("response-code", 0, &code);
    if let Some(problem) = problem {
        sealed.text("remark", 0, problem.message().to_owned());
    }
    sealed.put("amount", 0, &cost);
    if let Some(problem) = problem {
        sealed.put("problem", 0, &problem);
    }
    sealed.text("order-id", 0, text.order_id.to_owned());
    sealed.put("request-version", 0, &item.subversion);
    let head = receipt_head(item.subversion, text.session_id, item.payer_index, text.order_id);
    let inside = |label: &str| sealed.iter().find(|(other, _)| *other == label).map(|(_, value)| value);
    let code = secrets.authenticate(Kind::CA4, &receipt_list(&head, inside));
    sealed.put("auth-code", 0, &Bytes(code));
    let context = receipt_context(&head, opaque);
    secrets.seal(Kind::CA4, (item.subversion, item.payer_index), &context, sealed.render().as_bytes(), random).ok()
}

/// 3400 for the payee, and the message around both parts.
fn batch_reply(
    batch: &Batch<'_>,
    told: Result<(&Vec<BatchItem>, &Vec<Told>), &Problem>,
    fee: Money,
    arrival: &Arrival<'_>,
    random: &mut dyn Randomness,
) -> Vec<u8> {
    let mut message = Draft::default();
    message.text("type", 0, Kind::CA3.type_text().to_owned());
    batch.head.write(&mut message, 0);
    let mut sealed = Draft::default();
    sealed.text("subtype", 0, BATCH_RECEIPT.to_owned());
    sealed.put("subversion", 0, &VERSION);
    let mut opaques = Vec::new();
    match told {
        Err(problem) => {
            sealed.put("response-code", 0, &ResponseCode::Failure);
            sealed.put("problem", 0, problem);
            sealed.text("remark", 0, problem.message().to_owned());
        }
        Ok((items, told)) => {
            sealed.put("response-code", 0, &ResponseCode::Success);
            sealed.put("fee", 0, &fee);
            for (n, (item, told)) in (1..=u8::MAX).zip(items.iter().zip(told)) {
                sealed.put("subtype", n, &item.kind);
                sealed.put("subversion", n, &item.subversion);
                sealed.put("payer-session-id", n, &item.payer_session_id);
                sealed.put("payer-index", n, &item.payer_index);
                sealed.put("response-code", n, &told.response);
                sealed.put("collected-amount", n, &told.collected);
                if let Some(problem) = &told.problem {
                    sealed.put("problem", n, problem);
                }
                sealed.put("order-id", n, &item.order_id);
                if let Some(receipt) = &told.receipt {
                    opaques.push((n, receipt.clone()));
                }
            }
        }
    }
    sealed.put("request-version", 0, &batch.head.version);
    let authenticator = {
        let (clear, inside) = (message.render(), sealed.render());
        match (Pairs::parse(&clear), Pairs::parse(&inside)) {
            (Ok(clear), Ok(inside)) => {
                let list = batch_receipt_list(&clear, &inside, inside.largest_of_any());
                batch.secrets.authenticate(Kind::CA3, &list)
            }
            _ => Vec::new(),
        }
    };
    sealed.put("auth-code", 0, &Bytes(authenticator));
    let context = batch_receipt_context(batch.suite, message.iter(), &arrival.digest, &opaques);
    let at = (batch.head.version, batch.head.index);
    let opaque = batch.secrets.seal(Kind::CA3, at, &context, sealed.render().as_bytes(), random).unwrap_or_default();
    message.put("merchant-opaque", 0, &Bytes(opaque));
    for (n, receipt) in opaques {
        message.put("customer-opaque", n, &Bytes(receipt));
    }
    message.frame(batch.suite)
}
