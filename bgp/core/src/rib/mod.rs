//! What is to be announced, kept once for all peers: the Adj-RIB-Out that they share.
//!
//! Sets of routes come in by [`Rib::add`] and [`Rib::remove`], each of them cheap, so that a bulk can be cut into
//! slices. Peers take what is new to them by [`Rib::read`], as much at a time as their socket holds: a peer that
//! does not read delays nobody, and costs one marker in the list of changes.
//!
//! A prefix that several sets want is announced once, from the first of them by name among those that are shown;
//! the others wait in its shadow. A route may be for some peers only: others are told of the first one that is for
//! them. So the outcome does not depend on the order in which sets change.

mod intern;
mod list;
mod read;
mod table;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bgp_wire::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use intern::SetId;
use intern::{Interned, Sets};
use list::{List, NodeId, Place};
use read::Reader;
pub use read::{Batch, Encode, FenceId, ReaderId};
use table::State;

use crate::policy::Policy;
use crate::prefix_list::Standing;
use crate::route::{Drain, RouteAttributes};

/// A route that is wanted and waits behind that of another set.
#[derive(Debug, Clone, Copy)]
struct Shadow {
    attributes: u32,
    marked: bool,
}

/// The routes of all sets, and how far each peer has been told of them.
#[derive(Debug, Clone, Default)]
pub struct Rib {
    list: List,
    sets: Sets,
    interned: Interned,
    shadows: BTreeMap<(IpNet, SetId), Shadow>,
    readers: Vec<Option<Reader>>,
    active: u16,
    next_fence: u64,
    policy: Arc<Policy>,
    refused: u64,
    /// There are, or were, peers that are told some sets alone.
    split: bool,
}

/// A prefix's own row, whichever its family.
#[derive(Debug, Clone, Copy)]
struct Row {
    prefix: IpNet,
    state: State,
    attributes: u32,
    pending: u16,
    marked: bool,
    /// Readers that it is not for may hold it from before.
    narrowed: bool,
}

/// A wanted route as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The prefix.
    pub prefix: IpNet,
    /// The set that it is announced from.
    pub set: &'a str,
    /// With what.
    pub attributes: &'a RouteAttributes,
    /// Whether peers are told.
    pub shown: bool,
}

impl Rib {
    /// Nothing wanted; `policy` is held once more whenever something is encoded.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        Self { policy, ..Self::default() }
    }

    /// The set called `name`, made when it is not there.
    pub fn set(&mut self, name: &str) -> SetId {
        self.sets.named(name)
    }

    /// The set called `name`, if it was ever there.
    #[must_use]
    pub fn find_set(&self, name: &str) -> Option<SetId> {
        self.sets.find(name)
    }

    /// How many prefixes `set` wants.
    #[must_use]
    pub fn routes_of(&self, set: SetId) -> usize {
        self.sets.get(set).routes
    }

    /// How many prefixes all sets want; one that several want counts for each.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.sets.iter().map(|set| set.routes).sum()
    }

    /// Prefixes that were about to be encoded against the policy, and were not.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Makes room for `v4` and `v6` prefixes more.
    pub fn reserve(&mut self, v4: usize, v6: usize) {
        self.list.v4.reserve(v4);
        self.list.v6.reserve(v6);
    }

    /// Keeps `attributes` of `set` for [`Rib::add`]; at least one prefix has to be added.
    pub fn intern(&mut self, set: SetId, attributes: &RouteAttributes) -> u32 {
        self.interned.intern(set, attributes)
    }

    /// `prefix` is wanted with `attributes`, which name the set. Says whether it is new to the set, or
    /// changed in it. With `mark`, [`Rib::sweep`] will leave it.
    pub fn add(&mut self, prefix: IpNet, attributes: u32, mark: bool) -> Change {
        let set = self.interned.set(attributes);
        self.interned.hold(attributes);
        let Some(id) = self.find(&prefix) else {
            self.insert(prefix, attributes, mark);
            return Change::Added;
        };
        let Some(row) = self.row(id) else { return Change::None };
        let change = if row.state == State::Gone {
            self.own(id, attributes, mark);
            Change::Added
        } else if self.interned.set(row.attributes) == set {
            self.interned.release(row.attributes);
            let same = row.attributes == attributes;
            self.own(id, attributes, mark);
            if same {
                return Change::None;
            }
            Change::Changed
        } else {
            let old = self.shadows.insert((prefix, set), Shadow { attributes, marked: mark });
            match old {
                Some(old) => {
                    self.interned.release(old.attributes);
                    if old.attributes == attributes {
                        return Change::None;
                    }
                    Change::Changed
                }
                None => Change::Added,
            }
        };
        if change == Change::Added {
            self.sets.get_mut(set).routes += 1;
        }
        self.settle(id, row.state == State::Live && self.row(id).is_some_and(|now| now.attributes == row.attributes));
        change
    }

    /// `set` does not want `prefix` any more. Says whether it did.
    pub fn remove(&mut self, prefix: IpNet, set: SetId) -> bool {
        let Some(id) = self.find(&prefix) else { return false };
        let Some(row) = self.row(id).filter(|row| row.state != State::Gone) else { return false };
        if self.interned.set(row.attributes) == set {
            self.sets.get_mut(set).routes -= 1;
            self.disown(id, row);
            return true;
        }
        let Some(shadow) = self.shadows.remove(&(prefix, set)) else { return false };
        self.interned.release(shadow.attributes);
        self.sets.get_mut(set).routes -= 1;
        self.settle(id, true);
        true
    }

    /// Shows or hides what `set` wants, or has it told as it is while it drains; [`Rib::settle_set`] carries it out.
    pub fn show(&mut self, set: SetId, shown: bool, drain: Option<Drain>) {
        let set = self.sets.get_mut(set);
        set.shown = shown;
        set.retell = set.drain != drain;
        set.drain = drain;
    }

    /// Carries out [`Rib::show`] for the next `slots` places; `Break` when all are done.
    pub fn settle_set(&mut self, set: SetId, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        self.walk(walk, slots, |rib, id, row| {
            let own = row.state != State::Gone && rib.interned.set(row.attributes) == set;
            if own || row.state != State::Gone && rib.shadows.contains_key(&(row.prefix, set)) {
                rib.settle(id, !(own && rib.sets.get(set).retell));
            }
        })
    }

    /// For how many seconds peers are to keep what `set` wants while we are down, if at all. Says whether that is new;
    /// [`Rib::tell_set`] tells those who are there.
    pub fn keep(&mut self, set: SetId, keep_s: Option<u32>) -> bool {
        std::mem::replace(&mut self.sets.get_mut(set).keep_s, keep_s) != keep_s
    }

    /// How a route stands towards a filter that looks at more than its prefix, or one that does not. A private route is
    /// never kept: its health may have gone with us.
    fn standing(&self, prefix: &IpNet, attributes: u32, looks: bool) -> Standing {
        let keep_s = self.sets.get(self.interned.set(attributes)).keep_s;
        let guarded = self.interned.attributes(attributes).guard.is_some();
        let private = guarded || (keep_s.is_some() || looks) && self.policy.touches_private(prefix);
        Standing { private, keep_s: keep_s.filter(|_| !private) }
    }

    /// Whether something is wanted that peers are to keep while we are down.
    #[must_use]
    pub fn keeps_anything(&self) -> bool {
        self.sets.iter().any(|set| set.keep_s.is_some() && set.routes > 0)
    }

    /// Has readers told again what `set` wants, in the next `slots` places; `Break` when all are done.
    pub fn tell_set(&mut self, set: SetId, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        self.walk(walk, slots, |rib, id, row| {
            if row.state == State::Live && rib.interned.set(row.attributes) == set {
                rib.list.unlink(id);
                rib.list.append(id);
            }
        })
    }

    /// What may be told at all.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.clone()
    }

    /// Holds `policy` from now on and gives back the one before, which [`Rib::settle_policy`] takes to carry it out.
    pub fn set_policy(&mut self, policy: Arc<Policy>) -> Arc<Policy> {
        std::mem::replace(&mut self.policy, policy)
    }

    /// Has readers told of what the policy allows and `before` did not, or the reverse, in the next `slots` places;
    /// `Break` when all are done.
    pub fn settle_policy(&mut self, before: &Policy, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        self.walk(walk, slots, |rib, id, row| {
            if row.state != State::Live {
                return;
            }
            let guard = rib.interned.attributes(row.attributes).guard;
            let allowed = |policy: &Policy| policy.check(row.prefix, guard).is_ok();
            if allowed(before) != allowed(&rib.policy) {
                rib.list.unlink(id);
                rib.list.append(id);
            }
        })
    }

    /// Removes what `set` wants and no [`Rib::add`] marked, in the next `slots` places, and counts it in
    /// `removed`; takes the marks away. `Break` when all is done.
    pub fn sweep(&mut self, set: SetId, walk: &mut Walk, slots: u32, removed: &mut usize) -> ControlFlow<()> {
        if walk.is_at_start() {
            let waiting: Vec<IpNet> = self.shadows.keys().filter(|(_, of)| *of == set).map(|(at, _)| *at).collect();
            for prefix in waiting {
                match self.shadows.get_mut(&(prefix, set)) {
                    Some(shadow) if shadow.marked => shadow.marked = false,
                    _ => *removed += usize::from(self.remove(prefix, set)),
                }
            }
        }
        self.walk(walk, slots, |rib, id, row| {
            if row.state == State::Gone || rib.interned.set(row.attributes) != set {
                return;
            }
            if row.marked {
                rib.edit(id, |counts| counts.mark = Some(false));
            } else {
                rib.sets.get_mut(set).routes -= 1;
                rib.disown(id, row);
                *removed += 1;
            }
        })
    }

    /// Looks at the wanted routes in the next `slots` places; `Break` when all were seen. Routes that change
    /// between two slices may be seen or not.
    pub fn visit(&self, walk: &mut Walk, slots: u32, mut see: impl FnMut(Wanted<'_>)) -> ControlFlow<()> {
        for id in walk.take(slots, self.list.v4.slots(), self.list.v6.slots()) {
            if let Some(row) = self.row(id).filter(|row| row.state != State::Gone) {
                see(self.wanted(row));
            }
        }
        walk.flow(self.list.v4.slots(), self.list.v6.slots())
    }

    /// The route of `prefix` that is wanted.
    #[must_use]
    pub fn look_up(&self, prefix: &IpNet) -> Option<Wanted<'_>> {
        let row = self.row(self.find(prefix)?)?;
        (row.state != State::Gone).then(|| self.wanted(row))
    }

    /// With what `set` wants `prefix`, whether or not another set announces it.
    #[must_use]
    pub fn wanted_by(&self, set: SetId, prefix: &IpNet) -> Option<&RouteAttributes> {
        let row = self.row(self.find(prefix)?).filter(|row| row.state != State::Gone)?;
        if self.interned.set(row.attributes) == set {
            return Some(self.interned.attributes(row.attributes));
        }
        self.shadows.get(&(*prefix, set)).map(|shadow| self.interned.attributes(shadow.attributes))
    }

    /// The sets by name, and how many prefixes each wants.
    pub fn sets(&self) -> impl Iterator<Item = (&str, usize)> {
        self.sets.iter().map(|set| (&*set.name, set.routes))
    }

    /// The sets whose routes for `prefix` wait behind another's, with their attributes.
    pub fn shadowed(&self, prefix: IpNet) -> impl Iterator<Item = (&str, &RouteAttributes)> {
        let range = self.shadows.range((prefix, SetId(0))..=(prefix, SetId(u32::MAX)));
        range.map(|((_, set), shadow)| (&*self.sets.get(*set).name, self.interned.attributes(shadow.attributes)))
    }

    /// Whether there is a prefix that several sets want.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// Every set's route for `prefix`: first the one that is announced, then those in its shadow by name.
    pub fn all_of(&self, prefix: &IpNet) -> impl Iterator<Item = Wanted<'_>> {
        let first = self.look_up(prefix);
        let range = first.is_some().then(|| self.shadows.range((*prefix, SetId(0))..=(*prefix, SetId(u32::MAX))));
        let mut shadowed: Vec<Wanted<'_>> = range
            .into_iter()
            .flatten()
            .map(|((prefix, set), shadow)| {
                let set = self.sets.get(*set);
                let attributes = self.interned.attributes(shadow.attributes);
                Wanted { prefix: *prefix, set: &set.name, attributes, shown: set.shown }
            })
            .collect();
        shadowed.sort_by(|a, b| a.set.cmp(b.set));
        first.into_iter().chain(shadowed)
    }

    fn wanted(&self, row: Row) -> Wanted<'_> {
        let set = self.sets.get(self.interned.set(row.attributes));
        let attributes = self.interned.attributes(row.attributes);
        Wanted { prefix: row.prefix, set: &set.name, attributes, shown: row.state == State::Live }
    }

    fn walk(&mut self, walk: &mut Walk, slots: u32, mut each: impl FnMut(&mut Self, NodeId, Row)) -> ControlFlow<()> {
        for id in walk.take(slots, self.list.v4.slots(), self.list.v6.slots()) {
            if let Some(row) = self.row(id) {
                each(self, id, row);
            }
        }
        walk.flow(self.list.v4.slots(), self.list.v6.slots())
    }

    fn find(&self, prefix: &IpNet) -> Option<NodeId> {
        match prefix {
            IpNet::V4(net) => self.list.v4.find(&net.addr().octets(), net.prefix_len()).map(NodeId::v4),
            IpNet::V6(net) => self.list.v6.find(&net.addr().octets(), net.prefix_len()).map(NodeId::v6),
        }
    }

    /// Nobody wanted `prefix` so far.
    fn insert(&mut self, prefix: IpNet, attributes: u32, mark: bool) {
        let set = self.sets.get_mut(self.interned.set(attributes));
        set.routes += 1;
        let state = if set.shown { State::Live } else { State::Held };
        let (shown, bits) = (set.shown, prefix.prefix_len());
        let id = match prefix {
            IpNet::V4(net) => NodeId::v4(self.list.v4.insert(net.addr().octets(), bits, attributes, state, mark)),
            IpNet::V6(net) => NodeId::v6(self.list.v6.insert(net.addr().octets(), bits, attributes, state, mark)),
        };
        if shown {
            self.list.append(id);
        }
    }

    fn row(&self, id: NodeId) -> Option<Row> {
        match id.place() {
            Place::V4(at) => self.list.v4.get(at).map(|entry| Row {
                prefix: Ipv4Net::new_assert(entry.octets.into(), entry.bits).into(),
                state: entry.state,
                attributes: entry.attributes,
                pending: entry.pending(),
                marked: entry.marked(),
                narrowed: entry.narrowed(),
            }),
            Place::V6(at) => self.list.v6.get(at).map(|entry| Row {
                prefix: Ipv6Net::new_assert(entry.octets.into(), entry.bits).into(),
                state: entry.state,
                attributes: entry.attributes,
                pending: entry.pending(),
                marked: entry.marked(),
                narrowed: entry.narrowed(),
            }),
            Place::Marker(_) | Place::Nowhere => None,
        }
    }

    fn edit(&mut self, id: NodeId, edit: impl FnOnce(&mut Edit)) {
        let mut edits = Edit::default();
        edit(&mut edits);
        match id.place() {
            Place::V4(at) => edits.apply(self.list.v4.get_mut(at)),
            Place::V6(at) => edits.apply(self.list.v6.get_mut(at)),
            Place::Marker(_) | Place::Nowhere => {}
        }
    }

    fn own(&mut self, id: NodeId, attributes: u32, mark: bool) {
        self.edit(id, |edit| {
            edit.attributes = Some(attributes);
            edit.mark = Some(mark);
        });
    }

    /// Elects who announces, and tells readers if that makes a difference; `told` says that what a Live row holds
    /// is what readers were told.
    fn settle(&mut self, id: NodeId, told: bool) {
        let Some(mut row) = self.row(id) else { return };
        let mut told = told;
        if !self.shadows.is_empty()
            && let Some(better) = self.better(&row)
            && let Some(shadow) = self.shadows.remove(&(row.prefix, better))
        {
            let loser = self.interned.set(row.attributes);
            self.shadows.insert((row.prefix, loser), Shadow { attributes: row.attributes, marked: row.marked });
            self.own(id, shadow.attributes, shadow.marked);
            row.attributes = shadow.attributes;
            told = false;
        }
        let shown = self.sets.get(self.interned.set(row.attributes)).shown;
        // Peers that it is not for look at what is in its shadow, which may have changed.
        let selective = self.is_selective(row.attributes, Family::of(&row.prefix));
        match (row.state, shown) {
            (State::Live, true) if told && !selective => {}
            (_, true) => {
                let held = row.state == State::Live || row.pending > 0;
                self.edit(id, |edit| {
                    edit.state = Some(State::Live);
                    edit.pending = Some(0);
                    edit.narrow = Some(row.narrowed || held && selective);
                });
                self.list.unlink(id);
                self.list.append(id);
            }
            (State::Live, false) => self.take_back(id, State::Held),
            // On its way to be withdrawn already, or never told.
            (State::Held | State::Gone, false) => self.edit(id, |edit| edit.state = Some(State::Held)),
        }
    }

    /// Whether there are peers that this is not for.
    fn is_selective(&self, attributes: u32, family: Family) -> bool {
        self.split || self.interned.is_selective(attributes, family)
    }

    /// There are peers that are told some sets alone.
    pub fn split(&mut self) {
        self.split = true;
    }

    /// The set in the shadow of `row` that should announce in its place.
    fn better(&self, row: &Row) -> Option<SetId> {
        let rank = |set: SetId| {
            let set = self.sets.get(set);
            (!set.shown, set.name.clone())
        };
        let range = self.shadows.range((row.prefix, SetId(0))..=(row.prefix, SetId(u32::MAX)));
        let best = range.map(|((_, set), _)| *set).min_by_key(|set| rank(*set))?;
        (rank(best) < rank(self.interned.set(row.attributes))).then_some(best)
    }

    /// The set that announces it no longer wants it.
    fn disown(&mut self, id: NodeId, row: Row) {
        self.interned.release(row.attributes);
        let range = self.shadows.range((row.prefix, SetId(0))..=(row.prefix, SetId(u32::MAX)));
        let heir = range.map(|((_, set), _)| *set).next();
        if let Some(heir) = heir.and_then(|set| self.shadows.remove(&(row.prefix, set))) {
            self.own(id, heir.attributes, heir.marked);
            self.settle(id, false);
            return;
        }
        self.edit(id, |edit| edit.mark = Some(false));
        match row.state {
            State::Live => self.take_back(id, State::Gone),
            State::Held if row.pending > 0 => self.edit(id, |edit| edit.state = Some(State::Gone)),
            State::Held | State::Gone => self.free(id),
        }
    }

    /// What readers were told is to be withdrawn.
    fn take_back(&mut self, id: NodeId, state: State) {
        let readers = self.active;
        self.edit(id, |edit| {
            edit.state = Some(state);
            edit.pending = Some(readers);
            edit.narrow = Some(false);
        });
        self.list.unlink(id);
        if readers > 0 {
            self.list.append(id);
        } else if state == State::Gone {
            self.free(id);
        }
    }

    fn free(&mut self, id: NodeId) {
        self.list.unlink(id);
        match id.place() {
            Place::V4(at) => self.list.v4.remove(at),
            Place::V6(at) => self.list.v6.remove(at),
            Place::Marker(_) | Place::Nowhere => {}
        }
    }

    /// One reader fewer has to withdraw it.
    fn withdrawn(&mut self, id: NodeId, row: Row) {
        match row.pending.saturating_sub(1) {
            0 if row.state == State::Gone => self.free(id),
            0 => {
                self.edit(id, |edit| edit.pending = Some(0));
                self.list.unlink(id);
            }
            pending => self.edit(id, |edit| edit.pending = Some(pending)),
        }
    }
}

/// What an addition did to its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was there just so.
    None,
    /// It had other attributes.
    Changed,
    /// It is new.
    Added,
}

#[derive(Default)]
struct Edit {
    state: Option<State>,
    attributes: Option<u32>,
    pending: Option<u16>,
    mark: Option<bool>,
    narrow: Option<bool>,
}

impl Edit {
    fn apply<const N: usize>(self, entry: Option<&mut table::Entry<N>>) {
        let Some(entry) = entry else { return };
        if let Some(state) = self.state {
            entry.state = state;
        }
        if let Some(attributes) = self.attributes {
            entry.attributes = attributes;
        }
        if let Some(pending) = self.pending {
            entry.set_pending(pending);
        }
        if let Some(mark) = self.mark {
            entry.mark(mark);
        }
        if let Some(narrow) = self.narrow {
            entry.narrow(narrow);
        }
    }
}

/// How far a walk over all places has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk {
    v4: u32,
    v6: u32,
}

impl Walk {
    const fn is_at_start(self) -> bool {
        self.v4 == 0 && self.v6 == 0
    }

    fn take(&mut self, slots: u32, v4: u32, v6: u32) -> impl Iterator<Item = NodeId> + use<> {
        let from = *self;
        self.v4 = from.v4.saturating_add(slots).min(v4.max(from.v4));
        let left = slots - (self.v4 - from.v4);
        self.v6 = from.v6.saturating_add(left).min(v6.max(from.v6));
        let (to_v4, to_v6) = (self.v4, self.v6);
        (from.v4..to_v4).map(NodeId::v4).chain((from.v6..to_v6).map(NodeId::v6))
    }

    const fn flow(self, v4: u32, v6: u32) -> ControlFlow<()> {
        if self.v4 >= v4 && self.v6 >= v6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
