//! From when to when a rule holds, so that a question about a moment is answered by the rules of that moment.

use cloakway_runtime::config::Invalid;
use cloakway_types::Timestamp;

/// A time from a moment on, up to before another one; each may be open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Period {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Period {
    /// Reads `since` and `until` of the table `field`.
    pub(super) fn read(field: &str, since: Option<String>, until: Option<String>) -> Result<Self, Invalid> {
        let time = |name: &str, text: Option<String>| {
            let read = text.map(|text| text.parse::<Timestamp>().map_err(|error| (text, error))).transpose();
            read.map_err(|(text, error)| {
                let reason = format!("{text:?}: {error}: 2026-11-22T00:00:00Z would be one");
                Invalid::at(format!("{field}.{name}"), reason)
            })
        };
        let period = Self { since: time("since", since)?, until: time("until", until)? };
        if period.since.zip(period.until).is_some_and(|(since, until)| since >= until) {
            return Err(Invalid::at(format!("{field}.until"), "it is not after since: the rule would never hold"));
        }
        Ok(period)
    }

    /// Whether the rule holds at `at`.
    #[must_use]
    pub fn has(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at) && self.until.is_none_or(|until| at < until)
    }
}
