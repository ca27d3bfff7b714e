//! Card numbers and expiry dates: checked on the way in, wiped on the way out, never printed.

use std::fmt;

use cloakway_crypto::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a card number. Says nothing of the digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Something other than digits, spaces and hyphens.
    #[error("card number: only digits, spaces and hyphens are allowed, position {at} has something else")]
    Character {
        /// The position, counted in characters from 0.
        at: usize,
    },
    /// ISO/IEC 7812-1 numbers have 12 to 19 digits here.
    #[error("card number: {digits} digits given, 12 to 19 are needed")]
    Length {
        /// Digits given.
        digits: usize,
    },
    /// The check digit of ISO/IEC 7812-1 annex B does not fit.
    #[error("card number: the check digit does not fit: look for a mistyped digit")]
    CheckDigit,
    /// Not 4 to 12 digits (ISO 9564-1).
    #[error("PIN: 4 to 12 digits are needed")]
    Pin,
    /// Not a month and a year.
    #[error("expiry: give month and year as MM/YY, such as 09/29")]
    Expiry,
}

/// A primary account number. `Debug` prints `[card]`; the digits are wiped on drop. They lie on the heap, in room that
/// never grows, so that neither a longer string nor a value that was moved leaves a copy behind.
#[derive(Clone, PartialEq, Eq)]
pub struct CardNumber(Secret<String>);

/// The longest number (ISO/IEC 7812-1).
const MOST_DIGITS: usize = 19;

impl CardNumber {
    /// Reads a number as a person writes it: digits, with spaces or hyphens between them.
    ///
    /// # Errors
    /// [`CardError`], for a character, the length or the check digit.
    pub fn parse(text: &Secret<String>) -> Result<Self, CardError> {
        let mut digits = Zeroizing(String::with_capacity(MOST_DIGITS));
        let mut count = 0;
        for (at, character) in text.expose().chars().enumerate() {
            match character {
                ' ' | '-' => {}
                '0'..='9' => {
                    if count < MOST_DIGITS {
                        digits.0.push(character);
                    }
                    count += 1;
                }
                _ => return Err(CardError::Character { at }),
            }
        }
        if !(12..=19).contains(&count) {
            return Err(CardError::Length { digits: count });
        }
        if !luhn(digits.0.as_bytes()) {
            return Err(CardError::CheckDigit);
        }
        Ok(Self(Secret::new(std::mem::take(&mut digits.0))))
    }

    /// The digits, for the message to the financial institution (ISO 8583 field 2).
    #[must_use]
    pub fn expose_digits(&self) -> &str {
        self.0.expose()
    }

    /// The last four digits: all that is ever stored or shown.
    #[must_use]
    pub fn last_four(&self) -> String {
        let digits = self.expose_digits();
        digits.get(digits.len().saturating_sub(4)..).unwrap_or_default().to_owned()
    }
}

/// Wipes what was read of a number that turns out to be none.
struct Zeroizing(String);

impl Drop for Zeroizing {
    fn drop(&mut self) {
        cloakway_crypto::Zeroize::zeroize(&mut self.0);
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let value = u32::from(digit.wrapping_sub(b'0'));
            match (at % 2, value * 2) {
                (0, _) => value,
                (_, doubled) if doubled > 9 => doubled - 9,
                (_, doubled) => doubled,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

impl fmt::Debug for CardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[card]")
    }
}

impl<'de> Deserialize<'de> for CardNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::<String>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Written out by the payer alone, to the private network address alone.
impl Serialize for CardNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose_digits())
    }
}

/// The number that a debit card's holder knows (ISO 9564-1). `Debug` prints `[PIN]`; it is wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(Secret<String>);

impl Pin {
    /// Reads 4 to 12 digits.
    ///
    /// # Errors
    /// [`CardError::Pin`].
    pub fn parse(text: Secret<String>) -> Result<Self, CardError> {
        let digits = text.expose();
        let fits = (4..=12).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
        if fits { Ok(Self(text)) } else { Err(CardError::Pin) }
    }

    /// The digits, for the one place that makes a PIN block of them (ISO 8583 field 52).
    #[must_use]
    pub fn expose_digits(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[PIN]")
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Secret::<String>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Written out by the payer alone, to the private network address alone.
impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose_digits())
    }
}

/// The month up to whose end a card is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    year: u8,
    month: u8,
}

impl Expiry {
    /// Reads `MM/YY`.
    ///
    /// # Errors
    /// [`CardError::Expiry`].
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let two = |text: &str| {
            (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
        };
        let (month, year) = text.trim().split_once('/').ok_or(CardError::Expiry)?;
        match (two(month), two(year)) {
            (Some(month @ 1..=12), Some(year)) => Ok(Self { year, month }),
            _ => Err(CardError::Expiry),
        }
    }

    /// `YYMM`, as ISO 8583 field 14 wants it.
    #[must_use]
    pub fn yymm(self) -> String {
        format!("{:02}{:02}", self.year, self.month)
    }

    /// Whether the card is past its month, in the given civil year and month. Years are read as 2000 to 2099.
    #[must_use]
    pub fn is_past(self, year: i16, month: u8) -> bool {
        (2000 + i16::from(self.year), self.month) < (year, month)
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[expiry]")
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::<String>::deserialize(deserializer)?;
        Self::parse(text.expose()).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Expiry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:02}/{:02}", self.month, self.year))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<CardNumber, CardError> {
        CardNumber::parse(&Secret::from(text))
    }

    #[test]
    fn a_number_is_read_as_people_write_it_and_prints_nothing() {
        let card = parse("4111 1111-1111 1111").unwrap();
        assert_eq!(card.expose_digits(), "4111111111111111");
        assert_eq!(card.last_four(), "1111");
        assert_eq!(format!("{card:?}"), "[card]");
    }

    #[test]
    fn every_refusal_has_its_reason_and_no_digits() {
        assert_eq!(parse("4111111111111112"), Err(CardError::CheckDigit));
        assert_eq!(parse("41111111111"), Err(CardError::Length { digits: 11 }));
        assert_eq!(parse("41111111111111111111"), Err(CardError::Length { digits: 20 }));
        assert_eq!(parse("4111x"), Err(CardError::Character { at: 4 }));
        assert!(!parse("4111111111111112").unwrap_err().to_string().contains("4111"));
        let json = serde_json::from_str::<CardNumber>("\"4111111111111112\"").unwrap_err().to_string();
        assert!(json.contains("check digit") && !json.contains("4111"), "{json}");
        let kind = serde_json::from_str::<Expiry>("\"13/29\"").unwrap_err().to_string();
        assert!(kind.contains("MM/YY"), "{kind}");
    }

    #[test]
    fn a_card_is_good_to_the_end_of_its_month() {
        let expiry = Expiry::parse("11/26").unwrap();
        assert!(!expiry.is_past(2026, 11));
        assert!(expiry.is_past(2026, 12));
        assert_eq!(expiry.yymm(), "2611");
        assert_eq!(Expiry::parse("1/26"), Err(CardError::Expiry));
        assert_eq!(Expiry::parse("00/26"), Err(CardError::Expiry));
        assert_eq!(Expiry::parse("+1/26"), Err(CardError::Expiry));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (parse(&text), Expiry::parse(&text));
        }

        #[test]
        fn exactly_one_check_digit_fits(stem in "[0-9]{11,18}") {
            prop_assert_eq!((0..10).filter(|d| parse(&format!("{stem}{d}")).is_ok()).count(), 1);
        }
    }
}
