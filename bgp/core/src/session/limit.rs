//! How many routes a peer may tell (RFC 4271 §6.7, RFC 4486 §4).

use std::time::Duration;

use bgp_wire::{ErrorCode, Family, Notification};
use cloakway_types::Instant;

use super::values::Event;
use super::{Rest, Session};

/// The most routes of each family that are taken from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPrefix {
    /// So many are taken.
    pub limit: u32,
    /// From this part of them on, in percent, it is told.
    pub warn_percent: u8,
    /// One more ends the session; else it is told.
    pub ends: bool,
    /// The session starts again after so long; else when the operator changes something of the peer.
    pub restart: Option<Duration>,
}

impl Session {
    /// The peer has told `held` routes of `family` that are kept.
    pub(super) fn held(&mut self, family: Family, held: usize, now: Instant) {
        let Some(max) = self.settings.options.max_prefix else { return };
        let Some(link) = self.established().map(|(link, _)| link) else { return };
        let limit = max.limit as usize;
        let over = held > limit;
        if over && max.ends {
            let [high, low] = family.afi().to_be_bytes();
            let data = [&[high, low, family.safi()], &max.limit.to_be_bytes()[..]].concat();
            let detail = format!("{held} routes of {family}, and max-prefix.limit is {limit}");
            self.fail(link, Notification::new(ErrorCode::MAXIMUM_PREFIXES, data), detail, now);
            self.rest = match max.restart {
                Some(after) => Rest::Idle { until: now + after },
                None => Rest::Held,
            };
        } else if (over || held.saturating_mul(100) >= limit.saturating_mul(usize::from(max.warn_percent)))
            && self.reported.limits.insert((family, over))
        {
            self.event(Event::ManyPrefixes { family, held, limit });
        }
    }
}
