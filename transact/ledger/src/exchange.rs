//! Exchange of currencies. Off unless rates are given.

use std::collections::BTreeMap;

use ecash_wire::value::{Currency, Money, Rates};

/// The operator's rates: minor units of the second currency per 100 major units of the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange {
    enabled: bool,
    rates: BTreeMap<(Currency, Currency), u64>,
}

impl Exchange {
    /// No exchange: what differs in currency is refused.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Exchange, with no rate yet.
    #[must_use]
    pub fn on() -> Self {
        Self { enabled: true, rates: BTreeMap::new() }
    }

    /// Whether currencies are exchanged at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled
    }

    /// From now on `rate` minor units of `to` for 100 major units of `from`; zero takes the rate away.
    pub fn set(&mut self, from: Currency, to: Currency, rate: u64) {
        if rate == 0 {
            self.rates.remove(&(from, to));
        } else {
            self.rates.insert((from, to), rate);
        }
    }

    /// The rate, if there is one now.
    #[must_use]
    pub fn rate(&self, from: Currency, to: Currency) -> Option<u64> {
        self.rates.get(&(from, to)).copied()
    }

    /// All rates from one currency, for information.
    #[must_use]
    pub fn rates(&self, from: Currency) -> Rates {
        let of = self.rates.iter().filter(|((first, _), _)| self.enabled && *first == from);
        Rates(of.map(|((_, second), rate)| (*second, *rate)).collect())
    }

    /// What `price` costs in `currency` at `rate`, rounded up; `None` beyond the largest amount.
    #[must_use]
    pub fn cost(price: Money, currency: Currency, rate: u64) -> Option<Money> {
        let rate = i128::from(rate);
        let units = i128::from(price.minor()) * 100 * 10_i128.pow(currency.exponent());
        let minor = units.checked_add(rate - 1)?.checked_div(rate)?;
        Money::new(currency, i64::try_from(minor).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecash_wire::value::Value;
    use proptest::prelude::*;

    fn money(text: &str) -> Money {
        Money::read(text).unwrap()
    }

    fn currency(code: &str) -> Currency {
        Currency::read(code).unwrap()
    }

    #[test]
    fn the_known_answers_of_the_protocol() {
        assert_eq!(Exchange::cost(money("cad 54.25"), currency("usd"), 13_580), Some(money("usd 39.95")));
        assert_eq!(Exchange::cost(money("jpy 5000"), currency("usd"), 15_120), Some(money("usd 33.07")));
    }

    #[test]
    fn rates_are_there_until_taken_away_and_told_only_when_exchange_is_on() {
        let (usd, cad) = (currency("usd"), currency("cad"));
        let mut exchange = Exchange::on();
        exchange.set(usd, cad, 13_580);
        assert_eq!(exchange.rate(usd, cad), Some(13_580));
        assert_eq!(exchange.rates(usd).write(), "cad 13580");
        exchange.set(usd, cad, 0);
        assert_eq!(exchange.rate(usd, cad), None);
        let mut off = Exchange::off();
        off.set(usd, cad, 13_580);
        assert!(off.rates(usd).0.is_empty() && !off.is_on());
    }

    proptest! {
        #[test]
        fn the_cost_covers_the_price_and_one_unit_less_does_not(minor in 1_i64..1_000_000_000, rate in 1_u64..10_000_000) {
            let price = Money::new(currency("jpy"), minor).unwrap();
            let cost = i128::from(Exchange::cost(price, currency("kwd"), rate).unwrap().minor());
            let worth = |units: i128| units * i128::from(rate);
            prop_assert!(worth(cost) >= i128::from(minor) * 100_000);
            prop_assert!(worth(cost - 1) < i128::from(minor) * 100_000);
        }
    }
}
