//! One order as it is stored. No card data: the last four digits at most.

use std::fmt;

use cloakway_types::{IspId, Money, Timestamp, TransactionId, VendorId};
use serde::{Deserialize, Serialize};
use transact_bank::Movement;
use transact_wire::after::{Phase, RefundReceipt, RefundState};
use transact_wire::payment::PaymentState;
use transact_wire::result::{PurchaseResult, RefundNote, Verdict};

use crate::machine::{self, Cause};

/// Steps that are kept: the first, and the latest.
const MOST_STEPS: usize = 64;

/// An order's name: transaction ids are the vendor's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderKey {
    /// The vendor.
    pub vendor: VendorId,
    /// The transaction's real id.
    pub transaction_id: TransactionId,
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.transaction_id)
    }
}

/// The one try to authorise an order, as the bank knows it (ISO 8583 fields 11, 7 and 37).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// System trace audit number, 1 to 999 999.
    pub stan: u32,
    /// Transmission date and time.
    pub sent_at: Timestamp,
    /// The card's last four digits.
    pub last_four: String,
    /// Which institution is asked.
    #[serde(default = "only_institution")]
    pub institution: String,
    /// How it is asked.
    #[serde(default)]
    pub movement: Movement,
}

/// Attempts from before there were several institutions are of the one in `[bank]`.
fn only_institution() -> String {
    "bank".to_owned()
}

/// What the bank is asked about: an order's payment, or one of its refunds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asked {
    /// The order.
    pub order: OrderKey,
    /// The refund, if it is one.
    pub refund: Option<TransactionId>,
}

impl Asked {
    /// The order's payment.
    #[must_use]
    pub fn payment(order: &OrderKey) -> Self {
        Self { order: order.clone(), refund: None }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.refund {
            None => self.order.fmt(f),
            Some(refund) => write!(f, "{}/{refund}", self.order),
        }
    }
}

/// Money that goes back, or was to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refunding {
    /// The vendor's id of it.
    pub id: TransactionId,
    /// How much.
    pub amount: Money,
    /// As the bank knows it.
    pub attempt: Attempt,
    /// How it stands.
    pub state: RefundState,
    /// Since when.
    pub at: Timestamp,
    /// When the vendor acknowledged its result.
    pub acknowledged_at: Option<Timestamp>,
}

/// A step that an order took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Where it led.
    pub to: Phase,
    /// When.
    pub at: Timestamp,
}

/// Where an order stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The page was issued; nobody has paid.
    Open,
    /// The bank is asked, or is about to be.
    Authorising(Attempt),
    /// The bank may hold an authorisation that nobody wants any more.
    Reversing(Attempt),
    /// Decided for good.
    Final {
        /// How.
        verdict: Verdict,
        /// When.
        at: Timestamp,
        /// What the bank was asked, if it was.
        attempt: Option<Attempt>,
        /// The bank's authorisation code (ISO 8583 field 38).
        authorisation_code: Option<String>,
        /// When the vendor acknowledged the result.
        acknowledged_at: Option<Timestamp>,
    },
}

/// An order, from placement until its result is acknowledged and the retention time is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub key: OrderKey,
    /// The vendor's temporary id, where it gave one.
    pub temporary_id: Option<TransactionId>,
    /// The ISP whose subscriber pays.
    pub isp: IspId,
    /// What is charged.
    pub amount: Money,
    /// SHA-256 of the placement in hexadecimal: tells a repeat from a conflict.
    pub fingerprint: String,
    /// SHA-256 of the one-time password in hexadecimal.
    pub verifier: String,
    /// How often a wrong password was tried.
    pub wrong_passwords: u32,
    /// When it was placed.
    pub created_at: Timestamp,
    /// Until when it can be paid.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub state: State,
    /// Its refunds, the oldest first; one at a time is under way.
    #[serde(default)]
    pub refunds: Vec<Refunding>,
    /// Every step since it was created; empty of an order that was stored by an older version.
    #[serde(default)]
    pub steps: Vec<Taken>,
}

impl Order {
    /// The step that it is at.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Open => Phase::PageIssued,
            State::Authorising(_) => Phase::Authorising,
            State::Reversing(_) => Phase::Reversing,
            State::Final { verdict, .. } => match verdict {
                Verdict::Declined => Phase::Declined,
                Verdict::Reversed => Phase::Reversed,
                Verdict::Expired => Phase::Expired,
                Verdict::Locked => Phase::Locked,
                Verdict::Cancelled => Phase::Cancelled,
                _ if self.refunds.iter().any(|refund| !refund.state.is_final()) => Phase::Refunding,
                _ => match self.given_back() {
                    0 => Phase::Approved,
                    given if given < self.amount.minor() => Phase::PartlyRefunded,
                    _ => Phase::Refunded,
                },
            },
        }
    }

    /// Since when it is at that step.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.steps.last().map_or(self.created_at, |step| step.at)
    }

    /// Minor units that went back.
    #[must_use]
    pub fn given_back(&self) -> u64 {
        let given = self.refunds.iter().filter(|refund| refund.state == RefundState::Given);
        given.map(|refund| refund.amount.minor()).sum()
    }

    /// Notes a step whose effect on the order was made already, or that leads on to the next at once.
    pub(crate) fn note(&mut self, from: Phase, cause: Cause, at: Timestamp) {
        match machine::next(from, cause) {
            Some(to) => {
                if self.steps.len() >= MOST_STEPS {
                    // A bank that is long away lets a payer try again and again.
                    self.steps.remove(1);
                }
                self.steps.push(Taken { to, at });
            }
            None => debug_assert!(false, "{}: {cause:?} does not follow {from:?}", self.key),
        }
    }

    /// Changes the state by `cause`; the table says where that leads.
    pub(crate) fn go(&mut self, cause: Cause, state: State, at: Timestamp) {
        let from = self.phase();
        self.state = state;
        self.note(from, cause, at);
        debug_assert_eq!(self.steps.last().map(|step| step.to), Some(self.phase()), "{cause:?} from {from:?}");
    }

    /// What the bank was asked for its payment, and the bank's code, once it is approved.
    pub(crate) fn approval(&self) -> Option<(&Attempt, Option<&String>)> {
        match &self.state {
            State::Final { verdict: Verdict::Approved, attempt: Some(attempt), authorisation_code, .. } => {
                Some((attempt, authorisation_code.as_ref()))
            }
            State::Final { .. } | State::Open | State::Authorising(_) | State::Reversing(_) => None,
        }
    }

    /// A refund, as its vendor is told of it.
    #[must_use]
    pub fn receipt(&self, refund: &Refunding) -> RefundReceipt {
        RefundReceipt {
            transaction_id: self.key.transaction_id.clone(),
            refund_id: refund.id.clone(),
            amount: refund.amount,
            state: refund.state,
        }
    }

    /// All results that there are so far, with their ids, in order; and whether each was acknowledged.
    #[must_use]
    pub fn results(&self) -> Vec<(String, PurchaseResult, bool)> {
        let Some(first) = self.result() else { return Vec::new() };
        let acknowledged = matches!(&self.state, State::Final { acknowledged_at: Some(_), .. });
        let mut results = vec![(self.result_id(), first.clone(), acknowledged)];
        let mut given = 0;
        for refund in self.refunds.iter().filter(|refund| refund.state.is_final()) {
            given += if refund.state == RefundState::Given { refund.amount.minor() } else { 0 };
            let verdict = match refund.state {
                RefundState::Given if given < self.amount.minor() => Verdict::PartlyRefunded,
                RefundState::Given => Verdict::Refunded,
                _ => Verdict::RefundFailed,
            };
            let note = RefundNote { refund_id: refund.id.clone(), amount: refund.amount };
            let result = PurchaseResult { verdict, decided_at: refund.at, refund: Some(note), ..first.clone() };
            results.push((self.refund_result_id(&refund.id), result, refund.acknowledged_at.is_some()));
        }
        results
    }

    /// The id under which the result of a refund is delivered.
    #[must_use]
    pub fn refund_result_id(&self, refund: &TransactionId) -> String {
        self.derived_id(&[b"refund", refund.as_str().as_bytes()])
    }

    fn derived_id(&self, more: &[&[u8]]) -> String {
        let name = [self.key.vendor.as_str().as_bytes(), self.key.transaction_id.as_str().as_bytes()];
        let digest = cloakway_crypto::hash::keyed(b"result id", &[&name, more].concat());
        format!("res_{}", cloakway_crypto::encode::base64url(digest.get(..18).unwrap_or_default()))
    }

    /// What its payer is told.
    #[must_use]
    pub fn payment_state(&self) -> PaymentState {
        match &self.state {
            State::Open => PaymentState::Open,
            State::Authorising(_) => PaymentState::Authorising,
            State::Reversing(_) => PaymentState::Reversing,
            State::Final { verdict, .. } => match verdict {
                Verdict::Approved | Verdict::PartlyRefunded | Verdict::Refunded | Verdict::RefundFailed => {
                    PaymentState::Approved
                }
                Verdict::Cancelled => PaymentState::Cancelled,
                Verdict::Declined => PaymentState::Declined,
                Verdict::Reversed => PaymentState::Reversed,
                Verdict::Expired => PaymentState::Expired,
                Verdict::Locked => PaymentState::Locked,
            },
        }
    }

    /// What its vendor is told, once it is decided.
    #[must_use]
    pub fn result(&self) -> Option<PurchaseResult> {
        match &self.state {
            State::Open | State::Authorising(_) | State::Reversing(_) => None,
            State::Final { verdict, at, .. } => Some(PurchaseResult {
                vendor: self.key.vendor.clone(),
                transaction_id: self.key.transaction_id.clone(),
                temporary_id: self.temporary_id.clone(),
                amount: self.amount,
                verdict: *verdict,
                decided_at: *at,
                refund: None,
            }),
        }
    }

    /// The id under which its result is delivered: one order, one result, one id.
    #[must_use]
    pub fn result_id(&self) -> String {
        self.derived_id(&[])
    }
}
