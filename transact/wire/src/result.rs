//! The result of a purchase, signed for the vendor (A14) in the form of Standard Webhooks: with Ed25519 (`v1a`), and for
//! vendors who share a secret by HMAC (`v1`) too. The signature is over `id.timestamp.body`.

use std::time::Duration;

use cloakway_crypto::encode::{base64, unbase64};
use cloakway_crypto::sign::{SigningKey, VerifyingKey};
use cloakway_types::{Money, Timestamp, TransactionId, VendorId};
use serde::{Deserialize, Serialize};

use crate::hmac_secret::HmacSecret;

/// Header with the result's id: the same at every delivery, so that a repeat is known.
pub const ID_HEADER: &str = "webhook-id";
/// Header with the time of this delivery, in seconds since the Unix epoch.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header with the signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
/// How far the time of a delivery may be from the vendor's clock.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// How a purchase ended, for its vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The amount is authorised: deliver.
    Approved,
    /// The bank refused.
    Declined,
    /// The bank did not answer in time; the authorisation was taken back.
    Reversed,
    /// Not paid in time.
    Expired,
    /// Closed after too many wrong passwords.
    Locked,
    /// Cancelled by the vendor before it was paid.
    Cancelled,
    /// A refund was given, and the order's amount is not used up.
    PartlyRefunded,
    /// A refund was given, and with it the whole amount.
    Refunded,
    /// A refund was not given: the bank refused, or did not answer in time and it was taken back.
    RefundFailed,
}

/// The refund that a result is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundNote {
    /// The vendor's id of it.
    pub refund_id: TransactionId,
    /// How much.
    pub amount: Money,
}

/// What the vendor is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurchaseResult {
    /// The vendor that it is for.
    pub vendor: VendorId,
    /// The transaction's real id.
    pub transaction_id: TransactionId,
    /// The temporary id, where the vendor gave one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub temporary_id: Option<TransactionId>,
    /// The amount of the order.
    pub amount: Money,
    /// How it ended.
    pub verdict: Verdict,
    /// When.
    pub decided_at: Timestamp,
    /// The refund, where the verdict is about one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refund: Option<RefundNote>,
}

/// A result as it travels: facilitation carries it and cannot change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedResult {
    /// Goes into [`ID_HEADER`].
    pub id: String,
    /// The vendor that it is for.
    pub vendor: VendorId,
    /// Goes into [`TIMESTAMP_HEADER`]: seconds since the Unix epoch.
    pub timestamp_s: u64,
    /// Goes into [`SIGNATURE_HEADER`].
    pub signature: String,
    /// The body, byte for byte: a [`PurchaseResult`] in JSON.
    pub body: String,
}

/// The answer to `GET /v1/results?after=CURSOR&wait_ms=MS`: results that are not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// Where the next question starts; 0 asks for everything again.
    pub cursor: u64,
    /// The oldest first, signed for a delivery now.
    pub results: Vec<SignedResult>,
}

/// What facilitation acknowledges, `POST /v1/results/ack`: the vendor has these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// Ids of results.
    pub ids: Vec<String>,
}

/// Why a delivery is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// The time of the delivery is too far from now.
    #[error("{TIMESTAMP_HEADER} is {seconds} s away from now: more than {} s are not accepted", TOLERANCE.as_secs())]
    Time {
        /// The distance in seconds.
        seconds: u64,
    },
    /// No signature of the transaction server's key.
    #[error("{SIGNATURE_HEADER} has no signature by the transaction server over this body")]
    Signature,
    /// Signed, and still not a result.
    #[error("the body is not a result: {0}")]
    Body(String),
    /// A result of somebody else.
    #[error("the result is for vendor {0}")]
    Vendor(VendorId),
}

fn signed_bytes(id: &str, timestamp_s: u64, body: &str) -> Vec<u8> {
    format!("{id}.{timestamp_s}.{body}").into_bytes()
}

impl SignedResult {
    /// Signs `result` under `id` for a delivery at `now`.
    ///
    /// # Errors
    /// When the result cannot be written as JSON, which no valid result causes.
    pub fn sign(id: &str, result: &PurchaseResult, key: &SigningKey, now: Timestamp) -> Result<Self, ResultError> {
        let body = serde_json::to_string(result).map_err(|e| ResultError::Body(e.to_string()))?;
        let signature = format!("v1a,{}", base64(&key.sign(&signed_bytes(id, now.as_secs(), &body))));
        Ok(Self { id: id.to_owned(), vendor: result.vendor.clone(), timestamp_s: now.as_secs(), signature, body })
    }

    /// Adds a signature by the secret that the vendor shares.
    #[must_use]
    pub fn and_by(mut self, secret: &HmacSecret) -> Self {
        let signature = secret.sign(&signed_bytes(&self.id, self.timestamp_s, &self.body));
        self.signature = format!("{} {signature}", self.signature);
        self
    }

    /// The result, if the delivery is fresh, signed by `key` and for `vendor`.
    ///
    /// # Errors
    /// [`ResultError`].
    pub fn verify(&self, key: &VerifyingKey, vendor: &VendorId, now: Timestamp) -> Result<PurchaseResult, ResultError> {
        self.believe(vendor, now, |signatures, message| {
            let mut signatures = signatures.split(' ').filter_map(|s| unbase64(s.strip_prefix("v1a,")?));
            signatures.any(|signature| key.verify(message, &signature).is_ok())
        })
    }

    /// The same by the secret that the vendor shares.
    ///
    /// # Errors
    /// [`ResultError`].
    pub fn verify_by(
        &self,
        secret: &HmacSecret,
        vendor: &VendorId,
        now: Timestamp,
    ) -> Result<PurchaseResult, ResultError> {
        self.believe(vendor, now, |signatures, message| secret.signed(signatures, message))
    }

    fn believe(
        &self,
        vendor: &VendorId,
        now: Timestamp,
        signed: impl Fn(&str, &[u8]) -> bool,
    ) -> Result<PurchaseResult, ResultError> {
        let seconds = now.as_secs().abs_diff(self.timestamp_s);
        if seconds > TOLERANCE.as_secs() {
            return Err(ResultError::Time { seconds });
        }
        let message = signed_bytes(&self.id, self.timestamp_s, &self.body);
        if !signed(&self.signature, &message) {
            return Err(ResultError::Signature);
        }
        let result: PurchaseResult = serde_json::from_str(&self.body).map_err(|e| ResultError::Body(e.to_string()))?;
        if result.vendor == *vendor { Ok(result) } else { Err(ResultError::Vendor(result.vendor)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakway_crypto::Secret;

    fn key() -> SigningKey {
        SigningKey::from_base64(&Secret::new(base64(&[7; 32]))).unwrap()
    }

    fn signed() -> (SignedResult, PurchaseResult) {
        let result = PurchaseResult {
            vendor: "shop".parse().unwrap(),
            transaction_id: "t-1".parse().unwrap(),
            temporary_id: None,
            amount: Money::new(1250, "EUR".parse().unwrap()).unwrap(),
            verdict: Verdict::Approved,
            decided_at: Timestamp::from_secs(1000),
            refund: None,
        };
        (SignedResult::sign("r-1", &result, &key(), Timestamp::from_secs(1000)).unwrap(), result)
    }

    #[test]
    fn a_fresh_result_by_the_right_key_is_believed() {
        let (delivery, result) = signed();
        let vendor = "shop".parse().unwrap();
        let public = key().verifying_key();
        assert_eq!(delivery.verify(&public, &vendor, Timestamp::from_secs(1300)), Ok(result));
        assert_eq!(
            delivery.verify(&public, &vendor, Timestamp::from_secs(1301)),
            Err(ResultError::Time { seconds: 301 })
        );
    }

    #[test]
    fn a_shared_secret_signs_beside_the_key_and_breaks_with_every_change() {
        let (delivery, result) = signed();
        let (vendor, now) = ("shop".parse().unwrap(), Timestamp::from_secs(1000));
        let (old, new) = (HmacSecret::from_bytes(&[1; 32]), HmacSecret::from_bytes(&[2; 32]));
        assert_eq!(delivery.verify_by(&new, &vendor, now), Err(ResultError::Signature));
        let delivery = delivery.and_by(&new).and_by(&old);
        for secret in [&old, &new] {
            assert_eq!(delivery.verify_by(secret, &vendor, now), Ok(result.clone()));
        }
        assert_eq!(delivery.verify(&key().verifying_key(), &vendor, now), Ok(result));
        let late = Timestamp::from_secs(1301);
        assert_eq!(delivery.verify_by(&new, &vendor, late), Err(ResultError::Time { seconds: 301 }));
        let other = HmacSecret::from_bytes(&[3; 32]);
        assert_eq!(delivery.verify_by(&other, &vendor, now), Err(ResultError::Signature));
        let changed = SignedResult { body: delivery.body.replace("1250", "1251"), ..delivery };
        assert_eq!(changed.verify_by(&new, &vendor, now), Err(ResultError::Signature));
    }

    #[test]
    fn every_change_breaks_the_signature() {
        let (delivery, _) = signed();
        let vendor = "shop".parse().unwrap();
        let public = key().verifying_key();
        let now = Timestamp::from_secs(1000);
        let changed = [
            SignedResult { body: delivery.body.replace("1250", "1251"), ..delivery.clone() },
            SignedResult { id: "r-2".into(), ..delivery.clone() },
            SignedResult { timestamp_s: 1001, ..delivery.clone() },
            SignedResult { signature: "v1a,AAAA".into(), ..delivery.clone() },
            SignedResult { signature: String::new(), ..delivery.clone() },
        ];
        for one in changed {
            assert_eq!(one.verify(&public, &vendor, now), Err(ResultError::Signature), "{one:?}");
        }
        assert!(matches!(delivery.verify(&public, &"other".parse().unwrap(), now), Err(ResultError::Vendor(_))));
        let rotated = SignedResult { signature: format!("v1a,AAAA {}", delivery.signature), ..delivery };
        assert!(rotated.verify(&public, &vendor, now).is_ok());
    }
}
