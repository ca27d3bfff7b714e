//! Looking addresses up beside the writer, without waiting for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloakway_types::Timestamp;
use toolbox_wire::http::Source;

use super::arena::{LINE, Words};
use super::head::{ASK, HEAD, Head, OVER, words_of};
use super::shards::Reading;
use super::shared::{Part, Shared, bits_of, net_hash};
use crate::answer::{Live, Question};
use crate::session::Span;
use crate::skim::{Whose, glance, span_of};
use crate::table::Settings;
use crate::translate::Computed;

/// Octets of a session that a reader looks at; of a longer one it asks the table.
const GLANCE: usize = 512 - 8 * HEAD;
/// Room for it with its head.
pub(super) const ROOM: usize = 512;
/// How often a reader tries to read what is being changed, before it asks the table.
const PATIENCE: usize = 64;

/// Looks addresses up beside the writer.
#[derive(Debug, Clone)]
pub struct Glances {
    pub(super) shared: Arc<Shared>,
    /// Where translations are computed.
    pub(super) rules: Option<Arc<Settings>>,
}

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
    /// The subscriber's name.
    name: &'b [u8],
    source: Source,
    octets: &'b [u8],
    /// Of a translation that leads there.
    outer: Option<&'b [u8]>,
}

impl<'b> Seen<'b> {
    /// The subscriber.
    #[must_use]
    pub fn subscriber(&self) -> &'b str {
        // It was a text when it was written.
        std::str::from_utf8(self.name).unwrap_or_default()
    }

    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, subscriber: &str) -> bool {
        self.name == subscriber.as_bytes()
    }

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

/// What one look-up found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    Nothing,
    /// One session, of so many octets, and whose it is.
    One(usize, Source, Holder),
    Ask,
    /// The writer was there meanwhile.
    Moved,
}

/// Whose a session is: a name among its octets, or whoever is there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holder {
    Named { from: usize, to: usize },
    Behind(IpAddr),
}

/// Prefixes and port ranges that one glance asks for; of more it leaves it to the table.
pub(super) const PROBES: usize = 8;
/// Sessions under their hashes, with those that are over.
const MATCHES: usize = 4;

/// Sessions that may have what is asked about, and what a glance rests on: every place that it looked at. While they all hold
/// there was a moment at which all of it was true together, so that nobody is named who was one of two at every moment.
#[derive(Debug, Clone, Copy)]
struct Located {
    version: u64,
    hashes: [u64; PROBES],
    readings: [Reading; PROBES],
    probes: usize,
    matches: [(u32, u8); MATCHES],
    matched: usize,
    /// The last hash is that of a mark: what is found there is no session.
    mark: bool,
    ask: bool,
}

/// The places that a glance looked at, and what it began with at each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked<'l> {
    /// [`super::hints::Hints::version`] before anything was looked at.
    pub(super) version: u64,
    pub(super) hashes: &'l [u64],
    pub(super) readings: &'l [Reading],
}

impl Located {
    const NONE: Self = Self {
        version: 0,
        hashes: [0; PROBES],
        readings: [Reading::NONE; PROBES],
        probes: 0,
        matches: [(0, 0); MATCHES],
        matched: 0,
        mark: false,
        ask: false,
    };

    fn looked(&self) -> Looked<'_> {
        Looked {
            version: self.version,
            hashes: self.hashes.get(..self.probes).unwrap_or_default(),
            readings: self.readings.get(..self.probes).unwrap_or_default(),
        }
    }

    fn matches(&self) -> &[(u32, u8)] {
        self.matches.get(..self.matched).unwrap_or_default()
    }
}

impl Glances {
    /// Who is there now, as far as a glance can tell, told to `then`.
    pub fn find<R>(&self, question: impl Into<Question>, now: Timestamp, then: impl FnOnce(Sight<'_>) -> R) -> R {
        let question = canonical(question.into());
        let mut buffer = [0; ROOM];
        let (found, located) = self.look(&question, now, &mut buffer);
        let looked = located.looked();
        match (self.computed(question, now), found) {
            (Computed::Elsewhere, found) => self.tell(found, &looked, &buffer, now, then),
            (Computed::Nobody, Found::Nothing) => then(Sight::Nobody),
            (Computed::Behind(inside), Found::Nothing) if self.is_ours(question.address) => {
                self.tell_inside(None, &looked, inside, now, then)
            }
            // What is learnt has to agree with it, which is for the table to say.
            (Computed::Behind(_) | Computed::Nobody | Computed::PortNeeded, _) => then(Sight::Ask),
        }
    }

    /// What arithmetic says.
    #[inline]
    pub(super) fn computed(&self, question: Question, now: Timestamp) -> Computed {
        self.rules.as_ref().map_or(Computed::Elsewhere, |rules| rules.computed(question, now))
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.prefixes.lookup(address).is_some())
    }

    /// Looks until the writer is not there meanwhile; what is found is copied to `buffer`.
    #[inline]
    fn look(&self, question: &Question, now: Timestamp, buffer: &mut [u8; ROOM]) -> (Found, Located) {
        let mut located = Located::NONE;
        for _ in 0..PATIENCE {
            self.plan(question, &mut located);
            self.locate(&mut located);
            match self.judge(question, now, &located, buffer) {
                Found::Moved => std::hint::spin_loop(),
                found => return (found, located),
            }
        }
        (Found::Ask, located)
    }

    #[inline]
    pub(super) fn tell<R>(
        &self,
        found: Found,
        looked: &Looked<'_>,
        buffer: &[u8; ROOM],
        now: Timestamp,
        then: impl FnOnce(Sight<'_>) -> R,
    ) -> R {
        match found {
            Found::Nothing => then(Sight::Nobody),
            Found::Ask | Found::Moved => then(Sight::Ask),
            Found::One(length, source, Holder::Named { from, to }) => {
                let octets = octets_of(buffer, length);
                then(seen(octets, from, to, source, None))
            }
            Found::One(length, _, Holder::Behind(inside)) => {
                self.tell_inside(Some(octets_of(buffer, length)), looked, inside, now, then)
            }
        }
    }

    /// Who is behind a translation, which has to be there still when that is known.
    fn tell_inside<R>(
        &self,
        outer: Option<&[u8]>,
        outside: &Looked<'_>,
        inside: IpAddr,
        now: Timestamp,
        then: impl FnOnce(Sight<'_>) -> R,
    ) -> R {
        let inside = Question::new(inside, None);
        let mut buffer = [0; ROOM];
        let (found, located) = self.look(&inside, now, &mut buffer);
        let Found::One(length, source, Holder::Named { from, to }) = found else { return then(Sight::Ask) };
        if !(self.holds(outside) && self.holds(&located.looked())) {
            return then(Sight::Ask);
        }
        then(seen(octets_of(&buffer, length), from, to, source, outer))
    }

    /// The hashes under which sessions are that have what is asked about.
    #[inline]
    fn plan(&self, question: &Question, to: &mut Located) {
        let address = question.address;
        to.version = self.shared.hints.version();
        let kinds = self.shared.hints.around(address);
        (to.probes, to.matched, to.mark, to.ask) = (0, 0, false, kinds.are_odd());
        let mut add = |hash| match to.hashes.get_mut(to.probes) {
            Some(place) => {
                *place = hash;
                to.probes += 1;
            }
            None => to.ask = true,
        };
        kinds.each_length(|length| add(net_hash(address, length, Part::Whole)));
        let sizes = kinds.sizes();
        if sizes != 0 {
            let host = if address.is_ipv4() { 32 } else { 128 };
            match question.port {
                Some(port) => {
                    bits_of(sizes).for_each(|size| add(net_hash(address, host, Part::Piece(size, port >> size))));
                }
                None => {
                    add(net_hash(address, host, Part::Mark));
                    to.mark = true;
                }
            }
        }
    }

    /// Where they are.
    #[inline]
    fn locate(&self, to: &mut Located) {
        let shared = &*self.shared;
        let Located { hashes, readings, probes, matches, matched, mark, ask, .. } = to;
        for (at, (hash, place)) in hashes.iter().zip(readings).take(*probes).enumerate() {
            let mut reading = shared.by_net.read(*hash);
            for _ in 0..PATIENCE {
                if reading.is_quiet() {
                    break;
                }
                std::hint::spin_loop();
                reading = shared.by_net.read(*hash);
            }
            *place = reading;
            // Without a port nothing is said of what is shared by ports.
            let is_mark = *mark && at + 1 == *probes;
            shared.by_net.find(&shared.words, *hash, |number, beside| {
                let known = matches.iter().take(*matched).any(|(of, _)| *of == number);
                match matches.get_mut(*matched) {
                    _ if is_mark => *ask = true,
                    _ if known => {}
                    Some(place) => {
                        *place = (number, beside);
                        *matched += 1;
                    }
                    None => *ask = true,
                }
                *ask
            });
        }
    }

    /// That all of it was there together, and nothing of another kind came meanwhile.
    #[inline]
    pub(super) fn holds(&self, looked: &Looked<'_>) -> bool {
        self.shared.by_net.hold(looked.hashes, looked.readings) && self.shared.hints.version() == looked.version
    }

    /// The one session of those that has what is asked about, copied to `buffer`.
    #[inline]
    fn judge(&self, question: &Question, now: Timestamp, located: &Located, buffer: &mut [u8; ROOM]) -> Found {
        let shared = &*self.shared;
        let mut seen = if located.ask { Found::Ask } else { Found::Nothing };
        for of in located.matches() {
            seen = match seen {
                Found::Nothing => one(&shared.words, *of, question, now, buffer),
                // Another one, which may be over or elsewhere.
                Found::One(..) => match one(&shared.words, *of, question, now, &mut [0; ROOM]) {
                    Found::Nothing => seen,
                    _ => Found::Ask,
                },
                Found::Ask | Found::Moved => break,
            };
        }
        match seen {
            _ if !self.holds(&located.looked()) => Found::Moved,
            // Something was put aside.
            _ if shared.is_odd() => Found::Ask,
            seen => seen,
        }
    }
}

pub(super) fn canonical(question: Question) -> Question {
    Question { address: question.address.to_canonical(), ..question }
}

fn octets_of(buffer: &[u8; ROOM], length: usize) -> &[u8] {
    buffer.get(8 * HEAD..8 * HEAD + length).unwrap_or_default()
}

fn seen<'b>(octets: &'b [u8], from: usize, to: usize, source: Source, outer: Option<&'b [u8]>) -> Sight<'b> {
    match octets.get(from..to) {
        Some(name) => Sight::Bound(Seen { name, source, octets, outer }),
        None => Sight::Ask,
    }
}

/// Copies whole lines of words.
#[inline]
fn copy(from: &[AtomicU64], to: &mut [[u8; 8]]) {
    let (to, _) = to.as_chunks_mut::<LINE>();
    let (from, _) = from.as_chunks::<LINE>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.each_ref().map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    }
}

/// Whether this session has what is asked about, perhaps by the claim at `beside`; its octets are copied to `buffer`.
#[inline]
pub(super) fn one(
    words: &Words,
    (number, beside): (u32, u8),
    question: &Question,
    now: Timestamp,
    buffer: &mut [u8; ROOM],
) -> Found {
    let near = words.at(number, 2 * LINE);
    let (to, _) = buffer.as_chunks_mut::<8>();
    copy(near, to);
    let [first, second] = words.at(number, HEAD) else { return Found::Ask };
    let head = Head::read(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed));
    if head.octets > 0 && head.fresh == OVER {
        return Found::Nothing;
    }
    if head.octets == 0 || head.octets > GLANCE {
        return Found::Ask;
    }
    let count = words_of(head.octets);
    if count > near.len() {
        // Longer than most, or at the end of a page.
        let whole = words.at(number, count);
        if whole.len() < count {
            return Found::Ask;
        }
        to.iter_mut().zip(whole).for_each(|(to, word)| *to = word.load(Ordering::Relaxed).to_le_bytes());
    }
    let fresh = now <= head.fresh && head.fresh > ASK;
    match glance(octets_of(buffer, head.octets), question, beside) {
        // Another address under the same hash.
        None => Found::Nothing,
        Some(Whose::Named { from, to }) if fresh => Found::One(head.octets, head.source, Holder::Named { from, to }),
        Some(Whose::Behind(inside)) if fresh => Found::One(head.octets, head.source, Holder::Behind(inside)),
        Some(_) => Found::Ask,
    }
}
