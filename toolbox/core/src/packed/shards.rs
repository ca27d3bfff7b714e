//! Numbers by hash, for one writer and readers that never wait for each other: sequence locks.
//!
//! The numbers are in some thousand small tables. A table is made of cache lines of eight slots: an entry is in the line that
//! its hash says, or, when that was full, in one of the next; so a search ends at the first line that was never full, usually the
//! first. A table grows by blocks of lines and is then filled anew in place, so that no memory is left behind.
//!
//! Each table has a sequence: odd while the writer is at it, or at anything that its numbers name. Who has read something
//! between two equal even sequences has read it whole.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use prefetch_index::prefetch_index;

use super::arena::{LINE, Owner, Words};
use super::shared::bits_of;

/// Lines of a block.
const BLOCK: usize = 64;
/// Blocks whose places are beside the sequence; of more they are in a list.
const NEAR: usize = 12;
/// Blocks in that list.
const FAR: usize = 116;
/// In a slot: its last entry is gone, and others may stand behind it.
const GONE: u64 = u32::MAX as u64;
/// Of so many slots, out of 64, not more are used.
const FULL: usize = 54;
/// Live entries up to which a table is filled anew and does not grow.
const AMPLE: usize = 48;

/// Slots that are one cache line.
pub(crate) type Line = [AtomicU64; LINE];

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    sequence: AtomicU64,
    /// How many lines it has: a power of two, or whole blocks.
    lines: AtomicU32,
    blocks: [AtomicU32; NEAR],
    far: AtomicU32,
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct Shards(Box<[Shard]>);

/// Spreads a hash evenly (splitmix64).
#[inline]
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// Bits of a hash that are none: what is known of the entry beside its number.
const BESIDE: u32 = 32;

/// A hash with something beside it.
#[inline]
pub(crate) fn with(hash: u64, beside: u8) -> u64 {
    hash & !(0xff << BESIDE) | u64::from(beside) << BESIDE
}

/// A slot: the upper half of the hash, with what is beside it, and the number.
pub(crate) fn slot(hash: u64, number: u32) -> u64 {
    hash & !u64::from(u32::MAX) | u64::from(number)
}

#[inline]
fn fits(slot: u64, hash: u64) -> bool {
    (slot ^ hash) >> 40 == 0 && slot as u32 != 0 && slot & GONE != GONE
}

/// Whether a line has free slots, which are its last.
#[inline]
fn was_never_full(line: &[AtomicU64]) -> bool {
    line.last().is_none_or(|slot| slot.load(Ordering::Relaxed) == 0)
}

/// Hands the entries of a line under `hash` to `each`; whether it has enough.
#[inline]
fn in_line(line: &Line, hash: u64, each: &mut impl FnMut(u32, u8) -> bool) -> bool {
    let mut hits = 0_u32;
    for (bit, slot) in line.iter().enumerate() {
        hits |= u32::from(slot.load(Ordering::Relaxed) >> 40 == hash >> 40) << bit;
    }
    bits_of(hits.into()).any(|bit| {
        let slot = line.get(usize::from(bit)).map_or(0, |slot| slot.load(Ordering::Relaxed));
        fits(slot, hash) && each(slot as u32, (slot >> BESIDE) as u8)
    })
}

/// Where a hash begins among `lines`: by the half of it that a slot keeps.
#[inline]
fn home(hash: u64, lines: usize) -> usize {
    (((hash >> 40) * lines as u64) >> 24) as usize
}

/// A read that began under some hash; [`Shards::hold`] says whether nothing changed since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    sequence: u64,
}

impl Reading {
    /// Of no shard: it never holds.
    pub(crate) const NONE: Self = Self { sequence: 1 };

    /// Whether the writer was not at it when it began.
    #[inline]
    pub(crate) fn is_quiet(self) -> bool {
        self.sequence & 1 == 0
    }
}

impl Shard {
    #[inline]
    fn line<'w>(&self, words: &'w Words, line: usize) -> &'w [AtomicU64] {
        let (block, within) = (line / BLOCK, line % BLOCK);
        let at = match self.blocks.get(block) {
            Some(at) => at.load(Ordering::Relaxed),
            None => words.get(self.far.load(Ordering::Relaxed).wrapping_add((block - NEAR) as u32)) as u32,
        };
        words.at(at.wrapping_add((within * LINE) as u32), LINE)
    }

    fn lines(&self) -> usize {
        self.lines.load(Ordering::Relaxed) as usize
    }
}

impl Shards {
    /// `1 << bits` tables.
    pub(crate) fn new(bits: u32) -> Self {
        Self((0..1 << bits).map(|_| Shard::default()).collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn number(&self, hash: u64) -> usize {
        hash as usize & (self.0.len() - 1)
    }

    #[inline]
    pub(crate) fn read(&self, hash: u64) -> Reading {
        let sequence = self.0.get(self.number(hash)).map_or(1, |shard| shard.sequence.load(Ordering::Acquire));
        Reading { sequence }
    }

    /// Whether nothing changed since all of these began under their hashes.
    #[inline]
    pub(crate) fn hold(&self, hashes: &[u64], readings: &[Reading]) -> bool {
        fence(Ordering::Acquire);
        hashes.iter().zip(readings).all(|(hash, Reading { sequence })| {
            let shard = self.0.get(self.number(*hash));
            sequence & 1 == 0 && shard.is_some_and(|of| of.sequence.load(Ordering::Relaxed) == *sequence)
        })
    }

    /// Begins to change what readers see through `shard`.
    pub(crate) fn begin(&self, shard: usize) {
        if let Some(shard) = self.0.get(shard) {
            let sequence = shard.sequence.load(Ordering::Relaxed);
            shard.sequence.store(sequence + 1, Ordering::Relaxed);
            fence(Ordering::Release);
        }
    }

    pub(crate) fn end(&self, shard: usize) {
        if let Some(shard) = self.0.get(shard) {
            let sequence = shard.sequence.load(Ordering::Relaxed);
            shard.sequence.store(sequence + 1, Ordering::Release);
        }
    }

    /// Hands the numbers under `hash`, and what is beside them, to `each` until it has enough.
    #[inline]
    pub(crate) fn find(&self, words: &Words, hash: u64, mut each: impl FnMut(u32, u8) -> bool) {
        let Some(shard) = self.0.get(self.number(hash)) else { return };
        let lines = shard.lines();
        let mut at = home(hash, lines);
        for _ in 0..lines {
            let Some(line) = shard.line(words, at).first_chunk::<LINE>() else { return };
            if in_line(line, hash, &mut each) || was_never_full(line) {
                return;
            }
            at = if at + 1 == lines { 0 } else { at + 1 };
        }
    }

    /// The first word of the line that a hash begins at: to have it near when it is searched.
    #[inline]
    pub(crate) fn first<'w>(&self, words: &'w Words, hash: u64) -> Option<&'w AtomicU64> {
        let shard = self.0.get(self.number(hash))?;
        shard.line(words, home(hash, shard.lines())).first()
    }

    /// Has the table that a hash is in brought near.
    #[inline]
    pub(crate) fn fetch(&self, hash: u64) {
        prefetch_index(&self.0, self.number(hash));
    }

    /// Begins to read under a hash, and has the line that it begins at brought near.
    #[inline]
    pub(crate) fn start<'w>(&self, words: &'w Words, hash: u64) -> (Reading, Option<&'w Line>) {
        let reading = self.read(hash);
        let line = self.0.get(self.number(hash)).and_then(|of| of.line(words, home(hash, of.lines())).first_chunk());
        if let Some(line) = line {
            prefetch_index(line, 0);
        }
        (reading, line)
    }

    /// As [`Shards::find`], from the line on that [`Shards::start`] gave.
    #[inline]
    pub(crate) fn go_on(&self, words: &Words, line: &Line, hash: u64, mut each: impl FnMut(u32, u8) -> bool) {
        if was_never_full(line) {
            in_line(line, hash, &mut each);
        } else {
            self.find(words, hash, each);
        }
    }

    /// All numbers of a table.
    pub(crate) fn of(&self, words: &Words, shard: usize) -> Vec<u32> {
        let Some(shard) = self.0.get(shard) else { return Vec::new() };
        let lines = (0..shard.lines()).flat_map(|line| shard.line(words, line));
        let slots = lines.map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(|slot| *slot != 0 && slot & GONE != GONE).map(|slot| slot as u32).collect()
    }

    /// Puts these slots into a table that is empty, and into which nobody looks; none when there is no more room in memory.
    pub(crate) fn fill(&self, shard: usize, words: &Words, owner: &mut Owner, slots: &[u64]) -> Option<Fill> {
        let shard = self.0.get(shard)?;
        while slots.len() * 64 > shard.lines() * LINE * AMPLE {
            Filling::grow(shard, words, owner, shard.lines()).then_some(())?;
        }
        slots.iter().try_for_each(|slot| place(shard, words, *slot).map(|_| ()))?;
        Some(Fill { live: slots.len() as u32, gone: 0 })
    }

    /// Octets that they take beside their slots.
    pub(crate) fn octets(&self) -> usize {
        self.0.len() * size_of::<Shard>()
    }
}

/// How full the tables are; the writer's alone. Changes are made between [`Shards::begin`] and [`Shards::end`].
#[derive(Debug)]
pub(crate) struct Filling {
    fills: Box<[Fill]>,
    /// Entries on their way to another line.
    moving: Vec<u64>,
}

/// How full one table is.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fill {
    live: u32,
    /// Slots that were used and are not free again.
    gone: u32,
}

/// Puts an entry into the first free slot; whether that was one whose entry is gone. None: there is none.
fn place(shard: &Shard, words: &Words, entry: u64) -> Option<bool> {
    let lines = shard.lines();
    let mut at = home(entry, lines);
    for _ in 0..lines {
        for slot in shard.line(words, at) {
            let before = slot.load(Ordering::Relaxed);
            if before == 0 || before & GONE == GONE {
                slot.store(entry, Ordering::Relaxed);
                return Some(before != 0);
            }
        }
        at = if at + 1 == lines { 0 } else { at + 1 };
    }
    None
}

impl Filling {
    pub(crate) fn new(shards: &Shards) -> Self {
        Self { fills: vec![Fill::default(); shards.count()].into(), moving: Vec::new() }
    }

    /// Of tables that [`Shards::fill`] filled.
    pub(crate) fn of(fills: Vec<Fill>) -> Self {
        Self { fills: fills.into(), moving: Vec::new() }
    }

    /// False when there is no more room in memory.
    pub(crate) fn insert(&mut self, shards: &Shards, words: &Words, owner: &mut Owner, hash: u64, number: u32) -> bool {
        let index = shards.number(hash);
        let (Some(shard), Some(fill)) = (shards.0.get(index), self.fills.get(index).copied()) else { return false };
        let slots = shard.lines() * LINE;
        if (fill.live + fill.gone + 1) as usize * 64 > slots * FULL {
            let grow = (fill.live + 1) as usize * 64 > slots * AMPLE;
            if !self.renew(shard, words, owner, index, grow) {
                return false;
            }
        }
        let (Some(was_gone), Some(fill)) = (place(shard, words, slot(hash, number)), self.fills.get_mut(index)) else {
            return false;
        };
        fill.gone -= u32::from(was_gone);
        fill.live += 1;
        true
    }

    /// Where the entry is.
    fn slot<'w>(shards: &Shards, words: &'w Words, hash: u64, number: u32) -> Option<(&'w [AtomicU64], &'w AtomicU64)> {
        let shard = shards.0.get(shards.number(hash))?;
        let lines = shard.lines();
        let mut at = home(hash, lines);
        for _ in 0..lines {
            let line = shard.line(words, at);
            if let Some(found) = line.iter().find(|of| of.load(Ordering::Relaxed) == slot(hash, number)) {
                return Some((line, found));
            }
            if was_never_full(line) {
                return None;
            }
            at = if at + 1 == lines { 0 } else { at + 1 };
        }
        None
    }

    pub(crate) fn remove(&mut self, shards: &Shards, words: &Words, hash: u64, number: u32) {
        let Some((line, found)) = Self::slot(shards, words, hash, number) else { return };
        let Some(fill) = self.fills.get_mut(shards.number(hash)) else { return };
        fill.live -= 1;
        // From a line that was never full nothing was sent on to the next.
        if was_never_full(line) {
            if let Some(last) = line.iter().rev().find(|slot| slot.load(Ordering::Relaxed) != 0) {
                found.store(last.load(Ordering::Relaxed), Ordering::Relaxed);
                last.store(0, Ordering::Relaxed);
            }
        } else {
            found.store(GONE, Ordering::Relaxed);
            fill.gone += 1;
        }
    }

    /// The same entry with another number.
    pub(crate) fn replace(&mut self, shards: &Shards, words: &Words, hash: u64, number: u32, by: u32) {
        if let Some((_, found)) = Self::slot(shards, words, hash, number) {
            found.store(slot(hash, by), Ordering::Relaxed);
        }
    }

    /// The same entries anew, in more lines if it is to grow.
    fn renew(&mut self, shard: &Shard, words: &Words, owner: &mut Owner, index: usize, grow: bool) -> bool {
        self.moving.clear();
        let lines = shard.lines();
        for line in 0..lines {
            for slot in shard.line(words, line) {
                let entry = slot.swap(0, Ordering::Relaxed);
                if entry != 0 && entry & GONE != GONE {
                    self.moving.push(entry);
                }
            }
        }
        let more = !grow || Self::grow(shard, words, owner, lines);
        for entry in &self.moving {
            place(shard, words, *entry);
        }
        if let Some(fill) = self.fills.get_mut(index) {
            *fill = Fill { live: self.moving.len() as u32, gone: 0 };
        }
        more || self.moving.len() < shard.lines() * LINE
    }

    /// Adds lines, which are empty.
    fn grow(shard: &Shard, words: &Words, owner: &mut Owner, lines: usize) -> bool {
        let (block, count) = if lines < BLOCK { (0, (lines * 2).max(1)) } else { (lines / BLOCK, BLOCK) };
        let Some(at) = owner.take_lines(words, count) else { return false };
        words.at(at, count * LINE).iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
        match shard.blocks.get(block) {
            Some(place) => {
                let before = place.swap(at, Ordering::Relaxed);
                if lines > 0 && lines < BLOCK {
                    owner.give_back(before, lines * LINE);
                }
            }
            None if block < NEAR + FAR => {
                if block == NEAR {
                    let Some(far) = owner.take(words, FAR) else { return false };
                    shard.far.store(far, Ordering::Relaxed);
                }
                let far = shard.far.load(Ordering::Relaxed) + (block - NEAR) as u32;
                words.at(far, 1).iter().for_each(|word| word.store(at.into(), Ordering::Relaxed));
            }
            None => {
                owner.give_back(at, count * LINE);
                return false;
            }
        }
        shard.lines.store(if lines < BLOCK { count } else { lines + BLOCK } as u32, Ordering::Relaxed);
        true
    }

    pub(crate) fn octets(&self) -> usize {
        self.fills.len() * size_of::<Fill>() + self.moving.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out_however_full_the_tables_are() {
        let (shards, words, mut owner) = (Shards::new(1), Words::default(), Owner::default());
        let mut filling = Filling::new(&shards);
        let mut there = BTreeSet::new();
        let mut seed = 1;
        let all = |hash| {
            let mut found = Vec::new();
            shards.find(&words, hash, |number, beside| {
                // Few bits are compared: another hash may be like it, with something else beside it.
                found.extend(Some(number).filter(|_| with(hash, beside) == hash));
                false
            });
            found
        };
        for round in 0..40_000_u32 {
            seed = mix(seed + 1);
            // Few hashes, so that many have several numbers.
            let (hash, number) = (mix(seed % 20_000), 1 + round % 5);
            if there.remove(&(hash, number)) {
                filling.remove(&shards, &words, hash, number);
            } else {
                there.insert((hash, number));
                assert!(filling.insert(&shards, &words, &mut owner, hash, number));
            }
            if round % 16 == 0 && !there.contains(&(hash, number + 10)) && there.remove(&(hash, number)) {
                filling.replace(&shards, &words, hash, number, number + 10);
                there.insert((hash, number + 10));
            }
        }
        for n in 0..20_000 {
            let hash = mix(n);
            let mut found = all(hash);
            found.sort_unstable();
            let expected: Vec<u32> = there.range((hash, 0)..=(hash, u32::MAX)).map(|(_, number)| *number).collect();
            assert_eq!(found, expected);
        }
        let listed = shards.of(&words, 0).len() + shards.of(&words, 1).len();
        assert_eq!(listed, there.len());
        assert!(shards.0.iter().all(|shard| shard.lines() > NEAR * BLOCK), "the list of blocks is used");
    }
}
