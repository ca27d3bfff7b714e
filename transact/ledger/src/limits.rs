//! How much an instrument may move within a window.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cloakway_types::Timestamp;
use ecash_wire::value::Money;
use serde::{Deserialize, Serialize};

/// The number of a bound instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BindingId(pub u64);

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Function {
    /// Money coming in.
    Load,
    /// Money going out.
    Unload,
}

/// A limit and its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Minor units of the limit's currency; `None` for no limit.
    pub most: Option<i64>,
    /// Hours that it applies to; 0 for each single transaction.
    pub hours: u32,
}

impl Limit {
    /// No limit.
    pub const NONE: Self = Self { most: None, hours: 0 };

    fn window(self) -> Duration {
        Duration::from_secs(u64::from(self.hours) * 3600)
    }
}

/// An accepted operation; it counts until its window ends, whatever becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Which instrument.
    pub binding: BindingId,
    /// What it did.
    pub function: Function,
    /// How much.
    pub amount: Money,
    /// When.
    pub at: Timestamp,
}

/// What was used of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits(BTreeMap<(BindingId, Function), VecDeque<(Timestamp, i64)>>);

impl Limits {
    /// Whether `amount` may be moved now. The window is open at its far end: what happened exactly `hours` ago does not
    /// count any more.
    #[must_use]
    pub fn allows(&self, binding: BindingId, function: Function, limit: Limit, amount: Money, now: Timestamp) -> bool {
        let Some(most) = limit.most else { return true };
        let mut sum = i128::from(amount.minor());
        if limit.hours > 0 {
            let uses = self.0.get(&(binding, function)).into_iter().flatten();
            let within = uses.filter(|(at, _)| now.since(*at) < limit.window());
            sum += within.map(|(_, minor)| i128::from(*minor)).sum::<i128>();
        }
        sum <= i128::from(most)
    }

    /// Counts an accepted operation.
    pub fn record(&mut self, operation: &Use) {
        let uses = self.0.entry((operation.binding, operation.function)).or_default();
        uses.push_back((operation.at, operation.amount.minor()));
    }

    /// Forgets what no window of up to `longest` can contain.
    pub fn forget(&mut self, longest: Duration, now: Timestamp) {
        for uses in self.0.values_mut() {
            while uses.front().is_some_and(|(at, _)| now.since(*at) >= longest) {
                uses.pop_front();
            }
        }
        self.0.retain(|_, uses| !uses.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecash_wire::value::Currency;
    use proptest::prelude::*;

    fn money(minor: i64) -> Money {
        Money::new(Currency::TEST, minor).unwrap()
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_secs(hours * 3600)
    }

    #[test]
    fn exactly_the_limit_is_allowed_and_the_window_has_edges() {
        let (binding, load) = (BindingId(1), Function::Load);
        let limit = Limit { most: Some(100), hours: 24 };
        let mut limits = Limits::default();
        limits.record(&Use { binding, function: load, amount: money(60), at: at(100) });
        let allows = |minor, now| limits.allows(binding, load, limit, money(minor), now);
        assert!(allows(40, at(100)) && !allows(41, at(100)));
        let last = Timestamp::from_millis(at(124).as_millis() - 1);
        assert!(!allows(41, last) && allows(100, at(124)) && !allows(101, at(124)));
        assert!(limits.allows(binding, load, Limit::NONE, money(i64::from(u32::MAX)), at(100)));
        let single = Limit { most: Some(100), hours: 0 };
        assert!(limits.allows(binding, load, single, money(100), at(100)));
        assert!(!limits.allows(binding, load, single, money(101), at(100)));
        assert!(limits.allows(binding, Function::Unload, limit, money(100), at(100)));
        assert!(limits.allows(BindingId(2), load, limit, money(100), at(100)));
    }

    proptest! {
        /// I21: in any window, what was accepted is within the limit.
        #[test]
        fn i21_no_window_holds_more_than_its_limit(
            steps in prop::collection::vec((0_u64..7_200_000, 1_i64..60), 1..60),
            hours in 1_u32..4,
        ) {
            let (binding, function) = (BindingId(1), Function::Load);
            let limit = Limit { most: Some(100), hours };
            let mut limits = Limits::default();
            let mut accepted: Vec<(u64, i64)> = Vec::new();
            let mut now = 1_000_000_000;
            for (wait, minor) in steps {
                now += wait;
                let time = Timestamp::from_millis(now);
                if limits.allows(binding, function, limit, money(minor), time) {
                    limits.record(&Use { binding, function, amount: money(minor), at: time });
                    accepted.push((now, minor));
                }
                limits.forget(limit.window(), time);
                let window = u64::from(hours) * 3_600_000;
                let within = accepted.iter().filter(|(at, _)| now - at < window).map(|(_, minor)| minor).sum::<i64>();
                prop_assert!(within <= 100, "{within}");
            }
        }
    }
}
