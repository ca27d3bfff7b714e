//! The sets and the attributes that their prefixes share, each kept once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bgp_wire::Family;

use crate::route::{Drain, RouteAttributes};

/// A named set of routes, for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub(super) u32);

#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) name: Arc<str>,
    /// Whether its routes are told.
    pub(super) shown: bool,
    /// How they are told while the set drains.
    pub(super) drain: Option<Drain>,
    /// They are told in another way than before.
    pub(super) retell: bool,
    /// For how many seconds its routes are to be kept by peers while we are down.
    pub(super) keep_s: Option<u32>,
    /// Prefixes that it wants, those included that another set announces.
    pub(super) routes: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Sets {
    sets: Vec<Set>,
    by_name: BTreeMap<Arc<str>, SetId>,
}

impl Sets {
    /// The set called `name`, made when it is not there.
    pub(super) fn named(&mut self, name: &str) -> SetId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = SetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        let name: Arc<str> = name.into();
        self.sets.push(Set { name: name.clone(), shown: true, drain: None, retell: false, keep_s: None, routes: 0 });
        self.by_name.insert(name, id);
        id
    }

    pub(super) fn find(&self, name: &str) -> Option<SetId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, id: SetId) -> &Set {
        self.sets.get(id.0 as usize).expect("a set's id outlives it never")
    }

    pub(super) fn get_mut(&mut self, id: SetId) -> &mut Set {
        self.sets.get_mut(id.0 as usize).expect("a set's id outlives it never")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Set> {
        self.by_name.values().map(|id| self.get(*id))
    }
}

type Owned = (SetId, RouteAttributes);

/// Attributes of a set's routes, counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Interned {
    slots: Vec<Option<(Arc<Owned>, usize)>>,
    by_value: HashMap<Arc<Owned>, u32>,
    free: Vec<u32>,
}

impl Interned {
    /// The number of `attributes` in `set`; it stays while something holds it.
    pub(super) fn intern(&mut self, set: SetId, attributes: &RouteAttributes) -> u32 {
        let value = (set, attributes.clone());
        if let Some(id) = self.by_value.get(&value) {
            return *id;
        }
        let value = Arc::new(value);
        let slot = Some((value.clone(), 0));
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(free) = self.slots.get_mut(id as usize) {
                    *free = slot;
                }
                id
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_value.insert(value, id);
        id
    }

    fn slot(&self, id: u32) -> &Owned {
        let slot = self.slots.get(id as usize).and_then(Option::as_ref);
        &slot.expect("attributes stay while a prefix has them").0
    }

    pub(super) fn set(&self, id: u32) -> SetId {
        self.slot(id).0
    }

    pub(super) fn attributes(&self, id: u32) -> &RouteAttributes {
        &self.slot(id).1
    }

    /// Whether there are peers that routes of `family` with these attributes are not for.
    pub(super) fn is_selective(&self, id: u32, family: Family) -> bool {
        self.attributes(id).is_selective(family)
    }

    pub(super) fn hold(&mut self, id: u32) {
        if let Some(Some((_, count))) = self.slots.get_mut(id as usize) {
            *count += 1;
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize) else { return };
        let Some((value, count)) = slot else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_value.remove(value);
            *slot = None;
            self.free.push(id);
        }
    }
}
