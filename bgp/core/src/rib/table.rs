//! The prefixes of one family: a slab of entries, and an index that finds them.

use hashbrown::HashTable;

use super::list::Links;

/// Whether peers hold a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Wanted, and told.
    Live,
    /// Wanted, and not told: its set is not healthy. Readers that are on their way to it withdraw it.
    Held,
    /// Not wanted; it stays until the last reader has withdrawn it.
    Gone,
}

/// A prefix. 1e6 of them x (20 B + 5 B in the index, with room to grow) = 32 MB for IPv4.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<const N: usize> {
    pub(super) links: Links,
    /// Whose attributes; of no meaning when Gone.
    pub(super) attributes: u32,
    /// Readers that have to withdraw it yet, and a bit beside.
    counts: u16,
    pub(super) octets: [u8; N],
    pub(super) bits: u8,
    pub(super) state: State,
}

/// The most readers.
pub(super) const MAX_READERS: u16 = 0x7fff;
const MARKED: u16 = 0x8000;

impl<const N: usize> Entry<N> {
    pub(super) const fn pending(&self) -> u16 {
        self.counts & MAX_READERS
    }

    pub(super) const fn set_pending(&mut self, readers: u16) {
        self.counts = self.counts & MARKED | readers & MAX_READERS;
    }

    /// Whether the replacement of its set that is under way has named it.
    pub(super) const fn marked(&self) -> bool {
        self.counts & MARKED != 0
    }

    pub(super) const fn mark(&mut self, marked: bool) {
        self.counts = if marked { self.counts | MARKED } else { self.counts & !MARKED };
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Table<const N: usize> {
    entries: Vec<Option<Entry<N>>>,
    index: HashTable<u32>,
    free: Vec<u32>,
}

fn hash<const N: usize>(octets: &[u8; N], bits: u8) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, _) = octets.as_chunks::<4>();
    let mut mixed = u64::from(bits);
    for word in words {
        mixed = (mixed ^ u64::from(u32::from_le_bytes(*word))).wrapping_mul(ODD);
        mixed ^= mixed >> 32;
    }
    mixed.wrapping_mul(ODD).rotate_left(29)
}

impl<const N: usize> Table<N> {
    /// Slots to walk over with [`Table::get`].
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn reserve(&mut self, more: usize) {
        let more = more.saturating_sub(self.free.len());
        self.entries.reserve(more);
        let entries = &self.entries;
        self.index.reserve(more, |at| hash_at(entries, *at));
    }

    pub(super) fn find(&self, octets: &[u8; N], bits: u8) -> Option<u32> {
        let same = |at: &u32| self.get(*at).is_some_and(|entry| entry.octets == *octets && entry.bits == bits);
        self.index.find(hash(octets, bits), same).copied()
    }

    pub(super) fn get(&self, at: u32) -> Option<&Entry<N>> {
        self.entries.get(at as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry<N>> {
        self.entries.get_mut(at as usize)?.as_mut()
    }

    /// Adds a prefix that is not in the table.
    pub(super) fn insert(&mut self, octets: [u8; N], bits: u8, attributes: u32, state: State, mark: bool) -> u32 {
        let counts = if mark { MARKED } else { 0 };
        let entry = Entry { links: Links::default(), attributes, counts, octets, bits, state };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(slot) = self.entries.get_mut(at as usize) {
                    *slot = Some(entry);
                }
                at
            }
            None => {
                self.entries.push(Some(entry));
                self.slots() - 1
            }
        };
        let entries = &self.entries;
        self.index.insert_unique(hash(&octets, bits), at, |at| hash_at(entries, *at));
        at
    }

    pub(super) fn remove(&mut self, at: u32) {
        let Some(entry) = self.entries.get_mut(at as usize).and_then(Option::take) else { return };
        if let Ok(found) = self.index.find_entry(hash(&entry.octets, entry.bits), |other| *other == at) {
            found.remove();
        }
        if self.index.is_empty() {
            *self = Self::default();
        } else {
            self.free.push(at);
        }
    }
}

fn hash_at<const N: usize>(entries: &[Option<Entry<N>>], at: u32) -> u64 {
    match entries.get(at as usize) {
        Some(Some(entry)) => hash(&entry.octets, entry.bits),
        Some(None) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Option<Entry<4>>>(), 20);
        assert_eq!(size_of::<Option<Entry<16>>>(), 32);
    }

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed() {
        let mut table = Table::<4>::default();
        let places: Vec<u32> =
            (0..5000_u32).map(|n| table.insert(n.to_be_bytes(), 32, n, State::Live, false)).collect();
        for (n, at) in places.iter().enumerate() {
            assert_eq!(table.find(&(n as u32).to_be_bytes(), 32), Some(*at));
            assert_eq!(table.find(&(n as u32).to_be_bytes(), 31), None);
        }
        for at in places.iter().step_by(2) {
            table.remove(*at);
        }
        assert_eq!(table.index.len(), 2500);
        assert_eq!(table.find(&4_u32.to_be_bytes(), 32), None);
        assert!(table.insert([9, 9, 9, 9], 32, 7, State::Live, false) < 5000, "a free slot is taken again");
    }
}
