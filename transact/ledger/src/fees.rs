//! What the operator charges.

use std::collections::BTreeMap;

use ecash_wire::value::{Currency, Money};

/// A fee for each kind of request and currency; nothing where none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tariff(BTreeMap<(Kind, Currency), Money>);

/// What is charged for.
type Kind = ecash_wire::message::Kind;

impl Tariff {
    /// Charges `fee` for requests of `kind` in its currency. What is not above zero is left out.
    #[must_use]
    pub fn with(mut self, kind: Kind, fee: Money) -> Self {
        if fee.minor() > 0 {
            self.0.insert((kind, fee.currency()), fee);
        }
        self
    }

    /// The fee for a request of `kind` in `currency`.
    #[must_use]
    pub fn fee(&self, kind: Kind, currency: Currency) -> Money {
        self.0.get(&(kind, currency)).copied().unwrap_or(Money::zero(currency))
    }

    /// The fee, and never more than `most`, of the same currency.
    #[must_use]
    pub fn capped(&self, kind: Kind, most: Money) -> Money {
        let fee = self.fee(kind, most.currency());
        if fee.minor() > most.minor() { most } else { fee }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fee_is_never_more_than_what_it_is_taken_from() {
        let money = |minor| Money::new(Currency::TEST, minor).unwrap();
        let tariff = Tariff::default().with(Kind::CS1, money(30)).with(Kind::OS1, money(-5));
        assert_eq!(tariff.capped(Kind::CS1, money(31)), money(30));
        assert_eq!(tariff.capped(Kind::CS1, money(29)), money(29));
        assert_eq!(tariff.capped(Kind::CS1, money(0)), money(0));
        assert_eq!(tariff.fee(Kind::OS1, Currency::TEST), money(0));
    }
}
