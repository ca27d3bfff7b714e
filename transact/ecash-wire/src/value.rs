//! Base types of the protocol, each with the one wire form that it has.

use std::fmt;

use cloakway_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A value with a wire form. What is read back from [`Value::write`] is the same value.
pub trait Value: Sized {
    /// From the text of a field, folding undone.
    ///
    /// # Errors
    /// What would be right.
    fn read(text: &str) -> Result<Self, &'static str>;

    /// The canonical text.
    fn write(&self) -> String;
}

/// A currency: a lower-case code of ISO 4217 with a minor unit, or `xts`, the code reserved for tests, taken with two
/// decimals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
    exponent: u8,
}

impl Currency {
    /// The currency for tests.
    pub const TEST: Self = Self { code: *b"xts", exponent: 2 };

    /// The code.
    #[must_use]
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or_default()
    }

    /// Decimal digits of the minor unit.
    #[must_use]
    pub const fn exponent(self) -> u32 {
        self.exponent as u32
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Value for Currency {
    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "a lower-case ISO 4217 code such as usd";
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| WRONG)?;
        if !code.iter().all(u8::is_ascii_lowercase) {
            return Err(WRONG);
        }
        if code == Self::TEST.code {
            return Ok(Self::TEST);
        }
        let known: cloakway_types::Currency = text.to_ascii_uppercase().parse().map_err(|_| WRONG)?;
        Ok(Self { code, exponent: u8::try_from(known.exponent()).map_err(|_| WRONG)? })
    }

    fn write(&self) -> String {
        self.code().to_owned()
    }
}

/// The largest amount either way, in minor units.
pub const LARGEST: i64 = 1_000_000_000_000_000;

/// Money of one currency in minor units, -10^15 to 10^15.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Money {
    currency: Currency,
    minor: i64,
}

impl Money {
    /// `minor` minor units of `currency`; `None` beyond [`LARGEST`].
    #[must_use]
    pub const fn new(currency: Currency, minor: i64) -> Option<Self> {
        if minor > LARGEST || minor < -LARGEST { None } else { Some(Self { currency, minor }) }
    }

    /// Nothing of `currency`.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self { currency, minor: 0 }
    }

    /// Minor units.
    #[must_use]
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    #[must_use]
    pub const fn currency(self) -> Currency {
        self.currency
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "a currency, one space, and digits with all decimals of the currency, such as usd 42.50";
        let (code, digits) = text.split_once(' ').ok_or(WRONG)?;
        let currency = Currency::read(code)?;
        let (negative, digits) = match digits.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, digits),
        };
        let (whole, fraction) = match currency.exponent() {
            0 => (digits, ""),
            _ => digits.split_once('.').ok_or(WRONG)?,
        };
        let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty()
            || leading_zero
            || whole.len() > 16
            || fraction.len() != currency.exponent() as usize
            || !numeric(whole)
            || !numeric(fraction)
        {
            return Err(WRONG);
        }
        let minor = whole
            .bytes()
            .chain(fraction.bytes())
            .try_fold(0_i64, |sum, byte| sum.checked_mul(10)?.checked_add(i64::from(byte - b'0')));
        let minor = minor.filter(|minor| *minor <= LARGEST).ok_or("at most 10^15 minor units")?;
        if negative && minor == 0 {
            return Err(WRONG);
        }
        Ok(Self { currency, minor: if negative { -minor } else { minor } })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minor < 0 { "-" } else { "" };
        let exponent = self.currency.exponent();
        let unit = 10_u64.pow(exponent);
        let minor = self.minor.unsigned_abs();
        write!(f, "{} {sign}{}", self.currency, minor / unit)?;
        match exponent {
            0 => Ok(()),
            width => write!(f, ".{:0width$}", minor % unit, width = width as usize),
        }
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Money {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::parse(&text)
    }
}

impl From<Money> for String {
    fn from(money: Money) -> String {
        money.to_string()
    }
}

/// An amount, zero or more.
impl Value for Money {
    fn read(text: &str) -> Result<Self, &'static str> {
        match Self::parse(text)? {
            money if money.minor < 0 => Err("an amount that is not negative"),
            money => Ok(money),
        }
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// An amount of either sign: positive loads, negative unloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed(pub Money);

impl Value for Signed {
    fn read(text: &str) -> Result<Self, &'static str> {
        Money::parse(text).map(Self)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// Amounts of different currencies, separated by `;`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts(pub Vec<Money>);

impl Value for Amounts {
    fn read(text: &str) -> Result<Self, &'static str> {
        let amounts = text.split(';').map(Money::read).collect::<Result<Vec<_>, _>>()?;
        let mut currencies: Vec<Currency> = amounts.iter().map(|amount| amount.currency()).collect();
        currencies.sort_unstable();
        if currencies.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err("each currency once");
        }
        Ok(Self(amounts))
    }

    fn write(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(";")
    }
}

/// A point in time: 17 digits, UTC.
impl Value for Timestamp {
    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "17 digits of a date that there is: YYYYMMDDhhmmssSSS";
        if text.len() != 17 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(WRONG);
        }
        let part = |from: usize, to: usize| text.get(from..to).and_then(|part| part.parse::<i64>().ok());
        let parts = (part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14), part(14, 17));
        let (Some(year), Some(month), Some(day), Some(hour), Some(minute), Some(second), Some(milli)) = parts else {
            return Err(WRONG);
        };
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return Err(WRONG),
        };
        if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return Err(WRONG);
        }
        let seconds = ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
        u64::try_from(seconds * 1000 + milli).map(Self::from_millis).map_err(|_| WRONG)
    }

    fn write(&self) -> String {
        // What is beyond the last date that has 17 digits is written as that date.
        let millis = self.as_millis().min(LAST_DATE);
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = date(i64::try_from(days).unwrap_or(0));
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}{:03}", millis % 1000)
    }
}

/// The last millisecond of the year 9999.
const LAST_DATE: u64 = 253_402_300_799_999;

/// Undoes [`days_since_epoch`].
const fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + if month <= 2 { 1 } else { 0 }, month, day)
}

/// Days from 1970-01-01 in the Gregorian calendar; years count from March, so that the leap day is the last.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn check_digits(base: &str) -> Option<u64> {
    let mut rest = 0;
    for byte in base.bytes() {
        rest = match byte {
            b'0'..=b'9' => (rest * 10 + u64::from(byte - b'0')) % 97,
            b'a'..=b'z' => (rest * 100 + u64::from(byte - b'a') + 10) % 97,
            _ => return None,
        };
    }
    Some(98 - rest * 100 % 97)
}

/// What a client asks to be called: the base of a [`PersonaId`], folded to lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PersonaBase(String);

impl PersonaBase {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// With its check digits.
    #[must_use]
    pub fn with_check_digits(&self) -> PersonaId {
        PersonaId(format!("{}-{:02}", self.0, check_digits(&self.0).unwrap_or_default()))
    }
}

impl Value for PersonaBase {
    fn read(text: &str) -> Result<Self, &'static str> {
        let folded = text.to_ascii_lowercase();
        let first = folded.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        let rest = folded.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if first && rest && (3..=30).contains(&folded.len()) {
            Ok(Self(folded))
        } else {
            Err("3 to 30 letters and digits, a letter first")
        }
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

/// The identity of a client: a base, a hyphen and two check digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PersonaId(String);

impl PersonaId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PersonaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PersonaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for PersonaId {
    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "a persona id with right check digits, such as dora-64";
        let (base, _) = text.rsplit_once('-').ok_or(WRONG)?;
        let whole = PersonaBase::read(base).map_err(|_| WRONG)?.with_check_digits();
        if whole.0 == text.to_ascii_lowercase() { Ok(whole) } else { Err(WRONG) }
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

/// The number of a session, unique for ever. Not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl Value for SessionId {
    fn read(text: &str) -> Result<Self, &'static str> {
        let bytes = Bytes::read(text)?.0.try_into().map_err(|_| "8 bytes in base64")?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }

    fn write(&self) -> String {
        cloakway_crypto::encode::base64(&self.0.to_be_bytes())
    }
}

/// Binary in canonical base64; white space from folding is passed over.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(#[serde(with = "as_base64")] pub Vec<u8>);

/// Bytes as base64 in what is stored.
pub mod as_base64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes base64.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&cloakway_crypto::encode::base64(bytes))
    }

    /// Reads base64.
    ///
    /// # Errors
    /// For what is not base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        cloakway_crypto::encode::unbase64(&text).ok_or_else(|| D::Error::custom("base64 is needed here"))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Value for Bytes {
    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "padded, canonical base64";
        let white = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let decoded = if text.bytes().any(white) {
            let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            cloakway_crypto::encode::unbase64(&compact)
        } else {
            cloakway_crypto::encode::unbase64(text)
        };
        decoded.filter(|bytes| !bytes.is_empty()).map(Self).ok_or(WRONG)
    }

    fn write(&self) -> String {
        cloakway_crypto::encode::base64(&self.0)
    }
}

/// The order that an offer is for, chosen by the payee.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(String);

impl OrderId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for OrderId {
    fn read(text: &str) -> Result<Self, &'static str> {
        let right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(right) {
            Ok(Self(text.to_owned()))
        } else {
            Err("1 to 64 letters, digits, dots, underscores and hyphens")
        }
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

/// A decimal number without sign or leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if canonical && digits { text.parse().ok() } else { None }
}

/// A number that a client chose for a request, never used again by it.
impl Value for u64 {
    fn read(text: &str) -> Result<Self, &'static str> {
        decimal(text).ok_or("a decimal number of at most 64 bits without leading zeros")
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// A number of uses, or which use: 1 to 65535. Zero is read, so that it can be answered with a code of its own.
impl Value for u16 {
    fn read(text: &str) -> Result<Self, &'static str> {
        decimal(text).and_then(|number| number.try_into().ok()).ok_or("a decimal number up to 65535")
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// A version.
impl Value for u8 {
    fn read(text: &str) -> Result<Self, &'static str> {
        decimal(text).and_then(|number| number.try_into().ok()).ok_or("a decimal number up to 255")
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// How long a session may live, in minutes, 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Minutes(pub u16);

impl Minutes {
    /// The longest.
    pub const MOST: Self = Self(9999);

    /// As a span of time.
    #[must_use]
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0 as u64 * 60)
    }
}

impl Value for Minutes {
    fn read(text: &str) -> Result<Self, &'static str> {
        let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(minutes) if digits && minutes > 0 => Ok(Self(minutes)),
            _ => Err("1 to 9999 minutes, written with four digits"),
        }
    }

    fn write(&self) -> String {
        format!("{:04}", self.0)
    }
}

impl Value for bool {
    fn read(text: &str) -> Result<Self, &'static str> {
        match text {
            _ if text.eq_ignore_ascii_case("yes") => Ok(true),
            _ if text.eq_ignore_ascii_case("no") => Ok(false),
            _ => Err("yes or no"),
        }
    }

    fn write(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

/// What an instrument may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Functions {
    /// To pay with directly.
    pub charge: bool,
    /// To be paid back to.
    pub credit: bool,
    /// To bring money in.
    pub load: bool,
    /// To take money out.
    pub unload: bool,
}

impl Functions {
    /// What both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            charge: self.charge && other.charge,
            credit: self.credit && other.credit,
            load: self.load && other.load,
            unload: self.unload && other.unload,
        }
    }
}

impl Value for Functions {
    fn read(text: &str) -> Result<Self, &'static str> {
        let mut functions = Self::default();
        for word in text.split(',') {
            let flag = match word {
                "charge" | "sale" => &mut functions.charge,
                "credit" => &mut functions.credit,
                "load" => &mut functions.load,
                "unload" => &mut functions.unload,
                _ => return Err("some of charge, credit, load, unload, separated by commas"),
            };
            if std::mem::replace(flag, true) {
                return Err("each function once");
            }
        }
        Ok(functions)
    }

    fn write(&self) -> String {
        let words = [(self.charge, "charge"), (self.credit, "credit"), (self.load, "load"), (self.unload, "unload")];
        words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect::<Vec<_>>().join(",")
    }
}

/// What an exchange of currencies goes by: minor units of each target per 100 major units of the session's currency.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rates(pub Vec<(Currency, u64)>);

impl Value for Rates {
    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "pairs of a currency and a number above zero, such as cad 13580 jpy 15120";
        let words: Vec<&str> = text.split(' ').collect();
        let (pairs, rest) = words.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(WRONG);
        }
        let mut rates = Vec::with_capacity(pairs.len());
        for [code, number] in pairs {
            let currency = Currency::read(code)?;
            let number = decimal(number).filter(|number| *number > 0).ok_or(WRONG)?;
            if rates.iter().any(|(known, _)| *known == currency) {
                return Err("each currency once");
            }
            rates.push((currency, number));
        }
        Ok(Self(rates))
    }

    fn write(&self) -> String {
        self.0.iter().map(|(currency, number)| format!("{currency} {number}")).collect::<Vec<_>>().join(" ")
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Text for people, up to 4096 bytes.
impl Value for String {
    fn read(text: &str) -> Result<Self, &'static str> {
        if (1..=4096).contains(&text.len()) { Ok(text.to_owned()) } else { Err("1 to 4096 bytes of text") }
    }

    fn write(&self) -> String {
        self.clone()
    }
}

/// Text of up to `MOST` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Short<const MOST: usize>(pub String);

impl<const MOST: usize> Value for Short<MOST> {
    fn read(text: &str) -> Result<Self, &'static str> {
        if (1..=MOST).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err("text that is not so long") }
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

/// What closes a persona without its private key: 6 to 50 characters. Wiped on drop, printed as nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Passphrase(pub cloakway_crypto::Secret<String>);

impl Value for Passphrase {
    fn read(text: &str) -> Result<Self, &'static str> {
        if (6..=50).contains(&text.chars().count()) {
            Ok(Self(text.into()))
        } else {
            Err("a passphrase of 6 to 50 characters")
        }
    }

    fn write(&self) -> String {
        self.0.expose().clone()
    }
}

/// An instrument's number: 4 to 34 digits and capital letters. Wiped on drop, printed as nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstrumentNumber(pub cloakway_crypto::Secret<String>);

impl Value for InstrumentNumber {
    fn read(text: &str) -> Result<Self, &'static str> {
        let right = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        if (4..=34).contains(&text.len()) && text.bytes().all(right) {
            Ok(Self(text.into()))
        } else {
            Err("4 to 34 digits and capital letters")
        }
    }

    fn write(&self) -> String {
        self.0.expose().clone()
    }
}

/// Legal texts that were accepted, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Agreements(pub std::collections::BTreeSet<u32>);

impl Value for Agreements {
    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "numbers, each once, separated by commas";
        let mut numbers = std::collections::BTreeSet::new();
        for word in text.split(',') {
            let number = decimal(word).and_then(|number| u32::try_from(number).ok()).ok_or(WRONG)?;
            if !numbers.insert(number) {
                return Err(WRONG);
            }
        }
        Ok(Self(numbers))
    }

    fn write(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}
