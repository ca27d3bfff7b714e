//! What payers read, in every language that pages have: one table for the payer page, for the answers of the private
//! side, and for programs (A11).

mod table;

use std::fmt::{self, Write as _};
use std::str::FromStr;

use cloakway_types::Money;
use serde::{Deserialize, Serialize};

pub use table::Words;

use crate::payment::PaymentState;

/// A language that pages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English, and where nothing else is asked for.
    #[default]
    En,
    /// German.
    De,
    /// French.
    Fr,
    /// Spanish.
    Es,
}

/// The tag is of a language that pages do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a language that pages have: en, de, fr or es")]
pub struct UnknownLanguage;

impl FromStr for Language {
    type Err = UnknownLanguage;

    /// Reads a language tag (RFC 5646) by its primary subtag: `de-AT` is `de`.
    fn from_str(tag: &str) -> Result<Self, UnknownLanguage> {
        let primary = tag.split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|language| language.tag().eq_ignore_ascii_case(primary)).ok_or(UnknownLanguage)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())
    }
}

/// Preferences of an `Accept-Language` that are looked at.
const PREFERENCES: usize = 32;

impl Language {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Self; 4] = [Self::En, Self::De, Self::Fr, Self::Es];

    /// Its tag (RFC 5646).
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::De => "de",
            Self::Fr => "fr",
            Self::Es => "es",
        }
    }

    /// What it calls itself.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::De => "Deutsch",
            Self::Fr => "Français",
            Self::Es => "Español",
        }
    }

    /// What an `Accept-Language` (RFC 9110 §12.5.4) likes best of what there is; English if nothing.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
        let mut best = (0, Self::default());
        for part in header.split(',').take(PREFERENCES) {
            let (tag, parameters) = part.split_once(';').unwrap_or((part, ""));
            let weight = parameters.trim().strip_prefix("q=").map_or(Some(1000), thousandths).unwrap_or(0);
            let found = match tag.trim() {
                "*" => Some(Self::default()),
                tag => tag.parse().ok(),
            };
            // Of two that are liked alike the first one counts.
            if let Some(language) = found.filter(|_| weight > best.0) {
                best = (weight, language);
            }
        }
        best.1
    }

    /// Its words.
    #[must_use]
    pub const fn words(self) -> &'static Words {
        match self {
            Self::En => &table::EN,
            Self::De => &table::DE,
            Self::Fr => &table::FR,
            Self::Es => &table::ES,
        }
    }

    /// An amount as it is written in this language, with as many decimals as its currency has (ISO 4217): `1,234.50 EUR`
    /// and `1.234,50 EUR`.
    #[must_use]
    pub fn amount(self, money: Money) -> String {
        let (decimal, group, smallest_grouped) = match self {
            Self::En => ('.', ',', 4),
            Self::De => (',', '.', 4),
            // A narrow space that does not break.
            Self::Fr => (',', '\u{202f}', 4),
            // Four digits stay together in Spanish.
            Self::Es => (',', '.', 5),
        };
        let exponent = money.currency().exponent();
        let unit = 10_u64.pow(exponent);
        let whole = (money.minor() / unit).to_string();
        let mut text = String::new();
        for (at, digit) in whole.chars().enumerate() {
            if at > 0 && (whole.len() - at).is_multiple_of(3) && whole.len() >= smallest_grouped {
                text.push(group);
            }
            text.push(digit);
        }
        if exponent > 0 {
            let width = exponent as usize;
            let _ = write!(text, "{decimal}{:0width$}", money.minor() % unit);
        }
        // The amount and its currency are not parted by the end of a line.
        let _ = write!(text, "\u{a0}{}", money.currency());
        text
    }
}

/// A weight (RFC 9110 §12.4.2), `0.8`, in thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let fits = part.len() <= 3 && part.bytes().all(|digit| digit.is_ascii_digit());
    let part: u16 = format!("{part:0<3}").parse().ok().filter(|_| fits)?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

impl Words {
    /// Where a transaction stands.
    #[must_use]
    pub const fn state(&self, state: PaymentState) -> &'static str {
        match state {
            PaymentState::Open => self.open,
            PaymentState::Authorising => self.authorising,
            PaymentState::Approved => self.approved,
            PaymentState::Declined => self.declined,
            PaymentState::Reversing => self.reversing,
            PaymentState::Reversed => self.reversed,
            PaymentState::Expired => self.expired,
            PaymentState::Locked => self.locked,
            PaymentState::Cancelled => self.cancelled,
        }
    }

    /// The words for the code of a refusal.
    #[must_use]
    pub fn refusal(&self, code: &str) -> &'static str {
        match code {
            "no_match" => self.no_match,
            "card_expired" => self.card_expired,
            "card_not_taken" => self.card_not_taken,
            "pin_not_taken" => self.pin_not_taken,
            "bank_unreachable" => self.bank_unreachable,
            "invalid_card" => self.invalid_card,
            _ => self.unavailable,
        }
    }
}

/// `text` with `{name}` of each pair replaced by its value.
#[must_use]
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = text;
    // In one pass: what is filled in is not looked through again.
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let value = after.split_once('}').and_then(|(name, after)| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value, after))
        });
        match value {
            Some((value, after)) => {
                filled.push_str(value);
                rest = after;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn places(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).collect()
    }

    #[test]
    fn every_language_has_every_text_with_the_same_places_and_in_its_own_words() {
        let english = table::EN.texts();
        for language in Language::ALL {
            let texts = language.words().texts();
            assert_eq!(texts.len(), english.len(), "{language}");
            for ((name, text), (known, original)) in texts.iter().zip(&english) {
                assert_eq!(name, known);
                assert!(!text.trim().is_empty(), "{language}: {name}");
                assert_eq!(places(text), places(original), "{language}: {name}");
                assert!(language == Language::En || text != original, "{language}: {name} is English");
            }
        }
    }

    #[test]
    fn what_a_browser_accepts_decides_and_the_best_liked_counts() {
        for (header, language) in [
            ("", Language::En),
            ("de", Language::De),
            ("de-CH,de;q=0.9,en;q=0.8", Language::De),
            ("nl,fr;q=0.5,es;q=0.7", Language::Es),
            ("nl, FR-ca ;q=0.5", Language::Fr),
            ("*", Language::En),
            ("de;q=0, *;q=0.1", Language::En),
            ("nl", Language::En),
            ("de;q=2,fr;q=0.001", Language::Fr),
            ("de;q=x,es;q=1.000", Language::Es),
            ("es,de", Language::Es),
        ] {
            assert_eq!(Language::accepted(header), language, "{header}");
        }
    }

    #[test]
    fn amounts_have_the_decimals_of_their_currency_and_the_marks_of_the_language() {
        let money = |minor, code: &str| Money::new(minor, code.parse().unwrap()).unwrap();
        for (amount, texts) in [
            (money(5, "EUR"), ["0.05 EUR", "0,05 EUR", "0,05 EUR", "0,05 EUR"]),
            (money(123_450, "EUR"), ["1,234.50 EUR", "1.234,50 EUR", "1_234,50 EUR", "1234,50 EUR"]),
            (money(1_234_567, "JPY"), ["1,234,567 JPY", "1.234.567 JPY", "1_234_567 JPY", "1.234.567 JPY"]),
            (money(12_345_678, "KWD"), ["12,345.678 KWD", "12.345,678 KWD", "12_345,678 KWD", "12.345,678 KWD"]),
            (money(12_345, "CLF"), ["1.2345 CLF", "1,2345 CLF", "1,2345 CLF", "1,2345 CLF"]),
        ] {
            for (language, text) in Language::ALL.into_iter().zip(texts) {
                let text = text.replace(' ', "\u{a0}").replace('_', "\u{202f}");
                assert_eq!(language.amount(amount), text, "{language}");
            }
        }
    }

    #[test]
    fn what_is_filled_in_is_not_looked_through_again() {
        assert_eq!(fill("{a} to {b}, {c}", &[("a", "{b}"), ("b", "x")]), "{b} to x, {c}");
        assert_eq!(fill("{", &[]), "{");
    }

    proptest! {
        #[test]
        fn any_header_gives_a_language(header in "\\PC*") {
            let _ = Language::accepted(&header);
        }

        #[test]
        fn an_amount_says_its_minor_units_in_every_language(minor in 1_u64..=999_999_999_999, code in "EUR|JPY|KWD|CLF") {
            let money = Money::new(minor, code.parse().unwrap()).unwrap();
            for language in Language::ALL {
                let digits: String = language.amount(money).chars().filter(char::is_ascii_digit).collect();
                prop_assert_eq!(digits.parse::<u64>().unwrap(), minor);
            }
        }
    }
}
