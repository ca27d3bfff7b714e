//! All orders and everything that can happen to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_crypto::encode::{base64url, hex};
use cloakway_crypto::hash::{keyed, sha256};
use cloakway_crypto::{Secret, ct_eq};
use cloakway_types::{IspId, Money, Timestamp, TransactionId, VendorId};
use transact_wire::card::{CardNumber, Expiry};
use transact_wire::order::{Issued, Placement, Reference};
use transact_wire::payment::{Claim, Payment, PaymentState};
use transact_wire::result::{PurchaseResult, Verdict};

use crate::institutions::Institutions;
use crate::order::{Attempt, Order, OrderKey, State};

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
    /// The institution cannot be reached; nothing was sent to it.
    #[error("the bank cannot be reached now: nothing was charged, try again")]
    BankUnreachable,
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
}

/// A request to authorise (ISO 8583 0100).
#[derive(Debug, Clone)]
pub struct BankOrder {
    /// Which order.
    pub key: OrderKey,
    /// Trace number and time.
    pub attempt: Attempt,
    /// How much.
    pub amount: Money,
    /// The card.
    pub card: CardNumber,
    /// Its expiry.
    pub expiry: Expiry,
}

/// A request to take back whatever [`Attempt`] led to (ISO 8583 0400). It needs no card number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankReversal {
    /// Which order.
    pub key: OrderKey,
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
    by_result: BTreeMap<String, OrderKey>,
    waiting: BTreeMap<OrderKey, Vec<Ticket>>,
    open: usize,
    stan: u32,
}

impl Orders {
    /// Takes up where the stored orders left off. What was being authorised is reversed: the card
    /// data is gone, and whether the bank approved is not known.
    #[must_use]
    pub fn restore(policy: Policy, stored: Vec<Order>, stan: u32) -> (Self, Step) {
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
            orders.by_result.insert(order.result_id(), order.key.clone());
            match &order.state {
                State::Open => orders.open += 1,
                State::Authorising(attempt) | State::Reversing(attempt) => {
                    let reversal =
                        BankReversal { key: order.key.clone(), attempt: attempt.clone(), amount: order.amount };
                    let order = Order { state: State::Reversing(attempt.clone()), ..order };
                    step.writes.push(Write::Order(Box::new(order.clone())));
                    step.effects.push(Effect::Reverse(reversal));
                    orders.orders.insert(order.key.clone(), order);
                    continue;
                }
                State::Final { acknowledged_at: None, .. } => {
                    step.effects.extend(order.result().map(|result| Effect::Publish(order.result_id(), result)));
                }
                State::Final { acknowledged_at: Some(_), .. } => {}
            }
            orders.orders.insert(order.key.clone(), order);
        }
        (orders, step)
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
        let order = Order {
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
        };
        let issued = issue(&order);
        self.open += 1;
        self.by_result.insert(order.result_id(), key.clone());
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
                self.stan = self.stan % 999_999 + 1;
                let attempt = Attempt {
                    stan: self.stan,
                    sent_at: now,
                    last_four: payment.card_number.last_four(),
                    institution: institution.to_owned(),
                    movement,
                };
                order.state = State::Authorising(attempt.clone());
                self.open -= 1;
                step.writes.push(Write::Stan(self.stan));
                step.writes.push(Write::Order(Box::new(order.clone())));
                step.effects.push(Effect::Authorise(Box::new(BankOrder {
                    key: key.clone(),
                    attempt,
                    amount: order.amount,
                    card: payment.card_number,
                    expiry: payment.expiry,
                })));
                self.waiting.entry(key).or_default().push(ticket);
            }
            State::Authorising(_) => self.waiting.entry(key).or_default().push(ticket),
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
                self.decide(&key, Verdict::Locked, None, now, step);
            } else {
                step.writes.push(Write::Order(Box::new(order.clone())));
            }
        }
        step.effects.push(Effect::Answer(ticket, Answer::Payment(Err(PayError::NoMatch))));
        None
    }

    /// What the bank link says of an order's attempt.
    pub fn bank(&mut self, key: &OrderKey, event: BankEvent, now: Timestamp) -> Step {
        let mut step = Step::default();
        let Some(order) = self.orders.get_mut(key) else { return step };
        match (order.state.clone(), event) {
            (State::Authorising(_), BankEvent::Approved { authorisation_code }) => {
                self.decide(key, Verdict::Approved, Some(authorisation_code), now, &mut step);
            }
            (State::Authorising(_), BankEvent::Declined) => self.decide(key, Verdict::Declined, None, now, &mut step),
            (State::Authorising(attempt), BankEvent::TimedOut) => {
                order.state = State::Reversing(attempt.clone());
                step.writes.push(Write::Order(Box::new(order.clone())));
                step.effects.push(Effect::Reverse(BankReversal { key: key.clone(), attempt, amount: order.amount }));
                self.answer_waiting(key, &Ok(PaymentState::Reversing), &mut step);
            }
            (State::Authorising(_), BankEvent::NotSent) => {
                order.state = State::Open;
                self.open += 1;
                step.writes.push(Write::Order(Box::new(order.clone())));
                self.answer_waiting(key, &Err(PayError::BankUnreachable), &mut step);
            }
            (State::Reversing(_), BankEvent::Reversed) => self.decide(key, Verdict::Reversed, None, now, &mut step),
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
            if let Some(order) = self.by_result.get(id).and_then(|key| self.orders.get_mut(key))
                && let State::Final { acknowledged_at, .. } = &mut order.state
                && acknowledged_at.is_none()
            {
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
            self.decide(&key, Verdict::Expired, None, now, &mut step);
        }
        let retention = self.policy.retention;
        let old = |order: &Order| matches!(&order.state, State::Final { acknowledged_at: Some(at), .. } if now.since(*at) >= retention);
        let forgotten: Vec<OrderKey> = self.orders.values().filter(|order| old(order)).map(|o| o.key.clone()).collect();
        for key in forgotten {
            if let Some(order) = self.orders.remove(&key) {
                self.by_result.remove(&order.result_id());
            }
            step.writes.push(Write::Forget(key));
        }
        step
    }

    fn expire_if_due(&mut self, key: &OrderKey, now: Timestamp, step: &mut Step) {
        if self.orders.get(key).is_some_and(|order| order.state == State::Open && order.expires_at <= now) {
            self.decide(key, Verdict::Expired, None, now, step);
        }
    }

    fn decide(&mut self, key: &OrderKey, verdict: Verdict, code: Option<String>, now: Timestamp, step: &mut Step) {
        let Some(order) = self.orders.get_mut(key) else { return };
        let attempt = match &order.state {
            State::Authorising(attempt) | State::Reversing(attempt) => Some(attempt.clone()),
            State::Open => {
                self.open -= 1;
                None
            }
            State::Final { .. } => return,
        };
        order.state = State::Final { verdict, at: now, attempt, authorisation_code: code, acknowledged_at: None };
        step.writes.push(Write::Order(Box::new(order.clone())));
        step.effects.extend(order.result().map(|result| Effect::Publish(order.result_id(), result)));
        let state = order.payment_state();
        self.answer_waiting(key, &Ok(state), step);
    }

    fn answer_waiting(&mut self, key: &OrderKey, answer: &Result<PaymentState, PayError>, step: &mut Step) {
        for ticket in self.waiting.remove(key).unwrap_or_default() {
            step.effects.push(Effect::Answer(ticket, Answer::Payment(answer.clone())));
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
