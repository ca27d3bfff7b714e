//! What a payer is shown, sends and is told (A11, A13).

use cloakway_crypto::Secret;
use cloakway_types::{Money, Timestamp, TransactionId, VendorId};
use serde::{Deserialize, Serialize};

use crate::card::{CardNumber, Expiry, Pin};
use crate::reveal;
use crate::words::Language;

/// The payer page for programs: what `GET` of the page gives with `Accept: application/json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The vendor.
    pub vendor: VendorId,
    /// The vendor's name, for people.
    pub payee: String,
    /// What is bought.
    pub description: String,
    /// What will be charged.
    pub amount: Money,
    /// The same for people, such as `12.50 EUR`.
    pub amount_text: String,
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Its one-time password.
    #[serde(serialize_with = "reveal::secret")]
    pub password: Secret<String>,
    /// The origin at the private network address, such as `https://203.0.113.200`.
    pub private_origin: String,
    /// Until when it can be paid.
    pub expires_at: Timestamp,
}

/// Card data for one transaction, `POST /v1/payments` at the private network address and nowhere else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// Which transaction, and the proof that this payer was given its page.
    pub transaction: Claim,
    /// The card.
    pub card_number: CardNumber,
    /// Until when it is valid.
    pub expiry: Expiry,
    /// Its PIN, of a debit card that asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

/// A transaction with its password; alone it asks for the outcome, `POST /v1/outcome`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The vendor.
    pub vendor: VendorId,
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Its one-time password.
    #[serde(serialize_with = "reveal::secret")]
    pub password: Secret<String>,
}

/// Where a transaction stands, for its payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// Not paid yet.
    Open,
    /// The bank is being asked.
    Authorising,
    /// Paid.
    Approved,
    /// The bank refused; nothing was charged.
    Declined,
    /// No answer from the bank in time: whatever was charged is being taken back.
    Reversing,
    /// No answer from the bank in time: nothing stays charged.
    Reversed,
    /// Not paid in time.
    Expired,
    /// Closed after too many wrong passwords.
    Locked,
    /// Cancelled by the vendor.
    Cancelled,
}

/// The answer to a [`Payment`] and to a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Where the transaction stands.
    pub state: PaymentState,
    /// The same for people.
    pub message: String,
}

impl From<PaymentState> for Outcome {
    fn from(state: PaymentState) -> Self {
        Self { state, message: Language::En.words().state(state).to_owned() }
    }
}

/// Why a payer's body is refused. Quotes nothing of it: a card number can stand in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The card number or its expiry is not right.
    #[error("{0}")]
    Card(String),
    /// Not JSON, or not of this form.
    #[error("{0}")]
    Form(String),
}

/// Words that our own types begin their errors with; what follows them is never the body's.
const OWN_WORDS: &[&str] =
    &["missing field `", "duplicate field `", "a text is needed here", "vendor id ", "transaction id "];

/// Reads a body that a payer sent: a [`Payment`] or a [`Claim`].
///
/// # Errors
/// [`BodyError`], with line and column.
pub fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        if ["card number", "expiry", "PIN"].iter().any(|word| text.starts_with(word)) {
            BodyError::Card(text)
        } else if !error.is_data() || OWN_WORDS.iter().any(|words| text.starts_with(words)) {
            BodyError::Form(text)
        } else {
            let (line, column) = (error.line(), error.column());
            BodyError::Form(format!("an unknown field, or a value of the wrong type, at line {line} column {column}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_body_is_not_quoted_wherever_the_card_number_stands() {
        let good = r#"{"transaction":{"vendor":"v","transaction_id":"t","password":"pw"},"card_number":"4111111111111111","expiry":"12/30"}"#;
        assert!(from_json::<Payment>(good.as_bytes()).is_ok());
        for bad in [
            good.replace("\"v\"", "4111111111111111"),
            good.replace("\"v\"", "\"4111111111111111/\""),
            good.replace("\"t\"", &format!("\"{}\"", "4111111111111111".repeat(5))),
            good.replace("card_number", "4111111111111111"),
            good.replace(r#"{"vendor":"v","transaction_id":"t","password":"pw"}"#, "\"4111111111111111\""),
            good.replace("\"4111111111111111\"", "4111111111111111"),
            good.replace("\"4111111111111111\"", "\"4111111111111112\""),
            good.replace("12/30", "4111111111111111"),
            "4111111111111111".to_owned(),
            "[4111111111111111".to_owned(),
        ] {
            let error = from_json::<Payment>(bad.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("4111") && error.contains("column"), "{error}");
        }
        let missing = from_json::<Payment>(br#"{"expiry":"12/30"}"#).unwrap_err();
        assert!(missing.to_string().starts_with("missing field `transaction`"), "{missing}");
        let card = from_json::<Payment>(good.replace("12/30", "13/30").as_bytes()).unwrap_err();
        assert!(matches!(card, BodyError::Card(_)), "{card}");
    }

    #[test]
    fn a_payment_is_strict_and_prints_no_secret() {
        let text = r#"{"transaction":{"vendor":"v","transaction_id":"t","password":"pw"},"card_number":"4111111111111111","expiry":"12/30"}"#;
        let payment: Payment = serde_json::from_str(text).unwrap();
        let debug = format!("{payment:?}");
        assert!(!debug.contains("4111") && !debug.contains("pw\"") && !debug.contains("12/30"), "{debug}");
        assert_eq!(serde_json::to_string(&payment).unwrap(), text);
        let with_pin = text.replace("\"12/30\"", "\"12/30\",\"pin\":\"987654\"");
        let payment: Payment = serde_json::from_str(&with_pin).unwrap();
        assert!(!format!("{payment:?}").contains("9876"));
        assert_eq!(serde_json::to_string(&payment).unwrap(), with_pin);
        for bad in ["123", "1234567890123", "12a4", ""] {
            let error = from_json::<Payment>(with_pin.replace("987654", bad).as_bytes()).unwrap_err();
            assert!(matches!(&error, BodyError::Card(text) if text.starts_with("PIN: 4 to 12 digits")), "{error}");
        }
        assert!(
            !from_json::<Payment>(with_pin.replace("\"987654\"", "987654").as_bytes())
                .unwrap_err()
                .to_string()
                .contains("9876")
        );
        assert!(serde_json::from_str::<Payment>(&text.replace("\"expiry\"", "\"cvv\":1,\"expiry\"")).is_err());
    }
}
