//! The payee: offers, CA2 and CA3.

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;

use crate::canonical::Digest;
use crate::cash::{batch_receipt_context, batch_receipt_list, collection_context, collection_list, customer_opaques};
use crate::client::state::{Flag, RowStatus};
use crate::client::{
    Batch, Client, Event, HeldSession, NotPossible, Order, Record, RecordKey, Row, Step, To, Tries, Write,
};
use crate::frame::{Draft, Frame, Pairs};
use crate::message::{
    BATCH_RECEIPT, BatchItem, BatchReceipt, BatchReceiptItem, COLLECTION, CollectionHead, Kind, Offer, PaymentClear,
    Problem, RelayHead, ResponseCode, VERSION,
};
use crate::suite::{note_hash, signature_input};
use crate::value::{Amounts, Bytes, Money, OrderId, SessionId, Short};

/// No batch has more payments.
const MOST: usize = 255;

impl Client {
    /// PR1: offers something. The order is stored before the offer leaves.
    ///
    /// # Errors
    /// [`NotPossible`] without a persona.
    pub fn make_offer(
        &mut self,
        order: OrderId,
        amount: Money,
        note: &str,
        url_pay_to: &str,
        others: Option<Amounts>,
        now: Timestamp,
    ) -> Result<(Step, Vec<u8>), NotPossible> {
        let suite = self.identity.suite;
        let merchant_id = self.identity.persona.clone().ok_or(NotPossible::NotRegistered)?;
        let mut offer = Offer {
            merchant_id,
            order_id: order.clone(),
            date: now,
            swversion: Short(self.identity.software.clone()),
            note: note.to_owned(),
            amount,
            accepts: None,
            url_pay_to: Short(url_pay_to.to_owned()),
            url_cancel: None,
            url_success: None,
            url_failure: None,
            key: Bytes(self.public_key()?.fingerprint(suite)),
            signature: Bytes(Vec::new()),
            amount2: others,
        };
        let write = |offer: &Offer| {
            let mut draft = Draft::default();
            draft.text("type", 0, Kind::PR1.type_text().to_owned());
            offer.write(&mut draft, 0);
            draft
        };
        let input = signature_input(suite, Kind::PR1, write(&offer).iter(), std::iter::empty());
        offer.signature = Bytes(self.sign(&input)?);
        let mut step = Step::default();
        let note_hash = Bytes(note_hash(suite, note));
        self.put(&mut step, Record::Order(Box::new(Order { id: order, amount, note_hash, flag: Flag::Pending })));
        Ok((step, write(&offer).frame(suite)))
    }

    /// CA1 came in. Whether it is worth anything only the server can tell.
    pub(super) fn payment_came(&mut self, frame: &Frame<'_>, message: &[u8], step: &mut Step) {
        let Ok(clear) = PaymentClear::read(&frame.clear, 0) else { return };
        let key = (clear.session_id, clear.index);
        let answer = To::Payer(clear.session_id, clear.index);
        if let Some(row) = self.rows.get(&key) {
            if row.message.0 == message {
                // What is under way is waited for; what was decided, or was worth nothing, is told again.
                let told = match (&row.relay, row.status) {
                    (Some(relay), _) => Some(relay.0.clone()),
                    (None, RowStatus::Failure(problem)) => Some(self.say(&clear, problem)),
                    (None, _) => None,
                };
                step.send.extend(told.map(|told| (answer, told)));
                return;
            }
            // A payment that the server knew nothing of says nothing about the next with its number.
            if !matches!(row.status, RowStatus::Failure(_)) || row.relay.is_some() {
                step.send.push((answer, self.say(&clear, Problem::IndexReused)));
                return;
            }
        }
        let problem = self.check_payment(&clear, frame);
        let (Some(order), None) = (self.orders.get(&clear.order_id), problem) else {
            step.send.push((answer, self.say(&clear, problem.unwrap_or(Problem::Form))));
            return;
        };
        let row = Row {
            session: clear.session_id,
            index: clear.index,
            order: clear.order_id.clone(),
            asked: order.amount,
            message: Bytes(message.to_vec()),
            batch: None,
            status: RowStatus::Waiting,
            credited: None,
            relay: None,
        };
        self.put(step, Record::Row(Box::new(row)));
        step.events.push(Event::Waiting(clear.order_id));
    }

    fn check_payment(&self, clear: &PaymentClear, frame: &Frame<'_>) -> Option<Problem> {
        let order = self.orders.get(&clear.order_id);
        let taken = self.index.taken.contains_key(&clear.order_id);
        match order {
            _ if frame.clear.session_defect(frame.suite).is_some() || frame.clear.get("opaque", 0).is_none() => {
                Some(Problem::Form)
            }
            None => Some(Problem::Form),
            Some(order) if order.flag == Flag::Paid => Some(Problem::AlreadyCollected),
            Some(_) if Some(&clear.payee_id) != self.identity.persona.as_ref() => Some(Problem::WrongPayee),
            Some(order) if order.note_hash != clear.note_hash => Some(Problem::PayerAuth),
            Some(order) if order.amount.currency() != clear.payee_currency => Some(Problem::PayeeCurrency),
            Some(_) if taken => Some(Problem::Busy),
            Some(_) => None,
        }
    }

    fn say(&self, clear: &PaymentClear, problem: Problem) -> Vec<u8> {
        let mut draft = Draft::default();
        draft.text("type", 0, Kind::ER1.type_text().to_owned());
        draft.put("session-id", 0, &clear.session_id);
        draft.put("index", 0, &clear.index);
        draft.put("problem", 0, &problem);
        draft.text("message", 0, problem.message().to_owned());
        draft.frame(self.identity.suite)
    }

    /// CA2: up to 255 payments that wait, of one currency, in a session of the payee. Nothing when there is none, or no
    /// session: [`Client::needs_session`] tells in which currency one is missing.
    pub fn collect(&mut self, now: Timestamp, random: &mut dyn Randomness) -> Step {
        let mut step = Step::default();
        let server_time = self.server_time(now);
        let usable = |held: &&HeldSession| !held.is_payer() && held.is_usable(server_time);
        let sessions: Vec<HeldSession> = self.sessions.values().filter(usable).cloned().collect();
        for mut held in sessions {
            let currency = held.currency();
            let waiting = self.index.waiting.iter().filter_map(|key| self.rows.get(key));
            let rows: Vec<Row> = waiting.filter(|row| row.asked.currency() == currency).take(MOST).cloned().collect();
            if rows.is_empty() {
                continue;
            }
            held.last_index += 1;
            let Some(message) = self.assemble_batch(&held, &rows, random) else { continue };
            let (session, index) = (held.secrets.id(), held.last_index);
            self.put(&mut step, Record::Session(Box::new(held)));
            let batch = Batch {
                session,
                index,
                digest: Digest::of(&message),
                message: Bytes(message.clone()),
                items: rows.iter().map(|row| (row.session, row.index)).collect(),
                tries: Tries::begun(now),
            };
            for row in rows {
                let row = Row { status: RowStatus::Attempt, batch: Some((session, index)), ..row };
                self.put(&mut step, Record::Row(Box::new(row)));
            }
            self.put(&mut step, Record::Batch(Box::new(batch)));
            step.send.push((To::Server, message));
        }
        step
    }

    /// The currencies in which payments wait and no session can collect them.
    #[must_use]
    pub fn needs_session(&self, now: Timestamp) -> Vec<crate::value::Currency> {
        let server_time = self.server_time(now);
        let waiting = self.index.waiting.iter().filter_map(|key| self.rows.get(key));
        let currencies: std::collections::BTreeSet<_> = waiting.map(|row| row.asked.currency()).collect();
        let has = |currency| {
            let mut held = self.sessions.values();
            held.any(|held| !held.is_payer() && held.is_usable(server_time) && held.currency() == currency)
        };
        currencies.into_iter().filter(|currency| !has(*currency)).collect()
    }

    fn assemble_batch(&self, held: &HeldSession, rows: &[Row], random: &mut dyn Randomness) -> Option<Vec<u8>> {
        let suite = self.identity.suite;
        let (session_id, index) = (held.secrets.id(), held.last_index);
        let mut clear = Draft::default();
        clear.text("type", 0, Kind::CA2.type_text().to_owned());
        let service_category = Some(Short(Kind::CA2.category().to_owned()));
        CollectionHead { version: VERSION, session_id, index, service_category }.write(&mut clear, 0);
        let mut sealed = Draft::default();
        sealed.text("type", 0, COLLECTION.to_owned());
        sealed.put("version", 0, &VERSION);
        let mut opaques = Vec::with_capacity(rows.len());
        for (n, row) in (1..=u8::MAX).zip(rows) {
            let frame = Frame::parse(&row.message.0).ok()?;
            let payment = PaymentClear::read(&frame.clear, 0).ok()?;
            let item = BatchItem {
                kind: frame.clear.required("type", 0).ok()?,
                subversion: payment.version,
                payer_session_id: payment.session_id,
                payer_index: payment.index,
                note_hash: payment.note_hash,
                payee_id: payment.payee_id,
                order_id: payment.order_id,
                merchant_amount: row.asked,
            };
            item.write(&mut sealed, n);
            let opaque: Bytes = frame.clear.required("opaque", 0).ok()?;
            opaques.push((n, opaque.0));
        }
        let code = {
            let (clear, inside) = (clear.render(), sealed.render());
            let (clear, inside) = (Pairs::parse(&clear).ok()?, Pairs::parse(&inside).ok()?);
            let count = u8::try_from(rows.len()).ok()?;
            held.secrets.authenticate(Kind::CA2, &collection_list(suite, &clear, &inside, count))
        };
        sealed.put("auth-code", 0, &Bytes(code));
        let context = collection_context(suite, clear.iter(), &opaques);
        let plain = sealed.render();
        let opaque = held.secrets.seal(Kind::CA2, (VERSION, index), &context, plain.as_bytes(), random).ok()?;
        clear.put("merchant-opaque", 0, &Bytes(opaque));
        for (n, opaque) in opaques {
            clear.put("customer-opaque", n, &Bytes(opaque));
        }
        Some(clear.frame(suite))
    }

    /// CA3.
    pub(super) fn batch_decided(&mut self, frame: &Frame<'_>, step: &mut Step) {
        let Ok(head) = CollectionHead::read(&frame.clear, 0) else { return };
        let Some(batch) = self.batches.get(&(head.session_id, head.index)).cloned() else { return };
        let Some((receipt, items, opaques)) = self.read_batch(frame, &head, &batch) else {
            step.events.push(Event::Unreadable(Kind::CA3));
            return;
        };
        self.batches.remove(&(batch.session, batch.index));
        step.writes.push(Write::Delete(RecordKey::Batch(batch.session, batch.index)));
        if receipt.response_code != ResponseCode::Success {
            return self.batch_failed(&batch, receipt.problem.unwrap_or(Problem::Form), step);
        }
        let fee = receipt.fee.map_or(0, Money::minor);
        let mut collected = -fee;
        for ((key, item), n) in batch.items.iter().zip(&items).zip(1..=u8::MAX) {
            let Some(row) = self.rows.get(key).cloned() else { continue };
            let receipt = opaques.iter().find(|(number, _)| *number == n).map(|(_, opaque)| opaque);
            collected += self.item_decided(row, item, receipt, step);
        }
        if let Some(mut held) = self.sessions.get(&batch.session).cloned().filter(|held| !held.closed) {
            let current = held.current.minor().saturating_add(collected);
            held.current = Money::new(held.currency(), current).unwrap_or(held.current);
            self.put(step, Record::Session(Box::new(held)));
        }
    }

    /// What the server says of one payment; what it newly credited.
    fn item_decided(
        &mut self,
        mut row: Row,
        item: &BatchReceiptItem,
        receipt: Option<&Vec<u8>>,
        step: &mut Step,
    ) -> i64 {
        let answer = To::Payer(row.session, row.index);
        let mut new = 0;
        let order = self.orders.get(&row.order).cloned();
        match (item.response_code, item.problem) {
            (ResponseCode::Success, problem) => {
                row.status = RowStatus::Success;
                row.credited = Some(item.collected_amount);
                if problem != Some(Problem::AlreadyCollected) {
                    new = item.collected_amount.minor();
                }
                if let Some(order) = order {
                    self.put(step, Record::Order(Box::new(Order { flag: Flag::Paid, ..order })));
                }
                step.events.push(Event::Collected(row.order.clone(), item.collected_amount));
            }
            (_, Some(Problem::TryLater | Problem::PayeeCurrency)) if receipt.is_none() => {
                row.status = RowStatus::Waiting;
                row.batch = None;
            }
            (_, problem) => {
                let problem = problem.unwrap_or(Problem::Form);
                row.status = RowStatus::Failure(problem);
                if let Some(order) = order.filter(|order| order.flag != Flag::Paid) {
                    self.put(step, Record::Order(Box::new(Order { flag: Flag::NotPaid, ..order })));
                }
                step.events.push(Event::Uncollected(row.order.clone(), problem));
                if receipt.is_none() {
                    let clear = Frame::parse(&row.message.0).ok();
                    let clear = clear.and_then(|frame| PaymentClear::read(&frame.clear, 0).ok());
                    step.send.extend(clear.map(|clear| (answer.clone(), self.say(&clear, problem))));
                }
            }
        }
        if let Some(relay) = receipt.and_then(|receipt| self.relay(&row, receipt)) {
            row.relay = Some(Bytes(relay.clone()));
            step.send.push((answer, relay));
        }
        self.put(step, Record::Row(Box::new(row)));
        new
    }

    /// CA4: the receipt, unchanged, under the payer's own session and index.
    fn relay(&self, row: &Row, receipt: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::parse(&row.message.0).ok()?;
        let payment = PaymentClear::read(&frame.clear, 0).ok()?;
        let mut message = Draft::default();
        message.text("type", 0, Kind::CA4.type_text().to_owned());
        let head = RelayHead {
            version: payment.version,
            session_id: payment.session_id,
            index: payment.index,
            order_id: payment.order_id,
            service_category: Some(Short(Kind::CA4.category().to_owned())),
        };
        head.write(&mut message, 0);
        message.put("opaque", 0, &Bytes(receipt.to_vec()));
        Some(message.frame(self.identity.suite))
    }

    /// The batch was refused as a whole. Where only the session was at fault, its payments wait for another.
    fn batch_failed(&mut self, batch: &Batch, problem: Problem, step: &mut Step) {
        let again = matches!(problem, Problem::SessionClosed | Problem::IndexOutOfRange);
        for key in &batch.items {
            let Some(mut row) = self.rows.get(key).cloned() else { continue };
            row.batch = None;
            row.status = if again { RowStatus::Waiting } else { RowStatus::Failure(problem) };
            self.put(step, Record::Row(Box::new(row)));
        }
        if let (true, Some(mut held)) = (again, self.sessions.get(&batch.session).cloned()) {
            held.closed = true;
            self.put(step, Record::Session(Box::new(held)));
        }
        step.events.push(Event::BatchFailed(problem));
    }

    #[expect(clippy::type_complexity, reason = "the three parts of a CA3")]
    fn read_batch(
        &self,
        frame: &Frame<'_>,
        head: &CollectionHead,
        batch: &Batch,
    ) -> Option<(BatchReceipt, Vec<BatchReceiptItem>, Vec<(u8, Vec<u8>)>)> {
        let secrets = &self.sessions.get(&batch.session)?.secrets;
        let opaque: Bytes = frame.clear.required("merchant-opaque", 0).ok()?;
        let opaques = customer_opaques(&frame.clear)?;
        if frame.clear.session_defect(frame.suite).is_some() || head.version != VERSION {
            return None;
        }
        let context = batch_receipt_context(frame.suite, frame.clear.iter(), &batch.digest, &opaques);
        let plain = secrets.open(Kind::CA3, (VERSION, head.index), &context, &opaque.0).ok()?;
        let pairs = Pairs::parse(std::str::from_utf8(&plain).ok()?).ok()?;
        let receipt = BatchReceipt::read(&pairs, 0).ok().filter(|_| pairs.session_defect(frame.suite).is_none())?;
        let count = pairs.largest_of_any();
        let list = batch_receipt_list(&frame.clear, &pairs, count);
        if receipt.subtype.0 != BATCH_RECEIPT || !secrets.verify(Kind::CA3, &list, &receipt.auth_code.0) {
            return None;
        }
        let items = (1..=count).map(|n| BatchReceiptItem::read(&pairs, n)).collect::<Result<Vec<_>, _>>().ok()?;
        let named = items.iter().map(|item| (item.payer_session_id, item.payer_index));
        let right = receipt.response_code != ResponseCode::Success || named.eq(batch.items.iter().copied());
        let numbers = opaques.iter().all(|(n, _)| *n <= count);
        (right && numbers).then_some((receipt, items, opaques))
    }

    /// The payments of one session that a payee knows of.
    pub fn rows_of(&self, session: SessionId) -> impl Iterator<Item = &Row> {
        self.rows.values().filter(move |row| row.batch.is_some_and(|(own, _)| own == session))
    }
}
