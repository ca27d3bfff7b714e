//! Attributes, each set kept once for all routes that share it: packed as they would go over the wire, beside what
//! the decision process asks for.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_wire::{Asn, Attributes, Community, Context};
use hashbrown::HashTable;

/// LOCAL_PREF of a route that comes without.
const USUAL_PREFERENCE: u32 = 100;

/// Where a route sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) address: IpAddr,
    /// Beside a global address, on a shared link (RFC 2545).
    pub(crate) link_local: Option<Ipv6Addr>,
}

impl NextHop {
    fn write(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(0);
        match self.address {
            IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
        }
        out.extend(self.link_local.iter().flat_map(Ipv6Addr::octets));
        let length = u8::try_from(out.len() - start - 1).unwrap_or_default();
        if let Some(place) = out.get_mut(start) {
            *place = length;
        }
    }

    fn read(packed: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = packed.split_first()?;
        let (octets, rest) = rest.split_at_checked(usize::from(*length))?;
        let next_hop = match octets.split_first_chunk::<16>() {
            Some((global, link_local)) => {
                let link_local = link_local.as_array::<16>().map(|octets| Ipv6Addr::from(*octets));
                Self { address: Ipv6Addr::from(*global).into(), link_local }
            }
            None => Self { address: Ipv4Addr::from(*octets.as_array::<4>()?).into(), link_local: None },
        };
        Some((next_hop, rest))
    }
}

/// What decides between routes, and what keeps them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Summary {
    pub(crate) local_pref: u32,
    pub(crate) med: u32,
    /// The AS that it came from; 0 when it starts in our own.
    pub(crate) neighbour: u32,
    /// The AS that originated it; 0 when nobody can say.
    pub(crate) origin_as: u32,
    /// ORIGINATOR_ID (RFC 4456); 0 when there is none.
    pub(crate) originator: u32,
    pub(crate) only_to_customer: u32,
    pub(crate) path_length: u16,
    pub(crate) cluster_length: u16,
    pub(crate) origin: u8,
    pub(crate) marks: Marks,
}

/// Communities that are obeyed, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    const ALL: [Community; 8] = [
        Community::NO_EXPORT,
        Community::NO_ADVERTISE,
        Community::NO_EXPORT_SUBCONFED,
        Community::NO_PEER,
        Community::BLACKHOLE,
        Community::GRACEFUL_SHUTDOWN,
        Community::LLGR_STALE,
        Community::NO_LLGR,
    ];

    fn of(communities: &[Community]) -> Self {
        // All of them are in 65535:0 and up; few routes carry any.
        let mut bits = 0;
        for community in communities.iter().filter(|community| community.0 >= 0xffff_0000) {
            if let Some(at) = Self::ALL.iter().position(|known| known == community) {
                bits |= 1 << at;
            }
        }
        Self(bits)
    }

    pub(crate) fn has(self, community: Community) -> bool {
        Self::ALL.iter().position(|known| *known == community).is_some_and(|at| self.0 & 1 << at != 0)
    }
}

impl Summary {
    fn of(attributes: &Attributes) -> Self {
        let path = attributes.as_path.as_ref();
        let marks = Marks::of(&attributes.communities);
        let preference = attributes.local_pref.unwrap_or(USUAL_PREFERENCE);
        let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        Self {
            // RFC 8326 §4.1: the link is about to go.
            local_pref: if marks.has(Community::GRACEFUL_SHUTDOWN) { 0 } else { preference },
            // RFC 4271 §9.1.2.2 (c): a route without counts as the lowest.
            med: attributes.multi_exit_disc.unwrap_or_default(),
            neighbour: path.and_then(|path| path.first()).map_or(0, |asn| asn.0),
            origin_as: path.and_then(|path| path.origin()).map_or(0, |asn| asn.0),
            originator: attributes.originator_id.map_or(0, u32::from),
            only_to_customer: attributes.only_to_customer.map_or(0, |asn| asn.0),
            path_length: path.map_or(0, |path| short(path.length())),
            cluster_length: short(attributes.cluster_list.len()),
            origin: attributes.origin.map_or(2, |origin| origin as u8),
            marks,
        }
    }

    pub(crate) fn origin_as(&self) -> Option<Asn> {
        (self.origin_as != 0).then_some(Asn(self.origin_as))
    }
}

#[derive(Debug, Clone, Default)]
struct Slot {
    packed: Box<[u8]>,
    /// Routes that hold it.
    count: u32,
    summary: Summary,
}

/// Where a set is, beside the hash of what is packed: the index grows and compares without going there.
#[derive(Debug, Clone, Copy)]
struct Key {
    hash: u32,
    at: u32,
}

impl Key {
    /// Both ends of a hash are looked at: which bucket, and a tag.
    const fn spread(hash: u32) -> u64 {
        (hash as u64) << 32 | hash as u64
    }
}

/// Attribute sets by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interned {
    slots: Vec<Slot>,
    index: HashTable<Key>,
    free: Vec<u32>,
    hasher: RandomState,
    scratch: Vec<u8>,
}

impl Interned {
    /// The number of a set, held once more by the caller; `None` when it cannot be written again.
    pub(crate) fn hold_new(&mut self, next_hop: NextHop, attributes: &Attributes) -> Option<u32> {
        self.scratch.clear();
        next_hop.write(&mut self.scratch);
        attributes.encode(None, Context::default(), &mut self.scratch).ok()?;
        let (scratch, slots, hasher) = (&self.scratch, &self.slots, &self.hasher);
        let packed = |at: u32| slots.get(at as usize).map(|slot| &*slot.packed).unwrap_or_default();
        let hash = hasher.hash_one(scratch.as_slice()) as u32;
        let found = self.index.entry(
            Key::spread(hash),
            |key| key.hash == hash && packed(key.at) == scratch.as_slice(),
            |key| Key::spread(key.hash),
        );
        let at = match found {
            hashbrown::hash_table::Entry::Occupied(found) => found.get().at,
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                let at = self.free.pop().unwrap_or_else(|| u32::try_from(slots.len()).unwrap_or(u32::MAX));
                vacant.insert(Key { hash, at });
                let slot = Slot { packed: scratch.as_slice().into(), count: 0, summary: Summary::of(attributes) };
                match self.slots.get_mut(at as usize) {
                    Some(free) => *free = slot,
                    None => self.slots.push(slot),
                }
                at
            }
        };
        self.hold(at);
        Some(at)
    }

    pub(crate) fn hold(&mut self, at: u32) {
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.count += 1;
        }
    }

    pub(crate) fn release(&mut self, at: u32) {
        let Some(slot) = self.slots.get_mut(at as usize) else { return };
        slot.count = slot.count.saturating_sub(1);
        if slot.count > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*slot.packed) as u32;
        if let Ok(found) = self.index.find_entry(Key::spread(hash), |other| other.at == at) {
            found.remove();
        }
        slot.packed = Box::default();
        self.free.push(at);
        if self.index.is_empty() {
            *self = Self { hasher: self.hasher.clone(), ..Self::default() };
        }
    }

    pub(crate) fn summary(&self, at: u32) -> Summary {
        self.slots.get(at as usize).map(|slot| slot.summary).unwrap_or_default()
    }

    /// Sets that are held.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Where the set sends.
    pub(crate) fn next_hop(&self, at: u32) -> Option<IpAddr> {
        NextHop::read(&self.slots.get(at as usize)?.packed).map(|(next_hop, _)| next_hop.address)
    }

    /// The set unpacked.
    pub(crate) fn get(&self, at: u32) -> Option<(NextHop, Attributes)> {
        let slot = self.slots.get(at as usize)?;
        let (next_hop, list) = NextHop::read(&slot.packed)?;
        Some((next_hop, Attributes::decode(list, Context::default())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_wire::{AsPath, Origin, RawAttribute};

    fn attributes(asns: &[u32]) -> Attributes {
        Attributes {
            origin: Some(Origin::Egp),
            as_path: Some(AsPath::sequence(asns.iter().copied().map(Asn).collect::<Vec<_>>())),
            communities: vec![Community(1), Community::NO_EXPORT],
            others: vec![RawAttribute { flags: 0xc0, code: 99, value: vec![1, 2] }],
            ..Attributes::default()
        }
    }

    #[test]
    fn a_set_is_kept_once_and_comes_back_whole() {
        let mut interned = Interned::default();
        let hops =
            ["192.0.2.1", "2001:db8::1"].map(|text| NextHop { address: text.parse().unwrap(), link_local: None });
        let linked = NextHop { link_local: Some("fe80::1".parse().unwrap()), ..hops[1] };
        let mut numbers = Vec::new();
        for next_hop in [hops[0], hops[1], linked, hops[0]] {
            let at = interned.hold_new(next_hop, &attributes(&[64501, 64502])).unwrap();
            assert_eq!(interned.get(at), Some((next_hop, attributes(&[64501, 64502]))));
            numbers.push(at);
        }
        assert_eq!(numbers, [0, 1, 2, 0]);
        let summary = interned.summary(0);
        assert_eq!((summary.neighbour, summary.origin_as, summary.path_length), (64501, 64502, 2));
        assert!(summary.marks.has(Community::NO_EXPORT) && !summary.marks.has(Community::NO_ADVERTISE));
        interned.release(0);
        assert_eq!(interned.len(), 3);
        for at in [0, 1, 2] {
            interned.release(at);
        }
        assert_eq!((interned.len(), interned.slots.len()), (0, 0));
    }

    #[test]
    fn a_link_that_is_about_to_go_is_the_least_preferred() {
        let mut leaving = attributes(&[64501]);
        leaving.communities.push(Community::GRACEFUL_SHUTDOWN);
        leaving.local_pref = Some(500);
        assert_eq!(Summary::of(&leaving).local_pref, 0);
        assert_eq!(Summary::of(&attributes(&[64501])).local_pref, 100);
    }
}
