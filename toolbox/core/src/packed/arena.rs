//! Words that one writer changes while others read: memory in pieces of any size, named by numbers.
//!
//! Nothing here keeps a reader from seeing half of a change: [`crate::packed::shards`] does. What is read at a wrong place, or
//! too late, is some words, never a fault.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use zerocopy::FromZeros as _;

/// Words of a page: so many that few tables of the processor lead there, and untouched until they are used.
const PAGE_BITS: u32 = 22;
const PAGE: usize = 1 << PAGE_BITS;
/// Pages: 2^32 words in all.
const PAGES: usize = 1 << (u32::BITS - PAGE_BITS);
/// Words of a cache line.
pub(crate) const LINE: usize = 8;
/// The first that is given out: 0 names nothing, and what is before it is never written.
const FIRST: u32 = 2 * LINE as u32;
/// Names a place where no session ever is.
pub(crate) const NOWHERE: u32 = LINE as u32;

#[derive(Debug)]
struct Page {
    words: Vec<AtomicU64>,
    /// Words before the first line.
    skip: usize,
}

/// The words. Reading needs no lock.
#[derive(Debug)]
pub(crate) struct Words(Box<[OnceLock<Page>]>);

impl Default for Words {
    fn default() -> Self {
        Self((0..PAGES).map(|_| OnceLock::new()).collect())
    }
}

impl Words {
    /// The `count` words from `at` on; none where a page ends before.
    #[inline]
    pub(crate) fn at(&self, at: u32, count: usize) -> &[AtomicU64] {
        let Some(page) = self.0.get((at >> PAGE_BITS) as usize).and_then(OnceLock::get) else { return &[] };
        let from = at as usize % PAGE + page.skip;
        page.words.get(from..from + count).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn get(&self, at: u32) -> u64 {
        self.at(at, 1).first().map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// False when there is no memory.
    fn make(&self, page: usize) -> bool {
        let Some(page) = self.0.get(page) else { return false };
        let Ok(words) = AtomicU64::new_vec_zeroed(PAGE + LINE) else { return false };
        let skip = words.as_ptr().align_offset(LINE * size_of::<u64>()).min(LINE);
        page.set(Page { words, skip }).is_ok()
    }
}

/// Which words are whose; the writer's alone.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    /// Pages that there are; some may be another one's.
    pages: Arc<AtomicUsize>,
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
    pub(crate) const LONGEST: usize = 1 << 16;
    /// Words up to which a piece is short.
    const SHORT: usize = 64;
    /// Long pieces that are looked at for one that will do.
    const LOOK: usize = 32;

    /// Another one for the same words, which takes pages of its own.
    pub(crate) fn another(&self) -> Self {
        Self { pages: self.pages.clone(), ..Self::default() }
    }

    /// Takes over what another one has not given out.
    pub(crate) fn join(&mut self, other: Self) {
        self.give_back(other.next, other.left);
        for (count, free) in other.free.into_iter().enumerate() {
            free.into_iter().for_each(|at| self.give_back(at, count));
        }
        self.spare.extend(other.spare);
    }

    /// Words of all pages.
    pub(crate) fn words(&self) -> usize {
        self.pages.load(Ordering::Relaxed) << PAGE_BITS
    }

    /// A piece of `count` words; none when it is too long, or 2^32 words are given out.
    pub(crate) fn take(&mut self, words: &Words, count: usize) -> Option<u32> {
        if let Some(at) = self.free.get_mut(count).and_then(Vec::pop) {
            return Some(at);
        }
        self.more(words, count)?;
        let at = self.next;
        self.next += count as u32;
        self.left -= count;
        Some(at)
    }

    /// A piece of whole cache lines.
    pub(crate) fn take_lines(&mut self, words: &Words, lines: usize) -> Option<u32> {
        self.more(words, lines * LINE + LINE)?;
        let skip = self.next.next_multiple_of(LINE as u32) - self.next;
        let before = self.next;
        self.next += skip;
        self.left -= skip as usize;
        self.give_back(before, skip as usize);
        let at = self.next;
        self.next += (lines * LINE) as u32;
        self.left -= lines * LINE;
        Some(at)
    }

    /// Makes sure that `count` words are there to be given out.
    fn more(&mut self, words: &Words, count: usize) -> Option<()> {
        if count <= self.left {
            return Some(());
        }
        let mut last = self.spare.iter().enumerate().rev().take(Self::LOOK);
        let found = last.find(|(_, (_, length))| *length >= count).map(|(at, _)| at);
        let (next, left) = match found {
            Some(at) => self.spare.swap_remove(at),
            None if count > Self::LONGEST => return None,
            None => {
                let more = |pages: usize| (pages < PAGES).then_some(pages + 1);
                let page = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
                if !words.make(page) {
                    return None;
                }
                let at = (page << PAGE_BITS) as u32;
                if at == 0 { (FIRST, PAGE - FIRST as usize) } else { (at, PAGE) }
            }
        };
        let before = (self.next, self.left);
        (self.next, self.left) = (next, left);
        self.give_back(before.0, before.1);
        Some(())
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
        // What was never given out was never touched; of the last page at most.
        let pages = self.pages.load(Ordering::Relaxed);
        let untouched = if self.next as usize + self.left == pages << PAGE_BITS { self.left } else { 0 };
        (pages * (PAGE + LINE) - untouched) * 8 + PAGES * size_of::<OnceLock<Page>>() + free + spare
    }
}
