//! One order as it is stored. No card data: the last four digits at most.

use std::fmt;

use cloakway_types::{IspId, Money, Timestamp, TransactionId, VendorId};
use serde::{Deserialize, Serialize};
use transact_bank::Movement;
use transact_wire::payment::PaymentState;
use transact_wire::result::{PurchaseResult, Verdict};

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
}

impl Order {
    /// What its payer is told.
    #[must_use]
    pub fn payment_state(&self) -> PaymentState {
        match &self.state {
            State::Open => PaymentState::Open,
            State::Authorising(_) => PaymentState::Authorising,
            State::Reversing(_) => PaymentState::Reversing,
            State::Final { verdict, .. } => match verdict {
                Verdict::Approved => PaymentState::Approved,
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
            }),
        }
    }

    /// The id under which its result is delivered: one order, one result, one id.
    #[must_use]
    pub fn result_id(&self) -> String {
        let digest = cloakway_crypto::hash::keyed(
            b"result id",
            &[self.key.vendor.as_str().as_bytes(), self.key.transaction_id.as_str().as_bytes()],
        );
        format!("res_{}", cloakway_crypto::encode::base64url(digest.get(..18).unwrap_or_default()))
    }
}
