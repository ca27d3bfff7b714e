//! What browsers and strangers send beside JSON: forms, headers.

use cloakway_crypto::sign::SigningKey;
use cloakway_types::Timestamp;
use transact_wire::form::{Asked, escape, read};
use transact_wire::hmac_secret::HmacSecret;
use transact_wire::page_signature::{Signed, verify};
use transact_wire::result::SignedResult;
use transact_wire::words::{Language, fill};

use crate::bytes::long_numbers;

/// A page's form, and, line by line, the headers of a reader, of a result and of a page.
pub fn transact_form(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match read(bytes) {
        Ok(posted) => {
            let printed = format!("{posted:?}");
            if let Asked::Payment(payment) = posted.asked {
                assert!(!printed.contains(payment.card_number.expose_digits()), "{printed}");
            }
        }
        Err(error) => {
            let error = error.to_string();
            for number in long_numbers(&text) {
                assert!(!error.contains(number), "the refusal quotes {number}: {error}");
            }
        }
    }
    assert!(!escape(&text).contains(['<', '>', '"', '\'']));
    assert_eq!(fill(&text, &[]), text);
    let _ = Language::accepted(&text);
    if let Ok(secret) = HmacSecret::parse(&text.as_ref().into()) {
        assert_eq!(HmacSecret::parse(&secret.reveal()), Ok(secret));
    }
    let mut lines = text.lines().map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let (id, signature, body, digest, input) = (line(), line(), line(), line(), line());
    let vendor = "shop".parse().expect("an id");
    let delivery = SignedResult { id, vendor, timestamp_s: 0, signature, body };
    let now = Timestamp::from_secs(0);
    let key = SigningKey::from_seed(&[1; 32]).expect("32 bytes").verifying_key();
    assert!(delivery.verify(&key, &delivery.vendor, now).is_err(), "nobody has the key");
    assert!(delivery.verify_by(&HmacSecret::from_bytes(&[1; 32]), &delivery.vendor, now).is_err());
    let signed = Signed { digest, input, signature: delivery.signature.clone() };
    assert!(verify(&key, 200, "text/html", delivery.body.as_bytes(), &signed).is_err());
}
