//! IP fragments put together again, within bounds (RFC 791, RFC 8200 §4.5).
//!
//! A payer's machine does not cut its segments, but a tunnel on their way may. What comes of a datagram goes through the
//! door as any other packet does. Pieces that overlap, do not fit together, or leave the TCP header to a second piece
//! (RFC 5722, RFC 7112, RFC 1858) have their whole datagram dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::Instant;

use crate::cloak::source_key;
use crate::counters::Count;

/// Datagrams of which something is missing, all sources together, and of one source.
const DATAGRAMS: usize = 256;
const OF_ONE_SOURCE: usize = 8;
/// Of a datagram: octets behind the IP header, and pieces.
const OCTETS: usize = 16 * 1024;
const PIECES: usize = 24;
/// As long as a datagram may be incomplete.
const PATIENCE: Duration = Duration::from_secs(5);
/// As long as it is not given up for a new one.
const GRACE: Duration = Duration::from_secs(1);
/// The TCP header without options has to be in the first piece.
const FIRST: usize = 20;

/// Which datagram a piece is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Datagram {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) identification: u32,
}

/// A piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) of: Datagram,
    pub(crate) offset: usize,
    /// More of the datagram comes behind it.
    pub(crate) more: bool,
    pub(crate) octets: Vec<u8>,
}

#[derive(Debug)]
struct Partial {
    since: Instant,
    /// By offset; none overlaps another.
    pieces: BTreeMap<usize, Vec<u8>>,
    held: usize,
    /// Known with the last piece.
    total: Option<usize>,
}

/// Datagrams of which something is missing.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    partial: BTreeMap<Datagram, Partial>,
    by_age: BTreeSet<(Instant, Datagram)>,
    per_source: BTreeMap<IpAddr, usize>,
}

impl Fragments {
    /// Takes a piece; gives what its datagram holds when nothing of it is missing any more.
    pub(crate) fn take(&mut self, piece: Piece, now: Instant) -> Result<Option<Vec<u8>>, Count> {
        let of = piece.of;
        let fits = !piece.octets.is_empty()
            && piece.offset + piece.octets.len() <= OCTETS
            && (!piece.more || piece.octets.len().is_multiple_of(8))
            && (piece.offset > 0 || piece.octets.len() >= FIRST);
        if !fits {
            self.forget(of);
            return Err(Count::Fragment);
        }
        if !self.partial.contains_key(&of) {
            self.make_room(of, now)?;
        }
        let Some(partial) = self.partial.get_mut(&of) else { return Err(Count::FragmentsFull) };
        match partial.add(piece) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(self.forget(of).map(Partial::whole)),
            Err(reason) => {
                self.forget(of);
                Err(reason)
            }
        }
    }

    /// Gives up what has been incomplete for too long, and says how much that was.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while let Some(&(since, of)) = self.by_age.first()
            && now.since(since) >= PATIENCE
        {
            self.forget(of);
            expired += 1;
        }
        expired
    }

    fn make_room(&mut self, of: Datagram, now: Instant) -> Result<(), Count> {
        let source = source_key(of.source);
        if self.per_source.get(&source).is_some_and(|number| *number >= OF_ONE_SOURCE) {
            return Err(Count::FragmentsFull);
        }
        if self.partial.len() >= DATAGRAMS {
            let oldest = self.by_age.first().copied().filter(|(since, _)| now.since(*since) >= GRACE);
            let (_, oldest) = oldest.ok_or(Count::FragmentsFull)?;
            self.forget(oldest);
        }
        self.partial.insert(of, Partial { since: now, pieces: BTreeMap::new(), held: 0, total: None });
        self.by_age.insert((now, of));
        *self.per_source.entry(source).or_default() += 1;
        Ok(())
    }

    fn forget(&mut self, of: Datagram) -> Option<Partial> {
        let partial = self.partial.remove(&of)?;
        self.by_age.remove(&(partial.since, of));
        let source = source_key(of.source);
        if let Some(number) = self.per_source.get_mut(&source) {
            *number = number.saturating_sub(1);
            if *number == 0 {
                self.per_source.remove(&source);
            }
        }
        Some(partial)
    }
}

impl Partial {
    /// Whether the datagram is whole now.
    fn add(&mut self, piece: Piece) -> Result<bool, Count> {
        let Piece { offset, more, octets, .. } = piece;
        let end = offset + octets.len();
        // The very same piece again changes nothing.
        if self.pieces.get(&offset) == Some(&octets) && (more || self.total == Some(end)) {
            return Ok(false);
        }
        let before = self.pieces.range(..=offset).next_back().is_some_and(|(at, piece)| at + piece.len() > offset);
        let behind = self.pieces.range(offset..end).next().is_some();
        let past = self.total.is_some_and(|total| end > total || (!more && end != total));
        let cut = !more && self.pieces.iter().next_back().is_some_and(|(at, piece)| at + piece.len() > end);
        if before || behind || past || cut || self.pieces.len() >= PIECES {
            return Err(Count::Fragment);
        }
        if !more {
            self.total = Some(end);
        }
        self.held += octets.len();
        self.pieces.insert(offset, octets);
        Ok(self.total == Some(self.held))
    }

    fn whole(self) -> Vec<u8> {
        self.pieces.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(identification: u32) -> Datagram {
        Datagram {
            source: "198.51.100.70".parse().unwrap(),
            destination: "203.0.113.200".parse().unwrap(),
            identification,
        }
    }

    fn at(millis: u64) -> Instant {
        Instant::after_origin(Duration::from_millis(millis))
    }

    fn piece(identification: u32, offset: usize, more: bool, octets: &[u8]) -> Piece {
        Piece { of: of(identification), offset, more, octets: octets.to_vec() }
    }

    #[test]
    fn what_does_not_fit_together_takes_its_datagram_with_it() {
        let first = || piece(1, 0, true, &[1; 24]);
        for bad in [
            piece(1, 16, true, &[2; 16]),
            piece(1, 0, true, &[2; 24]),
            piece(1, 8, false, &[1; 8]),
            piece(1, 24, true, &[2; 7]),
            piece(1, 24, true, &[]),
            piece(1, OCTETS, false, &[1]),
            piece(1, 0, false, &[1; 19]),
        ] {
            let mut fragments = Fragments::default();
            assert_eq!(fragments.take(first(), at(0)), Ok(None));
            assert_eq!(fragments.take(first(), at(0)), Ok(None), "the same again");
            assert_eq!(fragments.take(bad.clone(), at(0)), Err(Count::Fragment), "{bad:?}");
            assert!(fragments.partial.is_empty() && fragments.by_age.is_empty() && fragments.per_source.is_empty());
        }
        let mut fragments = Fragments::default();
        fragments.take(piece(1, 24, false, &[3; 5]), at(0)).unwrap();
        assert_eq!(fragments.take(piece(1, 32, false, &[3; 5]), at(0)), Err(Count::Fragment), "two ends");
    }

    #[test]
    fn datagrams_are_bounded_in_number_for_each_source_and_in_all_and_in_time() {
        let mut fragments = Fragments::default();
        for number in 0..OF_ONE_SOURCE as u32 {
            assert_eq!(fragments.take(piece(number, 0, true, &[1; 24]), at(0)), Ok(None));
        }
        assert_eq!(fragments.take(piece(99, 0, true, &[1; 24]), at(0)), Err(Count::FragmentsFull));
        let other = |host: u32| Datagram { source: IpAddr::V4((0x0a00_0000 + host).into()), ..of(1) };
        let mut host = 0;
        while fragments.partial.len() < DATAGRAMS {
            host += 1;
            fragments.take(Piece { of: other(host), ..piece(1, 0, true, &[1; 24]) }, at(10)).unwrap();
        }
        let mut another =
            |millis| fragments.take(Piece { of: other(99_999), ..piece(1, 0, true, &[1; 24]) }, at(millis));
        assert_eq!(another(999), Err(Count::FragmentsFull), "not yet");
        assert_eq!(another(1000), Ok(None));
        assert_eq!(fragments.partial.len(), DATAGRAMS);
        assert_eq!(fragments.expire(at(5009)), OF_ONE_SOURCE as u64 - 1);
        assert_eq!(fragments.expire(at(6001)), (DATAGRAMS - OF_ONE_SOURCE + 1) as u64);
        assert!(fragments.partial.is_empty() && fragments.by_age.is_empty() && fragments.per_source.is_empty());
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_and_twice_come_out_whole(
            octets in proptest::collection::vec(any::<u8>(), 20..2000),
            cuts in proptest::collection::btree_set(3_usize..250, 0..10),
            order in any::<u64>(),
        ) {
            let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut * 8).filter(|cut| *cut < octets.len()).collect();
            places.insert(0, 0);
            places.push(octets.len());
            let mut pieces: Vec<Piece> = places
                .windows(2)
                .map(|ends| piece(7, ends[0], ends[1] < octets.len(), &octets[ends[0]..ends[1]]))
                .collect();
            pieces.sort_by_key(|piece| (piece.offset as u64).wrapping_mul(order | 1));
            let last = pieces.pop().unwrap();
            let mut fragments = Fragments::default();
            for piece in pieces {
                prop_assert_eq!(fragments.take(piece.clone(), at(0)), Ok(None));
                prop_assert_eq!(fragments.take(piece, at(1)), Ok(None));
            }
            prop_assert_eq!(fragments.take(last, at(2)), Ok(Some(octets)));
            prop_assert!(fragments.partial.is_empty() && fragments.by_age.is_empty() && fragments.per_source.is_empty());
        }

        #[test]
        fn arbitrary_pieces_stay_within_the_bounds(
            pieces in proptest::collection::vec((0_u32..40, 0_usize..300, any::<bool>(), 0_usize..200, 0_u64..8000), 0..400),
        ) {
            let mut fragments = Fragments::default();
            for (identification, offset, more, length, millis) in pieces {
                let _ = fragments.take(piece(identification, offset * 8, more, &vec![5; length]), at(millis));
                let _ = fragments.expire(at(millis));
                prop_assert!(fragments.partial.len() <= OF_ONE_SOURCE);
                prop_assert_eq!(fragments.partial.len(), fragments.by_age.len());
                for partial in fragments.partial.values() {
                    prop_assert!(partial.held <= OCTETS && partial.pieces.len() <= PIECES);
                }
            }
        }
    }
}
