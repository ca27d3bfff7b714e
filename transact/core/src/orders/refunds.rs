//! What a vendor does to an order that was placed: asks where it stands, cancels it, gives money back.

use super::{
    Answer, Asked, Attempt, BankEvent, BankRefund, BankReversal, Cause, Effect, Known, Order, OrderKey, OrderName,
    OrderStatus, Orders, Phase, RefundPlacement, RefundReceipt, RefundState, Refunding, Step, Ticket, Timestamp,
    Verdict, Write, next_stan,
};
use transact_bank::Movement;

/// Refunds of one order at most.
const MOST_REFUNDS: usize = 100;

/// Why an order is not cancelled, or not shown. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// This vendor has no such order.
    #[error("there is no such order")]
    Unknown,
    /// The bank is being asked: how that ends has to be awaited.
    #[error("the bank is being asked: ask again, and refund if it was paid")]
    Busy,
    /// It is decided.
    #[error("the order is {}: it cannot be cancelled", .0.name())]
    Decided(Phase),
}

/// Why no money goes back. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefundError {
    /// This vendor has no such order.
    #[error("there is no such order")]
    Unknown,
    /// The id was used for a refund of another amount.
    #[error("the id was used for a refund of another amount: choose a new one")]
    Conflict,
    /// Nothing was paid.
    #[error("the order is {}: only what was paid can be refunded", .0.name())]
    NotPaid(Phase),
    /// Another refund of the order is not decided.
    #[error("another refund of this order is under way: try again when it is decided")]
    Busy,
    /// More than is left, or another currency.
    #[error("{left} {currency} minor units are left to refund")]
    TooMuch {
        /// Minor units.
        left: u64,
        /// The order's currency.
        currency: String,
    },
    /// One more than an order may have.
    #[error("an order may have {MOST_REFUNDS} refunds")]
    TooMany,
    /// The institution cannot be reached; nothing was sent to it.
    #[error("the bank cannot be reached now: nothing was given back, try again")]
    BankUnreachable,
}

fn key_of(name: &OrderName) -> OrderKey {
    OrderKey { vendor: name.vendor.clone(), transaction_id: name.transaction_id.clone() }
}

fn status(order: &Order) -> Answer {
    let results = order.results().into_iter().map(|(id, result, _)| (id, result)).collect();
    let status = OrderStatus {
        transaction_id: order.key.transaction_id.clone(),
        temporary_id: order.temporary_id.clone(),
        amount: order.amount,
        phase: order.phase(),
        since: order.since(),
        expires_at: order.expires_at,
        refunds: order.refunds.iter().map(|refund| order.receipt(refund)).collect(),
        results: Vec::new(),
    };
    Answer::Status(Ok(Box::new(Known { status, results })))
}

impl Orders {
    /// Tells a vendor where its order stands.
    pub fn status(&mut self, ticket: Ticket, name: &OrderName, now: Timestamp) -> Step {
        let mut step = Step::default();
        let key = key_of(name);
        self.expire_if_due(&key, now, &mut step);
        let answer = self.orders.get(&key).map_or(Answer::Status(Err(CancelError::Unknown)), status);
        step.effects.push(Effect::Answer(ticket, answer));
        step
    }

    /// Closes an order that nobody has paid yet. The same again gets the same answer.
    pub fn cancel(&mut self, ticket: Ticket, name: &OrderName, now: Timestamp) -> Step {
        let mut step = Step::default();
        let key = key_of(name);
        self.expire_if_due(&key, now, &mut step);
        let refusal = match self.orders.get(&key).map(Order::phase) {
            None => Some(CancelError::Unknown),
            Some(Phase::PageIssued) => {
                self.decide(&key, Cause::Cancel, Verdict::Cancelled, None, now, &mut step);
                None
            }
            Some(Phase::Cancelled) => None,
            Some(Phase::Authorising | Phase::Reversing | Phase::Refunding) => Some(CancelError::Busy),
            Some(phase) => Some(CancelError::Decided(phase)),
        };
        let answer = match (refusal, self.orders.get(&key)) {
            (None, Some(order)) => status(order),
            (refusal, _) => Answer::Status(Err(refusal.unwrap_or(CancelError::Unknown))),
        };
        step.effects.push(Effect::Answer(ticket, answer));
        step
    }

    /// Gives money back. The same again joins the first, or gets its answer.
    pub fn refund(&mut self, ticket: Ticket, placement: &RefundPlacement, now: Timestamp) -> Step {
        let mut step = Step::default();
        match self.try_refund(ticket, placement, now, &mut step) {
            Ok(Some(receipt)) => step.effects.push(Effect::Answer(ticket, Answer::Refund(Ok(receipt)))),
            Ok(None) => {}
            Err(error) => step.effects.push(Effect::Answer(ticket, Answer::Refund(Err(error)))),
        }
        step
    }

    /// `None`: the answer comes when the bank has answered.
    fn try_refund(
        &mut self,
        ticket: Ticket,
        placement: &RefundPlacement,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Option<RefundReceipt>, RefundError> {
        let key = key_of(&placement.order);
        let asked = Asked { order: key.clone(), refund: Some(placement.refund.refund_id.clone()) };
        let wanted = placement.refund.amount;
        let order = self.orders.get_mut(&key).ok_or(RefundError::Unknown)?;
        if let Some(known) = order.refunds.iter().find(|refund| refund.id == placement.refund.refund_id) {
            return match known.state {
                _ if known.amount != wanted => Err(RefundError::Conflict),
                RefundState::Asking => {
                    self.waiting.entry(asked).or_default().push(ticket);
                    Ok(None)
                }
                _ => Ok(Some(order.receipt(known))),
            };
        }
        let from = order.phase();
        match from {
            Phase::Approved | Phase::PartlyRefunded => {}
            Phase::Refunding => return Err(RefundError::Busy),
            phase => return Err(RefundError::NotPaid(phase)),
        }
        let left = order.amount.minor().saturating_sub(order.given_back());
        if wanted.currency() != order.amount.currency() || wanted.minor() > left {
            return Err(RefundError::TooMuch { left, currency: order.amount.currency().to_string() });
        }
        if order.refunds.len() >= MOST_REFUNDS {
            return Err(RefundError::TooMany);
        }
        let (original, code) = order.approval().ok_or(RefundError::NotPaid(from))?;
        let (original, code) = (original.clone(), code.cloned());
        self.stan = next_stan(self.stan);
        let attempt = Attempt { stan: self.stan, sent_at: now, movement: Movement::Refund, ..original.clone() };
        order.refunds.push(Refunding {
            id: placement.refund.refund_id.clone(),
            amount: wanted,
            attempt: attempt.clone(),
            state: RefundState::Asking,
            at: now,
            acknowledged_at: None,
        });
        order.note(from, Cause::RefundAsked, now);
        self.by_result.insert(order.refund_result_id(&placement.refund.refund_id), asked.clone());
        step.writes.push(Write::Stan(self.stan));
        step.writes.push(Write::Order(Box::new(order.clone())));
        let refund = BankRefund { asked: asked.clone(), attempt, amount: wanted, original, authorisation_code: code };
        step.effects.push(Effect::Refund(Box::new(refund)));
        self.waiting.entry(asked).or_default().push(ticket);
        Ok(None)
    }

    pub(super) fn bank_on_refund(&mut self, asked: &Asked, event: BankEvent, now: Timestamp, step: &mut Step) {
        let Some(order) = self.orders.get_mut(&asked.order) else { return };
        let Some(at) = order.refunds.iter().position(|refund| Some(&refund.id) == asked.refund.as_ref()) else {
            return;
        };
        let Some(refund) = order.refunds.get_mut(at) else { return };
        let state = match (refund.state, event) {
            (RefundState::Asking, BankEvent::Approved { .. }) => RefundState::Given,
            (RefundState::Asking, BankEvent::Declined) => RefundState::Refused,
            (RefundState::Asking, BankEvent::TimedOut) => RefundState::Undoing,
            (RefundState::Undoing, BankEvent::Reversed) => RefundState::Undone,
            (RefundState::Asking, BankEvent::NotSent) => {
                // Nothing left: as if it had not been asked for, so that the vendor may ask again under the same id.
                let gone = order.refunds.remove(at);
                self.by_result.remove(&order.refund_result_id(&gone.id));
                let none = order.given_back() == 0;
                let cause = if none { Cause::RefundNotGiven } else { Cause::RefundNotGivenAgain };
                order.note(Phase::Refunding, cause, now);
                step.writes.push(Write::Order(Box::new(order.clone())));
                self.answer_waiting(asked, &Answer::Refund(Err(RefundError::BankUnreachable)), step);
                return;
            }
            // An answer that came after its time: the reversal is on its way and stands.
            _ => return,
        };
        (refund.state, refund.at) = (state, now);
        let (attempt, amount) = (refund.attempt.clone(), refund.amount);
        let receipt = order.refunds.get(at).map(|refund| order.receipt(refund));
        if state.is_final() {
            let given = order.given_back();
            let cause = match state {
                RefundState::Given if given < order.amount.minor() => Cause::RefundGivenInPart,
                RefundState::Given => Cause::RefundGivenWhole,
                _ if given == 0 => Cause::RefundNotGiven,
                _ => Cause::RefundNotGivenAgain,
            };
            order.note(Phase::Refunding, cause, now);
            debug_assert_eq!(order.steps.last().map(|taken| taken.to), Some(order.phase()));
        }
        step.writes.push(Write::Order(Box::new(order.clone())));
        if state == RefundState::Undoing {
            step.effects.push(Effect::Reverse(BankReversal { asked: asked.clone(), attempt, amount }));
        } else if let Some((id, result, _)) = order.results().pop() {
            step.effects.push(Effect::Publish(id, result));
        }
        if let Some(receipt) = receipt {
            self.answer_waiting(asked, &Answer::Refund(Ok(receipt)), step);
        }
    }
}
