//! How often a source is told (RFC 1812 §4.3.2.8, RFC 4443 §2.4(f)).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::Instant;

/// How many errors one source gets in a row.
const BURST: u32 = 6;

/// How many sources are remembered; one more is told nothing until another is forgotten.
const SOURCES: usize = 4096;

/// Errors for each source: some at once, then one in an interval.
#[derive(Debug, Clone)]
pub struct Ration {
    interval4: Duration,
    interval6: Duration,
    /// When each source's allowance is whole again.
    whole_at: BTreeMap<IpAddr, Instant>,
}

impl Ration {
    /// One error to a source in each interval, by IP version; zero sets no bound.
    #[must_use]
    pub const fn new(interval4: Duration, interval6: Duration) -> Self {
        Self { interval4, interval6, whole_at: BTreeMap::new() }
    }

    /// Changes the intervals.
    pub const fn set(&mut self, interval4: Duration, interval6: Duration) {
        self.interval4 = interval4;
        self.interval6 = interval6;
    }

    /// Whether `source` may be told once more; if so, it counts as told.
    pub fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        let interval = if source.is_ipv4() { self.interval4 } else { self.interval6 };
        if interval.is_zero() {
            return true;
        }
        if self.whole_at.len() >= SOURCES && !self.whole_at.contains_key(&source) {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            if self.whole_at.len() >= SOURCES {
                return false;
            }
        }
        let whole_at = self.whole_at.get(&source).copied().filter(|at| *at > now).unwrap_or(now);
        let after = whole_at + interval;
        let allowed = after.since(now) <= interval * BURST;
        if allowed {
            self.whole_at.insert(source, after);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_in_each_interval_and_each_source_for_itself() {
        let second = Duration::from_secs(1);
        let mut ration = Ration::new(second, Duration::ZERO);
        let source: IpAddr = "198.51.100.70".parse().unwrap();
        let start = Instant::ORIGIN + second;
        let allowed = |ration: &mut Ration, at| (0..100).filter(|_| ration.allows(source, at)).count();
        assert_eq!(allowed(&mut ration, start), 6);
        assert_eq!(allowed(&mut ration, start + second / 2), 0);
        assert_eq!(allowed(&mut ration, start + second), 1);
        assert_eq!(allowed(&mut ration, start + second * 60), 6);
        assert!(ration.allows("198.51.100.71".parse().unwrap(), start + second * 60));
        assert!((0..100).all(|_| ration.allows("2001:db8::1".parse().unwrap(), start)), "zero sets no bound");
    }

    #[test]
    fn more_sources_than_are_remembered_are_told_nothing() {
        let mut ration = Ration::new(Duration::from_secs(1), Duration::ZERO);
        let source = |number: u32| IpAddr::from(number.to_be_bytes());
        let start = Instant::ORIGIN;
        let allowed = (0..5000).filter(|number| ration.allows(source(*number), start)).count();
        assert_eq!(allowed, SOURCES);
        assert!(ration.allows(source(5001), start + Duration::from_secs(10)), "those that are whole are forgotten");
    }
}
