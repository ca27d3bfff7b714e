//! Log lines about what strangers send: one per reason and interval, however much they send.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cloakway_types::Instant;

const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one line per reason through in each interval.
#[derive(Debug, Default)]
pub(crate) struct Sparingly(Mutex<BTreeMap<&'static str, (Instant, u64)>>);

impl Sparingly {
    /// How many lines with this reason were held back since the last one; `None`: hold this one back too.
    pub(crate) fn may(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reasons.get_mut(reason) {
            Some((last, held)) if now.since(*last) < INTERVAL => {
                *held += 1;
                None
            }
            entry => {
                let held = entry.map_or(0, |(_, held)| *held);
                reasons.insert(reason, (now, 0));
                Some(held)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_reason_and_interval_says_how_many_were_held_back() {
        let at = |s| Instant::after_origin(Duration::from_secs(s));
        let say = Sparingly::default();
        assert_eq!(say.may("a", at(0)), Some(0));
        assert_eq!((say.may("a", at(1)), say.may("a", at(9))), (None, None));
        assert_eq!(say.may("b", at(9)), Some(0));
        assert_eq!(say.may("a", at(10)), Some(2));
        assert_eq!(say.may("a", at(20)), Some(0));
    }
}
