//! What kinds of claims there are around an address, so that a look-up tries those alone.
//!
//! A bit says that some claim of this kind was made in this area, or in one that shares its place. It is set before the claim
//! can be seen, and never taken back: a bit too many costs time. A reader asks at the end whether a bit came meanwhile, so that
//! nothing is left out.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use toolbox_wire::record::Ports;
use zerocopy::FromZeros as _;

use super::shards::mix;
use super::shared::{bits_of, pieces};

/// Bits of an address that name its area.
const AREA_V4: u8 = 22;
const AREA_V6: u8 = 40;
/// Places for areas: those of a /9 lie side by side, so that few cache lines hold what a network uses.
const PLACES_V4: usize = 1 << (NEAR_V4 + 3);
const NEAR_V4: u32 = 13;
const PLACES_V6: usize = 1024;

/// Kinds of claims: lengths of prefixes that are claimed whole, and sizes of port ranges.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kinds {
    /// A bit for each length up to 63 and 127; of IPv4 the first word alone.
    lengths: [u64; 2],
    /// A bit for the length 128, [`ODD`], and from [`SIZES`] on one for each power of two.
    rest: u64,
}

const WHOLE_128: u64 = 1;
/// Ports of a prefix that is more than one address.
const ODD: u64 = 2;
const SIZES: u32 = 2;
/// Where the rest is beside the lengths of IPv4.
const REST_V4: u32 = 33;

impl Kinds {
    pub(super) fn of(net: IpNet, ports: Ports) -> Self {
        let mut kinds = Self::default();
        match pieces(ports) {
            None => match (usize::from(net.prefix_len()) / 64, net.prefix_len() % 64) {
                (2.., _) => kinds.rest = WHOLE_128,
                (word, bit) => kinds.lengths.iter_mut().skip(word).take(1).for_each(|word| *word |= 1 << bit),
            },
            Some(_) if net.prefix_len() < net.max_prefix_len() => kinds.rest = ODD,
            Some((size, _)) => kinds.rest = 1 << (SIZES + u32::from(size)),
        }
        kinds
    }

    #[inline]
    pub(super) fn each_length(&self, mut each: impl FnMut(u8)) {
        let [low, high] = self.lengths;
        bits_of(low).for_each(&mut each);
        bits_of(high).for_each(|bit| each(64 + bit));
        if self.rest & WHOLE_128 != 0 {
            each(128);
        }
    }

    #[inline]
    pub(super) fn sizes(&self) -> u64 {
        self.rest >> SIZES
    }

    #[inline]
    pub(super) fn are_odd(&self) -> bool {
        self.rest & ODD != 0
    }
}

#[derive(Debug)]
pub(super) struct Hints {
    /// Untouched until it is used.
    v4: Vec<AtomicU64>,
    v6: Box<[[AtomicU64; 3]]>,
    /// Of prefixes that are larger than an area.
    wide_v4: AtomicU64,
    wide_v6: [AtomicU64; 3],
    /// How often a bit was added.
    version: AtomicU64,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            v4: AtomicU64::new_vec_zeroed(PLACES_V4).unwrap_or_default(),
            v6: (0..PLACES_V6).map(|_| Default::default()).collect(),
            wide_v4: AtomicU64::new(0),
            wide_v6: Default::default(),
            version: AtomicU64::new(0),
        }
    }
}

#[inline]
fn place_v4(address: u32) -> usize {
    let area = u64::from(address >> (32 - AREA_V4));
    (((mix(area >> NEAR_V4) << NEAR_V4) | (area % (1 << NEAR_V4))) % PLACES_V4 as u64) as usize
}

#[inline]
fn place_v6(address: u128) -> usize {
    (mix((address >> (128 - AREA_V6)) as u64) % PLACES_V6 as u64) as usize
}

impl Hints {
    fn add(&self, word: &AtomicU64, bits: u64) {
        let before = word.load(Ordering::Relaxed);
        if before | bits != before {
            word.fetch_or(bits, Ordering::Release);
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// As long as it is the same, so is what is known of every address. Who reads it before looks at something, and again behind a
    /// barrier at the end, has missed nothing that was told before what was seen.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn around(&self, address: IpAddr) -> Kinds {
        let get = |word: &AtomicU64| word.load(Ordering::Acquire);
        match address {
            IpAddr::V4(address) => {
                let word = self.v4.get(place_v4(address.into())).map_or(0, get) | get(&self.wide_v4);
                Kinds { lengths: [word & ((1 << REST_V4) - 1), 0], rest: word >> REST_V4 & !WHOLE_128 }
            }
            IpAddr::V6(address) => {
                let [a, b, c] = self.v6.get(place_v6(address.into())).map_or([0; 3], |of| of.each_ref().map(get));
                let [wide_a, wide_b, wide_c] = self.wide_v6.each_ref().map(get);
                Kinds { lengths: [a | wide_a, b | wide_b], rest: c | wide_c }
            }
        }
    }

    /// That there may be such a claim from now on.
    pub(super) fn tell(&self, net: IpNet, ports: Ports) {
        let Kinds { lengths: [low, high], rest } = Kinds::of(net, ports);
        let length = net.prefix_len();
        match net.addr() {
            IpAddr::V4(address) => {
                let near = self.v4.get(place_v4(address.into())).filter(|_| length >= AREA_V4);
                self.add(near.unwrap_or(&self.wide_v4), low | rest << REST_V4);
            }
            IpAddr::V6(address) => {
                let near = self.v6.get(place_v6(address.into())).filter(|_| length >= AREA_V6);
                let words = near.unwrap_or(&self.wide_v6);
                words.iter().zip([low, high, rest]).for_each(|(word, bits)| self.add(word, bits));
            }
        }
    }

    pub(super) fn octets(&self) -> usize {
        self.v4.len() * 8 + self.v6.len() * 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_around_every_address_in_it() {
        let hints = Hints::default();
        let some = Ports::new(1024, 1535).unwrap();
        let told = [
            ("0.0.0.0/0", Ports::ALL, "203.0.113.9"),
            ("10.0.0.0/8", Ports::ALL, "10.255.0.1"),
            ("198.51.100.0/22", Ports::ALL, "198.51.103.7"),
            ("198.51.100.7/32", Ports::ALL, "198.51.100.7"),
            ("192.0.2.1/32", some, "192.0.2.1"),
            ("192.0.2.0/24", some, "192.0.2.255"),
            ("2001:db8::/32", Ports::ALL, "2001:db8:ffff::1"),
            ("2001:db8:1::/56", Ports::ALL, "2001:db8:1:ff::1"),
            ("2001:db8:1::/64", Ports::ALL, "2001:db8:1::1"),
            ("2001:db8:1::5/127", Ports::ALL, "2001:db8:1::4"),
            ("2001:db8:1::7/128", Ports::ALL, "2001:db8:1::7"),
            ("2001:db8:2::7/128", some, "2001:db8:2::7"),
            ("2001:db8:2::/120", some, "2001:db8:2::9"),
        ];
        for (net, ports, address) in told {
            let net: IpNet = net.parse::<IpNet>().unwrap().trunc();
            hints.tell(net, ports);
            let kinds = hints.around(address.parse().unwrap());
            match pieces(ports) {
                None => {
                    let mut there = false;
                    kinds.each_length(|length| there |= length == net.prefix_len());
                    assert!(there, "{net}");
                }
                Some(_) if net.prefix_len() < net.max_prefix_len() => assert!(kinds.are_odd(), "{net}"),
                Some((size, _)) => assert!(bits_of(kinds.sizes()).any(|of| of == size), "{net}"),
            }
        }
        assert!(!Hints::default().around("192.0.2.1".parse().unwrap()).are_odd());
    }
}
