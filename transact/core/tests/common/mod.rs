//! An operator's policy, an order and a payment, for the tests of this crate.

use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_types::{Money, Timestamp};
use transact_core::{Institutions, Policy};
use transact_wire::card::{CardNumber, Expiry};
use transact_wire::order::{Issued, Order, Placement, Reference};
use transact_wire::payment::{Claim, Payment};

/// A test card that passes the check digit.
pub(crate) const CARD: &str = "4111111111111111";

/// `secs` after a day in November 2026.
pub(crate) fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + secs)
}

pub(crate) fn policy() -> Policy {
    Policy {
        secret: Secret::new(vec![7; 32]),
        lifetime: Duration::from_secs(900),
        password_attempts: 3,
        open_orders: 100,
        retention: Duration::from_secs(86_400),
        addresses: [(
            "isp".parse().unwrap(),
            vec!["203.0.113.200".parse().unwrap(), "2001:db8:c10a::200".parse().unwrap()],
        )]
        .into(),
        port: 443,
        institutions: Institutions::one("bank"),
    }
}

pub(crate) fn placement(id: &str) -> Placement {
    Placement {
        vendor: "shop".parse().unwrap(),
        isp: "isp".parse().unwrap(),
        order: Order {
            reference: Reference::TransactionId(id.parse().unwrap()),
            amount: Money::new(1250, "EUR".parse().unwrap()).unwrap(),
            client_ip: "198.51.100.70".parse().unwrap(),
            description: "A book".to_owned(),
        },
    }
}

pub(crate) fn payment(issued: &Issued, card: &str) -> Payment {
    Payment {
        transaction: Claim {
            vendor: "shop".parse().unwrap(),
            transaction_id: issued.transaction_id.clone(),
            password: issued.password.clone(),
        },
        card_number: CardNumber::parse(&card.into()).unwrap(),
        expiry: Expiry::parse("12/30").unwrap(),
        pin: None,
    }
}
