//! For vendors: post an order, send the client to the page, believe the signed result.
//!
//! ```no_run
//! # async fn shop() -> Result<(), Box<dyn std::error::Error>> {
//! use vendor_kit::{Facilitation, Order, Reference, Receiver};
//!
//! let facilitation = Facilitation::new("https://pay.example", "/etc/ssl/certs/ca-certificates.crt".as_ref(), "vendor key".into())?;
//! let order = Order {
//!     reference: Reference::TransactionId("order-1".parse()?),
//!     amount: vendor_kit::Money::new(1250, "EUR".parse()?)?,
//!     client_ip: "198.51.100.70".parse()?,
//!     description: "One book".to_owned(),
//! };
//! let accepted = facilitation.order(&order).await?;
//! println!("redirect the client to {}", accepted.pay_url);
//! # Ok(()) }
//! ```
//!
//! The result arrives as a POST at your results URL. Check it with [`Receiver::receive`], store what
//! it says, then answer 204. It is repeated until you do; [`Received::id`] is the same each time.
//!
//! For items of a few cents there is electronic cash: [`ecash`].

pub mod ecash;

use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use cloakway_crypto::Secret;
use cloakway_crypto::sign::{KeyError, VerifyingKey};
use cloakway_runtime::http::{Client, ClientError};
use cloakway_runtime::tls::{self, TlsError};
use transact_wire::hmac_secret::HmacSecret;
use transact_wire::result::{ID_HEADER, SIGNATURE_HEADER, SignedResult, TIMESTAMP_HEADER};

pub use cloakway_types::{Currency, Money, Timestamp, TransactionId, VendorId};
pub use transact_wire::after::{OrderStatus, Phase, RefundOrder, RefundReceipt, RefundState};
pub use transact_wire::hmac_secret::SecretError;
pub use transact_wire::order::{Accepted, Order, Reference};
pub use transact_wire::result::{PurchaseResult, RefundNote, ResultError, Verdict};

const LIMIT: Duration = Duration::from_secs(15);
/// A refund is answered when the bank has answered.
const REFUND_LIMIT: Duration = Duration::from_secs(60);

/// Why an order got no page.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The client has no private path: not on a member ISP, or not for its address family.
    #[error("the client is not on a member ISP: offer another way to pay")]
    NotMemberIsp,
    /// Facilitation refused the order; posting it again will not help.
    #[error("the order was refused with {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What facilitation says.
        message: String,
    },
    /// No answer, or not now: post the same order again, it is taken once.
    #[error("not available now, post the same order again: {0}")]
    TryAgain(String),
    /// The files for TLS do not fit.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The URL or the key cannot be used.
    #[error("{0}")]
    Setup(String),
}

/// What goes straight to the client, and not by way of the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// The URL of the payer page.
    Url,
    /// The page itself, signed by facilitation.
    Page,
}

/// The facilitation server, for one vendor.
#[derive(Debug, Clone)]
pub struct Facilitation {
    client: Client,
    url: String,
    authorization: HeaderValue,
}

impl Facilitation {
    /// `url` such as `https://pay.example`, `ca` the file with the authorities to trust, `key` the vendor's key.
    ///
    /// # Errors
    /// [`OrderError::Tls`] and [`OrderError::Setup`].
    pub fn new(url: &str, ca: &Path, key: Secret<String>) -> Result<Self, OrderError> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| OrderError::Setup("the vendor key has characters that no header can carry".to_owned()))?;
        authorization.set_sensitive(true);
        let client = Client::new(tls::client(ca, None)?, None).map_err(|e| OrderError::Setup(e.to_string()))?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), authorization })
    }

    /// Posts an order (A6). The same order again gets the same page.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn order(&self, order: &Order) -> Result<Accepted, OrderError> {
        self.place(order, "").await
    }

    /// As [`Facilitation::order`], and the page goes straight to the client (A10): `pay_url` is answered to the order's
    /// `client_ip` and to nobody else.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn order_direct(&self, order: &Order, direct: Direct) -> Result<Accepted, OrderError> {
        let query = match direct {
            Direct::Url => "?direct=url",
            Direct::Page => "?direct=page",
        };
        self.place(order, query).await
    }

    async fn place(&self, order: &Order, query: &str) -> Result<Accepted, OrderError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        let answer = self.client.post_json(&format!("{}/v1/orders{query}", self.url), headers, order, LIMIT).await;
        let answer = answer.map_err(|error| match error {
            ClientError::Request(reason) => OrderError::Setup(reason),
            other => OrderError::TryAgain(other.to_string()),
        })?;
        if answer.status().is_success() {
            // The answer holds the page's URL: the error must not quote it.
            return serde_json::from_slice(answer.body())
                .map_err(|_| OrderError::TryAgain("the answer is not understood".to_owned()));
        }
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let text = |name: &str| {
            body.pointer(&format!("/error/{name}")).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
        };
        match answer.status() {
            _ if ["not_member_isp", "no_private_address"].contains(&text("code").as_str()) => {
                Err(OrderError::NotMemberIsp)
            }
            status if status.is_server_error() => Err(OrderError::TryAgain(text("message"))),
            status => Err(OrderError::Refused { status, message: text("message") }),
        }
    }
}

/// Why a question about an order was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Facilitation, or the transaction server behind it, said no; asking again will not help.
    #[error("refused with {status}, {code}: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The word for programs, such as `not_paid`.
        code: String,
        /// The words for people.
        message: String,
    },
    /// No answer, or not now: ask the same again, it is done once.
    #[error("not available now, ask the same again: {0}")]
    TryAgain(String),
}

impl Facilitation {
    /// Where an order stands. Its results are signed: check them with [`Receiver::believe`].
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn status(&self, order: &TransactionId) -> Result<OrderStatus, AskError> {
        self.ask(Method::GET, &format!("/v1/orders/{order}"), Vec::new(), LIMIT).await
    }

    /// Closes an order that nobody has paid. The same again gets the same answer.
    ///
    /// # Errors
    /// [`AskError`]; its code is `busy` while the bank is asked, `decided` when it is too late.
    pub async fn cancel(&self, order: &TransactionId) -> Result<OrderStatus, AskError> {
        self.ask(Method::POST, &format!("/v1/orders/{order}/cancel"), Vec::new(), LIMIT).await
    }

    /// Gives money of an order back, all or a part. Store the refund's id before; the same again gets the same answer.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn refund(&self, order: &TransactionId, refund: &RefundOrder) -> Result<RefundReceipt, AskError> {
        let body = serde_json::to_vec(refund).map_err(|error| AskError::TryAgain(error.to_string()))?;
        self.ask(Method::POST, &format!("/v1/orders/{order}/refunds"), body, REFUND_LIMIT).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<T, AskError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.client.send(method, &format!("{}{path}", self.url), headers, body, limit).await;
        let answer = answer.map_err(|error| AskError::TryAgain(error.to_string()))?;
        if answer.status().is_success() {
            return serde_json::from_slice(answer.body())
                .map_err(|error| AskError::TryAgain(format!("the answer is not understood: {error}")));
        }
        let said: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let text = |name: &str| {
            said.pointer(&format!("/error/{name}")).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
        };
        match answer.status() {
            status if status.is_server_error() => Err(AskError::TryAgain(text("message"))),
            status => Err(AskError::Refused { status, code: text("code"), message: text("message") }),
        }
    }
}

/// A result that is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The same for every delivery of this result: store it with the order and act once.
    pub id: String,
    /// What it says.
    pub result: PurchaseResult,
}

/// Checks deliveries at the results URL (A14): by the transaction server's public key, or by a secret that the vendor shares
/// with it. While one of them is being replaced, both are believed ([`Receiver::or_key`], [`Receiver::or_secret`]).
///
/// A delivery that was overheard is worth nothing: after five minutes its time is refused, and before that its
/// [`Received::id`] has been acted on, which the vendor has stored.
#[derive(Debug, Clone)]
pub struct Receiver {
    vendor: VendorId,
    keys: Vec<VerifyingKey>,
    secrets: Vec<HmacSecret>,
}

impl Receiver {
    /// `key` is the transaction server's public key: 32 bytes in base64.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(vendor: VendorId, key: &str) -> Result<Self, KeyError> {
        Self { vendor, keys: Vec::new(), secrets: Vec::new() }.or_key(key)
    }

    /// `secret` is what the vendor shares with the transaction server: `whsec_` and 24 to 64 bytes in base64.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn with_secret(vendor: VendorId, secret: &Secret<String>) -> Result<Self, SecretError> {
        Self { vendor, keys: Vec::new(), secrets: Vec::new() }.or_secret(secret)
    }

    /// Believes this key too.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn or_key(mut self, key: &str) -> Result<Self, KeyError> {
        self.keys.push(VerifyingKey::from_base64(key)?);
        Ok(self)
    }

    /// Believes this secret too.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn or_secret(mut self, secret: &Secret<String>) -> Result<Self, SecretError> {
        self.secrets.push(HmacSecret::parse(secret)?);
        Ok(self)
    }

    /// The result of a delivery with these headers and this body.
    ///
    /// # Errors
    /// [`ResultError`]: answer 400 and change nothing.
    pub fn receive(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Received, ResultError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let delivery = SignedResult {
            id: text(ID_HEADER),
            vendor: self.vendor.clone(),
            timestamp_s: text(TIMESTAMP_HEADER).parse().unwrap_or(0),
            signature: text(SIGNATURE_HEADER),
            body: String::from_utf8(body.to_vec()).map_err(|e| ResultError::Body(e.to_string()))?,
        };
        self.believe(&delivery, now)
    }

    /// The result of a delivery that came in another way: in the answer to a question ([`Facilitation::status`]).
    ///
    /// # Errors
    /// [`ResultError`]: change nothing.
    pub fn believe(&self, delivery: &SignedResult, now: Timestamp) -> Result<Received, ResultError> {
        let by_keys = self.keys.iter().map(|key| delivery.verify(key, &self.vendor, now));
        let by_secrets = self.secrets.iter().map(|secret| delivery.verify_by(secret, &self.vendor, now));
        let mut said = Err(ResultError::Signature);
        for one in by_keys.chain(by_secrets) {
            said = one;
            if !matches!(said, Err(ResultError::Signature)) {
                break;
            }
        }
        let result = said?;
        Ok(Received { id: delivery.id.clone(), result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakway_crypto::encode::base64;
    use cloakway_crypto::sign::SigningKey;

    fn delivery(now: Timestamp) -> (SignedResult, Receiver) {
        let key = SigningKey::from_base64(&Secret::new(base64(&[7; 32]))).unwrap();
        let result = PurchaseResult {
            vendor: "shop".parse().unwrap(),
            transaction_id: "o-1".parse().unwrap(),
            temporary_id: None,
            amount: Money::new(1250, "EUR".parse().unwrap()).unwrap(),
            verdict: Verdict::Approved,
            decided_at: now,
            refund: None,
        };
        let receiver = Receiver::new("shop".parse().unwrap(), &key.verifying_key().to_base64()).unwrap();
        (SignedResult::sign("res_1", &result, &key, now).unwrap(), receiver)
    }

    fn headers(delivery: &SignedResult) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID_HEADER, delivery.id.parse().unwrap());
        headers.insert(TIMESTAMP_HEADER, delivery.timestamp_s.into());
        headers.insert(SIGNATURE_HEADER, delivery.signature.parse().unwrap());
        headers
    }

    #[test]
    fn a_delivery_is_believed_with_its_headers_and_not_without() {
        let now = Timestamp::from_secs(1_795_000_000);
        let (delivery, receiver) = delivery(now);
        let received = receiver.receive(&headers(&delivery), delivery.body.as_bytes(), now).unwrap();
        assert_eq!((received.id.as_str(), received.result.verdict), ("res_1", Verdict::Approved));
        for missing in [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER] {
            let mut headers = headers(&delivery);
            headers.remove(missing);
            assert!(receiver.receive(&headers, delivery.body.as_bytes(), now).is_err(), "without {missing}");
        }
        assert!(receiver.receive(&headers(&delivery), b"\xff\xfe", now).is_err());
        assert!(receiver.receive(&headers(&delivery), delivery.body.replace("1250", "1").as_bytes(), now).is_err());
    }

    #[test]
    fn a_delivery_is_believed_by_the_old_and_the_new_secret_while_both_sign_and_by_no_other() {
        let now = Timestamp::from_secs(1_795_000_000);
        let (delivery, _) = delivery(now);
        let secret = |byte| HmacSecret::from_bytes(&[byte; 32]);
        let receiver = |byte| Receiver::with_secret("shop".parse().unwrap(), &secret(byte).reveal()).unwrap();
        assert_eq!(receiver(1).believe(&delivery, now), Err(ResultError::Signature));
        let both = delivery.and_by(&secret(1)).and_by(&secret(2));
        for byte in [1, 2] {
            let headers = headers(&both);
            assert_eq!(receiver(byte).receive(&headers, both.body.as_bytes(), now).unwrap().id, "res_1");
        }
        assert_eq!(receiver(3).believe(&both, now), Err(ResultError::Signature));
        let overlap = receiver(3).or_secret(&secret(2).reveal()).unwrap();
        assert!(overlap.believe(&both, now).is_ok());
        let late = now + Duration::from_secs(301);
        assert_eq!(overlap.believe(&both, late), Err(ResultError::Time { seconds: 301 }));
        let other = Receiver { vendor: "other".parse().unwrap(), ..overlap };
        assert!(matches!(other.believe(&both, now), Err(ResultError::Vendor(_))));
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, "").unwrap();
        assert!(matches!(Facilitation::new("https://pay.example", &ca, "a\nb".into()), Err(OrderError::Setup(_))));
        assert!(matches!(Facilitation::new("https://pay.example", &ca, "key".into()), Err(OrderError::Tls(_))));
    }
}
