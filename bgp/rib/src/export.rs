//! Best routes on their way to other peers, where the operator says so (RFC 8212).
//!
//! Each reader has a queue of the prefixes that it has to hear of, a bit for each that is in it, and a bit for each
//! that it was told: one that does not read delays nobody and misses nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use bgp_wire::{Asn, Attributes, Bulk, Community, Context, EncodeError, Family, Role};
use ipnet::IpNet;

use crate::peer::PeerId;
use crate::rib::{Core, Rib};
use crate::table::{Path, State};

/// Prefixes that one read looks at, at most: bounds how long it takes when there is little to tell.
const STEPS: usize = 1 << 14;
/// Set in the flags of an attribute that somebody on the way did not understand (RFC 4271 §5).
const PARTIAL: u8 = 0x20;
const TRANSITIVE: u8 = 0x40;

/// A reader's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(u16);

/// How a peer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Whom: it is never told its own routes.
    pub peer: PeerId,
    /// What we are to it (RFC 9234).
    pub role: Option<Role>,
    /// How its UPDATEs are written; says as well whether it is external.
    pub context: Context,
    /// Families that it takes.
    pub families: BTreeSet<Family>,
    /// Our address, which an external peer sends to.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our address, which an external peer sends to.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// It knows what long-lived stale means (RFC 9494).
    pub llgr: bool,
    /// An internal peer that does not know it is told of stale routes all the same, as RFC 9494 §4.6 has it.
    pub stale_inside: bool,
    /// It keeps routes when we are gone, but for those marked NO_LLGR: none of these is to be kept.
    pub keeps: bool,
}

/// Why a peer is not told of a best route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// No usable route.
    #[error("there is no usable route")]
    NoRoute,
    /// It does not take the family.
    #[error("the peer does not take the family")]
    Family,
    /// It is the best of the peer itself.
    #[error("the best route is the peer's own")]
    Own,
    /// RFC 4271 §9.2: we reflect nothing.
    #[error("learnt from an internal peer, and so not told to another")]
    SplitHorizon,
    /// RFC 1997.
    #[error("marked no-advertise")]
    NoAdvertise,
    /// RFC 1997.
    #[error("marked no-export, and the peer is external")]
    NoExport,
    /// RFC 1997.
    #[error("marked no-export-subconfed, and the peer is external")]
    NoExportSubconfed,
    /// RFC 3765.
    #[error("marked no-peer, and the peer is external and neither customer nor provider")]
    NoPeer,
    /// RFC 7999 §3.2.
    #[error("marked blackhole: goes no further")]
    Blackhole,
    /// RFC 9234 §5.
    #[error("marked only-to-customer, and the peer is none")]
    OnlyToCustomer,
    /// RFC 9494 §4.3.
    #[error("long-lived stale, and the peer does not know what that means")]
    LlgrStale,
    /// Requirement A3.
    #[error("inside a private prefix of ours")]
    Private,
    /// Inside what is injected here.
    #[error("inside what is injected here (inject.allow): our own routes alone go out")]
    InjectedHere,
    /// No address that the peer could send to.
    #[error("no next hop of the family can be told to the peer")]
    NextHop,
    /// The attributes leave no room in a message.
    #[error("its attributes do not fit into a message")]
    TooLong,
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
    /// Whether there is more to read.
    pub more: bool,
}

#[derive(Debug, Clone, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, at: u32) -> bool {
        self.0.get(at as usize / 64).is_some_and(|word| word & 1 << (at % 64) != 0)
    }

    /// Says whether it was another.
    fn set(&mut self, at: u32, value: bool) -> bool {
        let word = at as usize / 64;
        if word >= self.0.len() {
            if !value {
                return false;
            }
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let before = *word & 1 << (at % 64) != 0;
        *word = if value { *word | 1 << (at % 64) } else { *word & !(1 << (at % 64)) };
        before != value
    }
}

#[derive(Debug, Clone)]
struct Reader {
    export: Export,
    queue: VecDeque<(Family, u32)>,
    queued: [Bits; 2],
    told: [Bits; 2],
    /// Prefixes of the queue before [`Batch::end`].
    before_end: Option<usize>,
}

impl Reader {
    fn push(&mut self, family: Family, at: u32) {
        if bits(&mut self.queued, family).set(at, true) {
            self.queue.push_back((family, at));
        }
    }
}

fn bits(of: &mut [Bits; 2], family: Family) -> &mut Bits {
    let [v4, v6] = of;
    match family {
        Family::Ipv4 => v4,
        Family::Ipv6 => v6,
    }
}

/// Who is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers(Vec<Option<Box<Reader>>>);

impl Readers {
    /// The best route of a prefix is another.
    pub(crate) fn changed(&mut self, family: Family, at: u32) {
        for reader in self.0.iter_mut().flatten() {
            reader.push(family, at);
        }
    }

    /// Whether somebody holds, or has yet to look at, a prefix.
    pub(crate) fn need(&self, family: Family, at: u32) -> bool {
        self.0.iter().flatten().any(|reader| {
            let [v4, v6] = [0, 1].map(|n| (reader.queued.get(n), reader.told.get(n)));
            let (queued, told) = if family == Family::Ipv4 { v4 } else { v6 };
            queued.is_some_and(|bits| bits.has(at)) || told.is_some_and(|bits| bits.has(at))
        })
    }
}

/// Prefixes of one kind of message.
struct Bucket {
    bulk: Bulk,
    prefixes: Vec<u8>,
}

impl Rib {
    /// A peer that holds nothing of ours is to be told; [`Batch::end`] will say when it knows all that is there.
    pub fn attach(&mut self, export: Export) -> ReaderId {
        let mut reader = Reader {
            export,
            queue: VecDeque::new(),
            queued: Default::default(),
            told: Default::default(),
            before_end: Some(0),
        };
        let families = reader.export.families.clone();
        families.into_iter().for_each(|family| self.fill(&mut reader, family));
        let at = self.readers.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.readers.0.push(None);
            self.readers.0.len() - 1
        });
        if let Some(slot) = self.readers.0.get_mut(at) {
            *slot = Some(Box::new(reader));
        }
        ReaderId(u16::try_from(at).unwrap_or(u16::MAX))
    }

    /// The peer is gone.
    pub fn detach(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.0.get_mut(usize::from(id.0)).and_then(Option::take) else { return };
        drop(reader);
        for family in Family::ALL {
            for at in 0..self.slots(family) {
                self.tidy(family, at);
            }
        }
    }

    /// The peer wants all of `family` again (RFC 2918); [`Batch::end`] will say when it has it.
    pub fn tell_again(&mut self, id: ReaderId, family: Family) {
        let Some(mut reader) = self.readers.0.get_mut(usize::from(id.0)).and_then(Option::take) else { return };
        if reader.export.families.contains(&family) {
            self.fill(&mut reader, family);
        }
        if let Some(slot) = self.readers.0.get_mut(usize::from(id.0)) {
            *slot = Some(reader);
        }
    }

    /// The peer is to be told in another way from now on, or of other families: what differs is told again, or taken
    /// back. [`Batch::end`] will say when that is done.
    pub fn tell_otherwise(&mut self, id: ReaderId, export: Export) {
        let Some(mut reader) = self.readers.0.get_mut(usize::from(id.0)).and_then(Option::take) else { return };
        if reader.export != export {
            reader.export = export;
            Family::ALL.into_iter().for_each(|family| self.fill(&mut reader, family));
        }
        if let Some(slot) = self.readers.0.get_mut(usize::from(id.0)) {
            *slot = Some(reader);
        }
    }

    fn fill(&self, reader: &mut Reader, family: Family) {
        for at in 0..self.slots(family) {
            if self.head(family, at).is_some() {
                reader.push(family, at);
            }
        }
        reader.before_end = Some(reader.queue.len());
    }

    /// Whether `id` has something to read.
    #[must_use]
    pub fn has_more(&self, id: ReaderId) -> bool {
        let reader = self.readers.0.get(usize::from(id.0)).and_then(Option::as_ref);
        reader.is_some_and(|reader| !reader.queue.is_empty() || reader.before_end.is_some())
    }

    /// How many prefixes `id` was told and not told otherwise.
    #[must_use]
    pub fn told(&self, id: ReaderId) -> usize {
        let reader = self.readers.0.get(usize::from(id.0)).and_then(Option::as_ref);
        let words = reader.into_iter().flat_map(|reader| &reader.told).flat_map(|bits| &bits.0);
        words.map(|word| word.count_ones() as usize).sum()
    }

    /// Whether a peer is told of `prefix`.
    ///
    /// # Errors
    /// Why not.
    pub fn tells(&self, export: &Export, prefix: &IpNet) -> Result<(), NotTold> {
        let at = match prefix {
            IpNet::V4(net) => self.v4.find(&net.addr().octets(), net.prefix_len()),
            IpNet::V6(net) => self.v6.find(&net.addr().octets(), net.prefix_len()),
        };
        let at = at.ok_or(NotTold::NoRoute)?;
        let path = self.verdict(export, Family::of(prefix), at)?;
        announcement(&self.core, export, Family::of(prefix), &path).map(|_| ())
    }

    /// The same for a reader.
    ///
    /// # Errors
    /// Why not.
    pub fn tells_reader(&self, id: ReaderId, prefix: &IpNet) -> Result<(), NotTold> {
        let reader = self.readers.0.get(usize::from(id.0)).and_then(Option::as_ref).ok_or(NotTold::NoRoute)?;
        self.tells(&reader.export, prefix)
    }

    /// The best route as it is to be told.
    fn verdict(&self, export: &Export, family: Family, at: u32) -> Result<Path, NotTold> {
        let path = self.head(family, at).and_then(|head| self.core.paths.get(head));
        let path = path.filter(|path| path.state.is_usable()).ok_or(NotTold::NoRoute)?;
        if !export.families.contains(&family) {
            return Err(NotTold::Family);
        }
        self.core.may_tell(export, path)?;
        let prefix = self.prefix(family, at).ok_or(NotTold::NoRoute)?;
        // Held once more where it goes out: the route may have come before the prefix was private.
        if self.core.settings.private.iter().any(|private| private.contains(&prefix)) {
            return Err(NotTold::Private);
        }
        if self.core.settings.own.iter().any(|own| own.contains(&prefix)) {
            return Err(NotTold::InjectedHere);
        }
        Ok(*path)
    }

    /// About `octets` of messages that bring `id` forward.
    pub fn read(&mut self, id: ReaderId, octets: usize) -> Batch {
        let mut batch = Batch::default();
        let Some(mut reader) = self.readers.0.get_mut(usize::from(id.0)).and_then(Option::take) else { return batch };
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut kinds: HashMap<Kind, Result<usize, NotTold>> = HashMap::new();
        let (mut filled, mut steps, mut idle) = (0, 0, Vec::new());
        while filled < octets && steps < STEPS {
            let Some((family, at)) = reader.queue.pop_front() else { break };
            steps += 1;
            reader.before_end = reader.before_end.map(|left| left.saturating_sub(1));
            bits(&mut reader.queued, family).set(at, false);
            let told = bits(&mut reader.told, family).has(at);
            let Some(prefix) = self.prefix(family, at) else { continue };
            let mut wanted = self.verdict(&reader.export, family, at).and_then(|path| {
                let kind = Kind::Announce(family, path.attributes, path.state);
                *kinds.entry(kind).or_insert_with(|| {
                    let bulk = announcement(&self.core, &reader.export, family, &path)?;
                    filled += bulk.overhead();
                    buckets.push(Bucket { bulk, prefixes: Vec::new() });
                    Ok(buckets.len() - 1)
                })
            });
            if wanted.is_err() && told {
                let context = reader.export.context;
                wanted = *kinds.entry(Kind::Withdraw(family)).or_insert_with(|| {
                    buckets.push(Bucket { bulk: Bulk::withdraw(family, context), prefixes: Vec::new() });
                    Ok(buckets.len() - 1)
                });
                bits(&mut reader.told, family).set(at, false);
            } else if wanted.is_ok() {
                bits(&mut reader.told, family).set(at, true);
            }
            if let Some(bucket) = wanted.ok().and_then(|at| buckets.get_mut(at)) {
                let before = bucket.prefixes.len();
                match prefix {
                    IpNet::V4(net) => bucket.bulk.push(&net.addr().octets(), net.prefix_len(), &mut bucket.prefixes),
                    IpNet::V6(net) => bucket.bulk.push(&net.addr().octets(), net.prefix_len(), &mut bucket.prefixes),
                }
                filled += bucket.prefixes.len() - before;
                batch.prefixes += 1;
            }
            idle.push((family, at));
        }
        for bucket in &buckets {
            batch.updates += bucket.bulk.write(&bucket.prefixes, &mut batch.bytes);
        }
        if reader.before_end == Some(0) {
            reader.before_end = None;
            batch.end = true;
        }
        batch.more = !reader.queue.is_empty();
        if let Some(slot) = self.readers.0.get_mut(usize::from(id.0)) {
            *slot = Some(reader);
        }
        for (family, at) in idle {
            self.tidy(family, at);
        }
        batch
    }
}

/// Everything that goes into messages of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Announce(Family, u32, State),
    Withdraw(Family),
}

impl Core {
    /// Whether `path` may be told, whatever its prefix.
    fn may_tell(&self, export: &Export, path: &Path) -> Result<(), NotTold> {
        let external = export.context.external;
        if path.peer == export.peer.0 {
            return Err(NotTold::Own);
        }
        let from_internal = self.peers.get(usize::from(path.peer)).is_none_or(|peer| peer.settings.internal);
        if from_internal && !external {
            return Err(NotTold::SplitHorizon);
        }
        let summary = self.attributes.summary(path.attributes);
        let marked = |community| summary.marks.has(community);
        if marked(Community::NO_ADVERTISE) {
            return Err(NotTold::NoAdvertise);
        }
        if marked(Community::BLACKHOLE) {
            return Err(NotTold::Blackhole);
        }
        if external && marked(Community::NO_EXPORT) {
            return Err(NotTold::NoExport);
        }
        if external && marked(Community::NO_EXPORT_SUBCONFED) {
            return Err(NotTold::NoExportSubconfed);
        }
        // Without a role an external peer may be a bilateral one.
        if external && marked(Community::NO_PEER) && matches!(export.role, None | Some(Role::Peer)) {
            return Err(NotTold::NoPeer);
        }
        let upwards = matches!(export.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
        if summary.only_to_customer != 0 && upwards {
            return Err(NotTold::OnlyToCustomer);
        }
        let takes_stale = export.llgr || (export.stale_inside && !external);
        if (path.state.is_llgr_stale() || marked(Community::LLGR_STALE)) && !takes_stale {
            return Err(NotTold::LlgrStale);
        }
        Ok(())
    }
}

/// An UPDATE that tells `path`, short of its prefixes.
fn announcement(core: &Core, export: &Export, family: Family, path: &Path) -> Result<Bulk, NotTold> {
    let (next_hop, attributes) = core.attributes.get(path.attributes).ok_or(NotTold::NoRoute)?;
    let local_pref = core.attributes.summary(path.attributes).local_pref;
    let attributes = told(core.settings.local_as, export, path, local_pref, attributes);
    let too_long = |_: EncodeError| NotTold::TooLong;
    // RFC 4271 §5.1.3: ourselves to external peers; to internal ones as it came.
    let keep = !export.context.external;
    match (family, next_hop.address) {
        (Family::Ipv4, std::net::IpAddr::V4(address)) if keep => {
            Bulk::announce_v4(&attributes, address, export.context).map_err(too_long)
        }
        (Family::Ipv6, std::net::IpAddr::V6(address)) if keep => {
            Bulk::announce_v6(&attributes, address, export.context).map_err(too_long)
        }
        (Family::Ipv4, _) => {
            let ours = export.next_hop_v4.ok_or(NotTold::NextHop)?;
            Bulk::announce_v4(&attributes, ours, export.context).map_err(too_long)
        }
        (Family::Ipv6, _) => {
            let ours = export.next_hop_v6.ok_or(NotTold::NextHop)?;
            Bulk::announce_v6(&attributes, ours, export.context).map_err(too_long)
        }
    }
}

/// The attributes as the peer is told them (RFC 4271 §5).
fn told(local_as: Asn, export: &Export, path: &Path, local_pref: u32, mut attributes: Attributes) -> Attributes {
    // What nobody here has understood goes on if it may, marked so; the rest is for us alone.
    attributes.others.retain(|attribute| attribute.flags & TRANSITIVE != 0);
    for attribute in &mut attributes.others {
        attribute.flags |= PARTIAL;
    }
    if path.state.is_llgr_stale() && !attributes.communities.contains(&Community::LLGR_STALE) {
        attributes.communities.push(Community::LLGR_STALE);
    }
    if export.keeps && !attributes.communities.contains(&Community::NO_LLGR) {
        attributes.communities.push(Community::NO_LLGR);
    }
    // RFC 9234 §5: whoever gets it downwards or sideways must not pass it up or sideways.
    if matches!(export.role, Some(Role::Provider | Role::Peer | Role::RouteServer)) {
        attributes.only_to_customer.get_or_insert(local_as);
    }
    if export.context.external {
        attributes.as_path = Some(attributes.as_path.unwrap_or_default().prepended(local_as));
        attributes.extended_communities.retain(|community| community.is_transitive());
        // RFC 4271 §5.1.4 and §5.1.5, RFC 4456 §8: these do not leave the AS.
        attributes.multi_exit_disc = None;
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
    } else {
        attributes.local_pref = Some(local_pref);
        if !export.llgr && attributes.communities.contains(&Community::LLGR_STALE) {
            // RFC 9494 §4.6: so that nobody prefers it who does not know that it is stale, and it goes no further.
            attributes.local_pref = Some(0);
            if !attributes.communities.contains(&Community::NO_EXPORT) {
                attributes.communities.push(Community::NO_EXPORT);
            }
        }
    }
    attributes
}
