//! When an event happened, by three clocks: its own, that of its message, and ours.

use std::time::Duration;

use cloakway_types::Timestamp;

/// An export that is later than this is taken for a clock that was set.
const DAY_MS: u64 = 86_400_000;
/// An event that waited longer to be exported is not said to have happened before now for certain.
const BACKLOG_MS: u64 = 600_000;
/// How far the exporter's clock may be from ours before it is said.
const APART: Duration = Duration::from_secs(300);
/// Messages say whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);

/// From when to when it can have happened, and whether the exporter's clock is far from ours.
pub(super) struct Moment {
    pub(super) earliest: Timestamp,
    pub(super) latest: Timestamp,
    pub(super) apart: bool,
}

impl Moment {
    /// Of an event at `event_ms`, in a message that was exported at `exported_s`, both by the exporter's clock, and that
    /// arrived at `arrival` by ours. How long the event waited for its export is said by one clock, so that it does not matter
    /// how far that is from ours; the network may have held the message for `max_delay`.
    pub(super) fn of(event_ms: Option<u64>, exported_s: u32, arrival: Timestamp, max_delay: Duration) -> Self {
        let exported = u64::from(exported_s) * 1000;
        let event = event_ms.unwrap_or(exported);
        let age = exported.saturating_sub(event);
        if age > DAY_MS {
            return Self { earliest: arrival - ROUNDED - max_delay, latest: arrival, apart: true };
        }
        let sent = arrival - Duration::from_millis(age);
        let latest = if age <= BACKLOG_MS { sent } else { arrival };
        let earliest = sent - ROUNDED - max_delay;
        let own = Timestamp::from_millis(event);
        let apart = event > 0 && (own > sent + APART || own < earliest - APART);
        // A clock that can be right is heard, if it says that the network held the message for longer.
        let earliest = if apart || event == 0 { earliest } else { earliest.min(own) };
        Self { earliest, latest, apart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u32 = 1_795_375_686;
    const DELAY: Duration = Duration::from_secs(20);

    fn of(event_ms: Option<u64>, exported_s: u32, arrival_s: u64) -> (u64, u64, bool) {
        let moment = Moment::of(event_ms, exported_s, Timestamp::from_secs(arrival_s), DELAY);
        (moment.earliest.as_millis(), moment.latest.as_millis(), moment.apart)
    }

    fn ms(seconds: u64) -> u64 {
        seconds * 1000
    }

    #[test]
    fn an_event_that_waited_for_its_export_happened_before() {
        let now = u64::from(NOW_S);
        assert_eq!(of(Some(ms(now - 45)), NOW_S, now), (ms(now - 66), ms(now - 45), false));
        // Without a time of its own that of the message counts.
        assert_eq!(of(None, NOW_S, now), (ms(now - 21), ms(now), false));
        // Nothing is said.
        assert_eq!(of(None, 0, now), (ms(now - 21), ms(now), false));
        // Within the second of the export.
        assert_eq!(of(Some(ms(now) + 900), NOW_S, now), (ms(now - 21), ms(now), false));
    }

    #[test]
    fn how_far_the_exporters_clock_is_off_does_not_matter() {
        let now = u64::from(NOW_S);
        for (off, apart) in [(-86_400_i64, true), (-200, false), (-15, false), (30, false), (86_400, true)] {
            let clock = now.checked_add_signed(off).unwrap();
            let exported = u32::try_from(clock).unwrap();
            let (earliest, latest, said) = of(Some(ms(clock - 45)), exported, now);
            assert_eq!((latest, said), (ms(now - 45), apart), "{off}");
            // A clock that is behind may be right, and the network slow.
            assert_eq!(earliest, if off == -200 { ms(now - 245) } else { ms(now - 66) }, "{off}");
        }
    }

    #[test]
    fn what_waited_very_long_has_no_certain_moment() {
        let now = u64::from(NOW_S);
        assert_eq!(of(Some(ms(now - 3600)), NOW_S, now), (ms(now - 3621), ms(now), false));
        assert_eq!(of(Some(1), NOW_S, now), (ms(now - 21), ms(now), true), "nonsense");
    }
}
