//! Whose data count, where there are several caches (RFC 8210 §10).

use std::sync::Arc;

use crate::table::Vrps;

/// The tables of all caches; that of the most preferred one that has any counts.
#[derive(Debug, Default)]
pub struct Selection {
    caches: Vec<(u8, Option<Arc<Vrps>>)>,
}

impl Selection {
    /// Of caches with these preferences; the lowest is the first choice, and among equals the first in the list.
    #[must_use]
    pub fn new(preferences: impl IntoIterator<Item = u8>) -> Self {
        Self { caches: preferences.into_iter().map(|preference| (preference, None)).collect() }
    }

    /// The cache at `index` has these data now, or none.
    pub fn set(&mut self, index: usize, data: Option<Arc<Vrps>>) {
        if let Some((_, held)) = self.caches.get_mut(index) {
            *held = data;
        }
    }

    /// The cache that counts.
    #[must_use]
    pub fn chosen(&self) -> Option<usize> {
        let with_data = self.caches.iter().enumerate().filter(|(_, (_, data))| data.is_some());
        with_data.min_by_key(|(index, (preference, _))| (*preference, *index)).map(|(index, _)| index)
    }

    /// The data that count; `None` where no cache has any.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Vrps>> {
        self.caches.get(self.chosen()?)?.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_preferred_cache_with_data_counts() {
        let data = |n: u32| {
            let vrp = crate::Vrp { prefix: "10.0.0.0/8".parse().unwrap(), max_length: 8, asn: bgp_wire::Asn(n) };
            Some(Arc::new(Vrps::from_iter([vrp])))
        };
        let mut selection = Selection::new([2, 1, 1]);
        assert_eq!((selection.chosen(), selection.current()), (None, None));
        selection.set(0, data(1));
        assert_eq!((selection.chosen(), selection.current()), (Some(0), data(1)));
        selection.set(2, data(3));
        assert_eq!(selection.chosen(), Some(2));
        selection.set(1, data(2));
        assert_eq!((selection.chosen(), selection.current()), (Some(1), data(2)));
        selection.set(1, None);
        selection.set(2, None);
        assert_eq!((selection.chosen(), selection.current()), (Some(0), data(1)));
        selection.set(7, data(7));
        assert_eq!(selection.chosen(), Some(0));
    }
}
