//! Fragments, put together again (RFC 791, 8200).
//!
//! Bounded in number, octets and time: what does not fit is given up, the oldest first, and counted. Fragments that overlap
//! make their packet worthless (RFC 5722); a copy of one, as a mirror may show it, does not.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::Instant;

use super::{Part, Udp, datagram};

/// Packets that wait for the rest of them.
const WAITING: usize = 1024;
/// Octets that they have.
const OCTETS: usize = 8 << 20;
/// Fragments of one of them.
const PIECES: usize = 128;
/// Where packets that were given up came from.
const SOURCES: usize = 256;
/// The octets of a packet.
const LONGEST: u32 = 65_535;
/// How long one waits.
const FRESH: Duration = Duration::from_secs(30);
/// How long copies of the fragments of a whole one are known for what they are.
const COPIES: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
}

#[derive(Debug)]
struct Packet {
    begun: Instant,
    pieces: BTreeMap<u32, Vec<u8>>,
    /// How long it is, once the last fragment is there.
    length: Option<u32>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Whole,
    /// Two fragments contradict each other.
    Worthless,
}

/// Packets of which there was not everything in time, or not in order: of all UDP, as whose they are stands in the first
/// fragment alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// How many.
    pub count: u64,
    /// Where they came from.
    pub sources: BTreeSet<IpAddr>,
    /// Whether they came from others, too, as only so many sources are remembered.
    pub others: bool,
}

impl GivenUp {
    /// Whether one may have come from `source`.
    #[must_use]
    pub fn may_be_of(&self, source: IpAddr) -> bool {
        self.others || self.sources.contains(&source)
    }

    fn add(&mut self, source: IpAddr) {
        self.count += 1;
        if self.sources.len() < SOURCES {
            self.sources.insert(source);
        } else if !self.sources.contains(&source) {
            self.others = true;
        }
    }
}

/// Packets of which not all fragments are there.
#[derive(Debug, Default)]
pub struct Parts {
    packets: HashMap<Key, Packet>,
    order: VecDeque<(Instant, Key)>,
    octets: usize,
    given_up: GivenUp,
    /// The packet that was put together last.
    whole: Vec<u8>,
}

impl Parts {
    /// Nothing is waiting.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a fragment; gives the datagram when this was what it waited for.
    pub fn take(&mut self, part: Part<'_>, now: Instant) -> Option<Udp<'_>> {
        self.forget(now);
        let Part { source, destination, identification, offset, more, octets } = part;
        let key = Key { source, destination, identification };
        let end = offset.saturating_add(u32::try_from(octets.len()).unwrap_or(u32::MAX));
        // All but the last one are a multiple of eight octets long.
        if end > LONGEST || octets.is_empty() || (more && octets.len() % 8 != 0) {
            self.given_up.add(source);
            return None;
        }
        if self.packets.get(&key).is_some_and(|known| known.state == State::Whole && now.since(known.begun) >= COPIES) {
            self.drop_packet(&key);
        }
        if !self.packets.contains_key(&key) {
            while self.packets.len() >= WAITING || self.octets + octets.len() > OCTETS {
                if !self.drop_oldest() {
                    break;
                }
            }
            self.order.push_back((now, key));
        }
        let packet = self.packets.entry(key).or_insert_with(|| Packet {
            begun: now,
            pieces: BTreeMap::new(),
            length: None,
            state: State::Waiting,
        });
        if packet.state != State::Waiting || packet.pieces.get(&offset).is_some_and(|known| known == octets) {
            return None;
        }
        if packet.contradicts(offset, end, more) || packet.pieces.len() >= PIECES {
            self.octets -= packet.free(State::Worthless);
            self.given_up.add(source);
            return None;
        }
        self.octets += octets.len();
        packet.pieces.insert(offset, octets.to_vec());
        if !more {
            packet.length = Some(end);
        }
        if !packet.is_whole() {
            return None;
        }
        self.whole = packet.pieces.values().flatten().copied().collect();
        self.octets -= packet.free(State::Whole);
        packet.begun = now;
        let found = datagram(&self.whole, source, destination).ok();
        if found.is_none() {
            self.given_up.add(source);
        }
        found
    }

    /// Gives up what waits for too long.
    pub fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) > FRESH) {
            self.drop_oldest();
        }
    }

    /// What was given up since this was last asked.
    pub fn given_up(&mut self) -> GivenUp {
        std::mem::take(&mut self.given_up)
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((at, key)) = self.order.pop_front() else { return false };
        // Another one may have its place since.
        let known = self.packets.get(&key);
        if known.is_some_and(|known| known.begun == at || known.state != State::Waiting) {
            self.drop_packet(&key);
        }
        true
    }

    fn drop_packet(&mut self, key: &Key) {
        if let Some(mut packet) = self.packets.remove(key) {
            if packet.state == State::Waiting {
                self.given_up.add(key.source);
            }
            self.octets -= packet.free(State::Worthless);
        }
    }
}

impl Packet {
    /// Whether a piece from `offset` to `end` lies over another one, or behind the end.
    fn contradicts(&self, offset: u32, end: u32, more: bool) -> bool {
        let end_of = |(at, piece): (&u32, &Vec<u8>)| at + u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let before = self.pieces.range(..end).next_back().is_some_and(|piece| end_of(piece) > offset);
        let behind = self.pieces.last_key_value().is_some_and(|piece| end_of(piece) > end);
        let length = self.length.is_some_and(|length| end > length || (!more && end != length));
        before || length || (!more && behind)
    }

    fn is_whole(&self) -> bool {
        let Some(length) = self.length else { return false };
        let octets: usize = self.pieces.values().map(Vec::len).sum();
        // They do not overlap: if they are as many as there have to be, there is no hole.
        u32::try_from(octets) == Ok(length)
    }

    fn free(&mut self, state: State) -> usize {
        self.state = state;
        std::mem::take(&mut self.pieces).values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::after_origin(Duration::from_millis(ms))
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
        [&[0x07, 0x14, 0x07, 0x15, length[0], length[1], 0, 0], payload].concat()
    }

    fn part(identification: u32, whole: &[u8], from: usize, to: usize) -> Part<'_> {
        Part {
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            identification,
            offset: u32::try_from(from).unwrap(),
            more: to < whole.len(),
            octets: &whole[from..to],
        }
    }

    #[test]
    fn copies_do_no_harm_and_neither_does_order() {
        let (mut parts, payload) = (Parts::new(), vec![7; 3000]);
        let whole = packet(&payload);
        let cuts = [(0, 1480), (1480, 2960), (2960, whole.len())];
        for (n, order) in [[0, 1, 2], [2, 1, 0], [1, 2, 0]].into_iter().enumerate() {
            let mut found = 0;
            // Each twice, as at an interface on which frames leave and arrive.
            for cut in order.into_iter().flat_map(|cut| [cut, cut]) {
                let (from, to) = cuts[cut];
                let udp = parts.take(part(9, &whole, from, to), at(n as u64 * 2000));
                found += usize::from(udp.is_some_and(|udp| udp.payload == payload && udp.destination.port() == 1813));
            }
            assert_eq!((found, parts.octets), (1, 0), "the number comes again later");
        }
        parts.forget(at(100_000));
        assert_eq!((parts.given_up().count, parts.packets.len()), (0, 0));
    }

    #[test]
    fn what_overlaps_or_does_not_fit_is_given_up() {
        let whole = packet(&[7; 3000]);
        let mut parts = Parts::new();
        let mut gives_up = |pieces: &[(usize, usize)]| {
            for (from, to) in pieces {
                assert_eq!(parts.take(part(1, &whole, *from, *to), at(0)), None);
            }
            let given_up = parts.given_up().count;
            parts = Parts::new();
            given_up
        };
        assert_eq!(gives_up(&[(0, 1480), (1472, 2960), (2960, whole.len())]), 1);
        assert_eq!(gives_up(&[(1480, whole.len()), (0, 1488)]), 1);
        assert_eq!(gives_up(&[(0, 1481)]), 1, "no multiple of eight");
        assert_eq!(gives_up(&[(8, 8)]), 1, "empty");
        let long = Part { offset: 65_528, ..part(1, &whole, 0, 1480) };
        assert_eq!(parts.take(long, at(0)), None);
        assert_eq!(parts.given_up().count, 1);
        // Behind what said that it was the last one.
        let last = Part { more: false, ..part(2, &whole, 0, 1480) };
        assert!(parts.take(last, at(0)).is_none(), "the head says that there is more");
        assert_eq!(parts.given_up().count, 1);
    }

    #[test]
    fn what_waits_is_bounded_in_number_octets_and_time() {
        let whole = packet(&[7; 60_000]);
        let mut parts = Parts::new();
        for n in 0..5000 {
            parts.take(part(n, &whole, 0, 800), at(u64::from(n)));
            assert!(parts.packets.len() <= WAITING);
        }
        assert_eq!(parts.given_up().count, 5000 - WAITING as u64);
        parts.forget(at(60_000));
        assert_eq!((parts.packets.len(), parts.order.len(), parts.octets), (0, 0, 0));
        assert_eq!(parts.given_up().count, WAITING as u64);
        for n in 0..500_u32 {
            let source = IpAddr::from([10, 0, n.to_be_bytes()[2], n.to_be_bytes()[3]]);
            parts.take(Part { source, octets: &[], ..part(n, &whole, 0, 8) }, at(0));
        }
        let given_up = parts.given_up();
        assert_eq!((given_up.count, given_up.sources.len(), given_up.others), (500, SOURCES, true));
        for n in 0..500 {
            parts.take(part(n, &whole, 0, 48_000), at(0));
            assert!(parts.octets <= OCTETS);
        }
        for n in 0..200 {
            parts.take(part(9999, &whole, n * 8, n * 8 + 8), at(0));
        }
        assert!(parts.packets.values().all(|packet| packet.pieces.len() <= PIECES));
    }

    proptest! {
        #[test]
        fn every_datagram_comes_back_however_it_is_cut_and_mixed(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..5),
            step in 1_usize..40,
            keys in proptest::collection::vec(any::<u32>(), 1000),
        ) {
            let wholes: Vec<Vec<u8>> = payloads.iter().map(|payload| packet(payload)).collect();
            let mut pieces = Vec::new();
            for (number, whole) in wholes.iter().enumerate() {
                for from in (0..whole.len()).step_by(step * 64) {
                    pieces.push(part(number as u32, whole, from, (from + step * 64).min(whole.len())));
                }
            }
            let mut mixed: Vec<_> = pieces.into_iter().zip(keys).collect();
            mixed.sort_by_key(|(_, key)| *key);
            let mut parts = Parts::new();
            let mut found = Vec::new();
            for (piece, _) in mixed {
                let number = piece.identification as usize;
                if let Some(udp) = parts.take(piece, at(0)) {
                    prop_assert_eq!(udp.payload, &payloads[number][..]);
                    found.push(number);
                }
            }
            found.sort_unstable();
            prop_assert_eq!(found, (0..payloads.len()).collect::<Vec<_>>());
            prop_assert_eq!((parts.octets, parts.given_up().count), (0, 0));
        }

        #[test]
        fn no_fragments_make_it_panic(
            pieces in proptest::collection::vec((0..3_u32, 0..9000_u32, any::<bool>(), 0..400_usize, 0..40_000_u64), 0..80),
        ) {
            let octets = vec![3; 400];
            let mut parts = Parts::new();
            for (identification, offset, more, length, time) in pieces {
                let part = Part { offset: offset * 8, more, octets: &octets[..length], ..part(identification, &octets, 0, 1) };
                if let Some(udp) = parts.take(part, at(time)) {
                    prop_assert!(udp.payload.len() < 65_536);
                }
                prop_assert_eq!(parts.octets, parts.packets.values().flat_map(|of| of.pieces.values()).map(Vec::len).sum::<usize>());
            }
        }
    }
}
