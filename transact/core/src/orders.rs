//! All orders and everything that can happen to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_crypto::encode::{base64url, hex};
use cloakway_crypto::hash::{keyed, sha256};
use cloakway_crypto::{Secret, ct_eq};
use cloakway_types::{IspId, Money, Timestamp, TransactionId, VendorId};
use transact_wire::after::{OrderName, OrderStatus, Phase, RefundPlacement, RefundReceipt, RefundState};
use transact_wire::card::{CardNumber, Expiry, Pin};
use transact_wire::order::{Issued, Placement, Reference};
use transact_wire::payment::{Claim, Payment, PaymentState};
use transact_wire::result::{PurchaseResult, Verdict};

use crate::institutions::Institutions;
use crate::machine::Cause;
use crate::order::{Asked, Attempt, Order, OrderKey, Refunding, State, Taken};

mod refunds;

pub use refunds::{CancelError, RefundError};

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct Policy {
    /// From it one-time passwords and transaction ids are derived; 32 bytes.
    pub secret: Secret<Vec<u8>>,
    /// How long an order can be paid.
    pub lifetime: Duration,
    /// Wrong passwords until an order is closed.
    pub password_attempts: u32,
    /// Orders that may be open at once.
    pub open_orders: usize,
    /// How long a decided and acknowledged order is kept.
    pub retention: Duration,
    /// The private network addresses of each member ISP (A5).
    pub addresses: BTreeMap<IspId, Vec<IpAddr>>,
    /// The TCP port at those addresses.
    pub port: u16,
    /// Who is asked about which card.
    pub institutions: Institutions,
}

/// A caller that waits for an [`Answer`]; numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Only a password that matched makes one.
#[derive(Debug)]
pub struct PasswordMatched(());

/// Why an order is not taken. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A value that the types allow and the order does not.
    #[error("{field}: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// No such member ISP here.
    #[error("ISP {0} is not a member here")]
    UnknownIsp(IspId),
    /// The ISP has no private network address of the client's family.
    #[error("ISP {0} has no private network address of this address family")]
    NoAddress(IspId),
    /// The id was used for another order.
    #[error("the id was used for another order: choose a new one")]
    Conflict,
    /// Too many orders are open.
    #[error("too many orders are open: try again later")]
    TooMany,
}

/// Why a payment or a question is refused. Nothing was charged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayError {
    /// No such transaction, or not its password: which of them is not told.
    #[error("this transaction and password do not match")]
    NoMatch,
    /// The card is past its month.
    #[error("the card has expired")]
    CardExpired,
    /// No institution here takes cards of this kind.
    #[error("cards of this kind are not taken here: use another card")]
    CardNotTaken,
    /// A PIN for an institution to which none can be sent, or with a card number that cannot have one.
    #[error("a PIN is not taken for this card: leave it out")]
    PinNotTaken,
    /// The institution cannot be reached; nothing was sent to it.
    #[error("the bank cannot be reached now: nothing was charged, try again")]
    BankUnreachable,
}

/// Where an order stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// All but its results.
    pub status: OrderStatus,
    /// Its results with their ids, in order, for the shell to sign.
    pub results: Vec<(String, PurchaseResult)>,
}

/// What a waiting caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To facilitation.
    Placed(Result<Issued, PlaceError>),
    /// To a payer.
    Payment(Result<PaymentState, PayError>),
    /// To facilitation: results are noted as delivered.
    Acknowledged,
    /// To a vendor, by way of facilitation.
    Refund(Result<RefundReceipt, RefundError>),
    /// The same: where the order stands, or why it was not cancelled.
    Status(Result<Box<Known>, CancelError>),
}

/// A request to authorise (ISO 8583 0100).
#[derive(Debug, Clone)]
pub struct BankOrder {
    /// Which order.
    pub asked: Asked,
    /// Trace number and time.
    pub attempt: Attempt,
    /// How much.
    pub amount: Money,
    /// The card.
    pub card: CardNumber,
    /// Its expiry.
    pub expiry: Expiry,
    /// Its PIN, if one was given.
    pub pin: Option<Pin>,
}

/// A request to give money back (ISO 8583 0200 with processing code 20). It needs no card number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankRefund {
    /// Which refund of which order.
    pub asked: Asked,
    /// Trace number and time of the refund.
    pub attempt: Attempt,
    /// How much.
    pub amount: Money,
    /// Trace number and time of the payment.
    pub original: Attempt,
    /// The bank's code for the payment.
    pub authorisation_code: Option<String>,
}

/// A request to take back whatever [`Attempt`] led to (ISO 8583 0400). It needs no card number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankReversal {
    /// Which order, or which refund of it.
    pub asked: Asked,
    /// Trace number and time of what is taken back.
    pub attempt: Attempt,
    /// How much.
    pub amount: Money,
}

/// What is heard of the bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BankEvent {
    /// 0110 with an approval.
    Approved {
        /// Field 38.
        authorisation_code: String,
    },
    /// 0110 with a refusal.
    Declined,
    /// No answer in time, or the connection broke after sending.
    TimedOut,
    /// It was never sent.
    NotSent,
    /// 0410.
    Reversed,
}

/// A change that has to be durable before the effects of its [`Step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Store the order.
    Order(Box<Order>),
    /// Remove it.
    Forget(OrderKey),
    /// Store the last trace number used.
    Stan(u32),
}

/// What leaves the core once the writes are durable.
#[derive(Debug)]
pub enum Effect {
    /// Answer a caller.
    Answer(Ticket, Answer),
    /// Lift the bounds of the caller's connection.
    Proven(Ticket, PasswordMatched),
    /// Ask the bank.
    Authorise(Box<BankOrder>),
    /// Make the bank give money back.
    Refund(Box<BankRefund>),
    /// Make the bank take back.
    Reverse(BankReversal),
    /// This result can be delivered from now on.
    Publish(String, PurchaseResult),
    /// This result was delivered.
    Retract(String),
}

/// One change of state: first the writes, all of them or none, then the effects in order.
#[derive(Debug, Default)]
pub struct Step {
    /// To be made durable together.
    pub writes: Vec<Write>,
    /// To be carried out afterwards.
    pub effects: Vec<Effect>,
}

/// All orders. Bounded by [`Policy::open_orders`] and the retention time.
#[derive(Debug)]
pub struct Orders {
    policy: Policy,
    orders: BTreeMap<OrderKey, Order>,
    by_result: BTreeMap<String, Asked>,
    waiting: BTreeMap<Asked, Vec<Ticket>>,
    open: usize,
    stan: u32,
}

impl Orders {
    /// Takes up where the stored orders left off. What was being authorised is reversed: the card
    /// data is gone, and whether the bank approved is not known.
    #[must_use]
    pub fn restore(policy: Policy, stored: Vec<Order>, stan: u32, now: Timestamp) -> (Self, Step) {
        let mut orders = Self {
            policy,
            orders: BTreeMap::new(),
            by_result: BTreeMap::new(),
            waiting: BTreeMap::new(),
            open: 0,
            stan,
        };
        let mut step = Step::default();
        for order in stored {
            orders.index(&order);
            let order = orders.resume(order, now, &mut step);
            for (id, result, acknowledged) in order.results() {
                if !acknowledged {
                    step.effects.push(Effect::Publish(id, result));
                }
            }
            orders.open += usize::from(order.state == State::Open);
            orders.orders.insert(order.key.clone(), order);
        }
        (orders, step)
    }

    /// An order after a restart: what was being asked is taken back.
    fn resume(&self, mut order: Order, now: Timestamp, step: &mut Step) -> Order {
        let before = order.clone();
        if let State::Authorising(attempt) = &order.state {
            let attempt = attempt.clone();
            order.go(Cause::NoAnswer, State::Reversing(attempt), now);
        }
        if let State::Reversing(attempt) = &order.state {
            let (asked, attempt) = (Asked::payment(&order.key), attempt.clone());
            step.effects.push(Effect::Reverse(BankReversal { asked, attempt, amount: order.amount }));
        }
        for refund in order.refunds.iter_mut().filter(|refund| !refund.state.is_final()) {
            refund.state = RefundState::Undoing;
            let asked = Asked { order: order.key.clone(), refund: Some(refund.id.clone()) };
            let (attempt, amount) = (refund.attempt.clone(), refund.amount);
            step.effects.push(Effect::Reverse(BankReversal { asked, attempt, amount }));
        }
        if order != before {
            step.writes.push(Write::Order(Box::new(order.clone())));
        }
        order
    }

    /// Makes the order's results known by their ids.
    fn index(&mut self, order: &Order) {
        self.by_result.insert(order.result_id(), Asked::payment(&order.key));
        for refund in &order.refunds {
            let asked = Asked { order: order.key.clone(), refund: Some(refund.id.clone()) };
            self.by_result.insert(order.refund_result_id(&refund.id), asked);
        }
    }

    /// Every order, for the operator.
    pub fn iter(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    /// Takes an order (A9). The same placement again gets the same answer.
    pub fn place(&mut self, ticket: Ticket, placement: &Placement, now: Timestamp) -> Step {
        let mut step = Step::default();
        let answer = self.try_place(placement, now, &mut step);
        step.effects.push(Effect::Answer(ticket, Answer::Placed(answer)));
        step
    }

    fn try_place(&mut self, placement: &Placement, now: Timestamp, step: &mut Step) -> Result<Issued, PlaceError> {
        let order = &placement.order;
        order.check().map_err(|(field, reason)| PlaceError::Field { field, reason })?;
        let addresses =
            self.policy.addresses.get(&placement.isp).ok_or_else(|| PlaceError::UnknownIsp(placement.isp.clone()))?;
        let client = order.client_ip.to_canonical();
        let address = *addresses
            .iter()
            .find(|address| address.is_ipv4() == client.is_ipv4())
            .ok_or_else(|| PlaceError::NoAddress(placement.isp.clone()))?;
        let (key, temporary_id) = self.name(&placement.vendor, &order.reference);
        let password = self.password(&key);
        let fingerprint = fingerprint(placement);
        let issue = |order: &Order| Issued {
            transaction_id: order.key.transaction_id.clone(),
            password: password.clone(),
            address,
            port: self.policy.port,
            expires_at: order.expires_at,
        };
        if let Some(known) = self.orders.get(&key) {
            return if known.fingerprint == fingerprint { Ok(issue(known)) } else { Err(PlaceError::Conflict) };
        }
        if self.open >= self.policy.open_orders {
            return Err(PlaceError::TooMany);
        }
        let mut order = Order {
            key: key.clone(),
            temporary_id,
            isp: placement.isp.clone(),
            amount: order.amount,
            fingerprint,
            verifier: verifier(&password),
            wrong_passwords: 0,
            created_at: now,
            expires_at: now + self.policy.lifetime,
            state: State::Open,
            refunds: Vec::new(),
            steps: vec![Taken { to: Phase::Created, at: now }],
        };
        // Created and issued in one write: only the second has an effect, and that is the answer.
        order.note(Phase::Created, Cause::Issue, now);
        let issued = issue(&order);
        self.open += 1;
        self.index(&order);
        step.writes.push(Write::Order(Box::new(order.clone())));
        self.orders.insert(key, order);
        Ok(issued)
    }

    /// Takes card data (A13). A repeat, also with another card, joins the first attempt.
    pub fn pay(&mut self, ticket: Ticket, payment: Payment, now: Timestamp) -> Step {
        let mut step = Step::default();
        let Some(key) = self.matched(ticket, &payment.transaction, now, &mut step) else { return step };
        let (year, month, ..) = now.civil();
        let Some(order) = self.orders.get_mut(&key) else { return step };
        match &order.state {
            State::Open if payment.expiry.is_past(year, month) => {
                step.effects.push(Effect::Answer(ticket, Answer::Payment(Err(PayError::CardExpired))));
            }
            State::Open => {
                let Some((institution, movement)) = self.policy.institutions.find(&payment.card_number) else {
                    step.effects.push(Effect::Answer(ticket, Answer::Payment(Err(PayError::CardNotTaken))));
                    return step;
                };
                // A PIN block is made of the twelve digits before the check digit.
                let short = payment.card_number.expose_digits().len() < 13;
                if payment.pin.is_some() && (short || !self.policy.institutions.pins.contains(institution)) {
                    step.effects.push(Effect::Answer(ticket, Answer::Payment(Err(PayError::PinNotTaken))));
                    return step;
                }
                self.stan = next_stan(self.stan);
                let attempt = Attempt {
                    stan: self.stan,
                    sent_at: now,
                    last_four: payment.card_number.last_four(),
                    institution: institution.to_owned(),
                    movement,
                };
                // Received and asked in one write: only the second has an effect, and that is the question to the bank.
                order.note(Phase::PageIssued, Cause::Card, now);
                order.state = State::Authorising(attempt.clone());
                order.note(Phase::CardReceived, Cause::Ask, now);
                self.open -= 1;
                step.writes.push(Write::Stan(self.stan));
                step.writes.push(Write::Order(Box::new(order.clone())));
                step.effects.push(Effect::Authorise(Box::new(BankOrder {
                    asked: Asked::payment(&key),
                    attempt,
                    amount: order.amount,
                    card: payment.card_number,
                    expiry: payment.expiry,
                    pin: payment.pin,
                })));
                self.waiting.entry(Asked::payment(&key)).or_default().push(ticket);
            }
            State::Authorising(_) => self.waiting.entry(Asked::payment(&key)).or_default().push(ticket),
            State::Reversing(_) | State::Final { .. } => {
                step.effects.push(Effect::Answer(ticket, Answer::Payment(Ok(order.payment_state()))));
            }
        }
        step
    }

    /// Tells a payer where the transaction stands.
    pub fn outcome(&mut self, ticket: Ticket, claim: &Claim, now: Timestamp) -> Step {
        let mut step = Step::default();
        if let Some(key) = self.matched(ticket, claim, now, &mut step)
            && let Some(order) = self.orders.get(&key)
        {
            step.effects.push(Effect::Answer(ticket, Answer::Payment(Ok(order.payment_state()))));
        }
        step
    }

    /// The order that `claim` proves to know the password of; else the refusal is in `step`.
    fn matched(&mut self, ticket: Ticket, claim: &Claim, now: Timestamp, step: &mut Step) -> Option<OrderKey> {
        let key = OrderKey { vendor: claim.vendor.clone(), transaction_id: claim.transaction_id.clone() };
        let given = verifier(&claim.password);
        self.expire_if_due(&key, now, step);
        // An unknown order is compared too, so that the time tells nothing.
        let nothing = "0".repeat(given.len());
        let known = self.orders.get(&key).map_or(nothing.as_str(), |order| order.verifier.as_str());
        if ct_eq(known.as_bytes(), given.as_bytes()) {
            step.effects.push(Effect::Proven(ticket, PasswordMatched(())));
            return Some(key);
        }
        if let Some(order) = self.orders.get_mut(&key)
            && order.state == State::Open
        {
            order.wrong_passwords += 1;
            if order.wrong_passwords >= self.policy.password_attempts {
                self.decide(&key, Cause::WrongPasswords, Verdict::Locked, None, now, step);
            } else {
                step.writes.push(Write::Order(Box::new(order.clone())));
            }
        }
        step.effects.push(Effect::Answer(ticket, Answer::Payment(Err(PayError::NoMatch))));
        None
    }

    /// What the bank link says of what it was asked.
    pub fn bank(&mut self, asked: &Asked, event: BankEvent, now: Timestamp) -> Step {
        let mut step = Step::default();
        if asked.refund.is_some() {
            self.bank_on_refund(asked, event, now, &mut step);
            return step;
        }
        let key = &asked.order;
        let Some(order) = self.orders.get_mut(key) else { return step };
        match (order.state.clone(), event) {
            (State::Authorising(_), BankEvent::Approved { authorisation_code }) => {
                self.decide(key, Cause::Approval, Verdict::Approved, Some(authorisation_code), now, &mut step);
            }
            (State::Authorising(_), BankEvent::Declined) => {
                self.decide(key, Cause::Refusal, Verdict::Declined, None, now, &mut step);
            }
            (State::Authorising(attempt), BankEvent::TimedOut) => {
                order.go(Cause::NoAnswer, State::Reversing(attempt.clone()), now);
                step.writes.push(Write::Order(Box::new(order.clone())));
                let reversal = BankReversal { asked: asked.clone(), attempt, amount: order.amount };
                step.effects.push(Effect::Reverse(reversal));
                self.answer_waiting(asked, &Answer::Payment(Ok(PaymentState::Reversing)), &mut step);
            }
            (State::Authorising(_), BankEvent::NotSent) => {
                order.go(Cause::NotSent, State::Open, now);
                self.open += 1;
                step.writes.push(Write::Order(Box::new(order.clone())));
                self.answer_waiting(asked, &Answer::Payment(Err(PayError::BankUnreachable)), &mut step);
            }
            (State::Reversing(_), BankEvent::Reversed) => {
                self.decide(key, Cause::Confirmed, Verdict::Reversed, None, now, &mut step);
            }
            // An answer that came after its time: the reversal is on its way and stands.
            (State::Reversing(_) | State::Open | State::Final { .. }, _)
            | (State::Authorising(_), BankEvent::Reversed) => {}
        }
        step
    }

    /// Notes that the vendors have these results; unknown ids are passed over.
    pub fn acknowledge(&mut self, ticket: Ticket, ids: &[String], now: Timestamp) -> Step {
        let mut step = Step::default();
        for id in ids {
            let Some(asked) = self.by_result.get(id) else { continue };
            let Some(order) = self.orders.get_mut(&asked.order) else { continue };
            let acknowledged_at = match (&asked.refund, &mut order.state) {
                (None, State::Final { acknowledged_at, .. }) => acknowledged_at,
                (Some(refund), _) => match order.refunds.iter_mut().find(|r| r.id == *refund && r.state.is_final()) {
                    Some(refund) => &mut refund.acknowledged_at,
                    None => continue,
                },
                (None, State::Open | State::Authorising(_) | State::Reversing(_)) => continue,
            };
            if acknowledged_at.is_none() {
                *acknowledged_at = Some(now);
                step.writes.push(Write::Order(Box::new(order.clone())));
                step.effects.push(Effect::Retract(id.clone()));
            }
        }
        step.effects.push(Effect::Answer(ticket, Answer::Acknowledged));
        step
    }

    /// Closes what was not paid in time, and forgets what was kept long enough.
    pub fn tick(&mut self, now: Timestamp) -> Step {
        let mut step = Step::default();
        let due: Vec<OrderKey> = self
            .orders
            .values()
            .filter(|order| order.state == State::Open && order.expires_at <= now)
            .map(|order| order.key.clone())
            .collect();
        for key in due {
            self.decide(&key, Cause::TimeOver, Verdict::Expired, None, now, &mut step);
        }
        let retention = self.policy.retention;
        let old = |order: &Order| {
            let State::Final { acknowledged_at, .. } = &order.state else { return false };
            let refunds = order.refunds.iter().map(|refund| refund.acknowledged_at);
            let mut all = refunds.chain([*acknowledged_at]);
            all.all(|at| at.is_some_and(|at| now.since(at) >= retention))
        };
        let forgotten: Vec<OrderKey> = self.orders.values().filter(|order| old(order)).map(|o| o.key.clone()).collect();
        for key in forgotten {
            if let Some(order) = self.orders.remove(&key) {
                self.by_result.remove(&order.result_id());
                for refund in &order.refunds {
                    self.by_result.remove(&order.refund_result_id(&refund.id));
                }
            }
            step.writes.push(Write::Forget(key));
        }
        step
    }

    fn expire_if_due(&mut self, key: &OrderKey, now: Timestamp, step: &mut Step) {
        if self.orders.get(key).is_some_and(|order| order.state == State::Open && order.expires_at <= now) {
            self.decide(key, Cause::TimeOver, Verdict::Expired, None, now, step);
        }
    }

    fn decide(
        &mut self,
        key: &OrderKey,
        cause: Cause,
        verdict: Verdict,
        code: Option<String>,
        now: Timestamp,
        step: &mut Step,
    ) {
        let Some(order) = self.orders.get_mut(key) else { return };
        let attempt = match &order.state {
            State::Authorising(attempt) | State::Reversing(attempt) => Some(attempt.clone()),
            State::Open => {
                self.open -= 1;
                None
            }
            State::Final { .. } => return,
        };
        let decided = State::Final { verdict, at: now, attempt, authorisation_code: code, acknowledged_at: None };
        order.go(cause, decided, now);
        step.writes.push(Write::Order(Box::new(order.clone())));
        step.effects.extend(order.result().map(|result| Effect::Publish(order.result_id(), result)));
        let state = order.payment_state();
        self.answer_waiting(&Asked::payment(key), &Answer::Payment(Ok(state)), step);
    }

    fn answer_waiting(&mut self, asked: &Asked, answer: &Answer, step: &mut Step) {
        for ticket in self.waiting.remove(asked).unwrap_or_default() {
            step.effects.push(Effect::Answer(ticket, answer.clone()));
        }
    }

    fn name(&self, vendor: &VendorId, reference: &Reference) -> (OrderKey, Option<TransactionId>) {
        let (transaction_id, temporary) = match reference {
            Reference::TransactionId(id) => (id.clone(), None),
            Reference::TemporaryId(id) => {
                let derived = self.derive("transaction id", vendor, id);
                // The alphabet of base64url is within that of an id.
                (derived.parse().unwrap_or_else(|_| id.clone()), Some(id.clone()))
            }
        };
        (OrderKey { vendor: vendor.clone(), transaction_id }, temporary)
    }

    fn password(&self, key: &OrderKey) -> Secret<String> {
        Secret::new(self.derive("password", &key.vendor, &key.transaction_id))
    }

    /// 192 bits that only the holder of the secret can make, the same each time.
    fn derive(&self, purpose: &str, vendor: &VendorId, id: &TransactionId) -> String {
        let parts = [purpose.as_bytes(), vendor.as_str().as_bytes(), id.as_str().as_bytes()];
        base64url(keyed(self.policy.secret.expose(), &parts).get(..24).unwrap_or_default())
    }
}

/// Trace numbers go round.
const fn next_stan(stan: u32) -> u32 {
    stan % 999_999 + 1
}

fn verifier(password: &Secret<String>) -> String {
    hex(&sha256(&[password.expose().as_bytes()]))
}

fn fingerprint(placement: &Placement) -> String {
    let order = &placement.order;
    let (kind, id) = match &order.reference {
        Reference::TransactionId(id) => ("transaction", id),
        Reference::TemporaryId(id) => ("temporary", id),
    };
    hex(&keyed(
        b"placement",
        &[
            placement.isp.as_str().as_bytes(),
            kind.as_bytes(),
            id.as_str().as_bytes(),
            &order.amount.minor().to_be_bytes(),
            order.amount.currency().code().as_bytes(),
            order.client_ip.to_canonical().to_string().as_bytes(),
            order.description.as_bytes(),
        ],
    ))
}
