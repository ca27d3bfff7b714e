//! Looking addresses up beside the writer, without waiting for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_wire::http::Source;

use super::arena::Words;
use super::shards::Reading;
use super::shared::{Shared, bits_of, net_hash};
use super::{ASK, HEAD, OVER, source_of, unhead, words_of};
use crate::answer::{Live, Question};
use crate::pack::{Whose, glance, span_of};
use crate::session::Span;

/// Octets of a session that a reader looks at; of a longer one it asks the table.
const GLANCE: usize = 512;
/// How often a reader tries to read what is being changed, before it asks the table.
const PATIENCE: usize = 64;

/// Looks addresses up beside the writer.
#[derive(Debug, Clone)]
pub struct Glances(pub(super) Arc<Shared>);

/// What a reader sees at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight<'b> {
    /// This subscriber.
    Bound(Seen<'b>),
    /// No session has it.
    Nobody,
    /// The table has to be asked.
    Ask,
}

/// Who is there, and what proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<'b> {
    /// The subscriber.
    pub subscriber: &'b str,
    source: Source,
    octets: &'b [u8],
    /// Of a translation that leads there.
    outer: Option<&'b [u8]>,
}

impl Seen<'_> {
    /// The evidence; none: the table has to be asked.
    #[must_use]
    pub fn live(&self) -> Option<Live> {
        let span = span_of(self.octets)?;
        let span = match self.outer {
            None => span,
            Some(outer) => {
                let outer = span_of(outer)?;
                Span { since: span.since.max(outer.since), proof: span.proof.min(outer.proof) }
            }
        };
        Some(Live { source: self.source, span })
    }
}

/// What one look-up of a prefix found.
enum Found {
    Nothing,
    One(u32, usize, Source),
    Ask,
}

/// Prefixes and port ranges that one glance asks for; of more it leaves it to the table.
const PROBES: usize = 24;

/// What a glance rests on: every place that it looked at. While they all hold there was a moment at which all of it was true
/// together, so that nobody is named who was one of two at every moment.
struct Ground<'s> {
    readings: [Option<Reading<'s>>; PROBES],
    probed: usize,
}

impl<'s> Ground<'s> {
    const fn new() -> Self {
        Self { readings: [None; PROBES], probed: 0 }
    }

    /// False when there is no more room.
    fn add(&mut self, reading: Reading<'s>) -> bool {
        let Some(place) = self.readings.get_mut(self.probed) else { return false };
        *place = Some(reading);
        self.probed += 1;
        true
    }

    fn holds(&self) -> bool {
        self.readings.iter().take(self.probed).flatten().all(Reading::holds)
    }
}

impl Glances {
    /// Who is there now, as far as a glance can tell, told to `then`.
    pub fn find<R>(&self, question: impl Into<Question>, now: Timestamp, then: impl FnOnce(Sight<'_>) -> R) -> R {
        let question = question.into();
        let mut buffer = [0; GLANCE];
        let mut ground = Ground::new();
        match self.look(question, now, &mut buffer, &mut ground) {
            Found::Nothing => then(Sight::Nobody),
            Found::Ask => then(Sight::Ask),
            Found::One(_, length, source) => {
                let octets = buffer.get(..length).unwrap_or_default();
                match glance(octets, question) {
                    Some(Whose::Named(subscriber)) => {
                        then(Sight::Bound(Seen { subscriber, source, octets, outer: None }))
                    }
                    Some(Whose::Behind(inside)) => self.find_inside((octets, &ground), inside, now, then),
                    Some(Whose::Nobody) | None => then(Sight::Ask),
                }
            }
        }
    }

    /// Who is behind a translation, which has to be there still when that is known.
    fn find_inside<R>(
        &self,
        (outer, outside): (&[u8], &Ground<'_>),
        inside: IpAddr,
        now: Timestamp,
        then: impl FnOnce(Sight<'_>) -> R,
    ) -> R {
        let inside = Question::new(inside, None);
        let mut buffer = [0; GLANCE];
        let mut ground = Ground::new();
        let found = self.look(inside, now, &mut buffer, &mut ground);
        let Found::One(_, length, source) = found else { return then(Sight::Ask) };
        if !(outside.holds() && ground.holds()) {
            return then(Sight::Ask);
        }
        let octets = buffer.get(..length).unwrap_or_default();
        match glance(octets, inside) {
            Some(Whose::Named(subscriber)) => {
                then(Sight::Bound(Seen { subscriber, source, octets, outer: Some(outer) }))
            }
            _ => then(Sight::Ask),
        }
    }

    fn look<'s>(
        &'s self,
        question: Question,
        now: Timestamp,
        buffer: &mut [u8; GLANCE],
        ground: &mut Ground<'s>,
    ) -> Found {
        let shared = &*self.0;
        let sizes = shared.sizes.load(Ordering::Relaxed);
        if shared.odd.load(Ordering::Relaxed) || (question.port.is_none() && sizes != 0) {
            return Found::Ask;
        }
        let mut seen = Found::Nothing;
        for length in shared.lengths(question.address.is_ipv4()) {
            let Ok(net) = IpNet::new(question.address, length) else { continue };
            let net = net.trunc();
            let whole = std::iter::once(None);
            let parts = bits_of(sizes).filter_map(|size| Some(Some((size, question.port? >> size))));
            for piece in whole.chain(parts) {
                match (self.probe(net_hash(net, piece), question, now, buffer, ground), &seen) {
                    (Found::Nothing, _) => {}
                    (Found::One(number, ..), Found::One(known, ..)) if number == *known => {}
                    (found @ Found::One(..), Found::Nothing) => seen = found,
                    _ => return Found::Ask,
                }
            }
        }
        // A session that was put aside meanwhile is not among what was looked at.
        if ground.holds() && !shared.odd.load(Ordering::Acquire) { seen } else { Found::Ask }
    }

    /// The one session under a hash that has what is asked about, copied to `buffer`.
    fn probe<'s>(
        &'s self,
        hash: u64,
        question: Question,
        now: Timestamp,
        buffer: &mut [u8; GLANCE],
        ground: &mut Ground<'s>,
    ) -> Found {
        let shared = &*self.0;
        for _ in 0..PATIENCE {
            let Some(reading) = shared.by_net.read(hash) else { return Found::Ask };
            let mut seen = Found::Nothing;
            shared.by_net.find(&shared.words, hash, |number| {
                let mut copy = [0; GLANCE];
                let (fresh, length, source) = copy_of(&shared.words, number, &mut copy);
                if length > 0 && fresh == OVER {
                    return false;
                }
                match glance(copy.get(..length).unwrap_or_default(), question) {
                    // Another address under the same hash.
                    None if length > 0 => false,
                    Some(Whose::Named(_) | Whose::Behind(_)) if now <= fresh && matches!(seen, Found::Nothing) => {
                        *buffer = copy;
                        seen = Found::One(number, length, source);
                        false
                    }
                    _ => {
                        seen = Found::Ask;
                        true
                    }
                }
            });
            if reading.holds() {
                return if ground.add(reading) { seen } else { Found::Ask };
            }
            std::hint::spin_loop();
        }
        Found::Ask
    }

    /// [`Glances::find`] for many, which wait for memory together.
    pub fn find_each(&self, questions: &[Question], now: Timestamp, mut then: impl FnMut(usize, Sight<'_>)) {
        const TOGETHER: usize = 32;
        let shared = &*self.0;
        for (group, some) in questions.chunks(TOGETHER).enumerate() {
            let mut numbers = [0_u32; TOGETHER];
            let sizes = shared.sizes.load(Ordering::Relaxed);
            let mut touched = 0;
            // What will be read is asked for, each without waiting for the one before.
            for (number, question) in numbers.iter_mut().zip(some) {
                let length = shared.lengths(question.address.is_ipv4()).last().unwrap_or(0);
                let Ok(net) = IpNet::new(question.address, length) else { continue };
                let piece = question.port.and_then(|port| bits_of(sizes).last().map(|size| (size, port >> size)));
                let whole = net_hash(net.trunc(), None);
                touched ^= shared.by_net.home(&shared.words, whole);
                if let Some(piece) = piece {
                    let hash = net_hash(net.trunc(), Some(piece));
                    let home = shared.by_net.first(&shared.words, hash);
                    *number = home.unwrap_or(0);
                }
                if *number == 0 {
                    *number = shared.by_net.first(&shared.words, whole).unwrap_or(0);
                }
            }
            for number in numbers {
                touched ^= shared.words.get(number) ^ shared.words.get(number.wrapping_add(7));
            }
            std::hint::black_box(touched);
            for (at, question) in some.iter().enumerate() {
                self.find(*question, now, |sight| then(group * TOGETHER + at, sight));
            }
        }
    }
}

/// Copies a session's octets, and says until when it answers and how many there are; none of one that is too long.
fn copy_of(words: &Words, number: u32, copy: &mut [u8; GLANCE]) -> (Timestamp, usize, Source) {
    let head = words.get(number);
    let (octets, _, _) = unhead(head);
    let count = words_of(octets);
    let piece = words.at(number, count);
    let fresh = piece.get(1).map_or(0, |word| word.load(Ordering::Relaxed));
    if octets > GLANCE || piece.len() < count {
        return (ASK, 0, Source::Radius);
    }
    let (chunks, _) = copy.as_chunks_mut::<8>();
    for (to, word) in chunks.iter_mut().zip(piece.get(HEAD..).unwrap_or_default()) {
        *to = word.load(Ordering::Relaxed).to_le_bytes();
    }
    (Timestamp::from_millis(fresh), octets, source_of(head))
}
