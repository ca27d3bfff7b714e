//! What a data plane that drops by itself tells of it: a few packets to whoever asks, and none while nobody does.

use std::collections::{BTreeMap, VecDeque};

use super::{SNAP, Sample, Why, read};

/// How many more of each reason are wanted after each question.
pub const WANTED: u32 = 20;

/// How many are kept; those that nobody has asked for by then are forgotten.
const KEPT: usize = 1024;

/// A packet that was dropped, as whoever dropped it hands it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub why: Why,
    /// The index of the interface that it came in by.
    pub from: u32,
    /// Its beginning, from the IP header on.
    pub beginning: Vec<u8>,
}

impl Dropped {
    /// As much of `packet` as is told.
    #[must_use]
    pub fn new(why: Why, from: u32, packet: &[u8]) -> Self {
        Self { why, from, beginning: packet.get(..SNAP).unwrap_or(packet).to_vec() }
    }

    /// What its headers say.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let (length, packet) = read(&self.beginning);
        Sample { why: self.why, from: Some(self.from), to: None, length, packet }
    }
}

/// The last of them, counted from the first.
#[derive(Debug, Default)]
pub struct Recent {
    kept: VecDeque<Dropped>,
    next: u64,
    wanted: BTreeMap<&'static str, u32>,
}

impl Recent {
    /// Whether one more that was dropped for this reason is wanted; then it counts as had.
    pub fn wants(&mut self, why: Why) -> bool {
        let Some(left) = self.wanted.get_mut(why.name()).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    /// Keeps one.
    pub fn push(&mut self, dropped: Dropped) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(dropped);
        self.next += 1;
    }

    /// Those from this number on, which is none for who begins to ask, and the number to ask with next. More are wanted from
    /// now on.
    pub fn since(&mut self, number: Option<u64>) -> (u64, Vec<Dropped>) {
        self.wanted = Why::all().map(|why| (why.name(), WANTED)).collect();
        let new = self.next.saturating_sub(number.unwrap_or(self.next));
        let new = usize::try_from(new).unwrap_or(usize::MAX).min(self.kept.len());
        (self.next, self.kept.range(self.kept.len() - new..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Reason;
    use crate::meter::Over;

    #[test]
    fn nothing_is_wanted_until_somebody_asks_and_then_so_many_of_each_reason() {
        let why = Why::Limit(Over::SourceQuota);
        let mut recent = Recent::default();
        assert!(!recent.wants(why));
        assert_eq!(recent.since(None), (0, Vec::new()));
        let wanted = (0..100).filter(|_| recent.wants(why)).count();
        assert_eq!(wanted, WANTED as usize);
        assert!(recent.wants(Why::Policy(Reason::Fragment)), "a flood hides no other reason");
        recent.since(None);
        assert!(recent.wants(why));
    }

    #[test]
    fn everybody_who_asks_has_what_came_since_he_asked_last() {
        let mut recent = Recent::default();
        let one = |number: u32| Dropped::new(Why::Limit(Over::PrefixRate), number, &[0x45; 200]);
        (0..3).for_each(|number| recent.push(one(number)));
        assert_eq!(recent.since(None), (3, Vec::new()));
        assert_eq!(recent.since(Some(1)), (3, vec![one(1), one(2)]));
        assert_eq!(recent.since(Some(3)), (3, Vec::new()));
        assert_eq!(recent.since(Some(9)), (3, Vec::new()), "of another life of the process");
        (3..5000).for_each(|number| recent.push(one(number)));
        let (next, kept) = recent.since(Some(0));
        assert_eq!((next, kept.len(), kept.last()), (5000, KEPT, Some(&one(4999))));
        assert_eq!(kept[0].beginning.len(), SNAP);
        assert_eq!((kept[0].sample().from, kept[0].sample().length), (Some(3976), 0x4545));
    }
}
