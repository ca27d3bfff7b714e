//! Which institution a card belongs to: ranges of first digits (ISO/IEC 7812-1), the narrowest first.

use std::fmt;
use std::str::FromStr;

use transact_wire::card::CardNumber;

/// Digits of the longest card number.
const DIGITS: usize = 19;

/// Why a range cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not digits.
    #[error("{0:?} is no card range: give the first digits, such as \"4\", or two of one length, such as \"51-55\"")]
    Malformed(String),
    /// The end is before the beginning.
    #[error("{0:?} ends before it begins")]
    Backwards(String),
    /// Two institutions have it.
    #[error("cards {range} belong to {first} and to {second}: a range has one institution")]
    Taken {
        /// The range.
        range: CardRange,
        /// Who had it first.
        first: String,
        /// Who else wants it.
        second: String,
    },
}

/// Cards by their first digits: `4`, `51-55`, or all of them as `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CardRange {
    /// How many first digits count.
    digits: usize,
    low: u64,
    high: u64,
}

impl CardRange {
    /// Every card.
    pub const ALL: Self = Self { digits: 0, low: 0, high: 0 };

    fn holds(&self, card: &str) -> bool {
        let first = card.get(..self.digits).map(|first| first.parse().unwrap_or(0));
        first.is_some_and(|first: u64| (self.low..=self.high).contains(&first)) || self.digits == 0
    }

    /// How many numbers of the most digits it holds: what is narrower comes first.
    fn width(&self) -> u128 {
        let rest = u32::try_from(DIGITS.saturating_sub(self.digits)).unwrap_or(0);
        (u128::from(self.high.saturating_sub(self.low)) + 1) * 10_u128.pow(rest)
    }

    /// The lowest and the highest number of the most digits.
    fn ends(&self) -> (u128, u128) {
        let rest = 10_u128.pow(u32::try_from(DIGITS.saturating_sub(self.digits)).unwrap_or(0));
        (u128::from(self.low) * rest, (u128::from(self.high) + 1) * rest - 1)
    }

    /// Whether they have numbers in common and neither lies within the other: no order then says which one counts.
    fn crosses(&self, other: &Self) -> bool {
        let ((a, b), (c, d)) = (self.ends(), other.ends());
        let apart = b < c || d < a;
        let within = (a <= c && d <= b) || (c <= a && b <= d);
        !apart && (!within || (a, b) == (c, d))
    }
}

impl FromStr for CardRange {
    type Err = RangeError;
    fn from_str(text: &str) -> Result<Self, RangeError> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let malformed = || RangeError::Malformed(text.chars().take(48).collect());
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let digits = low.len();
        let all_digits = low.bytes().chain(high.bytes()).all(|digit| digit.is_ascii_digit());
        if !all_digits || digits != high.len() || !(1..=DIGITS).contains(&digits) {
            return Err(malformed());
        }
        let (low, high) = (low.parse().map_err(|_| malformed())?, high.parse().map_err(|_| malformed())?);
        if high < low { Err(RangeError::Backwards(text.to_owned())) } else { Ok(Self { digits, low, high }) }
    }
}

impl fmt::Display for CardRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits;
        match (digits, self.low == self.high) {
            (0, _) => f.write_str("*"),
            (_, true) => write!(f, "{:0digits$}", self.low),
            (_, false) => write!(f, "{:0digits$}-{:0digits$}", self.low, self.high),
        }
    }
}

/// Institutions by card range; the narrowest range that holds a card decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CardRanges(Vec<(CardRange, String)>);

impl CardRanges {
    /// Gives the institution a range.
    ///
    /// # Errors
    /// [`RangeError::Taken`]: another institution has the same range, or one that crosses it.
    pub fn add(&mut self, range: CardRange, institution: &str) -> Result<(), RangeError> {
        let rival = self.0.iter().find(|(taken, owner)| owner != institution && taken.crosses(&range));
        if let Some((_, first)) = rival {
            return Err(RangeError::Taken { range, first: first.clone(), second: institution.to_owned() });
        }
        let at = self.0.partition_point(|(other, _)| other.width() <= range.width());
        self.0.insert(at, (range, institution.to_owned()));
        Ok(())
    }

    /// The institution of this card, if there is one.
    #[must_use]
    pub fn find(&self, card: &CardNumber) -> Option<&str> {
        self.find_digits(card.expose_digits())
    }

    fn find_digits(&self, card: &str) -> Option<&str> {
        self.0.iter().find(|(range, _)| range.holds(card)).map(|(_, institution)| institution.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(rows: &[(&str, &str)]) -> Result<CardRanges, RangeError> {
        let mut ranges = CardRanges::default();
        for (range, institution) in rows {
            ranges.add(range.parse()?, institution)?;
        }
        Ok(ranges)
    }

    #[test]
    fn the_narrowest_range_decides() {
        let ranges =
            ranges(&[("*", "rest"), ("4", "blue"), ("400000", "test"), ("51-55", "red"), ("2221-2720", "red")])
                .unwrap();
        for (card, institution) in [
            ("4111111111111111", "blue"),
            ("4000000000000002", "test"),
            ("5100000000000008", "red"),
            ("5600000000000003", "rest"),
            ("2720990000000007", "red"),
            ("2721000000000004", "rest"),
            ("378282246310005", "rest"),
        ] {
            assert_eq!(ranges.find(&CardNumber::parse(&card.into()).unwrap()), Some(institution), "{card}");
        }
        assert_eq!(CardRanges::default().find_digits("4111111111111111"), None);
    }

    #[test]
    fn a_range_of_two_institutions_is_refused_by_name() {
        let error = ranges(&[("4", "blue"), ("4", "red")]).unwrap_err();
        assert_eq!(error.to_string(), "cards 4 belong to blue and to red: a range has one institution");
        assert!(ranges(&[("40-45", "blue"), ("43-48", "red")]).is_err(), "they cross");
        assert!(ranges(&[("40-45", "blue"), ("43", "red")]).is_ok(), "one within the other");
        assert!(ranges(&[("4", "blue"), ("4", "blue")]).is_ok());
        assert!(ranges(&[("*", "blue"), ("*", "red")]).is_err());
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "4-", "-4", "4x", "4-55", "45-51-52", "12345678901234567890", "four"] {
            assert!(matches!(bad.parse::<CardRange>(), Err(RangeError::Malformed(_))), "{bad}");
        }
        assert_eq!("55-51".parse::<CardRange>(), Err(RangeError::Backwards("55-51".to_owned())));
        for good in ["*", "4", "0004", "51-55", "9999999999999999999"] {
            assert_eq!(good.parse::<CardRange>().unwrap().to_string(), good);
        }
    }

    proptest! {
        #[test]
        fn every_card_of_a_range_is_found(low in 0_u64..1_000_000, more in 0_u64..1000, rest in 0_u64..10_000_000_000) {
            let high = (low + more).min(999_999);
            let range = ranges(&[(&format!("{low:06}-{high:06}"), "x")]).unwrap();
            let first = low + more.min(high - low) / 2;
            prop_assert_eq!(range.find_digits(&format!("{first:06}{rest:010}")), Some("x"));
            if high < 999_999 {
                prop_assert_eq!(range.find_digits(&format!("{:06}{rest:010}", high + 1)), None);
            }
        }
    }
}
