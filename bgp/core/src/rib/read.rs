//! How peers read the table: each at its own pace, from the oldest change that it was not told of.

use std::collections::{BTreeSet, HashMap};

use bgp_wire::{Bulk, EncodeError, Family};
use ipnet::IpNet;

use super::list::{Mark, NodeId, Place};
use super::table::{MAX_READERS, State};
use super::{Rib, Row, SetId};
use crate::prefix_list::{Filter, Standing};
use crate::route::RouteAttributes;

/// Places of the list that one read looks at, at most: bounds how long it takes when there is little to tell.
const STEPS: usize = 1 << 16;

/// A peer's place in the list of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(u32);

/// Something that readers come by when they were told everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceId(u64);

#[derive(Debug, Clone)]
pub(super) struct Reader {
    position: NodeId,
    resume: Option<NodeId>,
    end: Option<NodeId>,
    /// What is told again up to `resume`.
    again: BTreeSet<Family>,
    families: BTreeSet<Family>,
    filter: Filter,
    /// What passed before, until all there is was looked at by the present filter.
    before: Vec<Filter>,
}

/// What one prefix means to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Announce,
    Withdraw,
    Nothing,
}

impl Reader {
    /// What to say of a route that is wanted.
    fn turn(&self, prefix: &IpNet, standing: Standing) -> Turn {
        let family = Family::of(prefix);
        if !self.families.contains(&family) {
            return Turn::Nothing;
        }
        let anew = self.resume.is_some();
        let told = || self.before.iter().any(|filter| filter.passes(prefix, standing));
        match (self.filter.passes(prefix, standing), anew && !self.again.contains(&family)) {
            // Only differences: it is known already if it passed all along.
            (true, true) if self.before.iter().all(|filter| filter.passes(prefix, standing)) => Turn::Nothing,
            (true, _) => Turn::Announce,
            (false, _) if told() => Turn::Withdraw,
            // It is not for the peer any more, and was when it was told last, perhaps.
            (false, _) if !anew && self.filter.takes(prefix) => Turn::Withdraw,
            (false, _) => Turn::Nothing,
        }
    }

    /// Whether the peer may hold a route of `prefix`.
    fn may_hold(&self, prefix: &IpNet) -> bool {
        let passed = self.filter.takes(prefix) || self.before.iter().any(|filter| filter.takes(prefix));
        passed && self.families.contains(&Family::of(prefix))
    }
}

/// What one read brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Whole UPDATEs.
    pub bytes: Vec<u8>,
    /// How many.
    pub updates: u64,
    /// Prefixes that they announce or withdraw.
    pub prefixes: u64,
    /// Everything has now been told that was there when the reader started, or when it started anew.
    pub end: bool,
    /// Fences that the reader came by.
    pub fences: Vec<FenceId>,
    /// Whether there is more to read.
    pub more: bool,
}

/// How a reader's peer wants announcements written.
pub trait Encode {
    /// Whether prefixes of `family` with `attributes` of `set` are for the peer at all.
    fn tells(&self, set: &str, attributes: &RouteAttributes, family: Family) -> bool;

    /// An UPDATE that announces prefixes of `family` with `attributes`, short of the prefixes; `keep_s`: for so many
    /// seconds peers are to keep them while we are down, if at all.
    ///
    /// # Errors
    /// When the attributes leave no room.
    fn announcement(
        &self,
        attributes: &RouteAttributes,
        family: Family,
        keep_s: Option<u32>,
    ) -> Result<Bulk, EncodeError>;

    /// An UPDATE that withdraws prefixes of `family`, short of the prefixes.
    fn withdrawal(&self, family: Family) -> Bulk;
}

/// Prefixes of one message kind, as they are found.
struct Bucket {
    bulk: Bulk,
    prefixes: Vec<u8>,
    /// Octets in the message that is being filled.
    filled: usize,
}

impl Bucket {
    fn fits(&self, bits: u8) -> bool {
        self.filled + self.bulk.length_of(bits) <= self.bulk.room()
    }

    fn push(&mut self, octets: &[u8], bits: u8) {
        if !self.fits(bits) {
            self.filled = 0;
        }
        self.bulk.push(octets, bits, &mut self.prefixes);
        self.filled += self.bulk.length_of(bits);
    }
}

/// Everything that goes into messages of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// With these attributes; whether it is to be kept while we are down.
    Announce(u32, Family, bool),
    Withdraw(Family),
}

impl Rib {
    /// A place at the oldest change, for a peer that takes `families` as far as `filter` lets them pass, and holds
    /// nothing; `None` when there are too many readers.
    pub fn attach(&mut self, families: BTreeSet<Family>, filter: Filter) -> Option<ReaderId> {
        if self.active >= MAX_READERS {
            return None;
        }
        self.active += 1;
        let position = self.list.add_marker(Mark::Position);
        let (resume, end) = (self.list.add_marker(Mark::Resume), self.list.add_marker(Mark::End));
        let oldest = self.list.oldest();
        self.list.insert_before(position, oldest);
        self.list.append(resume);
        self.list.append(end);
        let again = families.clone();
        let reader =
            Reader { position, resume: Some(resume), end: Some(end), again, families, filter, before: Vec::new() };
        let at = self.readers.iter().position(Option::is_none).unwrap_or_else(|| {
            self.readers.push(None);
            self.readers.len() - 1
        });
        if let Some(slot) = self.readers.get_mut(at) {
            *slot = Some(reader);
        }
        u32::try_from(at).ok().map(ReaderId)
    }

    /// The peer is gone: nothing waits for it any more.
    pub fn detach(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.active = self.active.saturating_sub(1);
        // What it had yet to withdraw, and the fences it had yet to come by.
        let mut at = self.list.next(reader.resume.unwrap_or(reader.position));
        while at != NodeId::NONE {
            let next = self.list.next(at);
            match (at.place(), self.row(at)) {
                (Place::Marker(_), _) => drop(self.pass(at)),
                (_, Some(row)) if row.state != State::Live => self.withdrawn(at, row),
                _ => {}
            }
            at = next;
        }
        for marker in [Some(reader.position), reader.resume, reader.end].into_iter().flatten() {
            self.list.remove_marker(marker);
        }
    }

    /// The peer wants all of `family` again (RFC 2918); [`Batch::end`] will say when it has it.
    pub fn refresh(&mut self, id: ReaderId, family: Family) {
        let Some(Some(reader)) = self.readers.get_mut(id.0 as usize) else { return };
        if reader.families.contains(&family) {
            reader.again.insert(family);
        }
        self.start_over(id);
    }

    /// Another filter from now on: only what passes one of the two and not the other is told.
    pub fn refilter(&mut self, id: ReaderId, filter: Filter) {
        let Some(Some(reader)) = self.readers.get_mut(id.0 as usize) else { return };
        if reader.filter == filter {
            return;
        }
        let before = std::mem::replace(&mut reader.filter, filter);
        reader.before.push(before);
        self.start_over(id);
    }

    /// Back to the oldest change, and on from where the reader was.
    fn start_over(&mut self, id: ReaderId) {
        let Some(Some(reader)) = self.readers.get_mut(id.0 as usize) else { return };
        let (position, mut resume, mut end) = (reader.position, reader.resume, reader.end);
        let resume = *resume.get_or_insert_with(|| {
            let marker = self.list.add_marker(Mark::Resume);
            self.list.insert_before(marker, position);
            marker
        });
        self.list.unlink(position);
        let oldest = self.list.oldest();
        self.list.insert_before(position, oldest);
        let end = *end.get_or_insert_with(|| self.list.add_marker(Mark::End));
        self.list.unlink(end);
        self.list.append(end);
        if let Some(Some(reader)) = self.readers.get_mut(id.0 as usize) {
            (reader.resume, reader.end) = (Some(resume), Some(end));
        }
    }

    /// All peers are to be told everything once more.
    pub fn refresh_all(&mut self) {
        let present = |(at, reader): (usize, &Option<Reader>)| {
            let reader = reader.as_ref()?;
            Some((ReaderId(u32::try_from(at).ok()?), reader.families.clone()))
        };
        let readers: Vec<_> = self.readers.iter().enumerate().filter_map(present).collect();
        for (id, families) in readers {
            families.into_iter().for_each(|family| self.refresh(id, family));
        }
    }

    /// Something behind all changes so far, to wait until readers come by. `None` when there is no reader.
    pub fn fence(&mut self) -> Option<FenceId> {
        if self.active == 0 {
            return None;
        }
        self.next_fence += 1;
        let fence = self.list.add_marker(Mark::Fence { id: self.next_fence, pending: self.active });
        self.list.append(fence);
        Some(FenceId(self.next_fence))
    }

    /// A reader comes by a marker that is not its own; a fence is named.
    fn pass(&mut self, id: NodeId) -> Option<FenceId> {
        let Place::Marker(at) = id.place() else { return None };
        let Some(Mark::Fence { id: fence, pending }) = self.list.mark(at) else { return None };
        let fence = FenceId(*fence);
        *pending = pending.saturating_sub(1);
        if *pending == 0 {
            self.list.remove_marker(id);
        }
        Some(fence)
    }

    /// Whether `id` has something to read.
    #[must_use]
    pub fn has_more(&mut self, id: ReaderId) -> bool {
        match self.readers.get(id.0 as usize) {
            Some(Some(reader)) => {
                let position = reader.position;
                self.list.next(position) != NodeId::NONE
            }
            _ => false,
        }
    }

    /// About `octets` of messages that bring `id` forward. The last message of the batch is filled up if what
    /// follows in the list fits it.
    pub fn read(&mut self, id: ReaderId, octets: usize, encode: &impl Encode) -> Batch {
        let mut batch = Batch::default();
        let Some(Some(reader)) = self.readers.get_mut(id.0 as usize) else { return batch };
        let mut reader = std::mem::replace(reader, Reader::placeholder());
        let mut found = Found::default();
        let mut at = self.list.next(reader.position);
        let mut steps = 0;
        while at != NodeId::NONE && steps < STEPS {
            let row = self.row(at);
            if found.octets >= octets && !row.is_some_and(|row| found.still_fits(&row)) {
                break;
            }
            steps += 1;
            let next = self.list.next(at);
            match row {
                Some(row) => self.tell(at, row, &reader, encode, &mut found),
                None if reader.resume == Some(at) => {
                    self.list.remove_marker(at);
                    reader.resume = None;
                }
                None if reader.end == Some(at) => {
                    self.list.remove_marker(at);
                    reader.end = None;
                    reader.again.clear();
                    batch.end = true;
                }
                // A fence from before this reader started waits for others.
                None if reader.resume.is_none() => batch.fences.extend(self.pass(at)),
                None => {}
            }
            at = next;
            // The end is told behind the last prefix, not behind what has changed since.
            if batch.end {
                break;
            }
        }
        // What changed on the way may lie behind the end, and be held from before.
        if at == NodeId::NONE && reader.resume.is_none() {
            reader.before.clear();
        }
        self.list.unlink(reader.position);
        self.list.insert_before(reader.position, at);
        batch.more = at != NodeId::NONE;
        batch.prefixes = found.prefixes;
        for bucket in &found.buckets {
            batch.updates += bucket.bulk.write(&bucket.prefixes, &mut batch.bytes);
        }
        if let Some(slot) = self.readers.get_mut(id.0 as usize) {
            *slot = Some(reader);
        }
        batch
    }

    /// Tells the reader of one prefix, if it does not know.
    fn tell(&mut self, at: NodeId, row: Row, reader: &Reader, encode: &impl Encode, found: &mut Found) {
        let family = Family::of(&row.prefix);
        let anew = reader.resume.is_some();
        if row.state == State::Live {
            let Some(chosen) = self.chosen(&row, family, encode) else {
                if row.narrowed && !anew {
                    found.withdraw(row.prefix, encode);
                }
                return;
            };
            let standing = self.standing(&row.prefix, chosen, reader.filter.looks_at_standing());
            match reader.turn(&row.prefix, standing) {
                Turn::Announce => {}
                Turn::Withdraw => return found.withdraw(row.prefix, encode),
                Turn::Nothing => return,
            }
            let attributes = self.interned.attributes(chosen);
            // Held once more where bytes are made: whatever went wrong before, it does not leave this process.
            let fits = attributes.next_hop.fits(family) && self.policy.check(row.prefix, attributes.guard).is_ok();
            let kind = Kind::Announce(chosen, family, standing.keep_s.is_some());
            let drain = self.sets.get(self.interned.set(chosen)).drain;
            let announcement = || match drain {
                Some(drain) => encode.announcement(&drain.of(attributes), family, standing.keep_s),
                None => encode.announcement(attributes, family, standing.keep_s),
            };
            if fits && found.turn_to(kind, announcement).is_ok() {
                found.push(row.prefix);
                return;
            }
            self.refused += 1;
            if !anew {
                found.withdraw(row.prefix, encode);
            }
        } else if !anew {
            if reader.may_hold(&row.prefix) {
                found.withdraw(row.prefix, encode);
            }
            self.withdrawn(at, row);
        }
    }
}

impl Rib {
    /// With what the reader is told of a route: what is announced, or, when that is not for it, the first by name
    /// among what waits in its shadow and is.
    fn chosen(&self, row: &Row, family: Family, encode: &impl Encode) -> Option<u32> {
        let name = |id: u32| &*self.sets.get(self.interned.set(id)).name;
        let tells =
            |id: u32| !self.is_selective(id, family) || encode.tells(name(id), self.interned.attributes(id), family);
        if tells(row.attributes) {
            return Some(row.attributes);
        }
        let range = self.shadows.range((row.prefix, SetId(0))..=(row.prefix, SetId(u32::MAX)));
        let shown =
            range.map(|((_, set), shadow)| (self.sets.get(*set), shadow.attributes)).filter(|(set, _)| set.shown);
        shown.filter(|(_, id)| tells(*id)).min_by_key(|(set, _)| &set.name).map(|(_, id)| id)
    }
}

impl Reader {
    /// Stands in while the reader is out of its slot.
    fn placeholder() -> Self {
        let (again, families) = (BTreeSet::new(), BTreeSet::new());
        let (filter, before) = (Filter::Nothing, Vec::new());
        Self { position: NodeId::NONE, resume: None, end: None, again, families, filter, before }
    }
}

/// What one read found, by kind.
#[derive(Default)]
struct Found {
    buckets: Vec<Bucket>,
    by_kind: HashMap<Kind, usize>,
    current: Option<(Kind, usize)>,
    octets: usize,
    prefixes: u64,
}

impl Found {
    /// Turns to the bucket of `kind`, made when it is not there.
    fn turn_to(&mut self, kind: Kind, bulk: impl FnOnce() -> Result<Bulk, EncodeError>) -> Result<(), EncodeError> {
        if self.current.is_some_and(|(current, _)| current == kind) {
            return Ok(());
        }
        let at = match self.by_kind.get(&kind) {
            Some(at) => *at,
            None => {
                let bulk = bulk()?;
                self.octets += bulk.overhead();
                self.buckets.push(Bucket { bulk, prefixes: Vec::new(), filled: 0 });
                let at = self.buckets.len() - 1;
                self.by_kind.insert(kind, at);
                at
            }
        };
        self.current = Some((kind, at));
        Ok(())
    }

    fn withdraw(&mut self, prefix: IpNet, encode: &impl Encode) {
        let family = Family::of(&prefix);
        if self.turn_to(Kind::Withdraw(family), || Ok(encode.withdrawal(family))).is_ok() {
            self.push(prefix);
        }
    }

    fn push(&mut self, prefix: IpNet) {
        let Some(bucket) = self.current.and_then(|(_, at)| self.buckets.get_mut(at)) else { return };
        let before = bucket.prefixes.len();
        match prefix {
            IpNet::V4(net) => bucket.push(&net.addr().octets(), net.prefix_len()),
            IpNet::V6(net) => bucket.push(&net.addr().octets(), net.prefix_len()),
        }
        self.octets += bucket.prefixes.len() - before;
        self.prefixes += 1;
    }

    /// Whether `row` belongs into the message that was filled last, and that has room.
    fn still_fits(&self, row: &Row) -> bool {
        let Some((current, at)) = self.current else { return false };
        let family = Family::of(&row.prefix);
        let same = match (current, row.state) {
            (Kind::Announce(attributes, of, _), State::Live) => attributes == row.attributes && of == family,
            (Kind::Withdraw(of), State::Held | State::Gone) => of == family,
            _ => false,
        };
        same && self.buckets.get(at).is_some_and(|bucket| bucket.fits(row.prefix.prefix_len()))
    }
}
