//! The array that the first bits of an address index: in huge pages where it is large and the system has them, so that
//! a look-up that misses the caches does not miss the translation of its address as well.

use std::sync::Arc;

use memmap2::MmapMut;

/// From so many octets on: two huge pages.
const LARGE: usize = 4 << 20;

/// A number as it lies in memory.
pub(super) type Slot = [u8; 4];

/// Numbers that were written once.
#[derive(Debug, Clone)]
pub(super) enum Slots {
    Heap(Arc<Vec<Slot>>),
    Huge(Arc<MmapMut>),
}

impl Slots {
    /// So many numbers, all 0 until `fill` has written them, and what that says.
    pub(super) fn new<T>(count: usize, fill: impl FnOnce(&mut [Slot]) -> T) -> (Self, T) {
        let octets = count * size_of::<Slot>();
        // What the system does not give comes from the heap.
        if octets >= LARGE
            && let Ok(mut memory) = MmapMut::map_anon(octets)
        {
            // A kernel without huge pages refuses: slower, and as right.
            #[cfg(target_os = "linux")]
            let _ = memory.advise(memmap2::Advice::HugePage);
            let done = fill(memory.as_chunks_mut().0);
            return (Self::Huge(Arc::new(memory)), done);
        }
        let mut slots = vec![Slot::default(); count];
        let done = fill(&mut slots);
        (Self::Heap(Arc::new(slots)), done)
    }

    pub(super) fn get(&self, at: usize) -> Option<u32> {
        self.all().get(at).map(|slot| u32::from_ne_bytes(*slot))
    }

    pub(super) fn octets(&self) -> usize {
        size_of_val(self.all())
    }

    fn all(&self) -> &[Slot] {
        match self {
            Self::Heap(slots) => slots,
            Self::Huge(memory) => memory.as_chunks().0,
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::Heap(Arc::default())
    }
}
