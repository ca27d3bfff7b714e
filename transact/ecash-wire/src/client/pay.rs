//! The payer: offers, CA1 and CA4.

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;

use crate::cash::{PaymentText, receipt_context, receipt_head, receipt_list};
use crate::client::state::SentOutcome;
use crate::client::{Client, Event, OfferKey, Record, Sent, Step, To, Tries};
use crate::frame::{Draft, Frame, Pairs};
use crate::message::{Kind, Offer, PaymentClear, PaymentSealed, Receipt, RelayHead, ResponseCode, VERSION};
use crate::suite::note_hash;
use crate::value::{Bytes, Money, SessionId, Short, Signed, Value};

/// Why nothing is paid. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayError {
    /// No such offer.
    #[error("there is no such offer")]
    NoOffer,
    /// It is being paid: whether an earlier payment went through is not known.
    #[error("a payment for this order is under way: whether it went through is not known yet")]
    UnderWay,
    /// It was paid.
    #[error("this order was paid")]
    Paid,
    /// No such session.
    #[error("there is no such session")]
    NoSession,
    /// The session is over, used up, or not to be used.
    #[error("the session cannot be used any more: open another")]
    SessionOver,
    /// There is not so much in it.
    #[error("there is not so much in the session: open another")]
    Short,
    /// The session has another currency, and no ceiling in it was given.
    #[error("the session has another currency: say the most that may be charged in it")]
    Currency,
    /// The wallet does not lead to a message.
    #[error("the message cannot be made")]
    Broken,
}

impl Client {
    /// 3300: an offer is kept, raw. Whether it is the payee's nobody can tell here.
    pub(super) fn offered(&mut self, frame: &Frame<'_>, message: &[u8], step: &mut Step) {
        let Ok(offer) = Offer::read(&frame.clear, 0) else { return };
        if frame.clear.defect().is_some() || offer.amount.minor() <= 0 {
            return;
        }
        let key = OfferKey { payee: offer.merchant_id, order: offer.order_id };
        self.put(step, Record::Offer(key.clone(), Bytes(message.to_vec())));
        step.events.push(Event::Offered(key));
    }

    /// What was offered.
    #[must_use]
    pub fn offer(&self, key: &OfferKey) -> Option<Offer> {
        let frame = Frame::parse(&self.offers.get(key)?.0).ok()?;
        Offer::read(&frame.clear, 0).ok()
    }

    /// The sessions that an offer can be paid from now.
    pub fn sessions_for(&self, offer: &Offer, now: Timestamp) -> impl Iterator<Item = SessionId> {
        let (server_time, amount) = (self.server_time(now), offer.amount);
        self.sessions
            .values()
            .filter(move |held| held.is_payer() && held.is_usable(server_time))
            .filter(move |held| held.currency() == amount.currency() && held.current.minor() >= amount.minor())
            .map(|held| held.secrets.id())
    }

    /// CA1: pays an offer from a session. `ceiling` is what may be charged at most where the currencies differ.
    ///
    /// # Errors
    /// [`PayError`].
    pub fn pay(
        &mut self,
        key: &OfferKey,
        session: SessionId,
        ceiling: Option<Money>,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, PayError> {
        let offer = self.offer(key).ok_or(PayError::NoOffer)?;
        for sent in self.index.made.get(key).into_iter().flatten().filter_map(|made| self.sent.get(made)) {
            match sent.outcome {
                None => return Err(PayError::UnderWay),
                Some(SentOutcome::Paid(_)) => return Err(PayError::Paid),
                Some(_) => {}
            }
        }
        let mut held = self.sessions.get(&session).filter(|held| held.is_payer()).ok_or(PayError::NoSession)?.clone();
        if !held.is_usable(self.server_time(now)) {
            return Err(PayError::SessionOver);
        }
        let amount = if offer.amount.currency() == held.currency() {
            offer.amount
        } else {
            ceiling.filter(|ceiling| ceiling.currency() == held.currency()).ok_or(PayError::Currency)?
        };
        let left = held.current.minor() - amount.minor();
        if left < 0 || amount.minor() <= 0 {
            return Err(PayError::Short);
        }
        held.last_index += 1;
        held.current = Money::new(held.currency(), left).ok_or(PayError::Broken)?;
        let index = held.last_index;
        let clear = PaymentClear {
            version: VERSION,
            session_id: session,
            index,
            payee_currency: offer.amount.currency(),
            note_hash: Bytes(note_hash(self.identity.suite, &offer.note)),
            payee_id: key.payee.clone(),
            order_id: key.order.clone(),
            service_category: Some(Short(Kind::CA1.category().to_owned())),
        };
        let mut message = Draft::default();
        message.text("type", 0, Kind::CA1.type_text().to_owned());
        clear.write(&mut message, 0);
        let opaque = {
            let text = message.render();
            let pairs = Pairs::parse(&text).map_err(|_| PayError::Broken)?;
            let text = PaymentText::of_payment(&pairs).ok_or(PayError::Broken)?;
            let written = amount.write();
            let code = held.secrets.authenticate(Kind::CA1, &text.list(self.identity.suite, &written));
            let mut sealed = Draft::default();
            PaymentSealed { amount: Signed(amount), auth_code: Bytes(code) }.write(&mut sealed, 0);
            let plain = sealed.render();
            let at = (VERSION, index);
            held.secrets.seal(Kind::CA1, at, &text.context(), plain.as_bytes(), random)
        };
        message.put("opaque", 0, &Bytes(opaque.map_err(|_| PayError::Broken)?));
        let message = message.frame(self.identity.suite);
        let sent = Sent {
            session,
            index,
            payee: key.payee.clone(),
            order: key.order.clone(),
            amount,
            note: offer.note,
            pay_to: offer.url_pay_to.0.clone(),
            message: Bytes(message.clone()),
            tries: Tries::begun(now),
            outcome: None,
            receipt: None,
        };
        let mut step = Step::default();
        // The index is stored as used in the same write as the message: neither is ever there without the other.
        self.put(&mut step, Record::Session(Box::new(held)));
        self.put(&mut step, Record::Sent(Box::new(sent)));
        step.send.push((To::Payee(offer.url_pay_to.0), message));
        Ok(step)
    }

    /// CA4: the server's decision, relayed by the payee.
    pub(super) fn receipt_came(&mut self, frame: &Frame<'_>, step: &mut Step) {
        let Ok(head) = RelayHead::read(&frame.clear, 0) else { return };
        let key = (head.session_id, head.index);
        let Some(sent) = self.sent.get(&key).filter(|sent| sent.outcome.is_none() && sent.order == head.order_id)
        else {
            return;
        };
        let Some(receipt) = self.read_receipt(frame, &head, sent) else {
            step.events.push(Event::Unreadable(Kind::CA4));
            return;
        };
        let mut sent = sent.clone();
        let Some(mut held) = self.sessions.get(&head.session_id).cloned() else { return };
        sent.receipt = frame.clear.get("opaque", 0).and_then(|text| Bytes::read(text).ok());
        let charged = receipt.amount;
        let paid = receipt.response_code == ResponseCode::Success;
        let refunded = sent.amount.minor() - if paid { charged.minor() } else { 0 };
        if paid && (refunded < 0 || charged.currency() != sent.amount.currency()) {
            held.alarmed = true;
            step.events.push(Event::Alarm(sent.order.clone(), charged));
        } else if !held.closed {
            let current = held.current.minor().saturating_add(refunded);
            held.current = Money::new(held.currency(), current).unwrap_or(held.current);
        }
        sent.outcome = Some(if paid { SentOutcome::Paid(charged) } else { SentOutcome::Refused(receipt.problem) });
        step.events.push(if paid {
            Event::Paid(sent.order.clone(), charged)
        } else {
            Event::NotPaid(sent.order.clone(), receipt.problem)
        });
        self.put(step, Record::Session(Box::new(held)));
        self.put(step, Record::Sent(Box::new(sent)));
    }

    fn read_receipt(&self, frame: &Frame<'_>, head: &RelayHead, sent: &Sent) -> Option<Receipt> {
        let secrets = &self.sessions.get(&head.session_id)?.secrets;
        let own = Frame::parse(&sent.message.0).ok()?;
        let payment: Bytes = own.clear.required("opaque", 0).ok()?;
        let opaque: Bytes = frame.clear.required("opaque", 0).ok()?;
        let covered = receipt_head(VERSION, &head.session_id.write(), head.index, sent.order.as_str());
        if head.version != VERSION || frame.clear.session_defect(frame.suite).is_some() {
            return None;
        }
        let context = receipt_context(&covered, &payment.0);
        let plain = secrets.open(Kind::CA4, (VERSION, head.index), &context, &opaque.0).ok()?;
        let pairs = Pairs::parse(std::str::from_utf8(&plain).ok()?).ok()?;
        let receipt = Receipt::read(&pairs, 0).ok().filter(|_| pairs.session_defect(frame.suite).is_none())?;
        let list = receipt_list(&covered, |label| pairs.get(label, 0));
        let authentic = secrets.verify(Kind::CA4, &list, &receipt.auth_code.0);
        (authentic && receipt.order_id == sent.order && receipt.request_version == VERSION).then_some(receipt)
    }
}
