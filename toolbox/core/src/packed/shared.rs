//! What the writer and the readers share, and the hashes that sessions are found by.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ipnet::IpNet;
use toolbox_wire::http::Source;
use toolbox_wire::record::Ports;

use super::arena::Words;
use super::shards::{Shards, mix};

/// What writer and readers share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) words: Words,
    pub(super) by_name: Shards,
    pub(super) by_net: Shards,
    /// Lengths of prefixes that there are: a bit each, of IPv4 in the first word.
    pub(super) lengths: [AtomicU64; 4],
    /// Sizes of port ranges that there are: a bit for each power of two.
    pub(super) sizes: AtomicU64,
    /// Not all that counts is here: some sessions are too long for the arena, or translations are computed.
    pub(super) odd: AtomicBool,
    pub(super) count: AtomicUsize,
}

impl Shared {
    pub(super) fn lengths(&self, v4: bool) -> impl Iterator<Item = u8> {
        let words = self.lengths.each_ref().map(|word| word.load(Ordering::Relaxed));
        let [own, rest @ ..] = words;
        let words = if v4 { [own, 0, 0] } else { rest };
        (0_u8..3).zip(words).flat_map(|(word, bits)| bits_of(bits).map(move |bit| word * 64 + bit))
    }

    pub(super) fn set_length(&self, net: IpNet, on: bool) {
        let length = usize::from(net.prefix_len());
        let at = if net.addr().is_ipv4() { 0 } else { 1 + length / 64 };
        if let Some(word) = self.lengths.get(at) {
            set(word, (length % 64) as u32, on);
        }
    }
}

pub(super) fn set(word: &AtomicU64, bit: u32, on: bool) {
    let bits = word.load(Ordering::Relaxed);
    word.store(if on { bits | 1 << bit } else { bits & !(1 << bit) }, Ordering::Release);
}

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

pub(super) fn name_hash(source: Source, client: &str, session: &str) -> u64 {
    hash_octets(hash_octets(source as u64, client.as_bytes()), session.as_bytes())
}

/// Of an address whole, or of a piece of its ports: `1 << size` of them from `piece << size` on.
pub(super) fn net_hash(net: IpNet, piece: Option<(u8, u16)>) -> u64 {
    let piece = piece.map_or(0, |(size, piece)| 1 << 24 | u64::from(size) << 16 | u64::from(piece));
    let seed = u64::from(net.prefix_len()) << 32 | piece;
    match net.addr() {
        IpAddr::V4(address) => {
            mix(mix(seed ^ u64::from(u32::from(address)) << 40).wrapping_add(u32::from(address).into()))
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            mix(mix(seed.wrapping_add(1) ^ (bits >> 64) as u64).wrapping_add(bits as u64))
        }
    }
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
