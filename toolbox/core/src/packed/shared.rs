//! What the writer and the readers share, and the hashes that sessions are found by.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ipnet::IpNet;
use toolbox_wire::http::Source;
use toolbox_wire::record::Ports;

use super::arena::Words;
use super::hints::Hints;
use super::shards::{Shards, mix};

/// Tables by name, which the writer alone reads, and by address: the logarithm of how many.
const NAMES: u32 = 11;
const NETS: u32 = 12;

/// What writer and readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) words: Words,
    pub(super) by_name: Shards,
    pub(super) by_net: Shards,
    pub(super) hints: Hints,
    /// Not all that counts is here: some sessions are too long for the arena, or translations are computed.
    pub(super) odd: AtomicBool,
    pub(super) count: AtomicUsize,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            words: Words::default(),
            by_name: Shards::new(NAMES),
            by_net: Shards::new(NETS),
            hints: Hints::default(),
            odd: AtomicBool::new(false),
            count: AtomicUsize::new(0),
        }
    }
}

impl Shared {
    pub(super) fn is_odd(&self) -> bool {
        self.odd.load(Ordering::Acquire)
    }
}

#[inline]
pub(super) fn bits_of(mut bits: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as u8)?;
        bits &= bits - 1;
        Some(bit)
    })
}

pub(super) fn hash_octets(seed: u64, octets: &[u8]) -> u64 {
    let mut hash = seed ^ octets.len() as u64;
    for chunk in octets.chunks(8) {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        hash = mix(hash ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    mix(hash)
}

/// Hashes for maps of what devices name: spread as all others here are.
pub(super) type Mixing = std::hash::BuildHasherDefault<Mixed>;

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Mixed(u64);

impl std::hash::Hasher for Mixed {
    fn write(&mut self, octets: &[u8]) {
        self.0 = hash_octets(self.0, octets);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

pub(super) fn name_hash(source: Source, client: &str, session: &str) -> u64 {
    hash_octets(hash_octets(source as u64, client.as_bytes()), session.as_bytes())
}

/// What of a prefix a hash is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// `1 << size` ports from `piece << size` on.
    Piece(u8, u16),
    /// That some of its ports are claimed by themselves.
    Mark,
}

/// Of the `length` first bits of an address, the others of which are not looked at.
#[inline]
pub(super) fn net_hash(address: IpAddr, length: u8, part: Part) -> u64 {
    let part = match part {
        Part::Whole => 0,
        Part::Piece(size, piece) => 1 << 24 | u64::from(size) << 16 | u64::from(piece),
        Part::Mark => 1 << 25,
    };
    let seed = u64::from(length) << 32 | part;
    match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address) & !u32::MAX.checked_shr(length.into()).unwrap_or(0);
            mix(mix(seed ^ u64::from(bits) << 40).wrapping_add(bits.into()))
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address) & !u128::MAX.checked_shr(length.into()).unwrap_or(0);
            mix(mix(seed.wrapping_add(1) ^ (bits >> 64) as u64).wrapping_add(bits as u64))
        }
    }
}

pub(super) fn hash_of(net: IpNet, part: Part) -> u64 {
    net_hash(net.addr(), net.prefix_len(), part)
}

/// The pieces that a range of ports is found under: of the largest size that is no longer than the range.
pub(super) fn pieces(ports: Ports) -> Option<(u8, std::ops::RangeInclusive<u16>)> {
    if ports.is_all() {
        return None;
    }
    let length = u32::from(ports.last() - ports.first()) + 1;
    let size = (31 - length.leading_zeros()).min(15) as u8;
    Some((size, ports.first() >> size..=ports.last() >> size))
}
