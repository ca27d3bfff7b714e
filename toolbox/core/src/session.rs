//! One session: what its records said so far, in the order in which they were true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Basis, Change, EventTime, Nas, Ports, SessionRecord, User};

/// What makes a session one session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// Which kind of source told us.
    pub source: Source,
    /// Which configured client of it.
    pub client: String,
    /// The session's name at its NAS.
    pub session: String,
    /// The NAS.
    pub nas: Nas,
}

/// From when to when an address is proved to be the session's, on our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first record that named it.
    pub since: Timestamp,
    /// The last record that named it.
    pub proof: Timestamp,
}

/// A point on the clock of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) at: Timestamp,
    pub(crate) basis: Basis,
}

/// How two marks lie to each other in truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Before,
    /// Event-Timestamps of one second, arrivals closer than the network's longest delay, or two clocks.
    Unclear,
    After,
}

impl Mark {
    pub(crate) fn of(time: EventTime) -> Self {
        Self { at: time.at, basis: time.basis }
    }

    pub(crate) fn order(self, other: Self, max_delay: Duration) -> Order {
        let tolerance = match self.basis {
            Basis::Stated | Basis::Ordered => Duration::ZERO,
            Basis::Derived => max_delay,
        };
        if self.basis != other.basis {
            Order::Unclear
        } else if other.at.since(self.at) > tolerance {
            Order::Before
        } else if self.at.since(other.at) > tolerance {
            Order::After
        } else {
            Order::Unclear
        }
    }

    fn later(self, other: Self) -> Self {
        if self.basis == other.basis && self.at > other.at { self } else { other }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EndedBy {
    Stop,
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) mark: Mark,
    pub(crate) by: EndedBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) net: IpNet,
    #[serde(default)]
    pub(crate) ports: Ports,
    pub(crate) span: Span,
    /// The last record that named it.
    pub(crate) named: Mark,
    /// The first one was sent by then: the session had it from here on.
    #[serde(default = "never")]
    pub(crate) from: Timestamp,
    /// No record that named it is from before that: the session had it up to here.
    #[serde(default = "ever")]
    pub(crate) sure: Timestamp,
}

fn never() -> Timestamp {
    Timestamp::from_millis(u64::MAX)
}

fn ever() -> Timestamp {
    Timestamp::from_millis(0)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) user: User,
    pub(crate) opened: Mark,
    pub(crate) last: Mark,
    /// Arrival of the last record that counted.
    pub(crate) heard: Timestamp,
    /// Until when that holds by its own words.
    #[serde(default)]
    pub(crate) until: Option<Timestamp>,
    pub(crate) ended: Option<End>,
    /// Something was said up to here that cannot be put in order: what no later record repeats answers for
    /// nobody, and stands in everybody's way.
    pub(crate) doubt: Option<Mark>,
    /// No record from before `opened` belongs to it.
    pub(crate) whole: bool,
    pub(crate) said: BTreeMap<AddressKind, Said>,
    /// The records of the last moment: a copy of one of them is no second word.
    #[serde(default)]
    pub(crate) moment: Vec<SessionRecord>,
}

/// Records of one moment that are told from their copies; one is the usual number, and more than this are not believed.
const MOMENT: usize = 16;

/// What records said with one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// The last record that had the attribute.
    pub(crate) last: Mark,
    pub(crate) claims: Vec<Claim>,
}

/// What a claim of a session is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Nothing any more.
    Over,
    /// It may be answered for.
    Answers,
    /// It answers for nobody, and speaks against whoever else claims the address.
    Objects,
}

/// An address of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) net: IpNet,
    pub(crate) ports: Ports,
    pub(crate) span: Span,
    pub(crate) standing: Standing,
}

/// What a record did to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was confirmed, changed, opened again or ended.
    Changed,
    /// It contradicts what is known.
    Doubted,
    /// The record is older than what is known.
    Older,
    /// The session is over.
    Ended,
}

/// How a Start or Interim-Update relates to what is known of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The session goes on.
    Continues,
    /// It is the first word, or the first certain one, of a new session.
    Anew,
    /// It cannot be put in order.
    Doubtful,
    /// It is from before the last word, and may say what no later record did.
    Earlier,
    /// It is from before the session.
    Older,
    /// It is from before the end.
    Ended,
}

/// Of two records without an order, what the longer of them says.
fn longer(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.max(other)
}

impl Session {
    /// The session that its first record opens.
    pub(crate) fn open(record: &SessionRecord, addresses: &[Address], heard: Timestamp, max_delay: Duration) -> Self {
        let mut session = Self::empty(Mark::of(record.time), heard);
        session.whole = record.change == Change::Start;
        session.take(record, addresses, heard, max_delay);
        session
    }

    /// A session that was over before anything was heard of it.
    pub(crate) fn stopped(record: &SessionRecord, heard: Timestamp) -> Self {
        let mark = Mark::of(record.time);
        Self { user: record.user.clone(), ended: Some(End { mark, by: EndedBy::Stop }), ..Self::empty(mark, heard) }
    }

    pub(crate) fn empty(mark: Mark, heard: Timestamp) -> Self {
        Self {
            user: User::Unstated,
            opened: mark,
            last: mark,
            heard,
            until: None,
            ended: None,
            doubt: None,
            whole: false,
            said: BTreeMap::new(),
            moment: Vec::new(),
        }
    }

    /// Whether `record` was heard before. Records that cannot be put in order are settled by repetition, and a
    /// copy that the network or the NAS made of one of them repeats nothing.
    pub(crate) fn has_heard(&self, record: &SessionRecord) -> bool {
        self.moment.iter().any(|known| {
            let same_time = (known.time.at, known.time.basis) == (record.time.at, record.time.basis);
            same_time
                && (known.change, &known.user, &known.addresses) == (record.change, &record.user, &record.addresses)
        })
    }

    /// Keeps `record` among those of the last moment. What is in order before it needs no telling: a copy of it
    /// is older than what is known.
    pub(crate) fn remember(&mut self, record: &SessionRecord, heard: Timestamp, max_delay: Duration) {
        let mark = Mark::of(record.time);
        self.moment.retain(|known| Mark::of(known.time).order(mark, max_delay) != Order::Before);
        if self.moment.len() < MOMENT {
            self.moment.push(record.clone());
        } else {
            self.doubt(mark, heard);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether its last word is too old to say anything about `now`.
    pub(crate) fn is_silent(&self, now: Timestamp, max_age: Duration) -> bool {
        self.until.map_or(now.since(self.heard) > max_age, |until| now > until)
    }

    /// Whether this proof is too old for an answer.
    pub(crate) fn is_stale(&self, proof: Timestamp, now: Timestamp, max_age: Duration) -> bool {
        self.until.map_or(now.since(proof) > max_age, |until| now > until)
    }

    #[cfg(debug_assertions)]
    /// Until when it may be answered for, each of its addresses, if nobody else claims it; none: that depends.
    pub(crate) fn answers_until(&self, max_age: Duration) -> Option<Timestamp> {
        let plain = self.is_open() && self.doubt.is_none();
        let oldest = self.claims().map(|claim| claim.span.proof).min().unwrap_or(self.heard);
        plain.then(|| self.until.unwrap_or(oldest.min(self.heard) + max_age))
    }

    #[cfg(debug_assertions)]
    /// Whether it claims nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        !self.is_open() && self.doubt.is_none()
    }

    /// Whether nothing that is still on its way could be about it.
    pub(crate) fn is_forgettable(&self, now: Timestamp, max_age: Duration) -> bool {
        let over = self.until.filter(|_| self.is_open()).is_none_or(|until| now.since(until) > max_age);
        over && now.since(self.heard) > max_age * 2
    }

    pub(crate) fn is_of(&self, subscriber: &SubscriberId) -> bool {
        matches!(&self.user, User::Named(name) if name == subscriber)
    }

    /// What was kept before there was a history is certain from when it was last heard of.
    pub(crate) fn complete(&mut self) {
        let heard = self.heard;
        let claims = self.said.values_mut().flat_map(|said| &mut said.claims);
        claims.filter(|claim| claim.from == never()).for_each(|claim| claim.from = heard);
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.said.values().flat_map(|said| &said.claims)
    }

    pub(crate) fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.claims().map(|claim| claim.net)
    }

    /// Its addresses, and what each is worth as an answer.
    pub(crate) fn holdings(&self, max_delay: Duration) -> impl Iterator<Item = Holding> + '_ {
        self.claims().map(move |claim| Holding {
            net: claim.net,
            ports: claim.ports,
            span: claim.span,
            standing: self.standing(claim, max_delay),
        })
    }

    pub(crate) fn standing(&self, claim: &Claim, max_delay: Duration) -> Standing {
        match (self.ended, self.doubt) {
            (None, None) => Standing::Answers,
            (None, Some(doubt)) if claim.named.order(doubt, max_delay) == Order::After => Standing::Answers,
            (None, Some(_)) => Standing::Objects,
            (Some(end), Some(_)) if claim.named.order(end.mark, max_delay) != Order::Before => Standing::Objects,
            (Some(_), _) => Standing::Over,
        }
    }

    fn names_another(&self, record: &SessionRecord) -> bool {
        record.user != User::Unstated && self.user != User::Unstated && record.user != self.user
    }

    /// Takes a Start or Interim-Update. `addresses` are those of the record that may be bound.
    pub(crate) fn alive(
        &mut self,
        record: &SessionRecord,
        addresses: &[Address],
        heard: Timestamp,
        max_delay: Duration,
    ) -> Told {
        match self.weigh(record, max_delay) {
            Weight::Older => Told::Older,
            Weight::Ended => Told::Ended,
            Weight::Continues | Weight::Earlier => {
                if self.take(record, addresses, heard, max_delay) {
                    Told::Changed
                } else {
                    Told::Older
                }
            }
            Weight::Anew => self.begin(record, addresses, heard, max_delay),
            Weight::Doubtful => {
                self.object(record, addresses, heard, max_delay);
                Told::Doubted
            }
        }
    }

    /// Takes a record that cannot be put in order: its addresses are claimed, and nobody is believed.
    pub(crate) fn object(
        &mut self,
        record: &SessionRecord,
        addresses: &[Address],
        heard: Timestamp,
        max_delay: Duration,
    ) {
        addresses.iter().for_each(|address| self.claim(*address, record.time, max_delay));
        self.until = longer(self.until, record.until);
        self.doubt(Mark::of(record.time), heard);
    }

    /// Starts over with `record`. What was doubtful only because this record was late keeps its say until it is
    /// repeated.
    fn begin(&mut self, record: &SessionRecord, addresses: &[Address], heard: Timestamp, max_delay: Duration) -> Told {
        let mark = Mark::of(record.time);
        let overtaken = self.doubt.filter(|doubt| mark.order(*doubt, max_delay) != Order::After);
        let (before, moment) = (std::mem::take(&mut self.said), std::mem::take(&mut self.moment));
        *self = Self { moment, ..Self::open(record, addresses, heard.max(self.heard), max_delay) };
        if let Some(doubt) = overtaken {
            for (kind, said) in before {
                let known = self.said.entry(kind).or_insert(Said { last: mark, claims: Vec::new() });
                for claim in said.claims.into_iter().filter(|c| c.named.order(mark, max_delay) != Order::Before) {
                    known.claims.retain(|of| (of.net, of.ports) != (claim.net, claim.ports));
                    known.claims.push(claim);
                }
            }
            self.doubt = Some(doubt);
            return Told::Doubted;
        }
        Told::Changed
    }

    pub(crate) fn weigh(&self, record: &SessionRecord, max_delay: Duration) -> Weight {
        let mark = Mark::of(record.time);
        let another = self.names_another(record);
        let start = record.change == Change::Start;
        if let Some(end) = self.ended {
            return match (mark.order(end.mark, max_delay), end.by) {
                (Order::Before, _) => Weight::Ended,
                (Order::After, EndedBy::Reset) => Weight::Anew,
                (Order::After, EndedBy::Stop) if start => Weight::Anew,
                // Its Stop was overtaken; a NAS does not use a session id again that soon.
                (Order::Unclear, EndedBy::Stop) if !another => Weight::Ended,
                (Order::After | Order::Unclear, EndedBy::Stop) | (Order::Unclear, EndedBy::Reset) => Weight::Doubtful,
            };
        }
        match mark.order(self.last, max_delay) {
            Order::Before if another => Weight::Older,
            Order::Before if self.whole && mark.order(self.opened, max_delay) == Order::Before => Weight::Older,
            Order::Before => Weight::Earlier,
            // The NAS uses the id again, and the Stop was lost.
            Order::After if another || start => Weight::Anew,
            Order::Unclear if another => Weight::Doubtful,
            Order::After | Order::Unclear => Weight::Continues,
        }
    }

    /// False when the record says nothing that a later one did not say.
    fn take(&mut self, record: &SessionRecord, addresses: &[Address], heard: Timestamp, max_delay: Duration) -> bool {
        let mark = Mark::of(record.time);
        let order_to_last = mark.order(self.last, max_delay);
        let mut news = order_to_last != Order::Before;
        if order_to_last == Order::Before && mark.order(self.opened, max_delay) == Order::Before {
            self.opened = mark;
            self.whole = record.change == Change::Start;
        }
        self.last = self.last.later(mark);
        self.heard = self.heard.max(heard);
        match order_to_last {
            Order::Before => {}
            Order::Unclear => self.until = longer(self.until, record.until),
            Order::After => self.until = record.until,
        }
        if record.user != User::Unstated {
            news |= self.user != record.user;
            self.user = record.user.clone();
        }
        let kinds: BTreeSet<AddressKind> = record.addresses.iter().map(|address| address.kind).collect();
        for kind in kinds {
            let said = self.said.entry(kind).or_insert(Said { last: mark, claims: Vec::new() });
            if mark.order(said.last, max_delay) == Order::Before {
                continue;
            }
            news = true;
            said.last = said.last.later(mark);
            // The attribute is replaced, except by what may have been said after it.
            let still = |claim: &Claim| {
                let again = Address { kind, net: claim.net, ports: claim.ports };
                mark.order(claim.named, max_delay) != Order::After || addresses.contains(&again)
            };
            said.claims.retain(still);
            // What was doubtful is proved from here on only.
            if let Some(doubt) = self.doubt.filter(|doubt| mark.order(*doubt, max_delay) == Order::After) {
                let doubtful = said.claims.iter_mut().filter(|c| c.named.order(doubt, max_delay) != Order::After);
                doubtful.for_each(|claim| (claim.span.since, claim.from) = (record.time.proof, record.time.sent));
            }
            let named = addresses.iter().filter(|address| address.kind == kind);
            named.for_each(|address| self.claim(*address, record.time, max_delay));
        }
        news
    }

    fn claim(&mut self, Address { kind, net, ports }: Address, time: EventTime, max_delay: Duration) {
        let (mark, proof, sure) = (Mark::of(time), time.proof, time.earliest(max_delay));
        let said = self.said.entry(kind).or_insert(Said { last: mark, claims: Vec::new() });
        match said.claims.iter_mut().find(|claim| (claim.net, claim.ports) == (net, ports)) {
            Some(claim) => {
                claim.span.proof = claim.span.proof.max(proof);
                claim.named = claim.named.later(mark);
                claim.sure = claim.sure.max(sure);
            }
            None => {
                let span = Span { since: proof, proof };
                said.claims.push(Claim { net, ports, span, named: mark, from: time.sent, sure });
            }
        }
    }

    pub(crate) fn doubt(&mut self, mark: Mark, heard: Timestamp) {
        self.doubt = Some(self.doubt.map_or(mark, |doubt| doubt.later(mark)));
        self.heard = self.heard.max(heard);
    }

    /// Takes a Stop.
    pub(crate) fn stop(&mut self, record: &SessionRecord, heard: Timestamp, max_delay: Duration) -> Told {
        let mark = Mark::of(record.time);
        let settles = |doubt: Option<Mark>| doubt.is_none_or(|doubt| mark.order(doubt, max_delay) == Order::After);
        if let Some(end) = self.ended {
            if settles(self.doubt) {
                self.doubt = None;
            }
            self.ended = Some(End { mark: end.mark.later(mark), ..end });
            self.heard = self.heard.max(heard);
            return Told::Changed;
        }
        let another = self.names_another(record);
        match mark.order(self.opened, max_delay) {
            // It ended an earlier use of the session id.
            Order::Before if another => Told::Older,
            // So does this, unless the NAS set its clock back.
            Order::Before => {
                self.doubt(self.last, heard);
                Told::Doubted
            }
            Order::Unclear | Order::After if another || !settles(self.doubt) => {
                self.doubt(mark, heard);
                Told::Doubted
            }
            Order::Unclear | Order::After => {
                let spoke_later = self.last.order(mark, max_delay) == Order::After;
                self.doubt = spoke_later.then_some(self.last);
                self.ended = Some(End { mark, by: EndedBy::Stop });
                self.heard = self.heard.max(heard);
                Told::Changed
            }
        }
    }

    /// Takes the restart of its NAS. `None` when the session began after it.
    pub(crate) fn reset(&mut self, time: EventTime, heard: Timestamp, max_delay: Duration) -> Option<Told> {
        let mark = Mark::of(time);
        if !self.is_open() || self.opened.order(mark, max_delay) == Order::After {
            return None;
        }
        match self.last.order(mark, max_delay) {
            Order::Before => {
                self.ended = Some(End { mark, by: EndedBy::Reset });
                self.doubt = None;
                self.heard = self.heard.max(heard);
                Some(Told::Changed)
            }
            Order::Unclear => {
                self.doubt(mark, heard);
                Some(Told::Doubted)
            }
            // The id was used again, and the restart was overtaken by what the new session said.
            Order::After => {
                let heard = self.heard;
                for said in self.said.values_mut() {
                    said.claims.retain(|claim| claim.named.order(mark, max_delay) == Order::After);
                    said.claims.iter_mut().for_each(|claim| (claim.span.since, claim.from) = (claim.span.proof, heard));
                }
                self.opened = self.last;
                self.whole = true;
                Some(Told::Changed)
            }
        }
    }
}
