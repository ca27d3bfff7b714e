//! The prefixes of one family: a slab of entries with an index, and the slab of paths that hang from them.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

/// No path, no entry.
pub(crate) const NONE: u32 = u32::MAX;

/// A prefix and its first path, which is the best if any is usable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<const N: usize> {
    pub(crate) octets: [u8; N],
    /// [`FREE`] in a slot that holds nothing.
    pub(crate) bits: u8,
    pub(crate) head: u32,
}

/// No prefix is as long.
const FREE: u8 = u8::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Table<const N: usize> {
    entries: Vec<Entry<N>>,
    index: HashTable<u32>,
    free: Vec<u32>,
    /// How many prefixes there are of each length: what a look-up has to try.
    lengths: Vec<u32>,
    /// A stranger chooses the prefixes, and must not choose where they fall.
    secret: u64,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            index: HashTable::new(),
            free: Vec::new(),
            lengths: vec![0; 8 * N + 1],
            secret: RandomState::new().hash_one(N),
        }
    }
}

fn hash<const N: usize>(secret: u64, octets: &[u8; N], bits: u8) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, _) = octets.as_chunks::<4>();
    let mut mixed = secret ^ u64::from(bits);
    for word in words {
        mixed = (mixed ^ u64::from(u32::from_le_bytes(*word))).wrapping_mul(ODD);
        mixed ^= mixed >> 32;
    }
    mixed.wrapping_mul(ODD).rotate_left(29)
}

fn hash_at<const N: usize>(secret: u64, entries: &[Entry<N>], at: u32) -> u64 {
    entries.get(at as usize).map_or(0, |entry| hash(secret, &entry.octets, entry.bits))
}

impl<const N: usize> Table<N> {
    /// Slots to walk over with [`Table::get`].
    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Prefixes.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn find(&self, octets: &[u8; N], bits: u8) -> Option<u32> {
        let same = |at: &u32| self.get(*at).is_some_and(|entry| entry.octets == *octets && entry.bits == bits);
        self.index.find(hash(self.secret, octets, bits), same).copied()
    }

    pub(crate) fn get(&self, at: u32) -> Option<&Entry<N>> {
        self.entries.get(at as usize).filter(|entry| entry.bits != FREE)
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut Entry<N>> {
        self.entries.get_mut(at as usize).filter(|entry| entry.bits != FREE)
    }

    /// The place of a prefix, made when it is not there.
    pub(crate) fn place(&mut self, octets: [u8; N], bits: u8) -> u32 {
        use hashbrown::hash_table::Entry as Found;
        let (entries, secret) = (&self.entries, self.secret);
        let same = |at: &u32| entries.get(*at as usize).is_some_and(|e| e.octets == octets && e.bits == bits);
        let vacant = match self.index.entry(hash(secret, &octets, bits), same, |at| hash_at(secret, entries, *at)) {
            Found::Occupied(found) => return *found.get(),
            Found::Vacant(vacant) => vacant,
        };
        let at = self.free.pop().unwrap_or_else(|| u32::try_from(self.entries.len()).unwrap_or(NONE));
        vacant.insert(at);
        let entry = Entry { octets, bits, head: NONE };
        match self.entries.get_mut(at as usize) {
            Some(slot) => *slot = entry,
            None => self.entries.push(entry),
        }
        if let Some(count) = self.lengths.get_mut(usize::from(bits)) {
            *count += 1;
        }
        at
    }

    pub(crate) fn remove(&mut self, at: u32) {
        let Some(entry) = self.entries.get_mut(at as usize).filter(|entry| entry.bits != FREE) else { return };
        let found = self.index.find_entry(hash(self.secret, &entry.octets, entry.bits), |other| *other == at);
        if let Some(count) = self.lengths.get_mut(usize::from(entry.bits)) {
            *count -= 1;
        }
        entry.bits = FREE;
        if let Ok(found) = found {
            found.remove();
        }
        self.free.push(at);
        if self.index.is_empty() {
            let secret = self.secret;
            *self = Self { secret, ..Self::default() };
        }
    }

    /// The prefixes that hold an address, the longest first.
    pub(crate) fn holding(&self, address: [u8; N]) -> impl Iterator<Item = u32> + '_ {
        let longest = u8::try_from(8 * N).unwrap_or(u8::MAX);
        let lengths = (0..=longest).rev().filter(|bits| self.lengths.get(usize::from(*bits)).is_some_and(|n| *n > 0));
        lengths.filter_map(move |bits| self.find(&cut(address, bits), bits))
    }
}

/// `address` with all bits behind the first `bits` cleared.
pub(crate) fn cut<const N: usize>(address: [u8; N], bits: u8) -> [u8; N] {
    let mut cut = address;
    for (at, octet) in cut.iter_mut().enumerate() {
        let left = usize::from(bits).saturating_sub(8 * at).min(8);
        *octet &= (0xff00_u16 >> left) as u8;
    }
    cut
}

/// One peer's route to one prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// What is said of it, by [`crate::attributes::Interned`].
    pub(crate) attributes: u32,
    /// The path identifier (RFC 7911), 0 where the session has none.
    pub(crate) id: u32,
    /// The next path to the same prefix.
    pub(crate) next: u32,
    /// When it came, or became another: [`crate::Rib::set_time`].
    pub(crate) since: u32,
    pub(crate) peer: u16,
    /// The peer's epoch when it was last told.
    pub(crate) epoch: u8,
    pub(crate) state: State,
}

/// Whether a path can be used: a code of [`crate::Rejected`] in seven bits, 0 for none, and a bit for LLGR-stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State(pub(crate) u8);

impl State {
    const LLGR: u8 = 0x80;

    pub(crate) const fn is_usable(self) -> bool {
        self.0 & !Self::LLGR == 0
    }

    pub(crate) const fn code(self) -> u8 {
        self.0 & !Self::LLGR
    }

    /// Kept long after its router was lost (RFC 9494).
    pub(crate) const fn is_llgr_stale(self) -> bool {
        self.0 & Self::LLGR != 0
    }

    pub(crate) const fn llgr_stale(self) -> Self {
        Self(self.0 | Self::LLGR)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    slots: Vec<Path>,
    free: Vec<u32>,
}

impl Paths {
    pub(crate) fn get(&self, at: u32) -> Option<&Path> {
        self.slots.get(at as usize)
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut Path> {
        self.slots.get_mut(at as usize)
    }

    pub(crate) fn add(&mut self, path: Path) -> u32 {
        match self.free.pop() {
            Some(at) => {
                if let Some(slot) = self.slots.get_mut(at as usize) {
                    *slot = path;
                }
                at
            }
            None => {
                self.slots.push(path);
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        }
    }

    pub(crate) fn remove(&mut self, at: u32) {
        self.free.push(at);
        if self.free.len() == self.slots.len() {
            *self = Self::default();
        }
    }

    /// The paths from `head` on, with their places.
    pub(crate) fn list(&self, head: u32) -> impl Iterator<Item = (u32, &Path)> + '_ {
        let first = self.get(head).map(|path| (head, path));
        std::iter::successors(first, |(_, path)| self.get(path.next).map(|next| (path.next, next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_a_million_times_is_small() {
        assert_eq!(size_of::<Entry<4>>(), 12);
        assert_eq!(size_of::<Entry<16>>(), 24);
        assert_eq!(size_of::<Path>(), 20);
    }

    #[test]
    fn an_address_is_cut_to_the_bit() {
        assert_eq!(cut([255; 4], 0), [0; 4]);
        assert_eq!(cut([255; 4], 13), [255, 0b1111_1000, 0, 0]);
        assert_eq!(cut([255; 4], 32), [255; 4]);
    }

    #[test]
    fn a_removed_prefix_makes_room_for_another() {
        let mut table = Table::<4>::default();
        let places: Vec<u32> = (0..100_u32).map(|n| table.place(n.to_be_bytes(), 32)).collect();
        assert_eq!(table.place(7_u32.to_be_bytes(), 32), places[7]);
        table.remove(places[7]);
        assert_eq!(table.find(&7_u32.to_be_bytes(), 32), None);
        assert_eq!((table.place([9; 4], 32), table.len()), (places[7], 100));
        for at in places {
            table.remove(at);
        }
        assert_eq!((table.slots(), table.len()), (0, 0), "an empty table holds no memory");
    }
}
