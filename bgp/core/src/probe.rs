//! Whether something that is looked at again and again counts as healthy.

use std::time::Duration;

use cloakway_types::Instant;

/// The hold-down doubles at most this often.
const DOUBLINGS: u32 = 5;

/// How much it takes to change our mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Good looks in a row that make it healthy.
    pub rise: u32,
    /// Bad looks in a row that make it unhealthy.
    pub fall: u32,
    /// How long it stays unhealthy after it fell; twice as long for each fall that came soon after the last.
    pub hold_down: Duration,
}

/// The state of one thing; unhealthy until shown otherwise.
#[derive(Debug, Clone)]
pub struct Probe {
    patience: Patience,
    healthy: bool,
    /// Looks in a row that speak against the state.
    against: u32,
    since: Option<Instant>,
    not_before: Instant,
    falls: u32,
}

impl Probe {
    /// Never looked at.
    #[must_use]
    pub const fn new(patience: Patience) -> Self {
        Self { patience, healthy: false, against: 0, since: None, not_before: Instant::ORIGIN, falls: 0 }
    }

    /// Takes what was seen at `now`; says whether it changed the state.
    pub fn look(&mut self, good: bool, now: Instant) -> bool {
        if good == self.healthy {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let needed = if self.healthy { self.patience.fall } else { self.patience.rise };
        if self.against < needed || (!self.healthy && now < self.not_before) {
            return false;
        }
        self.against = 0;
        self.healthy = !self.healthy;
        if !self.healthy {
            let hold_down = self.patience.hold_down;
            let steady = self.since.is_some_and(|since| now.since(since) >= hold_down.saturating_mul(10));
            self.falls = if steady { 0 } else { (self.falls + 1).min(DOUBLINGS + 1) };
            self.not_before = now + hold_down.saturating_mul(1 << self.falls.saturating_sub(1));
        }
        self.since = Some(now);
        true
    }

    /// Whether it counts as healthy.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::after_origin(Duration::from_secs(seconds))
    }

    fn probe(hold_down_s: u64) -> Probe {
        Probe::new(Patience { rise: 2, fall: 3, hold_down: Duration::from_secs(hold_down_s) })
    }

    #[test]
    fn it_rises_and_falls_after_as_many_looks_in_a_row() {
        let mut probe = probe(0);
        let looks = [(true, false), (false, false), (true, false), (true, true), (false, false), (false, false)];
        for (good, changed) in looks.into_iter().chain([(true, false), (false, false), (false, false), (false, true)]) {
            assert_eq!(probe.look(good, at(0)), changed);
        }
        assert!(!probe.is_healthy());
    }

    #[test]
    fn whoever_flaps_is_held_down_longer_each_time() {
        let mut probe = probe(10);
        let (mut now, mut fell, mut waited) = (0, None, Vec::new());
        while waited.len() < 4 {
            if probe.look(true, at(now)) {
                waited.extend(fell.map(|fell| now - fell));
                // It falls in the very second in which it rose.
                assert_eq!([1, 2, 3].map(|_| probe.look(false, at(now))), [false, false, true]);
                fell = Some(now);
            }
            now += 1;
        }
        assert_eq!(waited, [10, 20, 40, 80]);
    }
}
