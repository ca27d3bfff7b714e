//! Pays one order from the command line (A11): reads the payer page, sends the card to the private
//! network address and nowhere else, and follows the outcome, also when a reply was lost.

use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use cloakway_crypto::Secret;
use cloakway_crypto::sign::VerifyingKey;
use cloakway_runtime::http::{Client, ClientError};
use cloakway_runtime::tls::{self, TlsError};
use transact_wire::card::{CardError, CardNumber, Expiry, Pin};
use transact_wire::page_signature;
use transact_wire::payment::{Claim, Outcome, Page, Payment, PaymentState};

const PAGE_LIMIT: Duration = Duration::from_secs(15);
const LIVE_LIMIT: Duration = Duration::from_secs(5);
/// Longer than the transaction server waits for the bank; a server that died meanwhile says nothing.
const PAY_LIMIT: Duration = Duration::from_secs(20);
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
const FOLLOW_TRIES: u32 = 120;

/// Why an order was not paid, or why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum PayerError {
    /// The page was used, has expired or never was.
    #[error("this payer page cannot be used: it was used, has expired or never was; order again at the shop")]
    NoPage,
    /// The page's server cannot be reached or does not make sense.
    #[error("the payer page cannot be read: {0}")]
    Page(String),
    /// The private network address does not answer; the card number was not sent.
    #[error("the private path to {origin} is not live: {reason}; the card number was not sent")]
    NotLive {
        /// The private origin.
        origin: String,
        /// What happened.
        reason: String,
    },
    /// The transaction server refused the payment; nothing was charged.
    #[error("the payment was refused: {0}")]
    Refused(String),
    /// The reply was lost and the outcome could not be learnt.
    #[error("the outcome is not known: {0}; look at the shop whether the order is paid")]
    Unknown(String),
    /// The card file.
    #[error("{0}")]
    Card(String),
    /// The files for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A card, as read from its file.
#[derive(Debug, Clone)]
pub struct Card {
    number: CardNumber,
    expiry: Expiry,
    pin: Option<Pin>,
}

impl Card {
    /// Reads lines `number=…`, `expiry=MM/YY` and, where the card has one, `pin=…`.
    ///
    /// # Errors
    /// [`PayerError::Card`], which names the line and shows nothing of the card.
    pub fn parse(text: &Secret<String>) -> Result<Self, PayerError> {
        let (mut number, mut expiry, mut pin) = (None, None, None);
        let wrong = |line: usize, error: CardError| PayerError::Card(format!("card file, line {line}: {error}"));
        for (at, line) in text.expose().lines().enumerate() {
            match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                _ if line.trim().is_empty() || line.starts_with('#') => {}
                Some(("number", value)) => {
                    number = Some(CardNumber::parse(&Secret::from(value)).map_err(|e| wrong(at + 1, e))?);
                }
                Some(("expiry", value)) => expiry = Some(Expiry::parse(value).map_err(|e| wrong(at + 1, e))?),
                Some(("pin", value)) => pin = Some(Pin::parse(Secret::from(value)).map_err(|e| wrong(at + 1, e))?),
                _ => {
                    return Err(PayerError::Card(format!(
                        "card file, line {}: number=…, expiry=MM/YY or pin=… expected",
                        at + 1
                    )));
                }
            }
        }
        match (number, expiry) {
            (Some(number), Some(expiry)) => Ok(Self { number, expiry, pin }),
            (None, _) => Err(PayerError::Card("card file: the line number=… is missing".to_owned())),
            (_, None) => Err(PayerError::Card("card file: the line expiry=MM/YY is missing".to_owned())),
        }
    }
}

/// One payer page and the way to its private network address.
#[derive(Debug)]
pub struct Payer {
    client: Client,
    page: Page,
}

impl Payer {
    /// Reads the page at `url`, which may lead to another one on the same server; `ca` is the file with the authorities to
    /// trust. With `page_key`, the page has to be signed by it.
    ///
    /// # Errors
    /// [`PayerError`].
    pub async fn open(url: &str, ca: &Path, page_key: Option<&VerifyingKey>) -> Result<Self, PayerError> {
        let client = Client::new(tls::client(ca, None)?, None)?;
        let get = async |url: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            let asked = client.send(Method::GET, url, headers, Vec::new(), PAGE_LIMIT).await;
            asked.map_err(|error| PayerError::Page(error.to_string()))
        };
        let mut answer = get(url).await?;
        if answer.status() == StatusCode::SEE_OTHER {
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            if origin(to).is_none() || origin(to) != origin(url) {
                return Err(PayerError::Page("it leads to another server".to_owned()));
            }
            answer = get(to).await?;
        }
        if answer.status().is_success()
            && let Some(key) = page_key
        {
            believe(key, &answer)?;
        }
        match answer.status() {
            StatusCode::NOT_FOUND => Err(PayerError::NoPage),
            status if !status.is_success() => Err(PayerError::Page(format!("the server answered {status}"))),
            // The page holds the password: the error must not quote it.
            _ => serde_json::from_slice(answer.body())
                .map(|page| Self { client, page })
                .map_err(|_| PayerError::Page("the answer is not a payer page".to_owned())),
        }
    }

    /// What is bought, from whom and for how much.
    #[must_use]
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Pays with `card` and follows the transaction until it is decided.
    ///
    /// # Errors
    /// [`PayerError`].
    pub async fn pay(&self, card: Card) -> Result<Outcome, PayerError> {
        let live = self.client.send(Method::GET, &self.at("/v1/live"), HeaderMap::new(), Vec::new(), LIVE_LIMIT).await;
        live.map_err(|error| PayerError::NotLive {
            origin: self.page.private_origin.clone(),
            reason: error.to_string(),
        })?;
        let payment =
            Payment { transaction: self.claim(), card_number: card.number, expiry: card.expiry, pin: card.pin };
        match self.client.post_json(&self.at("/v1/payments"), HeaderMap::new(), &payment, PAY_LIMIT).await {
            Ok(answer) if answer.status().is_success() => {
                let outcome = outcome(answer.body())?;
                if is_decided(outcome.state) { Ok(outcome) } else { self.follow("").await }
            }
            Ok(answer) => Err(PayerError::Refused(message(answer.body()))),
            // Whether the server got it is not known: ask until it says.
            Err(error) => self.follow(&error.to_string()).await,
        }
    }

    /// Asks for the outcome until the transaction is decided.
    async fn follow(&self, reason: &str) -> Result<Outcome, PayerError> {
        let mut last = reason.to_owned();
        for _ in 0..FOLLOW_TRIES {
            tokio::time::sleep(FOLLOW_EVERY).await;
            let claim = self.claim();
            match self.client.post_json(&self.at("/v1/outcome"), HeaderMap::new(), &claim, PAGE_LIMIT).await {
                Ok(answer) if answer.status().is_success() => {
                    let outcome = outcome(answer.body())?;
                    if is_decided(outcome.state) || outcome.state == PaymentState::Open {
                        return Ok(outcome);
                    }
                    last = outcome.message;
                }
                Ok(answer) => return Err(PayerError::Refused(message(answer.body()))),
                Err(error) => last = error.to_string(),
            }
        }
        Err(PayerError::Unknown(last))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.page.private_origin)
    }

    fn claim(&self) -> Claim {
        Claim {
            vendor: self.page.vendor.clone(),
            transaction_id: self.page.transaction_id.clone(),
            password: self.page.password.clone(),
        }
    }
}

/// `https://HOST[:PORT]` of a URL.
fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    url.get(.."https://".len() + end)
}

fn believe(key: &VerifyingKey, answer: &Response<Bytes>) -> Result<(), PayerError> {
    let text =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let headers = page_signature::Signed {
        digest: text(page_signature::DIGEST_HEADER),
        input: text(page_signature::INPUT_HEADER),
        signature: text(page_signature::SIGNATURE_HEADER),
    };
    let kind = text("content-type");
    page_signature::verify(key, answer.status().as_u16(), &kind, answer.body(), &headers)
        .map_err(|error| PayerError::Page(error.to_string()))
}

fn is_decided(state: PaymentState) -> bool {
    match state {
        PaymentState::Open | PaymentState::Authorising | PaymentState::Reversing => false,
        PaymentState::Approved
        | PaymentState::Declined
        | PaymentState::Reversed
        | PaymentState::Expired
        | PaymentState::Locked
        | PaymentState::Cancelled => true,
    }
}

fn outcome(body: &[u8]) -> Result<Outcome, PayerError> {
    serde_json::from_slice(body).map_err(|error| PayerError::Unknown(error.to_string()))
}

fn message(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    body.pointer("/error/message").and_then(|v| v.as_str()).unwrap_or("no reason was given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_lead_to_its_own_server_alone() {
        assert_eq!(origin("https://pay.example/c/x"), Some("https://pay.example"));
        assert_eq!(origin("https://pay.example:444"), Some("https://pay.example:444"));
        assert_ne!(origin("https://pay.example.evil.example/p/x"), origin("https://pay.example/p/x"));
        assert_eq!(origin("http://pay.example/p/x"), None);
        assert_eq!(origin("/p/x"), None);
    }

    #[test]
    fn a_page_is_believed_with_its_signature_alone() {
        let key = cloakway_crypto::sign::SigningKey::from_seed(&[1; 32]).unwrap();
        let signed =
            page_signature::sign(&key, 200, "application/json", b"{}", cloakway_types::Timestamp::from_secs(1));
        let answer = |signature: &str| {
            Response::builder()
                .header("content-type", "application/json")
                .header(page_signature::DIGEST_HEADER, &signed.digest)
                .header(page_signature::INPUT_HEADER, &signed.input)
                .header(page_signature::SIGNATURE_HEADER, signature)
                .body(Bytes::from_static(b"{}"))
                .unwrap()
        };
        assert!(believe(&key.verifying_key(), &answer(&signed.signature)).is_ok());
        assert!(believe(&key.verifying_key(), &answer("page=:AAAA:")).is_err());
        let other = cloakway_crypto::sign::SigningKey::from_seed(&[2; 32]).unwrap();
        assert!(believe(&other.verifying_key(), &answer(&signed.signature)).is_err());
    }

    #[test]
    fn a_card_file_is_read_and_its_errors_name_the_line_and_no_digits() {
        assert!(Card::parse(&"# test\nnumber = 4111 1111 1111 1111\nexpiry=12/30\n".into()).is_ok());
        for (text, word) in [
            ("number=4111111111111112\nexpiry=12/30", "line 1: card number: the check digit"),
            ("number=4111111111111111", "expiry=MM/YY is missing"),
            ("expiry=12/30", "number=… is missing"),
            ("number=4111111111111111\ncvv=1", "line 2"),
            ("number=4111111111111111\nexpiry=1230", "line 2: expiry"),
            ("number=4111111111111111\npin=12", "line 2: PIN: 4 to 12 digits"),
        ] {
            let error = Card::parse(&text.into()).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("4111"), "{error}");
        }
    }
}
