//! When the first session of each table of names may be forgotten, at the earliest: nobody looks through a table before.

use std::time::Duration;

use cloakway_types::Timestamp;

/// Parts of the age of a proof: a table is looked through no more often than this.
const STEPS: u64 = 4;
const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

#[derive(Debug, Clone)]
pub(super) struct Dues {
    /// Times are put off to a multiple of so many milliseconds, that many sessions may come due together.
    step: u64,
    all: Vec<Timestamp>,
}

impl Dues {
    pub(super) fn new(count: usize, max_age: Duration) -> Self {
        let age = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        Self { step: (age / STEPS).max(1), all: vec![NEVER; count] }
    }

    fn round(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.as_millis().checked_next_multiple_of(self.step).unwrap_or(u64::MAX))
    }

    /// That a session of this table may be forgotten from `at` on.
    pub(super) fn tell(&mut self, shard: usize, at: Timestamp) {
        let at = self.round(at);
        self.all.iter_mut().skip(shard).take(1).for_each(|due| *due = at.min(*due));
    }

    /// That this table was looked through, and none but what was found may be forgotten before it is told again.
    pub(super) fn begin(&mut self, shard: usize) {
        self.all.iter_mut().skip(shard).take(1).for_each(|due| *due = NEVER);
    }

    pub(super) fn is_due(&self, shard: usize, now: Timestamp) -> bool {
        self.all.get(shard).is_some_and(|due| *due <= now)
    }

    /// What another one was told too.
    pub(super) fn join(&mut self, other: &Self) {
        self.all.iter_mut().zip(&other.all).for_each(|(due, other)| *due = (*due).min(*other));
    }

    pub(super) fn octets(&self) -> usize {
        self.all.len() * size_of::<Timestamp>()
    }
}
