//! Numbers by hash, for one writer and readers that never wait for each other: sequence locks.
//!
//! The numbers are in small tables of open addressing, some thousand of them. Each has a sequence: odd while the writer is at
//! it, or at anything that its numbers name. Who has read something between two equal even sequences has read it whole.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::arena::{Owner, Words};

/// Tables.
const SHARD_BITS: u32 = 12;
const SHARDS: usize = 1 << SHARD_BITS;
/// Slots of a table that holds anything.
const SMALLEST: usize = 4;
/// In a slot: its last entry is gone, and others may stand behind it.
const GONE: u64 = u32::MAX as u64;

#[derive(Debug, Default)]
struct Shard {
    sequence: AtomicU64,
    /// Where its slots are, and how many.
    table: AtomicU64,
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct Shards(Box<[Shard]>);

impl Default for Shards {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }
}

/// Spreads a hash evenly (splitmix64).
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// A slot: the upper half of the hash, and the number.
fn slot(hash: u64, number: u32) -> u64 {
    hash & !u64::from(u32::MAX) | u64::from(number)
}

fn fits(slot: u64, hash: u64) -> bool {
    (slot ^ hash) >> 32 == 0 && slot as u32 != 0 && slot & GONE != GONE
}

/// Where a hash begins in a table of `size` slots: by the half of it that a slot keeps.
fn home(hash: u64, size: usize) -> usize {
    (((hash >> 32) * size as u64) >> 32) as usize
}

/// A read that began; [`Reading::holds`] says whether nothing changed since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'s> {
    shard: &'s Shard,
    sequence: u64,
}

impl Reading<'_> {
    pub(crate) fn holds(&self) -> bool {
        fence(Ordering::Acquire);
        self.sequence & 1 == 0 && self.shard.sequence.load(Ordering::Relaxed) == self.sequence
    }
}

impl Shards {
    pub(crate) const COUNT: usize = SHARDS;

    fn shard(&self, hash: u64) -> Option<&Shard> {
        self.0.get(hash as usize % SHARDS)
    }

    pub(crate) fn number(hash: u64) -> usize {
        hash as usize % SHARDS
    }

    pub(crate) fn read(&self, hash: u64) -> Option<Reading<'_>> {
        let shard = self.shard(hash)?;
        Some(Reading { shard, sequence: shard.sequence.load(Ordering::Acquire) })
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

    fn table(&self, shard: usize) -> (u32, usize) {
        let table = self.0.get(shard).map_or(0, |shard| shard.table.load(Ordering::Relaxed));
        ((table >> 32) as u32, table as u32 as usize)
    }

    /// Hands the numbers under `hash` to `each` until it has enough.
    pub(crate) fn find(&self, words: &Words, hash: u64, mut each: impl FnMut(u32) -> bool) {
        let (at, size) = self.table(Self::number(hash));
        let slots = words.at(at, size);
        let start = home(hash, slots.len());
        let (before, from) = slots.split_at_checked(start).unwrap_or((slots, &[]));
        for slot in from.iter().chain(before) {
            let slot = slot.load(Ordering::Relaxed);
            if slot == 0 {
                return;
            }
            if fits(slot, hash) && each(slot as u32) {
                return;
            }
        }
    }

    /// The word that a hash begins at.
    pub(crate) fn home(&self, words: &Words, hash: u64) -> u64 {
        let (at, size) = self.table(Self::number(hash));
        words.at(at, size).get(home(hash, size)).map_or(0, |slot| slot.load(Ordering::Relaxed))
    }

    /// The first number under a hash, perhaps one of the past.
    pub(crate) fn first(&self, words: &Words, hash: u64) -> Option<u32> {
        let mut first = None;
        self.find(words, hash, |number| {
            first = Some(number);
            true
        });
        first
    }

    /// All numbers of a table.
    pub(crate) fn of(&self, words: &Words, shard: usize) -> Vec<u32> {
        let (at, size) = self.table(shard);
        let slots = words.at(at, size).iter().map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(|slot| *slot != 0 && slot & GONE != GONE).map(|slot| slot as u32).collect()
    }

    /// Octets that they take beside their slots.
    pub(crate) fn octets(&self) -> usize {
        self.0.len() * size_of::<Shard>()
    }
}

/// How full the tables are; the writer's alone. Changes are made between [`Shards::begin`] and [`Shards::end`].
#[derive(Debug)]
pub(crate) struct Filling(Box<[Fill]>);

#[derive(Debug, Default, Clone, Copy)]
struct Fill {
    live: u32,
    /// Slots that were used and are not free again.
    gone: u32,
}

impl Default for Filling {
    fn default() -> Self {
        Self(vec![Fill::default(); SHARDS].into())
    }
}

impl Filling {
    /// False when there is no more room in memory.
    pub(crate) fn insert(&mut self, shards: &Shards, words: &Words, owner: &mut Owner, hash: u64, number: u32) -> bool {
        let shard = Shards::number(hash);
        let (_, size) = shards.table(shard);
        let Some(fill) = self.0.get(shard).copied() else { return false };
        if (fill.live + fill.gone + 1) as usize * 8 > size * 7 && !self.rebuild(shards, words, owner, shard) {
            return false;
        }
        let (at, size) = shards.table(shard);
        let slots = words.at(at, size);
        let start = home(hash, size);
        let (before, from) = slots.split_at_checked(start).unwrap_or((slots, &[]));
        let is_free = |slot: &&AtomicU64| {
            let slot = slot.load(Ordering::Relaxed);
            slot == 0 || slot & GONE == GONE
        };
        let free = from.iter().chain(before).find(is_free);
        let (Some(free), Some(fill)) = (free, self.0.get_mut(shard)) else { return false };
        if free.load(Ordering::Relaxed) != 0 {
            fill.gone -= 1;
        }
        free.store(slot(hash, number), Ordering::Relaxed);
        fill.live += 1;
        true
    }

    pub(crate) fn remove(&mut self, shards: &Shards, words: &Words, hash: u64, number: u32) {
        let shard = Shards::number(hash);
        let (at, size) = shards.table(shard);
        let slots = words.at(at, size);
        let start = home(hash, size);
        let (before, from) = slots.split_at_checked(start).unwrap_or((slots, &[]));
        for found in from.iter().chain(before) {
            let value = found.load(Ordering::Relaxed);
            if value == 0 {
                return;
            }
            if value == slot(hash, number) {
                found.store(GONE, Ordering::Relaxed);
                if let Some(fill) = self.0.get_mut(shard) {
                    fill.live -= 1;
                    fill.gone += 1;
                }
                return;
            }
        }
    }

    /// The same entries in a table with room for some more.
    fn rebuild(&mut self, shards: &Shards, words: &Words, owner: &mut Owner, shard: usize) -> bool {
        let (at, size) = shards.table(shard);
        let old: Vec<u64> = words.at(at, size).iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
        let live: Vec<u64> = old.into_iter().filter(|slot| *slot != 0 && slot & GONE != GONE).collect();
        let grown = (live.len() + 1 + live.len() / 8).max(SMALLEST) * 8 / 7 + 1;
        let grown = grown.min(Owner::LONGEST);
        let Some(place) = owner.take(words, grown) else { return false };
        let slots = words.at(place, grown);
        slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
        for entry in &live {
            let start = home(*entry, grown);
            let (before, from) = slots.split_at_checked(start).unwrap_or((slots, &[]));
            if let Some(free) = from.iter().chain(before).find(|slot| slot.load(Ordering::Relaxed) == 0) {
                free.store(*entry, Ordering::Relaxed);
            }
        }
        if size > 0 {
            owner.give_back(at, size);
        }
        if let (Some(fill), Some(shard)) = (self.0.get_mut(shard), shards.0.get(shard)) {
            *fill = Fill { live: live.len() as u32, gone: 0 };
            shard.table.store(u64::from(place) << 32 | grown as u64, Ordering::Relaxed);
        }
        live.len() < grown
    }

    pub(crate) fn octets(&self) -> usize {
        self.0.len() * size_of::<Fill>()
    }
}
