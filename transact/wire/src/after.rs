//! What a vendor asks about an order after it was placed: where it stands, to cancel it, to give money back.

use cloakway_types::{Money, Timestamp, TransactionId, VendorId};
use serde::{Deserialize, Serialize};

use crate::result::SignedResult;

/// Where an order stands, step by step (A9, A13). Which step follows which is in `docs/transactions.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is stored.
    Created,
    /// Id, password and address were handed out.
    PageIssued,
    /// A payer who knows the password has sent a card.
    CardReceived,
    /// The bank is asked.
    Authorising,
    /// The amount is authorised.
    Approved,
    /// The bank refused.
    Declined,
    /// Whatever the bank may hold is being taken back.
    Reversing,
    /// It was taken back.
    Reversed,
    /// Not paid in time.
    Expired,
    /// Closed after too many wrong passwords.
    Locked,
    /// Cancelled by the vendor before it was paid.
    Cancelled,
    /// The bank is asked to give money back.
    Refunding,
    /// A part of the amount was given back.
    PartlyRefunded,
    /// All of it was.
    Refunded,
}

impl Phase {
    /// Every phase, in the order in which they are usually reached.
    pub const ALL: [Self; 14] = [
        Self::Created,
        Self::PageIssued,
        Self::CardReceived,
        Self::Authorising,
        Self::Approved,
        Self::Declined,
        Self::Reversing,
        Self::Reversed,
        Self::Expired,
        Self::Locked,
        Self::Cancelled,
        Self::Refunding,
        Self::PartlyRefunded,
        Self::Refunded,
    ];

    /// The name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::PageIssued => "page_issued",
            Self::CardReceived => "card_received",
            Self::Authorising => "authorising",
            Self::Approved => "approved",
            Self::Declined => "declined",
            Self::Reversing => "reversing",
            Self::Reversed => "reversed",
            Self::Expired => "expired",
            Self::Locked => "locked",
            Self::Cancelled => "cancelled",
            Self::Refunding => "refunding",
            Self::PartlyRefunded => "partly_refunded",
            Self::Refunded => "refunded",
        }
    }
}

/// Money back, `POST /v1/orders/ID/refunds` at facilitation. The same id with the same amount gets the same answer;
/// with another amount it is a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundOrder {
    /// The refund's id, made by the vendor, its own within the order.
    pub refund_id: TransactionId,
    /// How much, at most what is left of the order's amount.
    pub amount: Money,
}

/// How a refund stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// The bank is asked.
    Asking,
    /// The money went back.
    Given,
    /// The bank refused.
    Refused,
    /// No answer from the bank in time: the refund is being taken back.
    Undoing,
    /// It was taken back: no money went. Ask again under another id.
    Undone,
}

impl RefundState {
    /// Whether it stays so.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Given | Self::Refused | Self::Undone)
    }
}

/// A refund, as its vendor is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundReceipt {
    /// The order.
    pub transaction_id: TransactionId,
    /// The refund.
    pub refund_id: TransactionId,
    /// How much.
    pub amount: Money,
    /// How it stands.
    pub state: RefundState,
}

/// Where an order stands, `GET /v1/orders/ID` at facilitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderStatus {
    /// The order's real id.
    pub transaction_id: TransactionId,
    /// Its temporary id, where it had one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub temporary_id: Option<TransactionId>,
    /// Its amount.
    pub amount: Money,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// Until when it could be paid.
    pub expires_at: Timestamp,
    /// Its refunds, the oldest first.
    pub refunds: Vec<RefundReceipt>,
    /// Its results, in order, signed now: believe these, and not what is around them.
    pub results: Vec<SignedResult>,
}

/// An order by its names, from facilitation: to ask where it stands, or to cancel it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderName {
    /// The vendor, authenticated by facilitation.
    pub vendor: VendorId,
    /// The order.
    pub transaction_id: TransactionId,
}

/// A refund, from facilitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundPlacement {
    /// The order.
    pub order: OrderName,
    /// The refund.
    pub refund: RefundOrder,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_the_name_that_json_gives_it() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{}\"", phase.name()));
        }
    }

    #[test]
    fn a_refund_is_strict() {
        let good = r#"{"refund_id":"r-1","amount":{"minor":5,"currency":"EUR"}}"#;
        assert!(serde_json::from_str::<RefundOrder>(good).is_ok());
        for bad in
            [good.replace("\"amount\"", "\"note\":1,\"amount\""), good.replace(":5", ":0"), good.replace("r-1", "r 1")]
        {
            assert!(serde_json::from_str::<RefundOrder>(&bad).is_err(), "{bad}");
        }
    }
}
