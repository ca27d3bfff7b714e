//! From an order to a payer page (A6, A9, A10).

use std::net::IpAddr;

use cloakway_crypto::Secret;
use cloakway_types::{IspId, Money, Timestamp, TransactionId, VendorId};
use serde::{Deserialize, Serialize};

use crate::reveal;

/// The longest description of what is bought, in characters.
pub const DESCRIPTION_LIMIT: usize = 200;

/// The transaction as the vendor names it (A6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The transaction's id, made by the vendor.
    TransactionId(TransactionId),
    /// A temporary id: the transaction server makes the real one.
    TemporaryId(TransactionId),
}

/// A vendor's order, `POST /v1/orders` at facilitation. The vendor is known by its key.
///
/// Posting the same order again gives the same answer; the same id with another body is a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The id, the vendor's own or a temporary one.
    pub reference: Reference,
    /// What will be charged.
    pub amount: Money,
    /// The client's address as the vendor sees it.
    pub client_ip: IpAddr,
    /// What is bought, for the payer to read: 1 to 200 characters without control characters.
    pub description: String,
}

impl Order {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field and what would be right.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let length = self.description.chars().count();
        if length == 0 || length > DESCRIPTION_LIMIT {
            return Err(("description", format!("{length} characters given, 1 to {DESCRIPTION_LIMIT} are needed")));
        }
        if self.description.chars().any(char::is_control) {
            return Err(("description", "control characters are not allowed".to_owned()));
        }
        Ok(())
    }
}

/// The answer to an [`Order`]: send the client to `pay_url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The transaction's real id.
    pub transaction_id: TransactionId,
    /// The one-transaction payer page. Whoever has it can pay; it is not to be logged.
    pub pay_url: String,
    /// Until when the page works.
    pub expires_at: Timestamp,
}

/// What facilitation asks of the transaction server, `POST /v1/orders` over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The vendor, authenticated by facilitation.
    pub vendor: VendorId,
    /// The ISP that the client's address belongs to (A7).
    pub isp: IspId,
    /// The order.
    pub order: Order,
}

/// What the payer page is made of (A9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// The transaction's real id.
    pub transaction_id: TransactionId,
    /// The one-time password of this transaction.
    #[serde(serialize_with = "reveal::secret")]
    pub password: Secret<String>,
    /// The ISP's private network address for the client's address family.
    pub address: IpAddr,
    /// The TCP port there.
    pub port: u16,
    /// Until when the transaction can be paid.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_strict_and_names_the_field() {
        let good = r#"{"reference":{"transaction_id":"o-1"},"amount":{"minor":1250,"currency":"EUR"},"client_ip":"198.51.100.70","description":"Book"}"#;
        assert!(serde_json::from_str::<Order>(good).unwrap().check().is_ok());
        for (bad, word) in [
            (good.replace("\"description\"", "\"note\":1,\"description\""), "note"),
            (good.replace("198.51.100.70", "198.51.100.700"), "IP address"),
            (good.replace("EUR", "EURO"), "ISO 4217"),
            (good.replace("o-1", "o 1"), "transaction id"),
            (good.replace("1250", "-1"), "integer"),
            (good.replace(",\"description\":\"Book\"", ""), "description"),
        ] {
            let error = serde_json::from_str::<Order>(&bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let empty: Order = serde_json::from_str(&good.replace("Book", "")).unwrap();
        assert_eq!(empty.check().unwrap_err().0, "description");
        let control: Order = serde_json::from_str(&good.replace("Book", "a\\nb")).unwrap();
        assert!(control.check().is_err());
    }

    #[test]
    fn the_password_is_in_the_json_and_not_in_the_debug_print() {
        let issued = Issued {
            transaction_id: "t".parse().unwrap(),
            password: Secret::from("pass-1"),
            address: "203.0.113.200".parse().unwrap(),
            port: 443,
            expires_at: Timestamp::from_secs(1),
        };
        assert!(serde_json::to_string(&issued).unwrap().contains("pass-1"));
        assert!(!format!("{issued:?}").contains("pass-1"));
    }
}
