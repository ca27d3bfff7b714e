//! Amounts in whole minor units of an ISO 4217 currency.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text or a pair of values is not money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not an ISO 4217 alphabetic code.
    #[error("{0:?} is not an ISO 4217 currency: give three capital letters such as EUR")]
    UnknownCurrency(String),
    /// A currency without minor units (gold, test codes): nothing can be charged in it.
    #[error("{0} has no minor unit in ISO 4217: it cannot be charged")]
    NoMinorUnit(String),
    /// Zero is not an amount that can be charged.
    #[error("the amount is 0: a purchase needs at least 1 minor unit")]
    Zero,
    /// ISO 8583 field 4 holds twelve digits.
    #[error("the amount {0} has more than twelve digits, the most that ISO 8583 field 4 carries")]
    TooLarge(u64),
}

/// A currency of ISO 4217 that has minor units.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The three-letter code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// The three-digit code, as ISO 8583 field 49 wants it.
    #[must_use]
    pub fn numeric(self) -> u16 {
        self.0.numeric()
    }

    /// How many decimal digits the minor unit stands for: 2 for EUR, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u32 {
        u32::from(self.0.exponent().unwrap_or(0))
    }

    /// The currency with this ISO 4217 numeric code.
    ///
    /// # Errors
    /// [`MoneyError::UnknownCurrency`] or [`MoneyError::NoMinorUnit`].
    pub fn from_numeric(numeric: u16) -> Result<Self, MoneyError> {
        let found = iso_currency::Currency::from_numeric(numeric)
            .ok_or_else(|| MoneyError::UnknownCurrency(format!("{numeric:03}")))?;
        Self::with_minor_unit(found)
    }

    fn with_minor_unit(found: iso_currency::Currency) -> Result<Self, MoneyError> {
        match found.exponent() {
            Some(_) => Ok(Self(found)),
            None => Err(MoneyError::NoMinorUnit(found.code().to_owned())),
        }
    }
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let found = iso_currency::Currency::from_code(text)
            .ok_or_else(|| MoneyError::UnknownCurrency(text.chars().take(8).collect()))?;
        Self::with_minor_unit(found)
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount to charge: 1 to 999 999 999 999 minor units of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawMoney", into = "RawMoney")]
pub struct Money {
    minor: u64,
    currency: Currency,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMoney {
    minor: u64,
    currency: Currency,
}

impl Money {
    /// `minor` minor units of `currency`.
    ///
    /// # Errors
    /// [`MoneyError::Zero`] and [`MoneyError::TooLarge`].
    pub fn new(minor: u64, currency: Currency) -> Result<Self, MoneyError> {
        match minor {
            0 => Err(MoneyError::Zero),
            1..=999_999_999_999 => Ok(Self { minor, currency }),
            _ => Err(MoneyError::TooLarge(minor)),
        }
    }

    /// Whole minor units: cents for EUR.
    #[must_use]
    pub fn minor(self) -> u64 {
        self.minor
    }

    /// The currency.
    #[must_use]
    pub fn currency(self) -> Currency {
        self.currency
    }
}

impl TryFrom<RawMoney> for Money {
    type Error = MoneyError;
    fn try_from(raw: RawMoney) -> Result<Self, MoneyError> {
        Self::new(raw.minor, raw.currency)
    }
}

impl From<Money> for RawMoney {
    fn from(money: Money) -> RawMoney {
        RawMoney { minor: money.minor, currency: money.currency }
    }
}

/// `12.34 EUR`, with as many decimals as the currency has.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = self.currency.exponent();
        let unit = 10_u64.pow(exponent);
        if exponent == 0 {
            return write!(f, "{} {}", self.minor, self.currency);
        }
        let width = exponent as usize;
        write!(f, "{}.{:0width$} {}", self.minor / unit, self.minor % unit, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(minor: u64, code: &str) -> Money {
        Money::new(minor, code.parse().unwrap()).unwrap()
    }

    #[test]
    fn minor_units_follow_the_currency() {
        assert_eq!(money(1234, "EUR").to_string(), "12.34 EUR");
        assert_eq!(money(5, "EUR").to_string(), "0.05 EUR");
        assert_eq!(money(500, "JPY").to_string(), "500 JPY");
        assert_eq!(money(1001, "KWD").to_string(), "1.001 KWD");
    }

    #[test]
    fn zero_thirteen_digits_and_unknown_currencies_are_refused() {
        let eur: Currency = "EUR".parse().unwrap();
        assert_eq!(Money::new(0, eur), Err(MoneyError::Zero));
        assert!(Money::new(999_999_999_999, eur).is_ok());
        assert_eq!(Money::new(1_000_000_000_000, eur), Err(MoneyError::TooLarge(1_000_000_000_000)));
        assert!("eur".parse::<Currency>().is_err());
        assert_eq!("XAU".parse::<Currency>(), Err(MoneyError::NoMinorUnit("XAU".into())));
    }

    #[test]
    fn numeric_codes_go_both_ways() {
        let eur: Currency = "EUR".parse().unwrap();
        assert_eq!(eur.numeric(), 978);
        assert_eq!(Currency::from_numeric(978), Ok(eur));
    }

    #[test]
    fn json_refuses_unknown_keys_and_bad_amounts() {
        assert!(serde_json::from_str::<Money>(r#"{"minor":1,"currency":"EUR"}"#).is_ok());
        assert!(serde_json::from_str::<Money>(r#"{"minor":1,"currency":"EUR","x":1}"#).is_err());
        assert!(serde_json::from_str::<Money>(r#"{"minor":0,"currency":"EUR"}"#).is_err());
        assert!(serde_json::from_str::<Money>(r#"{"minor":1.5,"currency":"EUR"}"#).is_err());
    }
}
