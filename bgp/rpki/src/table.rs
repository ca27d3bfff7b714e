//! Validated ROA payloads, and what they say of a route (RFC 6811).

use std::fmt;

use bgp_wire::{AsPath, Asn, Segment};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One validated ROA payload: `asn` may originate `prefix` and what is inside it, down to `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vrp {
    /// The prefix of the ROA.
    pub prefix: IpNet,
    /// The longest prefix that may be announced.
    pub max_length: u8,
    /// Who may; AS 0 says that nobody may (RFC 6483 §4).
    pub asn: Asn,
}

/// What the payloads say of a route (RFC 6811 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Validity {
    /// No payload covers the prefix.
    #[default]
    NotFound,
    /// A payload covers the prefix, and allows this origin and length.
    Valid,
    /// Payloads cover the prefix, and none allows this origin and length.
    Invalid,
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not-found",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
        })
    }
}

/// The origin AS of a route for RFC 6811 §2; `None` where there is no single one, which no payload matches.
///
/// `own` is our AS: it originates what came without a path, or with confederation segments alone.
#[must_use]
pub fn origin(path: &AsPath, own: Asn) -> Option<Asn> {
    match path.0.last() {
        None | Some(Segment::ConfederationSequence(_) | Segment::ConfederationSet(_)) => Some(own),
        Some(Segment::Sequence(numbers)) => numbers.last().copied(),
        Some(Segment::Set(_)) => None,
    }
}

/// No entry covers this one.
const NONE: u32 = u32::MAX;

/// A prefix that has payloads, in the order of addresses and then lengths: what covers an entry is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<A> {
    address: A,
    /// The place of the closest entry that covers this one, or [`NONE`].
    parent: u32,
    /// Where its payloads begin; they end where the next entry's begin.
    first: u32,
    length: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree<A> {
    entries: Vec<Entry<A>>,
    payloads: Vec<(Asn, u8)>,
}

impl<A> Default for Tree<A> {
    fn default() -> Self {
        Self { entries: Vec::new(), payloads: Vec::new() }
    }
}

/// An address as a number.
trait Address: Copy + Ord {
    fn masked(self, length: u8) -> Self;
}

impl Address for u32 {
    fn masked(self, length: u8) -> Self {
        let host = Self::BITS.saturating_sub(u32::from(length));
        Self::MAX.checked_shl(host).map_or(0, |mask| self & mask)
    }
}

impl Address for u128 {
    fn masked(self, length: u8) -> Self {
        let host = Self::BITS.saturating_sub(u32::from(length));
        Self::MAX.checked_shl(host).map_or(0, |mask| self & mask)
    }
}

impl<A: Address> Tree<A> {
    /// Adds a payload; they come in order.
    fn push(&mut self, address: A, length: u8, asn: Asn, max_length: u8) {
        let place = |count: usize| u32::try_from(count).unwrap_or(NONE);
        if self.entries.last().is_none_or(|last| (last.address, last.length) != (address, length)) {
            let mut parent = place(self.entries.len().wrapping_sub(1));
            // What covers this one is the entry before it or covers that.
            while let Some(entry) = self.at(parent) {
                if entry.length < length && address.masked(entry.length) == entry.address {
                    break;
                }
                parent = entry.parent;
            }
            let parent = if self.at(parent).is_some() { parent } else { NONE };
            self.entries.push(Entry { address, parent, first: place(self.payloads.len()), length });
        }
        self.payloads.push((asn, max_length));
    }

    fn at(&self, place: u32) -> Option<&Entry<A>> {
        self.entries.get(usize::try_from(place).ok()?)
    }

    fn payloads_of(&self, place: u32) -> &[(Asn, u8)] {
        let index = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        let Some(entry) = self.at(place) else { return &[] };
        let end = self.at(place.saturating_add(1)).map_or(self.payloads.len(), |next| index(next.first));
        self.payloads.get(index(entry.first)..end).unwrap_or_default()
    }

    fn validate(&self, address: A, length: u8, origin: Option<Asn>) -> Validity {
        let after = self.entries.partition_point(|entry| (entry.address, entry.length) <= (address, length));
        let mut place = u32::try_from(after.wrapping_sub(1)).unwrap_or(NONE);
        let mut validity = Validity::NotFound;
        while let Some(entry) = self.at(place) {
            if entry.length <= length && address.masked(entry.length) == entry.address {
                let matches =
                    |(asn, max_length): &(Asn, u8)| length <= *max_length && origin == Some(*asn) && *asn != Asn(0);
                if self.payloads_of(place).iter().any(matches) {
                    return Validity::Valid;
                }
                validity = Validity::Invalid;
            }
            place = entry.parent;
        }
        validity
    }

    fn iter(&self) -> impl Iterator<Item = (A, u8, Asn, u8)> + '_ {
        (0..).zip(&self.entries).flat_map(|(place, entry)| {
            self.payloads_of(place).iter().map(|(asn, max)| (entry.address, entry.length, *asn, *max))
        })
    }

    fn contains(&self, address: A, length: u8, asn: Asn, max_length: u8) -> bool {
        let found = self.entries.binary_search_by_key(&(address, length), |entry| (entry.address, entry.length));
        let place = found.ok().and_then(|place| u32::try_from(place).ok());
        place.is_some_and(|place| self.payloads_of(place).contains(&(asn, max_length)))
    }
}

/// A whole set of payloads. It never changes: a new one takes its place.
///
/// 500 000 payloads of as many IPv4 prefixes take 12 MB, and an answer takes one binary search.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vrps {
    v4: Tree<u32>,
    v6: Tree<u128>,
}

impl FromIterator<Vrp> for Vrps {
    fn from_iter<I: IntoIterator<Item = Vrp>>(vrps: I) -> Self {
        let mut vrps: Vec<Vrp> = vrps.into_iter().collect();
        vrps.sort_unstable_by_key(|vrp| (vrp.prefix, vrp.asn, vrp.max_length));
        vrps.dedup();
        Self::from_sorted(vrps.into_iter())
    }
}

impl Vrps {
    fn from_sorted(vrps: impl Iterator<Item = Vrp>) -> Self {
        let mut table = Self::default();
        for Vrp { prefix, max_length, asn } in vrps {
            match prefix {
                IpNet::V4(prefix) => {
                    table.v4.push(prefix.network().to_bits(), prefix.prefix_len(), asn, max_length);
                }
                IpNet::V6(prefix) => {
                    table.v6.push(prefix.network().to_bits(), prefix.prefix_len(), asn, max_length);
                }
            }
        }
        table.v4.entries.shrink_to_fit();
        table.v4.payloads.shrink_to_fit();
        table.v6.entries.shrink_to_fit();
        table.v6.payloads.shrink_to_fit();
        table
    }

    /// What is said of `prefix` from `origin`, which [`origin`] finds.
    #[must_use]
    pub fn validate(&self, prefix: IpNet, origin: Option<Asn>) -> Validity {
        match prefix {
            IpNet::V4(prefix) => self.v4.validate(prefix.network().to_bits(), prefix.prefix_len(), origin),
            IpNet::V6(prefix) => self.v6.validate(prefix.network().to_bits(), prefix.prefix_len(), origin),
        }
    }

    /// How many payloads there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.payloads.len() + self.v6.payloads.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this very payload is there.
    #[must_use]
    pub fn contains(&self, vrp: &Vrp) -> bool {
        match vrp.prefix {
            IpNet::V4(prefix) => {
                self.v4.contains(prefix.network().to_bits(), prefix.prefix_len(), vrp.asn, vrp.max_length)
            }
            IpNet::V6(prefix) => {
                self.v6.contains(prefix.network().to_bits(), prefix.prefix_len(), vrp.asn, vrp.max_length)
            }
        }
    }

    /// All payloads, IPv4 first, in the order of prefixes.
    pub fn iter(&self) -> impl Iterator<Item = Vrp> + '_ {
        let v4 = self.v4.iter().filter_map(|(address, length, asn, max_length)| {
            Some(Vrp { prefix: Ipv4Net::new(address.into(), length).ok()?.into(), max_length, asn })
        });
        let v6 = self.v6.iter().filter_map(|(address, length, asn, max_length)| {
            Some(Vrp { prefix: Ipv6Net::new(address.into(), length).ok()?.into(), max_length, asn })
        });
        v4.chain(v6)
    }

    /// This table with payloads added (`true`) and taken away.
    pub(crate) fn changed(&self, changes: &std::collections::BTreeMap<Vrp, bool>) -> Self {
        let kept = self.iter().filter(|vrp| !changes.contains_key(vrp));
        kept.chain(changes.iter().filter(|(_, added)| **added).map(|(vrp, _)| *vrp)).collect()
    }

    /// The prefixes whose payloads are not the same in `newer`: a route outside all of them keeps its validity.
    #[must_use]
    pub fn differences(&self, newer: &Self) -> Vec<IpNet> {
        let key = |vrp: &Vrp| (vrp.prefix, vrp.asn, vrp.max_length);
        let (mut old, mut new) = (self.iter().peekable(), newer.iter().peekable());
        let mut prefixes = Vec::new();
        loop {
            let differing = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if key(a) == key(b) => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some(a), b) if b.is_none_or(|b| key(a) < key(b)) => old.next(),
                _ => new.next(),
            };
            prefixes.extend(differing.map(|vrp| vrp.prefix));
        }
        prefixes.dedup();
        prefixes
    }
}
