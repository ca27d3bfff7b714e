//! Whose an address is, many million times a second: longest-prefix match in a table that is built once.
//!
//! The first bits of the address index an array: 24 of them where there are many IPv4 prefixes, as few of those are
//! longer, else 16. What is longer hangs below in a poptrie (Asai and Ohara, SIGCOMM 2015): each six bits index a node
//! of 24 octets, in which a bit says whether a child follows, and the number of bits before it where it is.
//! Values are kept once each and named by numbers. 1e6 IPv4 prefixes take some 70 MB, in huge pages where there are any, and
//! one cache miss or two a look-up.
//! Nothing branches on whether an address has a value: a guess would be wrong half the time, and each wrong one waits for
//! the memory that a look-up reads, while right ones overlap.

mod slots;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use slots::{Slot, Slots};

/// Bits that the array is indexed with.
const TOP: u8 = 16;
/// The same where there are at least [`MANY`] IPv4 prefixes: 64 MiB.
const WIDE_TOP: u8 = 24;
/// Prefixes from which on the wide array pays.
const MANY: usize = 100_000;
/// Bits that a node is indexed with.
const STRIDE: u8 = 6;
/// Set in an entry of the array that is a node's place, and no value's number.
const NODE: u32 = 1 << 31;

/// An address of one family as a number.
trait Key: Copy + Ord {
    /// The `count` bits behind the first `from`, with zeroes behind the last.
    fn bits(self, from: u8, count: u8) -> usize;
}

impl Key for u32 {
    fn bits(self, from: u8, count: u8) -> usize {
        (self.unbounded_shl(from.into()) >> (32 - count)) as usize
    }
}

impl Key for u128 {
    fn bits(self, from: u8, count: u8) -> usize {
        // No more than 16 bits are asked for.
        (self.unbounded_shl(from.into()) >> (128 - count)) as usize
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// A bit for each index that a child follows at.
    children: u64,
    /// A bit for each index whose value is not that of the index before it.
    values: u64,
    first_child: u32,
    first_value: u32,
}

/// Bits of `set` up to and with `index`.
fn rank(set: u64, index: usize) -> u32 {
    (set & (2_u64 << index).wrapping_sub(1)).count_ones()
}

/// The number of no value.
const NONE: u32 = 0;

/// Numbers by prefix; [`NONE`] where there is none.
#[derive(Debug, Clone)]
struct Trie<K> {
    top: Slots,
    top_bits: u8,
    nodes: Vec<Node>,
    values: Vec<u32>,
    key: std::marker::PhantomData<K>,
}

type Entry<K, T> = (K, u8, T);

impl<K: Key> Trie<K> {
    /// `entries` in the order of their prefixes, a shorter one before those inside it, each prefix once.
    fn new(entries: &[Entry<K, u32>], top_bits: u8) -> Self {
        let mut trie = Self {
            top: Slots::default(),
            top_bits,
            nodes: Vec::new(),
            values: Vec::new(),
            key: std::marker::PhantomData,
        };
        if entries.is_empty() {
            return trie;
        }
        let (top, ()) = Slots::new(1 << top_bits, |slots| {
            for (at, inherited, inside) in paint(entries, 0, top_bits, slots) {
                let node = trie.nodes.len();
                trie.nodes.push(Node::default());
                trie.fill(node, inside, top_bits, inherited);
                if let Some(slot) = slots.get_mut(at) {
                    *slot = (NODE | number(node)).to_ne_bytes();
                }
            }
        });
        trie.top = top;
        trie
    }

    /// Makes the node at `place` hold `entries`, all of them longer than `from`.
    fn fill(&mut self, place: usize, entries: &[Entry<K, u32>], from: u8, inherited: u32) {
        let mut slots = [inherited.to_ne_bytes(); 1 << STRIDE];
        let below = paint(entries, from, STRIDE, &mut slots);
        let children = below.iter().fold(0, |bits: u64, (at, ..)| bits | 1 << at);
        let (first_value, first_child) = (self.values.len(), self.nodes.len());
        let (mut values, mut last) = (0_u64, None);
        for (at, value) in slots.into_iter().enumerate() {
            // What stands where a child follows is never read.
            if children & 1 << at == 0 && last != Some(value) {
                values |= 1 << at;
                self.values.push(u32::from_ne_bytes(value));
                last = Some(value);
            }
        }
        let (first_child, first_value) = (number(first_child), number(first_value));
        if let Some(node) = self.nodes.get_mut(place) {
            *node = Node { children, values, first_child, first_value };
        }
        self.nodes.resize(self.nodes.len() + below.len(), Node::default());
        for (child, (_, inherited, inside)) in (first_child as usize..).zip(below) {
            self.fill(child, inside, from + STRIDE, inherited);
        }
    }

    fn find(&self, key: K) -> u32 {
        let Some(entry) = self.top.get(key.bits(0, self.top_bits)) else { return NONE };
        if entry & NODE == 0 { entry } else { self.below(key, entry & !NODE).unwrap_or(NONE) }
    }

    /// What the node at `place` and those below it say.
    fn below(&self, key: K, place: u32) -> Option<u32> {
        let (mut node, mut from) = (self.nodes.get(place as usize)?, self.top_bits);
        loop {
            let index = key.bits(from, STRIDE);
            if node.children & 1 << index == 0 {
                return self.values.get((node.first_value + rank(node.values, index) - 1) as usize).copied();
            }
            node = self.nodes.get((node.first_child + rank(node.children, index) - 1) as usize)?;
            from += STRIDE;
        }
    }

    fn octets(&self) -> usize {
        self.top.octets() + self.values.len() * 4 + self.nodes.len() * size_of::<Node>()
    }
}

/// A place or a value's number. There are fewer than 2^31 of either: no more prefixes fit in memory.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

type Below<'a, K> = Vec<(usize, u32, &'a [Entry<K, u32>])>;

/// Writes the values of the `1 << stride` indexes behind the first `from` bits over those that hold for all of them, and
/// says what goes further down: at which index, with which value above it, and the entries.
fn paint<'a, K: Key>(entries: &'a [Entry<K, u32>], from: u8, stride: u8, slots: &mut [Slot]) -> Below<'a, K> {
    let mut below: Below<'a, K> = Vec::new();
    let mut rest = entries;
    while let Some((key, length, value)) = rest.first() {
        let index = key.bits(from, stride);
        let inside = length.saturating_sub(from);
        if inside <= stride {
            // Shorter prefixes come first, so a longer one paints over them.
            let count = 1_usize << (stride - inside);
            slots.iter_mut().skip(index).take(count).for_each(|slot| *slot = value.to_ne_bytes());
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let count =
            rest.iter().take_while(|(key, length, _)| key.bits(from, stride) == index && *length > from + stride);
        let (inside, after) = rest.split_at(count.count());
        let inherited = slots.get(index).map_or(NONE, |slot| u32::from_ne_bytes(*slot));
        below.push((index, inherited, inside));
        rest = after;
    }
    below
}

/// Each value once; its number is its place, and the first is none.
struct Numbers<T> {
    distinct: Vec<Option<T>>,
    known: HashMap<T, u32>,
    last: Option<(T, u32)>,
}

impl<T: Copy + Eq + Hash> Numbers<T> {
    fn of<K: Key>(&mut self, entries: Vec<Entry<K, T>>) -> Vec<Entry<K, u32>> {
        entries.into_iter().map(|(key, length, value)| (key, length, self.number(value))).collect()
    }

    fn number(&mut self, value: T) -> u32 {
        // Neighbours often have the same.
        if let Some((last, number)) = self.last
            && last == value
        {
            return number;
        }
        let distinct = &mut self.distinct;
        let number = *self.known.entry(value).or_insert_with(|| {
            distinct.push(Some(value));
            number(distinct.len() - 1)
        });
        self.last = Some((value, number));
        number
    }
}

/// Values by prefix, looked up by address, the longest prefix first. Made by [`AddressMapBuilder`].
///
/// An IPv4-mapped IPv6 address is looked up as the IPv4 address that it stands for.
#[derive(Debug, Clone)]
pub struct AddressMap<T> {
    v4: Trie<u32>,
    v6: Trie<u128>,
    distinct: Vec<Option<T>>,
    prefixes: usize,
}

impl<T: Copy + Eq + Hash> AddressMap<T> {
    /// The value of the longest prefix that holds `address`.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<T> {
        let number = match address.to_canonical() {
            IpAddr::V4(address) => self.v4.find(address.into()),
            IpAddr::V6(address) => self.v6.find(address.into()),
        };
        self.distinct.get(number as usize).copied().flatten()
    }

    /// How many prefixes have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefixes
    }

    /// Whether no prefix has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prefixes == 0
    }

    /// Octets that it takes.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.v4.octets() + self.v6.octets() + self.distinct.len() * size_of::<Option<T>>()
    }
}

impl<T: Copy + Eq + Hash> Default for AddressMap<T> {
    fn default() -> Self {
        AddressMapBuilder::default().build(|first, _| first)
    }
}

/// Collects what an [`AddressMap`] is to hold.
#[derive(Debug, Clone)]
pub struct AddressMapBuilder<T> {
    v4: Vec<Entry<u32, T>>,
    v6: Vec<Entry<u128, T>>,
}

impl<T> Default for AddressMapBuilder<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T: Copy + Eq + Hash> AddressMapBuilder<T> {
    /// Adds a value of `prefix`, whose host bits are ignored.
    pub fn push(&mut self, prefix: IpNet, value: T) {
        match prefix {
            IpNet::V4(prefix) => self.v4.push((prefix.network().into(), prefix.prefix_len(), value)),
            IpNet::V6(prefix) => self.v6.push((prefix.network().into(), prefix.prefix_len(), value)),
        }
    }

    /// The map; of two different values of one prefix `merge` makes one, in the order in which they were added.
    #[must_use]
    pub fn build(mut self, merge: impl Fn(T, T) -> T) -> AddressMap<T> {
        settle(&mut self.v4, &merge);
        settle(&mut self.v6, &merge);
        let prefixes = self.v4.len() + self.v6.len();
        let mut numbers = Numbers { distinct: vec![None], known: HashMap::new(), last: None };
        let (v4, v6) = (numbers.of(self.v4), numbers.of(self.v6));
        let v4 = Trie::new(&v4, if v4.len() < MANY { TOP } else { WIDE_TOP });
        AddressMap { v4, v6: Trie::new(&v6, TOP), distinct: numbers.distinct, prefixes }
    }
}

fn settle<K: Key, T: Copy + PartialEq>(entries: &mut Vec<Entry<K, T>>, merge: impl Fn(T, T) -> T) {
    // Dumps come in order, which costs one look.
    if !entries.is_sorted_by_key(|(key, length, _)| (*key, *length)) {
        entries.sort_by_key(|(key, length, _)| (*key, *length));
    }
    entries.dedup_by(|(key, length, value), kept| {
        let same = *key == kept.0 && *length == kept.1;
        if same && *value != kept.2 {
            kept.2 = merge(kept.2, *value);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn map(entries: &[(IpNet, u32)]) -> AddressMap<u32> {
        let mut builder = AddressMapBuilder::default();
        entries.iter().for_each(|(prefix, value)| builder.push(*prefix, *value));
        builder.build(|_, last| last)
    }

    fn linear(entries: &[(IpNet, u32)], address: IpAddr) -> Option<u32> {
        let holding = entries.iter().enumerate().filter(|(_, (prefix, _))| prefix.contains(&address));
        holding.max_by_key(|(at, (prefix, _))| (prefix.prefix_len(), *at)).map(|(_, (_, value))| *value)
    }

    #[test]
    fn the_longest_prefix_wins_at_every_length_and_mapped_addresses_are_ipv4() {
        let v4 = (0..=32).map(|length| IpNet::new([10, 9, 8, 7].into(), length).unwrap().trunc());
        let v6: std::net::Ipv6Addr = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
        let v6 = (0..=128).map(|length| IpNet::new(v6.into(), length).unwrap().trunc());
        let entries: Vec<(IpNet, u32)> = v4.chain(v6).zip(1..).collect();
        let map = map(&entries);
        for (prefix, _) in &entries {
            for address in [prefix.network(), prefix.broadcast()] {
                assert_eq!(map.find(address), linear(&entries, address), "{address}");
            }
        }
        assert_eq!(map.len(), 33 + 129);
        assert_eq!(map.find("::ffff:10.9.8.7".parse().unwrap()), Some(33));
    }

    #[test]
    fn a_full_table_is_looked_up_as_a_small_one() {
        // Every other /24 of 10/8, 172/8 and more, with what is longer inside some of them and shorter around.
        let mut entries: Vec<(IpNet, u32)> =
            vec![("0.0.0.0/1".parse().unwrap(), 1), ("10.0.0.0/8".parse().unwrap(), 2)];
        entries.extend((0..120_000_u32).map(|n| {
            let address = std::net::Ipv4Addr::from((10 << 24) + (n << 9));
            (IpNet::new(address.into(), if n % 7 == 0 { 29 } else { 24 }).unwrap(), 3 + n % 1000)
        }));
        let map = map(&entries);
        assert_eq!(map.v4.top_bits, WIDE_TOP);
        let find = |n: u32, low: u32| map.find(IpAddr::V4(((10 << 24) + (n << 9) + low).into()));
        for n in (0..120_000).step_by(37) {
            let outside = if n << 9 < 1 << 24 { Some(2) } else { Some(1) };
            assert_eq!(find(n, 7), Some(3 + n % 1000), "{n}");
            assert_eq!(find(n, 8), if n % 7 == 0 { outside } else { Some(3 + n % 1000) }, "{n}");
            assert_eq!(find(n, 256), outside, "{n}");
        }
        assert_eq!(map.find([200, 0, 0, 1].into()), None);
    }

    #[test]
    fn an_empty_map_knows_nothing() {
        let map = AddressMap::<u32>::default();
        assert!(map.is_empty());
        for address in ["0.0.0.0", "255.255.255.255", "::", "2001:db8::1"] {
            assert_eq!(map.find(address.parse().unwrap()), None);
        }
    }

    #[test]
    fn different_values_of_one_prefix_are_merged() {
        let mut builder = AddressMapBuilder::default();
        for (prefix, value) in [("10.0.0.0/8", 1), ("11.0.0.0/8", 2), ("10.0.0.0/8", 3), ("11.0.0.0/8", 2)] {
            builder.push(prefix.parse().unwrap(), value);
        }
        let map = builder.build(|_, _| 0);
        assert_eq!(map.find([10, 0, 0, 1].into()), Some(0));
        assert_eq!(map.find([11, 0, 0, 1].into()), Some(2));
        assert_eq!(map.len(), 2);
    }

    proptest! {
        #[test]
        fn a_look_up_is_a_linear_search(
            v4 in vec((any::<u32>(), 0_u8..=32, 0..4_u32), 0..60),
            v6 in vec((any::<u128>(), 0_u8..=128, 0..4_u32), 0..60),
            addresses in vec(any::<u32>(), 0..20),
        ) {
            // Few bits differ, so that prefixes nest.
            let v4 = v4.into_iter().map(|(bits, length, value)| {
                (IpNet::V4(Ipv4Net::new((bits & 0x0103_0307).into(), length).unwrap().trunc()), value)
            });
            let v6 = v6.into_iter().map(|(bits, length, value)| {
                (IpNet::V6(Ipv6Net::new((bits & (0x0103 << 64 | 0x0103_0307)).into(), length).unwrap().trunc()), value)
            });
            let entries: Vec<(IpNet, u32)> = v4.chain(v6).collect();
            let map = map(&entries);
            let near = entries.iter().flat_map(|(prefix, _)| [prefix.network(), prefix.broadcast()]);
            for address in addresses.into_iter().map(|bits| IpAddr::V4((bits & 0x0103_0307).into())).chain(near) {
                prop_assert_eq!(map.find(address), linear(&entries, address.to_canonical()), "{}", address);
            }
        }
    }
}
