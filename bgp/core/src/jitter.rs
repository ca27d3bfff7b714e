//! Timers that do not beat in step (RFC 4271 §10).

use std::time::Duration;

/// Random numbers from a seed that the caller hands in (SplitMix64). Nothing secret comes from it.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Three quarters of `base` to all of it.
    pub(crate) fn apply(&mut self, base: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let thousandths = 750 + u32::try_from(bits % 251).unwrap_or_default();
        base.saturating_mul(thousandths) / 1000
    }
}

/// Waits that double from one second to a limit.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    failures: u32,
    limit: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);

    pub(crate) fn new(limit: Duration) -> Self {
        Self { failures: 0, limit }
    }

    pub(crate) fn next(&mut self, jitter: &mut Jitter) -> Duration {
        let wait = Self::FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.limit);
        self.failures = self.failures.saturating_add(1);
        jitter.apply(wait)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_limit_within_the_jitter() {
        let mut jitter = Jitter::new(7);
        let mut backoff = Backoff::new(Duration::from_secs(10));
        for full in [1, 2, 4, 8, 10, 10] {
            let wait = backoff.next(&mut jitter);
            let full = Duration::from_secs(full);
            assert!((full * 3 / 4..=full).contains(&wait), "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut jitter) <= Duration::from_secs(1));
    }
}
