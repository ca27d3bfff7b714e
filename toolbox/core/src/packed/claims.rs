//! What is claimed, as the writer keeps account of it: which lengths of prefixes and sizes of port ranges there are, what lies
//! inside what, and which addresses are shared by ports.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toolbox_wire::record::Ports;

use super::shards::with;
use super::shared::{Mixing, Part, hash_of, pieces};
use crate::sessions::inside;
use crate::skim::Claimed;

/// The hashes that sessions with these claims are found under, each once, and where the claim stands beside them.
pub(super) fn hashes(claims: &[Claimed], to: &mut Vec<u64>) {
    to.clear();
    for Claimed { net, ports, at } in claims {
        match pieces(*ports) {
            None => to.push(with(hash_of(*net, Part::Whole), *at)),
            Some((size, pieces)) => to.extend(pieces.map(|piece| with(hash_of(*net, Part::Piece(size, piece)), *at))),
        }
    }
    each_once(to, |hash| *hash);
}

/// Leaves each value of a key once; few are kept in their order.
pub(super) fn each_once<T: Copy + Ord, K: Ord>(all: &mut Vec<T>, key: impl Fn(&T) -> K) {
    if all.len() > 16 {
        all.sort_unstable();
        return all.dedup_by_key(|of| key(of));
    }
    let mut kept = 0;
    for at in 0..all.len() {
        let (before, from) = all.split_at(at);
        let Some(of) = from.first().copied() else { break };
        if before.iter().take(kept).all(|known| key(known) != key(&of)) {
            all.swap(kept, at);
            kept += 1;
        }
    }
    all.truncate(kept);
}

/// Adds the hashes of the marks of addresses that are shared by ports.
pub(super) fn marks(claims: &[Claimed], to: &mut Vec<u64>) {
    let split = claims.iter().filter(|claim| !claim.ports.is_all());
    to.extend(split.map(|claim| hash_of(claim.net, Part::Mark)));
}

#[derive(Debug, Clone)]
pub(super) struct Claims {
    lengths: [usize; 33 + 129],
    sizes: [usize; 16],
    /// Prefixes longer than the shortest of their family, in order, and by how many claims: a shorter one may come to lie
    /// around them.
    nested: BTreeMap<IpNet, u32>,
    shortest: [Option<u8>; 2],
    split: HashMap<IpNet, Split, Mixing>,
}

/// An address that is shared by ports.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Split {
    /// By how many ranges.
    ranges: u32,
    /// Where they are, or some were: a bit for each 1024 ports.
    areas: u64,
}

impl Split {
    fn add(&mut self, ports: Ports) {
        let (first, last) = (ports.first() >> AREA_BITS, ports.last() >> AREA_BITS);
        self.ranges += 1;
        self.areas |= (u64::MAX << first) & (u64::MAX >> (63 - last));
    }
}

const AREA_BITS: u32 = 10;

impl Default for Claims {
    fn default() -> Self {
        Self {
            lengths: [0; 33 + 129],
            sizes: [0; 16],
            nested: BTreeMap::new(),
            shortest: [None; 2],
            split: HashMap::default(),
        }
    }
}

fn family(net: IpNet) -> usize {
    usize::from(net.addr().is_ipv6())
}

impl Claims {
    pub(super) fn lengths(&self, v4: bool) -> impl Iterator<Item = u8> {
        let lengths = self.lengths.iter().skip(if v4 { 0 } else { 33 }).take(if v4 { 33 } else { 129 });
        (0..).zip(lengths).filter(|(_, count)| **count > 0).map(|(length, _)| length)
    }

    pub(super) fn sizes(&self) -> impl Iterator<Item = u8> {
        (0..).zip(&self.sizes).filter(|(_, count)| **count > 0).map(|(size, _)| size)
    }

    /// The pieces under which there may be ranges of ports of `net`, where they meet these.
    pub(super) fn pieces(&self, net: IpNet, ports: &RangeInclusive<u16>) -> impl Iterator<Item = (u8, u16)> + '_ {
        let areas = self.split.get(&net).map_or(0, |split| split.areas);
        let (first, last) = (*ports.start(), *ports.end());
        self.sizes().filter(move |_| areas != 0).flat_map(move |size| {
            // A range that begins in one area may be found under a piece that begins before it.
            let here = move |piece: &u16| {
                let from = piece << size >> AREA_BITS;
                let to = (u32::from(*piece) << size | ((1 << size) - 1)) >> AREA_BITS;
                areas & (u64::MAX << from) & (u64::MAX >> (63 - to.min(63))) != 0
            };
            (first >> size..=last >> size).filter(here).map(move |piece| (size, piece))
        })
    }

    /// Whether `net` is shorter than all that are there: what lies inside it is not in order then.
    pub(super) fn is_shortest(&self, net: IpNet) -> bool {
        let shortest = self.shortest.get(family(net)).copied().flatten();
        shortest.is_some_and(|shortest| net.prefix_len() < shortest)
    }

    /// Prefixes inside `net`, which is not shorter than all.
    pub(super) fn inside(&self, net: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        let (lowest, highest) = inside(net);
        let all = self.nested.range(lowest..=highest).map(|(of, _)| *of);
        all.filter(move |of| *of != net && net.contains(of))
    }

    /// That `net` is about to be the shortest; `longer` are all claims of longer ones of its family.
    pub(super) fn set_shortest(&mut self, net: IpNet, longer: Vec<IpNet>) {
        let of = family(net);
        self.nested.retain(|known, _| family(*known) != of);
        self.shortest.iter_mut().skip(of).take(1).for_each(|shortest| *shortest = Some(net.prefix_len()));
        longer.into_iter().for_each(|net| *self.nested.entry(net).or_default() += 1);
    }

    /// Counts a claim, or no longer; whether the address is shared by ports from now on, or is no more.
    pub(super) fn count(&mut self, net: IpNet, ports: Ports, more: bool) -> Option<bool> {
        let by = |count: usize| if more { count + 1 } else { count.saturating_sub(1) };
        let index = usize::from(net.prefix_len()) + 33 * family(net);
        self.lengths.iter_mut().skip(index).take(1).for_each(|count| *count = by(*count));
        let shortest = self.shortest.get(family(net)).copied().flatten();
        if more && shortest.is_none() {
            self.shortest.iter_mut().skip(family(net)).take(1).for_each(|of| *of = Some(net.prefix_len()));
        }
        if shortest.is_some_and(|shortest| shortest < net.prefix_len()) {
            let count = self.nested.entry(net).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.nested.remove(&net);
            }
        }
        let (size, _) = pieces(ports)?;
        self.sizes.iter_mut().skip(size.into()).take(1).for_each(|count| *count = by(*count));
        let split = self.split.entry(net).or_default();
        if more {
            split.add(ports);
        } else {
            split.ranges = split.ranges.saturating_sub(1);
        }
        match (split.ranges, more) {
            (1, true) => Some(true),
            (0, _) => {
                self.split.remove(&net);
                Some(false)
            }
            _ => None,
        }
    }

    /// Counts a claim, but not what lies inside what: that is for [`Claims::set_nested`].
    pub(super) fn add(&mut self, net: IpNet, ports: Ports) {
        let index = usize::from(net.prefix_len()) + 33 * family(net);
        self.lengths.iter_mut().skip(index).take(1).for_each(|count| *count += 1);
        if let Some((size, _)) = pieces(ports) {
            self.sizes.iter_mut().skip(size.into()).take(1).for_each(|count| *count += 1);
            self.split.entry(net).or_default().add(ports);
        }
    }

    /// Counts with it what another one has by [`Claims::add`].
    pub(super) fn absorb(&mut self, other: Self) {
        self.lengths.iter_mut().zip(other.lengths).for_each(|(count, more)| *count += more);
        self.sizes.iter_mut().zip(other.sizes).for_each(|(count, more)| *count += more);
        if self.split.is_empty() {
            self.split = other.split;
        } else {
            for (net, more) in other.split {
                let split = self.split.entry(net).or_default();
                (split.ranges, split.areas) = (split.ranges + more.ranges, split.areas | more.areas);
            }
        }
    }

    /// Counts no longer what another one has by [`Claims::add`]; `longer` are those of its claims for which
    /// [`Claims::is_longer`] says so.
    pub(super) fn subtract(&mut self, other: Self, longer: Vec<IpNet>) {
        self.lengths.iter_mut().zip(other.lengths).for_each(|(count, less)| *count = count.saturating_sub(less));
        self.sizes.iter_mut().zip(other.sizes).for_each(|(count, less)| *count = count.saturating_sub(less));
        for (net, less) in other.split {
            let Some(split) = self.split.get_mut(&net) else { continue };
            split.ranges = split.ranges.saturating_sub(less.ranges);
            if split.ranges == 0 {
                self.split.remove(&net);
            }
        }
        for net in longer {
            let left = self.nested.get(&net).copied().unwrap_or(0).saturating_sub(1);
            if left > 0 {
                self.nested.insert(net, left)
            } else {
                self.nested.remove(&net)
            };
        }
    }

    /// Whether `net` is longer than the shortest of its family.
    pub(super) fn is_longer(&self, net: IpNet) -> bool {
        self.shortest.get(family(net)).copied().flatten().is_some_and(|shortest| shortest < net.prefix_len())
    }

    /// That none is shorter than `net` in its family, and that these, in order, are all claims of longer ones.
    pub(super) fn set_nested(&mut self, net: IpNet, longer: Vec<IpNet>) {
        self.set_shortest(net, Vec::new());
        let counted = longer.chunk_by(|one, other| one == other);
        let counted = counted.filter_map(|of| Some((*of.first()?, of.len() as u32)));
        self.nested.append(&mut counted.collect());
    }

    /// Addresses that are shared by ports.
    pub(super) fn split(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.split.keys().copied()
    }

    pub(super) fn octets(&self) -> usize {
        // A tree of the library is three quarters full.
        let nested = self.nested.len() * (size_of::<IpNet>() + 4) * 4 / 3;
        nested + self.split.capacity() * (size_of::<(IpNet, Split)>() + 1) * 8 / 7
    }
}

#[cfg(test)]
impl Claims {
    /// All of it, in order.
    pub(super) fn all(&self) -> impl std::fmt::Debug + PartialEq + use<> {
        let split: BTreeMap<IpNet, (u32, u64)> =
            self.split.iter().map(|(net, split)| (*net, (split.ranges, split.areas))).collect();
        (self.lengths.to_vec(), self.sizes, self.nested.clone(), self.shortest, split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_and_no_longer_leaves_nothing() {
        let mut claims = Claims::default();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ports = Ports::new(1024, 1535).unwrap();
        let all = [
            (net("192.0.2.1/32"), Ports::ALL),
            (net("192.0.2.1/32"), ports),
            (net("2001:db8::/64"), Ports::ALL),
            (net("2001:db8::/64"), Ports::ALL),
        ];
        assert_eq!(all.map(|(net, ports)| claims.count(net, ports, true)), [None, Some(true), None, None]);
        assert!(claims.is_shortest(net("192.0.2.0/24")) && !claims.is_shortest(net("2001:db8::/64")));
        claims.set_shortest(net("2001:db8::/56"), vec![net("2001:db8::/64"); 2]);
        assert_eq!(claims.inside(net("2001:db8::/56")).collect::<Vec<_>>(), [net("2001:db8::/64")]);
        let pieces = |claims: &Claims, ports| claims.pieces(net("192.0.2.1/32"), &ports).collect::<Vec<_>>();
        assert_eq!(pieces(&claims, 0..=u16::MAX), [(9, 2), (9, 3)]);
        assert_eq!(pieces(&claims, 1600..=1600), [(9, 3)]);
        assert_eq!(pieces(&claims, 4000..=4000), []);
        assert_eq!((claims.lengths(true).collect(), claims.sizes().collect()), (vec![32], vec![9]));
        assert_eq!(all.map(|(net, ports)| claims.count(net, ports, false)), [None, Some(false), None, None]);
        assert_eq!(claims.inside(net("2001:db8::/56")).count(), 0);
        assert_eq!((claims.lengths(false).count(), claims.sizes().count()), (0, 0));
    }
}
