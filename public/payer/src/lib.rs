//! Pays one order from the command line (A11): reads the payer page, sends the card to the private
//! network address and nowhere else, and follows the outcome, also when a reply was lost.

use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use cloakway_crypto::Secret;
use cloakway_runtime::http::{Client, ClientError};
use cloakway_runtime::tls::{self, TlsError};
use transact_wire::card::{CardError, CardNumber, Expiry, Pin};
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
    /// Reads the page at `url`; `ca` is the file with the authorities to trust.
    ///
    /// # Errors
    /// [`PayerError`].
    pub async fn open(url: &str, ca: &Path) -> Result<Self, PayerError> {
        let client = Client::new(tls::client(ca, None)?, None)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = client
            .send(Method::GET, url, headers, Vec::new(), PAGE_LIMIT)
            .await
            .map_err(|error| PayerError::Page(error.to_string()))?;
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
