//! Words that one writer changes while others read: memory in pieces of any size, named by numbers.
//!
//! Nothing here keeps a reader from seeing half of a change: [`crate::packed::shards`] does. What is read at a wrong place, or
//! too late, is some words, never a fault.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a page.
const PAGE_BITS: u32 = 14;
const PAGE: usize = 1 << PAGE_BITS;
/// Pages of a level, and levels: 2^32 words in all.
const LEVEL_BITS: u32 = 9;
const LEVEL: usize = 1 << LEVEL_BITS;

type Page = Box<[AtomicU64]>;
type Level = Box<[OnceLock<Page>]>;

/// The words. Reading needs no lock.
#[derive(Debug)]
pub(crate) struct Words(Box<[OnceLock<Level>]>);

impl Default for Words {
    fn default() -> Self {
        Self((0..LEVEL).map(|_| OnceLock::new()).collect())
    }
}

impl Words {
    fn page(&self, at: u32) -> Option<&[AtomicU64]> {
        let page = (at >> PAGE_BITS) as usize;
        Some(self.0.get(page >> LEVEL_BITS)?.get()?.get(page % LEVEL)?.get()?)
    }

    /// The `count` words from `at` on; fewer where a page ends.
    pub(crate) fn at(&self, at: u32, count: usize) -> &[AtomicU64] {
        let from = at as usize % PAGE;
        let page = self.page(at).unwrap_or_default();
        page.get(from..(from + count).min(page.len())).unwrap_or_default()
    }

    pub(crate) fn get(&self, at: u32) -> u64 {
        self.at(at, 1).first().map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn make(&self, page: usize) {
        let level = self.0.get(page >> LEVEL_BITS);
        let level = level.map(|level| level.get_or_init(|| (0..LEVEL).map(|_| OnceLock::new()).collect()));
        if let Some(page) = level.and_then(|level| level.get(page % LEVEL)) {
            page.get_or_init(|| (0..PAGE).map(|_| AtomicU64::new(0)).collect());
        }
    }
}

/// Which words are whose; the writer's alone.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    /// Pages that there are.
    pages: usize,
    /// What is given out next, and how much of it there is.
    next: u32,
    left: usize,
    /// Short pieces that were given back, by their length.
    free: Vec<Vec<u32>>,
    /// Long ones: what is given out when the present one is used up.
    spare: Vec<(u32, usize)>,
}

impl Owner {
    /// The longest piece.
    pub(crate) const LONGEST: usize = PAGE - 1;
    /// Words up to which a piece is short.
    const SHORT: usize = 64;
    /// Long pieces that are looked at for one that will do.
    const LOOK: usize = 32;

    /// A piece of `count` words; none when it is longer than a page, or 2^32 words are given out.
    pub(crate) fn take(&mut self, words: &Words, count: usize) -> Option<u32> {
        if let Some(at) = self.free.get_mut(count).and_then(Vec::pop) {
            return Some(at);
        }
        if count > self.left {
            let mut last = self.spare.iter().enumerate().rev().take(Self::LOOK);
            let found = last.find(|(_, (_, length))| *length >= count).map(|(at, _)| at);
            let (next, left) = match found {
                Some(at) => self.spare.swap_remove(at),
                None if count > Self::LONGEST || self.pages == LEVEL << LEVEL_BITS => return None,
                None => {
                    words.make(self.pages);
                    let at = (self.pages << PAGE_BITS) as u32;
                    self.pages += 1;
                    // Word 0 names nothing.
                    if at == 0 { (1, PAGE - 1) } else { (at, PAGE) }
                }
            };
            let before = (self.next, self.left);
            (self.next, self.left) = (next, left);
            self.give_back(before.0, before.1);
        }
        let at = self.next;
        self.next += count as u32;
        self.left -= count;
        Some(at)
    }

    /// Gives a piece back.
    pub(crate) fn give_back(&mut self, at: u32, count: usize) {
        if count > Self::SHORT {
            self.spare.push((at, count));
        } else if count > 0 {
            if self.free.is_empty() {
                self.free.resize_with(Self::SHORT + 1, Vec::new);
            }
            if let Some(free) = self.free.get_mut(count) {
                free.push(at);
            }
        }
    }

    /// Octets that all of it takes.
    pub(crate) fn octets(&self) -> usize {
        let free: usize = self.free.iter().map(|free| free.capacity() * 4 + size_of::<Vec<u32>>()).sum();
        let spare = self.spare.capacity() * size_of::<(u32, usize)>();
        let levels = self.pages.div_ceil(LEVEL) * LEVEL * size_of::<OnceLock<Page>>();
        self.pages * PAGE * 8 + levels + LEVEL * size_of::<OnceLock<Level>>() + free + spare
    }
}
