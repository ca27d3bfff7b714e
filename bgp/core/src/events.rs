//! What has happened, for whoever reads along: numbered, and no more of it than fits.

use std::collections::VecDeque;

/// The latest items, numbered from 1. Writing waits for nobody: a reader that is too slow is told what it missed.
#[derive(Debug, Clone)]
pub struct Ring<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// The number of the next item.
    next: u64,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt<T> {
    /// How many items were there and are no more.
    pub missed: u64,
    /// The number of the first of `items`.
    pub first: u64,
    /// In order, without a hole.
    pub items: Vec<T>,
}

impl<T> Excerpt<T> {
    /// Where to read on.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }
}

impl<T: Clone> Ring<T> {
    /// Of the last `capacity` items.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { items: VecDeque::new(), capacity: capacity.max(1), next: 1 }
    }

    /// Adds an item; gives its number.
    pub fn push(&mut self, item: T) -> u64 {
        if self.items.len() >= self.capacity {
            self.items.pop_front();
        }
        self.items.push_back(item);
        let number = self.next;
        self.next += 1;
        number
    }

    /// The number of the next item.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Up to `most` items from the number `from` on.
    #[must_use]
    pub fn read(&self, from: u64, most: usize) -> Excerpt<T> {
        let oldest = self.next - self.items.len() as u64;
        let first = from.clamp(oldest, self.next);
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        let items = self.items.iter().skip(skip).take(most).cloned().collect();
        Excerpt { missed: oldest.saturating_sub(from.max(1)), first, items }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_in_time_misses_nothing_and_a_late_one_knows_what() {
        let mut ring = Ring::new(3);
        assert_eq!(ring.read(1, 9), Excerpt { missed: 0, first: 1, items: Vec::<u64>::new() });
        for n in 1..=5 {
            assert_eq!(ring.push(n), n);
        }
        assert_eq!(ring.read(3, 9), Excerpt { missed: 0, first: 3, items: vec![3, 4, 5] });
        assert_eq!(ring.read(3, 2), Excerpt { missed: 0, first: 3, items: vec![3, 4] });
        assert_eq!(ring.read(2, 9), Excerpt { missed: 1, first: 3, items: vec![3, 4, 5] });
        assert_eq!(ring.read(0, 9).missed, 2);
        assert_eq!(ring.read(6, 9), Excerpt { missed: 0, first: 6, items: vec![] });
        // Of another life of the process: from now on.
        assert_eq!(ring.read(100, 9), Excerpt { missed: 0, first: 6, items: vec![] });
    }

    proptest! {
        #[test]
        fn what_is_read_and_what_is_missed_is_all_that_was(
            capacity in 1_usize..8, turns in proptest::collection::vec((0_u64..12, 1_usize..6), 0..20),
        ) {
            let mut ring = Ring::new(capacity);
            let (mut from, mut written, mut accounted) = (1, 0, 0);
            for (writes, most) in turns {
                for _ in 0..writes {
                    written += 1;
                    ring.push(written);
                }
                let excerpt = ring.read(from, most);
                prop_assert_eq!(excerpt.first, from + excerpt.missed);
                prop_assert!(excerpt.items.iter().copied().eq(excerpt.first..excerpt.next()));
                accounted += excerpt.missed + excerpt.items.len() as u64;
                from = excerpt.next();
            }
            prop_assert!(accounted <= written && written - accounted <= capacity as u64);
        }
    }
}
