//! What fails again and again is said at once, then with growing silence, and once more when it is well.

use std::time::Duration;

use cloakway_types::Instant;

/// The first silence; each is twice as long as the one before.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(3600);

/// Something that fails or is well.
#[derive(Debug, Default)]
pub struct Outage(Option<Fails>);

#[derive(Debug)]
struct Fails {
    since: Instant,
    silent_until: Instant,
    silence: Duration,
    held_back: u64,
}

impl Outage {
    /// It failed: how many failures were held back since the last one that was said; `None`: hold this one back too.
    pub fn failed(&mut self, now: Instant) -> Option<u64> {
        match &mut self.0 {
            None => {
                self.0 = Some(Fails { since: now, silent_until: now + FIRST, silence: FIRST, held_back: 0 });
                Some(0)
            }
            Some(fails) if now < fails.silent_until => {
                fails.held_back += 1;
                None
            }
            Some(fails) => {
                fails.silence = (fails.silence * 2).min(LONGEST);
                fails.silent_until = now + fails.silence;
                Some(std::mem::take(&mut fails.held_back))
            }
        }
    }

    /// It is well: for how long it was not; `None`: it was well before.
    pub fn well(&mut self, now: Instant) -> Option<Duration> {
        self.0.take().map(|fails| now.since(fails.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_then_with_growing_silence_and_when_it_is_well() {
        let at = |s| Instant::after_origin(Duration::from_secs(s));
        let mut outage = Outage::default();
        assert_eq!(outage.well(at(0)), None);
        // Twice a second for a day.
        let said: Vec<(u64, u64)> = (0..86_400_u64 * 2)
            .filter_map(|half| {
                let now = Instant::after_origin(Duration::from_millis(half * 500));
                outage.failed(now).map(|held_back| (half / 2, held_back))
            })
            .collect();
        assert_eq!(&said[..4], [(0, 0), (10, 19), (30, 39), (70, 79)]);
        assert!(said.len() < 40 && said.windows(2).all(|two| two[1].0 - two[0].0 <= 3600));
        assert_eq!(outage.well(at(86_400)), Some(Duration::from_secs(86_400)));
        assert_eq!(outage.well(at(86_401)), None);
        assert_eq!(outage.failed(at(86_402)), Some(0), "another outage is said at once");
    }
}
