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
    /// Readers that have to withdraw it yet, and two bits beside.
    counts: u16,
    pub(super) octets: [u8; N],
    pub(super) bits: u8,
    pub(super) state: State,
}

/// The most readers.
pub(super) const MAX_READERS: u16 = 0x3fff;
const MARKED: u16 = 0x8000;
const NARROWED: u16 = 0x4000;

impl<const N: usize> Entry<N> {
    pub(super) const fn pending(&self) -> u16 {
        self.counts & MAX_READERS
    }

    pub(super) const fn set_pending(&mut self, readers: u16) {
        self.counts = self.counts & !MAX_READERS | readers & MAX_READERS;
    }

    /// Whether the replacement of its set that is under way has named it.
    pub(super) const fn marked(&self) -> bool {
        self.counts & MARKED != 0
    }

    /// Whether readers that it is not for may hold it from before.
    pub(super) const fn narrowed(&self) -> bool {
        self.counts & NARROWED != 0
    }

    pub(super) const fn narrow(&mut self, narrowed: bool) {
        self.counts = if narrowed { self.counts | NARROWED } else { self.counts & !NARROWED };
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

/// Neighbouring prefixes of one length, which mostly come and go together, lie together in the index: a cache line
/// serves many of them. Their block is thrown anywhere, so that no pattern between blocks piles them up.
fn hash<const N: usize>(octets: &[u8; N], bits: u8) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    const BLOCK: u32 = 5;
    const TAG: u32 = 57;
    let number = octets.iter().fold(0_u128, |number, octet| number << 8 | u128::from(*octet));
    let network = number.checked_shr(8 * N as u32 - u32::from(bits)).unwrap_or_default();
    let (low, high) = ((network >> BLOCK) as u64, (network >> (64 + BLOCK)) as u64);
    let mut block = (low ^ u64::from(bits) << 56).wrapping_mul(ODD);
    block = (block ^ block >> 32 ^ high).wrapping_mul(ODD);
    block ^= block >> 29;
    let within = (network as u64) & ((1 << BLOCK) - 1);
    // The table takes its places from the low end, and tells entries apart by the high end.
    let tag = block >> TAG ^ within;
    block.wrapping_add(within) & ((1 << TAG) - 1) | tag << TAG
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
    fn no_pattern_of_prefixes_piles_up() {
        // Places of a table of a million and a bit: whatever the distance between prefixes, few share one.
        for stride in [1, 2, 3, 16, 32, 255, 256, 4096] {
            for bits in [32, 24] {
                let networks = (0..50_000_u32).map(|n| n.wrapping_mul(stride) << (32 - u32::from(bits)));
                let mut places = std::collections::HashMap::<u64, u32>::new();
                for network in networks.collect::<std::collections::BTreeSet<_>>() {
                    *places.entry(hash(&network.to_be_bytes(), bits) & 0x1f_ffff).or_default() += 1;
                }
                let worst = places.values().max().copied().unwrap();
                assert!(worst <= 8, "{worst} in one place with a stride of {stride} and /{bits}");
            }
        }
        let lengths: std::collections::BTreeSet<u64> = (0..=128).map(|bits| hash(&[0; 16], bits)).collect();
        assert_eq!(lengths.len(), 129);
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
