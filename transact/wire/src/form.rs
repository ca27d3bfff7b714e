//! A payment by a page's own form, for browsers without scripts: `application/x-www-form-urlencoded` (WHATWG URL §5) to
//! the private network address, and a page as the answer (A11).

use std::collections::BTreeMap;

use cloakway_crypto::{Secret, Zeroize as _};
use cloakway_types::{TransactionId, VendorId};

use crate::card::{CardError, CardNumber, Expiry, Pin};
use crate::payment::{BodyError, Claim, Payment};
use crate::words::{Language, Words};

/// What payers' pages look like, wherever they come from.
pub const STYLE: &str = include_str!("form/page.css");

/// The names of the fields.
const FIELDS: [&str; 7] = ["vendor", "transaction_id", "password", "lang", "card_number", "expiry", "pin"];

/// What a form said.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The language of the answer.
    pub language: Language,
    /// What it is about.
    pub asked: Asked,
}

/// What a payer wants by a form.
#[derive(Debug, Clone)]
pub enum Asked {
    /// To pay.
    Payment(Payment),
    /// To pay, and something about the card is not right.
    Wrong(Claim, Wrong),
    /// To know how it ended.
    Outcome(Claim),
}

/// What is not right about a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Not 12 to 19 digits.
    NumberLength,
    /// The check digit does not fit.
    NumberMistyped,
    /// Not `MM/YY`.
    Expiry,
    /// Not 4 to 12 digits.
    Pin,
}

impl Wrong {
    /// The same for people.
    #[must_use]
    pub const fn text(self, words: &Words) -> &'static str {
        match self {
            Self::NumberLength => words.number_length,
            Self::NumberMistyped => words.number_mistyped,
            Self::Expiry => words.expiry_form,
            Self::Pin => words.pin_form,
        }
    }

    /// The name of the field.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::NumberLength | Self::NumberMistyped => "card_number",
            Self::Expiry => "expiry",
            Self::Pin => "pin",
        }
    }
}

/// Reads what a page's form sent. What is copied of it is wiped.
///
/// # Errors
/// [`BodyError::Form`], which quotes nothing of the body.
pub fn read(body: &[u8]) -> Result<Posted, BodyError> {
    let mut fields = fields(body)?;
    let mut needed =
        |name: &str| fields.remove(name).ok_or_else(|| BodyError::Form(format!("the field {name} is missing")));
    let wrong = |name: &str| BodyError::Form(format!("the field {name} has a value that is not allowed"));
    let vendor: VendorId = needed("vendor")?.expose().parse().map_err(|_| wrong("vendor"))?;
    let transaction: TransactionId = needed("transaction_id")?.expose().parse().map_err(|_| wrong("transaction_id"))?;
    let claim = Claim { vendor, transaction_id: transaction, password: needed("password")? };
    let language = fields.remove("lang").and_then(|tag| tag.expose().parse().ok()).unwrap_or_default();
    let card = [fields.remove("card_number"), fields.remove("expiry"), fields.remove("pin")];
    let asked = match card {
        [None, None, None] => Asked::Outcome(claim),
        card => match card_of(card) {
            Ok((card_number, expiry, pin)) => Asked::Payment(Payment { transaction: claim, card_number, expiry, pin }),
            Err(wrong) => Asked::Wrong(claim, wrong),
        },
    };
    Ok(Posted { language, asked })
}

fn card_of([number, expiry, pin]: [Option<Secret<String>>; 3]) -> Result<(CardNumber, Expiry, Option<Pin>), Wrong> {
    let number = CardNumber::parse(&number.ok_or(Wrong::NumberLength)?).map_err(|error| match error {
        CardError::CheckDigit => Wrong::NumberMistyped,
        _ => Wrong::NumberLength,
    })?;
    let expiry = expiry.as_ref().map_or(Err(CardError::Expiry), |text| Expiry::parse(text.expose()));
    let pin = pin.filter(|pin| !pin.expose().is_empty()).map(Pin::parse).transpose();
    Ok((number, expiry.map_err(|_| Wrong::Expiry)?, pin.map_err(|_| Wrong::Pin)?))
}

fn fields(body: &[u8]) -> Result<BTreeMap<&'static str, Secret<String>>, BodyError> {
    let mut found = BTreeMap::new();
    for (at, pair) in body.split(|byte| *byte == b'&').enumerate().filter(|(_, pair)| !pair.is_empty()) {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = pair.split_at(equals.unwrap_or(pair.len()));
        let name = FIELDS.into_iter().find(|known| known.as_bytes() == name);
        let name = name.ok_or_else(|| BodyError::Form(format!("field {} of the form is not known", at + 1)))?;
        let value = decode(value.get(1..).unwrap_or_default())
            .ok_or_else(|| BodyError::Form(format!("the field {name} is not form-urlencoded UTF-8")))?;
        if found.insert(name, value).is_some() {
            return Err(BodyError::Form(format!("the field {name} is there twice")));
        }
    }
    Ok(found)
}

/// `+` is a space, `%41` an A. The room is made once: nothing is left behind where it grew.
fn decode(text: &[u8]) -> Option<Secret<String>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut good = true;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => match after.split_at_checked(2) {
                Some((&[high, low], after)) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    rest = after;
                    digit(high) << 4 | digit(low)
                }
                _ => {
                    good = false;
                    break;
                }
            },
            byte => *byte,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(Secret::new(text)).filter(|_| good),
        Err(error) => {
            error.into_bytes().zeroize();
            None
        }
    }
}

const fn digit(hex: u8) -> u8 {
    match hex {
        b'0'..=b'9' => hex - b'0',
        _ => (hex | 0x20) - b'a' + 10,
    }
}

/// `text` inside of HTML, in an element or an attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CARD: &str =
        "vendor=shop&transaction_id=o-1&password=pw&lang=de&card_number=4111+1111-1111%201111&expiry=12%2F30&pin=";

    #[test]
    fn a_form_with_a_card_is_a_payment_and_one_without_asks_for_the_outcome() {
        let posted = read(CARD.as_bytes()).unwrap();
        let Asked::Payment(payment) = posted.asked else { panic!("{posted:?}") };
        assert_eq!(payment.card_number.expose_digits(), "4111111111111111");
        assert_eq!((payment.expiry.yymm().as_str(), payment.pin), ("3012", None));
        assert_eq!((payment.transaction.password.expose().as_str(), posted.language), ("pw", Language::De));
        let posted = read(b"vendor=shop&transaction_id=o-1&password=p%C3%A9").unwrap();
        let Asked::Outcome(claim) = posted.asked else { panic!("{posted:?}") };
        assert_eq!((claim.password.expose().as_str(), posted.language), ("pé", Language::En));
    }

    #[test]
    fn what_is_wrong_about_a_card_is_told_by_its_field() {
        for (from, to, wrong) in [
            ("4111+1111-1111%201111", "", Wrong::NumberLength),
            ("4111+1111-1111%201111", "4111", Wrong::NumberLength),
            ("4111+1111-1111%201111", "4111111111111112", Wrong::NumberMistyped),
            ("12%2F30", "1230", Wrong::Expiry),
            ("&expiry=12%2F30", "", Wrong::Expiry),
            ("pin=", "pin=12", Wrong::Pin),
        ] {
            let posted = read(CARD.replace(from, to).as_bytes()).unwrap();
            let Asked::Wrong(_, found) = posted.asked else { panic!("{to}: {posted:?}") };
            assert_eq!(found, wrong, "{to}");
            assert!(!found.text(Language::Fr.words()).is_empty() && FIELDS.contains(&found.field()));
        }
    }

    #[test]
    fn what_is_no_such_form_is_refused_and_not_quoted() {
        for (from, to, says) in [
            ("vendor=shop", "vendor=4111111111111111%2F", "vendor has a value"),
            ("&password=pw", "", "password is missing"),
            ("&password=pw", "&password=pw&password=pw", "password is there twice"),
            ("&password=pw", "&4111111111111111=pw", "field 3 of the form"),
            ("&password=pw", "&password=pw&4111111111111111", "field 4 of the form"),
            ("pw", "%4", "password is not form-urlencoded"),
            ("pw", "%+1", "password is not form-urlencoded"),
            ("pw", "%ff", "password is not form-urlencoded"),
        ] {
            let error = read(CARD.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("4111"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_a_browser_encodes_is_read_again(password in "\\PC{0,40}", pin in "[0-9]{4,12}") {
            let encoded: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let body = CARD.replace("pw", &encoded).replace("pin=", &format!("pin={pin}"));
            let Asked::Payment(payment) = read(body.as_bytes()).unwrap().asked else { panic!() };
            prop_assert_eq!(payment.transaction.password.expose(), &password);
            let read = payment.pin.unwrap();
            prop_assert_eq!(read.expose_digits(), pin);
        }

        #[test]
        fn any_bytes_are_a_form_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
        }

        #[test]
        fn escaped_text_has_no_markup(text in "\\PC*") {
            prop_assert!(!escape(&text).contains(['<', '>', '"', '\'']));
        }
    }
}
