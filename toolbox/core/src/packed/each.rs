//! Looking many addresses up together: while the memory of some is on its way, others are worked at.
//!
//! A group of questions goes through three steps: which hashes it is about, which sessions these name, what those say. Before each
//! step ends the cache lines that the next one reads are asked for, and between the steps of one group those of another are taken.
//! What is not the plain case (several sessions under the hashes, ports of a prefix, a shared address without a port) is looked up
//! by itself, by the same rules.

use std::net::IpAddr;

use cloakway_types::Timestamp;
use prefetch_index::prefetch_index;

use super::Glances;
use super::arena::LINE;
use super::glances::{self, Found, Looked, ROOM, Sight, canonical, one};
use super::shards::{Line, Reading};
use super::shared::{Part, Shared, bits_of, net_hash};
use crate::answer::Question;
use crate::translate::Computed;

/// Questions of a group.
const TOGETHER: usize = 48;
/// Hashes of a group; a question for which none are left is looked up by itself.
const PROBES: usize = 2 * TOGETHER;

/// What a question leads to.
#[derive(Debug, Clone, Copy)]
struct Way {
    question: Question,
    /// Its hashes.
    from: usize,
    to: usize,
    /// It is looked up by itself.
    alone: bool,
    /// The one session that may have what is asked about; none: 0.
    number: u32,
    beside: u8,
}

/// Questions on their way.
struct Group<'w> {
    /// The first one's number.
    first: usize,
    count: usize,
    /// [`super::hints::Hints::version`] before anything was looked at.
    version: u64,
    ways: [Way; TOGETHER],
    used: usize,
    hashes: [u64; PROBES],
    readings: [Reading; PROBES],
    lines: [Option<&'w Line>; PROBES],
}

impl Glances {
    /// [`Glances::find`] for many, which wait for memory together; in their order.
    pub fn find_each(&self, questions: &[Question], now: Timestamp, mut then: impl FnMut(usize, Sight<'_>)) {
        let shared = &*self.shared;
        let mut buffer = [0; ROOM];
        let (mut ready, mut next) = (Group::new(), Group::new());
        let mut first = 0;
        for some in questions.chunks(TOGETHER) {
            next.plan(shared, first, some);
            if self.rules.is_some() {
                let computed = next.ways.iter_mut().take(next.count);
                computed.for_each(|way| way.alone |= self.computed(way.question, now) != Computed::Elsewhere);
            }
            self.judge_each(&ready, now, &mut buffer, &mut then);
            next.locate(shared);
            std::mem::swap(&mut ready, &mut next);
            first += some.len();
        }
        self.judge_each(&ready, now, &mut buffer, &mut then);
    }

    fn judge_each(
        &self,
        group: &Group<'_>,
        now: Timestamp,
        buffer: &mut [u8; ROOM],
        then: &mut impl FnMut(usize, Sight<'_>),
    ) {
        let shared = &*self.shared;
        for (at, way) in (group.first..).zip(group.ways.iter().take(group.count)) {
            let looked = Looked {
                version: group.version,
                hashes: group.hashes.get(way.from..way.to).unwrap_or_default(),
                readings: group.readings.get(way.from..way.to).unwrap_or_default(),
            };
            let found = match way.number {
                _ if way.alone => Found::Moved,
                0 => Found::Nothing,
                number => one(&shared.words, (number, way.beside), &way.question, now, buffer),
            };
            match found {
                Found::Moved => self.find(way.question, now, |sight| then(at, sight)),
                // At the next moment.
                _ if !self.holds(&looked) => self.find(way.question, now, |sight| then(at, sight)),
                _ if shared.is_odd() => then(at, Sight::Ask),
                found => self.tell(found, &looked, buffer, now, |sight| then(at, sight)),
            }
        }
    }
}

impl<'w> Group<'w> {
    fn new() -> Self {
        let question = Question::new(IpAddr::V4(0.into()), None);
        Self {
            first: 0,
            count: 0,
            version: 0,
            ways: [Way { question, from: 0, to: 0, alone: false, number: 0, beside: 0 }; TOGETHER],
            used: 0,
            hashes: [0; PROBES],
            readings: [Reading::NONE; PROBES],
            lines: [None; PROBES],
        }
    }

    /// The hashes of these questions; the lines that they begin at are on their way then.
    fn plan(&mut self, shared: &'w Shared, first: usize, questions: &[Question]) {
        (self.first, self.count, self.used) = (first, questions.len().min(TOGETHER), 0);
        self.version = shared.hints.version();
        for (question, way) in questions.iter().zip(&mut self.ways) {
            let question = canonical(*question);
            *way = Way { question, from: self.used, to: self.used, alone: false, number: 0, beside: 0 };
            let (address, kinds) = (question.address, shared.hints.around(question.address));
            let (mut used, mut alone) = (self.used, kinds.are_odd());
            let mut add = |hash| match self.hashes.get_mut(used) {
                Some(place) => {
                    *place = hash;
                    used += 1;
                    shared.by_net.fetch(hash);
                }
                None => alone = true,
            };
            kinds.each_length(|length| add(net_hash(address, length, Part::Whole)));
            let sizes = kinds.sizes();
            if sizes != 0 {
                let host = if address.is_ipv4() { 32 } else { 128 };
                match question.port {
                    Some(port) => {
                        bits_of(sizes).for_each(|size| add(net_hash(address, host, Part::Piece(size, port >> size))));
                    }
                    None => alone = true,
                }
            }
            alone |= used - self.used > glances::PROBES;
            way.alone = alone;
            way.to = if alone { way.from } else { used };
            self.used = way.to;
        }
        let places = self.readings.iter_mut().zip(&mut self.lines);
        for (hash, (reading, line)) in self.hashes.iter().take(self.used).zip(places) {
            (*reading, *line) = shared.by_net.start(&shared.words, *hash);
        }
    }

    /// The sessions under the hashes, which are on their way then.
    fn locate(&mut self, shared: &'w Shared) {
        for way in self.ways.iter_mut().take(self.count) {
            let hashes = self.hashes.get(way.from..way.to).unwrap_or_default();
            let lines = self.lines.get(way.from..way.to).unwrap_or_default();
            for (hash, line) in hashes.iter().zip(lines) {
                let Some(line) = line else {
                    way.alone = true;
                    continue;
                };
                shared.by_net.go_on(&shared.words, line, *hash, |number, beside| {
                    let another = way.number != 0 && way.number != number;
                    way.alone |= another;
                    (way.number, way.beside) = (number, beside);
                    another
                });
            }
            if way.number != 0 {
                let near = shared.words.at(way.number, 2 * LINE);
                prefetch_index(near, 0);
                prefetch_index(near, LINE);
                prefetch_index(near, 2 * LINE - 1);
            }
        }
    }
}
