//! The list of changes: every prefix that readers have to hear of, in the order of its last change, and between
//! them the markers that say how far each reader has come.
//!
//! ```text
//!  oldest -> 10.0.0.0/24 -> [reader 1] -> 10.0.1.0/24 -> (withdrawn 10.0.9.0/24) -> [reader 0] -> newest
//! ```
//! A change moves its prefix to the newest end, so a prefix is in the list once however often it changes, and a
//! reader costs one marker however far behind it is.

use super::table::{Entry, Table};

/// A prefix or a marker: two bits say which, thirty where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

/// Which slab a [`NodeId`] points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    V4(u32),
    V6(u32),
    Marker(u32),
    Nowhere,
}

const PLACES: u32 = 30;
const AT: u32 = (1 << PLACES) - 1;

impl NodeId {
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) const fn v4(at: u32) -> Self {
        Self(at & AT)
    }

    pub(super) const fn v6(at: u32) -> Self {
        Self(1 << PLACES | at & AT)
    }

    pub(super) const fn marker(at: u32) -> Self {
        Self(2 << PLACES | at & AT)
    }

    pub(super) const fn place(self) -> Place {
        match self.0 >> PLACES {
            0 => Place::V4(self.0 & AT),
            1 => Place::V6(self.0 & AT),
            2 => Place::Marker(self.0 & AT),
            _ => Place::Nowhere,
        }
    }
}

/// Neighbours in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    previous: NodeId,
    next: NodeId,
}

impl Default for Links {
    fn default() -> Self {
        Self { previous: NodeId::NONE, next: NodeId::NONE }
    }
}

/// What stands between prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// How far a reader has come.
    Position,
    /// Up to here a reader that started anew skips withdrawals: it has made them, or never held the prefix.
    Resume,
    /// What was there when a reader started anew ends here.
    End,
    /// Somebody waits for readers to come by.
    Fence { id: u64, pending: u16 },
}

#[derive(Debug, Clone, Copy)]
struct Marker {
    links: Links,
    mark: Mark,
}

/// The list and everything in it.
#[derive(Debug, Clone)]
pub(super) struct List {
    pub(super) v4: Table<4>,
    pub(super) v6: Table<16>,
    markers: Vec<Option<Marker>>,
    oldest: NodeId,
    newest: NodeId,
}

impl Default for List {
    fn default() -> Self {
        let (oldest, newest) = (NodeId::NONE, NodeId::NONE);
        Self { v4: Table::default(), v6: Table::default(), markers: Vec::new(), oldest, newest }
    }
}

impl List {
    fn links(&mut self, id: NodeId) -> Option<&mut Links> {
        fn of<const N: usize>(entry: &mut Entry<N>) -> &mut Links {
            &mut entry.links
        }
        match id.place() {
            Place::V4(at) => self.v4.get_mut(at).map(of),
            Place::V6(at) => self.v6.get_mut(at).map(of),
            Place::Marker(at) => self.markers.get_mut(at as usize)?.as_mut().map(|marker| &mut marker.links),
            Place::Nowhere => None,
        }
    }

    pub(super) fn oldest(&self) -> NodeId {
        self.oldest
    }

    pub(super) fn next(&mut self, id: NodeId) -> NodeId {
        self.links(id).map_or(NodeId::NONE, |links| links.next)
    }

    /// Whether `id` is in the list.
    pub(super) fn is_linked(&mut self, id: NodeId) -> bool {
        let oldest = self.oldest;
        self.links(id).is_some_and(|links| links.previous != NodeId::NONE) || oldest == id
    }

    pub(super) fn append(&mut self, id: NodeId) {
        let previous = self.newest;
        self.join(previous, id);
        self.join(id, NodeId::NONE);
    }

    /// Puts `id` before `next`; last, when that is nowhere.
    pub(super) fn insert_before(&mut self, id: NodeId, next: NodeId) {
        let previous = match self.links(next) {
            Some(links) => links.previous,
            None => self.newest,
        };
        self.join(previous, id);
        self.join(id, next);
    }

    pub(super) fn unlink(&mut self, id: NodeId) {
        if !self.is_linked(id) {
            return;
        }
        let Some(links) = self.links(id) else { return };
        let Links { previous, next } = std::mem::take(links);
        self.join(previous, next);
    }

    fn join(&mut self, left: NodeId, right: NodeId) {
        match self.links(left) {
            Some(links) => links.next = right,
            None => self.oldest = right,
        }
        match self.links(right) {
            Some(links) => links.previous = left,
            None => self.newest = left,
        }
    }

    /// A marker that is not in the list yet.
    pub(super) fn add_marker(&mut self, mark: Mark) -> NodeId {
        let marker = Some(Marker { links: Links::default(), mark });
        let at = match self.markers.iter().position(Option::is_none) {
            Some(at) => {
                if let Some(slot) = self.markers.get_mut(at) {
                    *slot = marker;
                }
                at
            }
            None => {
                self.markers.push(marker);
                self.markers.len() - 1
            }
        };
        NodeId::marker(u32::try_from(at).unwrap_or(AT))
    }

    pub(super) fn mark(&mut self, at: u32) -> Option<&mut Mark> {
        self.markers.get_mut(at as usize)?.as_mut().map(|marker| &mut marker.mark)
    }

    pub(super) fn remove_marker(&mut self, id: NodeId) {
        self.unlink(id);
        if let Place::Marker(at) = id.place()
            && let Some(slot) = self.markers.get_mut(at as usize)
        {
            *slot = None;
        }
    }
}
