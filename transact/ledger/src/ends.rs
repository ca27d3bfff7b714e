//! When sessions come to their end by lifetime.

use std::collections::BTreeSet;
use std::time::Duration;

use cloakway_types::Timestamp;
use ecash_wire::value::SessionId;

/// Open sessions by the last instant at which they live. A timer asks for all that are over; a request of a persona asks
/// about its own: both find the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends(BTreeSet<(Timestamp, SessionId)>);

impl Ends {
    /// Whether a session of `lifetime` from `opened` is over: the lifetime itself still belongs to it.
    #[must_use]
    pub fn is_over(opened: Timestamp, lifetime: Duration, now: Timestamp) -> bool {
        now.since(opened) > lifetime
    }

    /// A session was opened.
    pub fn add(&mut self, session: SessionId, opened: Timestamp, lifetime: Duration) {
        self.0.insert((opened + lifetime, session));
    }

    /// It ended, however that came about.
    pub fn remove(&mut self, session: SessionId, opened: Timestamp, lifetime: Duration) {
        self.0.remove(&(opened + lifetime, session));
    }

    /// The sessions that are over, the longest over first.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = SessionId> {
        self.0.iter().take_while(move |(last, _)| *last < now).map(|(_, session)| *session)
    }

    /// When the next one will be over.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(last, _)| *last + Duration::from_millis(1))
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_through_its_last_millisecond() {
        let (opened, lifetime) = (Timestamp::from_millis(1000), Duration::from_secs(60));
        let mut ends = Ends::default();
        ends.add(SessionId(7), opened, lifetime);
        ends.add(SessionId(8), opened, lifetime * 2);
        let last = opened + lifetime;
        let after = last + Duration::from_millis(1);
        assert!(!Ends::is_over(opened, lifetime, last) && Ends::is_over(opened, lifetime, after));
        assert_eq!(ends.due(last).count(), 0);
        assert_eq!(ends.next(), Some(after));
        assert_eq!(ends.due(after).collect::<Vec<_>>(), [SessionId(7)]);
        ends.remove(SessionId(7), opened, lifetime);
        assert_eq!(ends.due(after).count(), 0);
        assert_eq!(ends.len(), 1);
    }
}
