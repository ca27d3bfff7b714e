//! Who was at an address at a moment: closed intervals, beside the sessions that go on.
//!
//! An interval has four ends, as evidence is never exact. The subscriber may have had the address from
//! [`Interval::begun`] on, and certainly had it from [`Interval::from`] on; certainly until [`Interval::to`], and perhaps
//! until [`Interval::gone`]. A record was made between its own time, or the time that the network may have held it,
//! and its sending; a session whose Stop is lost is certain up to its last proof only. The answer about a moment is
//! somebody if one subscriber certainly had the address and no other one may have had it.

use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use toolbox_wire::http::Reason;
use toolbox_wire::record::{Ports, User};

use crate::answer::{Answer, Live, Question, Unknown};
use crate::codec::{DecodeError, Reader, Writer};
use crate::session::{Session, SessionKey, Span};
use crate::table::{Settings, Table};
use crate::translate::Computed;

const VERSION: u8 = 1;

/// From when to when a session had an address, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The address or prefix.
    pub net: IpNet,
    /// Which ports of it.
    pub ports: Ports,
    /// Whose.
    pub user: User,
    /// By which session.
    pub session: SessionKey,
    /// Not before this.
    pub begun: Timestamp,
    /// Certainly from here on.
    pub from: Timestamp,
    /// Certainly up to here; before `from` when nothing is certain.
    pub to: Timestamp,
    /// Not after this.
    pub gone: Timestamp,
    /// What the session said in this time contradicts itself: it answers for nobody.
    pub doubtful: bool,
}

impl Interval {
    /// Whether the session may have had it at `at`.
    #[must_use]
    pub fn may_hold(&self, at: Timestamp) -> bool {
        (self.begun..=self.gone).contains(&at)
    }

    /// Whether the session certainly had it at `at`.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        !self.doubtful && self.from <= at && at <= self.to
    }

    /// As octets, for a store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.octet(VERSION);
        writer.net(self.net);
        writer.ports(self.ports);
        writer.user(&self.user);
        writer.key(&self.session);
        writer.octet(u8::from(self.doubtful));
        writer.number(self.gone.as_millis());
        for time in [self.begun, self.from, self.to] {
            writer.time(time, self.gone);
        }
        writer.0
    }

    /// What [`Interval::encode`] made.
    ///
    /// # Errors
    /// [`DecodeError`]: something else made it.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of an interval");
        }
        let (net, ports, user, session) = (reader.net()?, reader.ports()?, reader.user()?, reader.key()?);
        let doubtful = reader.octet()? != 0;
        let gone = Timestamp::from_millis(reader.number()?);
        let (begun, from, to) = (reader.time(gone)?, reader.time(gone)?, reader.time(gone)?);
        reader.end()?;
        Ok(Self { net, ports, user, session, begun, from, to, gone, doubtful })
    }

    /// Where it belongs in an ordered store: behind [`place`], by its end, and no two of them alike.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let mut key = place(self.net);
        key.extend_from_slice(&self.gone.as_millis().to_be_bytes());
        // FNV-1a: what is the same is kept once, however often it is told.
        let mark = self
            .encode()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |mark, octet| (mark ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3));
        key.extend_from_slice(&mark.to_be_bytes());
        key
    }

    fn concerns(&self, question: Question, at: Timestamp) -> bool {
        let ports = question.port.is_none_or(|port| self.ports.holds(port, question.protocol));
        self.net.contains(&question.address) && ports && self.may_hold(at)
    }
}

/// What the keys of all intervals of `net` begin with; the time of their end follows, as eight octets.
#[must_use]
pub fn place(net: IpNet) -> Vec<u8> {
    let mut place = vec![if net.addr().is_ipv4() { 4 } else { 6 }, net.prefix_len()];
    match net.addr() {
        IpAddr::V4(address) => place.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => place.extend_from_slice(&address.octets()),
    }
    place
}

/// Where closed intervals are found.
pub trait Past {
    /// Why they cannot be.
    type Error;

    /// Those with a prefix that holds `address`, that may have held at `at`; more do no harm.
    ///
    /// # Errors
    /// They cannot be read.
    fn intervals(&self, address: IpAddr, at: Timestamp) -> Result<Vec<Interval>, Self::Error>;

    /// [`Past::intervals`] that may be about what is asked: those that are not may be left out.
    ///
    /// # Errors
    /// They cannot be read.
    fn intervals_of(&self, question: Question, at: Timestamp) -> Result<Vec<Interval>, Self::Error> {
        self.intervals(question.address, at)
    }

    /// Nothing is known of what was over before this.
    fn horizon(&self) -> Timestamp;
}

/// Somebody at a moment.
struct Found {
    name: SubscriberId,
    interval: Interval,
    through: Option<IpAddr>,
}

type Outcome<E> = Result<Result<Found, Unknown>, E>;

/// What the configuration and all intervals, of sessions that go on too, say about one moment.
#[derive(Debug)]
pub struct Moment<'m, P> {
    /// Whose addresses, and which of them are computed.
    pub settings: &'m Settings,
    /// The moment.
    pub at: Timestamp,
    /// When this is asked: about the future nothing is known.
    pub now: Timestamp,
    /// All intervals.
    pub past: &'m P,
}

/// The past, and sessions that go on.
struct Whole<'t, P> {
    table: &'t Table,
    now: Timestamp,
    past: &'t P,
}

impl<P: Past> Past for Whole<'_, P> {
    type Error = P::Error;

    fn intervals(&self, address: IpAddr, at: Timestamp) -> Result<Vec<Interval>, P::Error> {
        self.intervals_of(address.into(), at)
    }

    fn intervals_of(&self, question: Question, at: Timestamp) -> Result<Vec<Interval>, P::Error> {
        let mut intervals = self.past.intervals_of(question, at)?;
        intervals.extend(self.table.intervals(question, self.now));
        Ok(intervals)
    }

    fn horizon(&self) -> Timestamp {
        self.past.horizon()
    }
}

impl Table {
    /// Who was there at `at`? `past` has what came to an end; `now` is when this is asked.
    ///
    /// # Errors
    /// The past cannot be read.
    pub fn lookup_at<P: Past>(
        &self,
        question: impl Into<Question>,
        at: Timestamp,
        now: Timestamp,
        past: &P,
    ) -> Result<Answer, P::Error> {
        let past = &Whole { table: self, now, past };
        Moment { settings: &self.settings, at, now, past }.lookup(question)
    }

    /// What sessions that are still known say about an address, or a port of it, that some of them have.
    #[must_use]
    pub fn intervals(&self, question: impl Into<Question>, now: Timestamp) -> Vec<Interval> {
        let question = canonical(question.into());
        let settled = self.settled();
        let of = |(net, key, session): (IpNet, SessionKey, Session)| {
            let mut intervals = session.intervals(&key, now, settled);
            intervals.retain(|of| of.net == net);
            intervals
        };
        self.sessions.around(question.address, question.port).into_iter().flat_map(of).collect()
    }

    pub(crate) fn settled(&self) -> Settled {
        Settled { max_age: self.settings.max_age, max_delay: self.settings.max_delay }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    pub(crate) max_age: Duration,
    pub(crate) max_delay: Duration,
}

/// Where a translation leads, and who was there.
type Inside = (IpAddr, Interval);

impl<P: Past> Moment<'_, P> {
    /// Who was there?
    ///
    /// # Errors
    /// The past cannot be read.
    pub fn lookup(&self, question: impl Into<Question>) -> Result<Answer, P::Error> {
        let question = canonical(question.into());
        if self.settings.prefixes.lookup(question.address).is_none() {
            return Ok(Answer::NotOurs);
        }
        if self.at > self.now {
            return Ok(Answer::Unknown(Unknown::Future));
        }
        if self.at < self.past.horizon() {
            return Ok(Answer::Unknown(Unknown::Forgotten));
        }
        Ok(match self.find(question, true)? {
            Ok(Found { name, interval, through }) => Answer::Bound {
                subscriber: name,
                session: interval.session,
                span: Span { since: interval.from, proof: interval.to.min(self.now) },
                through,
            },
            Err(why) => Answer::Unknown(why),
        })
    }

    /// Was `subscriber` there?
    ///
    /// # Errors
    /// The past cannot be read. Within it, the [`Reason`] for a no; it depends on what is known of this subscriber,
    /// and of others only in that they claimed or shared the same address.
    pub fn verify(
        &self,
        subscriber: &SubscriberId,
        question: impl Into<Question>,
    ) -> Result<Result<Live, Reason>, P::Error> {
        let question = canonical(question.into());
        Ok(Err(match self.lookup(question)? {
            Answer::NotOurs => Reason::NotOurs,
            Answer::Bound { subscriber: bound, session, span, .. } if bound == *subscriber => {
                return Ok(Ok(Live { source: session.source, span }));
            }
            Answer::Unknown(Unknown::PortsNeeded) => Reason::PortNeeded,
            Answer::Unknown(Unknown::Forgotten | Unknown::Future) => Reason::Forgotten,
            Answer::Bound { .. } | Answer::Unknown(_) => {
                if self.may_have_been(subscriber, question)? {
                    Reason::Ambiguous
                } else {
                    Reason::NoSession
                }
            }
        }))
    }

    fn may_have_been(&self, subscriber: &SubscriberId, question: Question) -> Result<bool, P::Error> {
        let mut claims = self.past.intervals_of(question, self.at)?;
        claims.retain(|claim| claim.concerns(question, self.at));
        for claim in claims {
            let own = match &claim.user {
                User::Named(name) => name == subscriber,
                User::Behind(inside) => {
                    self.find(Question::new(*inside, None), false)?.is_ok_and(|found| found.name == *subscriber)
                }
                User::Unstated | User::Unusable => false,
            };
            if own {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn find(&self, question: Question, outer: bool) -> Outcome<P::Error> {
        if self.settings.prefixes.lookup(question.address).is_none() {
            return Ok(Err(Unknown::Astray));
        }
        let learnt = self.judge(question, outer)?;
        if !outer {
            return Ok(learnt);
        }
        let computed = self.settings.computed(question, self.at);
        Ok(match (computed, learnt) {
            (Computed::Elsewhere, learnt) => learnt,
            (Computed::PortNeeded, _) => Err(Unknown::PortsNeeded),
            (Computed::Behind(inside), Err(Unknown::NoSession)) => {
                self.find(Question::new(inside, None), false)?.map(|of| Found { through: Some(inside), ..of })
            }
            (Computed::Behind(inside), Ok(learnt)) => match self.find(Question::new(inside, None), false)? {
                Ok(found) if found.name == learnt.name => Ok(learnt),
                Ok(_) | Err(_) => Err(Unknown::Overlap),
            },
            (Computed::Nobody, Ok(_)) => Err(Unknown::Overlap),
            (Computed::Nobody | Computed::Behind(_), Err(why)) => Err(why),
        })
    }

    /// One subscriber who certainly had it, and nobody else who may have.
    fn judge(&self, question: Question, outer: bool) -> Outcome<P::Error> {
        let mut claims = self.past.intervals_of(question, self.at)?;
        claims.retain(|claim| claim.concerns(question, self.at));
        if claims.is_empty() {
            return Ok(Err(Unknown::NoSession));
        }
        if question.port.is_none() && claims.iter().any(|claim| !claim.ports.is_all()) {
            return Ok(Err(Unknown::PortsNeeded));
        }
        let mut certain: Option<(&Interval, SubscriberId, Option<Inside>)> = None;
        let mut names: Vec<Option<SubscriberId>> = Vec::with_capacity(claims.len());
        for claim in &claims {
            let (name, through, why) = match &claim.user {
                User::Named(name) => (Some(name.clone()), None, Unknown::Unnamed),
                User::Behind(inside) if outer => match self.find(Question::new(*inside, None), false)? {
                    Ok(found) => (Some(found.name), Some((*inside, found.interval)), Unknown::Astray),
                    Err(why) => (None, None, why),
                },
                User::Behind(_) => (None, None, Unknown::Astray),
                User::Unstated | User::Unusable => (None, None, Unknown::Unnamed),
            };
            match (name, claim.holds(self.at)) {
                (None, _) if claims.len() == 1 => return Ok(Err(why)),
                (Some(name), true) => {
                    let later = certain.as_ref().is_none_or(|(of, ..)| of.to < claim.to);
                    names.push(Some(name.clone()));
                    if later {
                        certain = Some((claim, name, through));
                    }
                }
                (name, _) => names.push(name),
            }
        }
        if names.windows(2).any(|pair| matches!(pair, [one, other] if one.is_none() || one != other)) {
            return Ok(Err(Unknown::Overlap));
        }
        if claims.iter().any(|claim| claim.doubtful) {
            return Ok(Err(Unknown::Contradiction));
        }
        Ok(match certain {
            Some((interval, name, None)) => Ok(Found { name, interval: interval.clone(), through: None }),
            // As of now: by the session inside, for as long as both hold.
            Some((outer, name, Some((address, inside)))) => {
                let (from, to) = (inside.from.max(outer.from), inside.to.min(outer.to));
                Ok(Found { name, interval: Interval { from, to, ..inside }, through: Some(address) })
            }
            None => Err(Unknown::Unproved),
        })
    }
}

fn canonical(question: Question) -> Question {
    Question { address: question.address.to_canonical(), ..question }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toolbox_wire::http::Source;
    use toolbox_wire::record::Nas;

    proptest! {
        #[test]
        fn an_interval_reads_back(times: [u64; 4], first: u16, last: u16, doubtful: bool) {
            let [begun, from, to, gone] = times.map(Timestamp::from_millis);
            let interval = Interval {
                net: "198.51.100.70/32".parse().unwrap(),
                ports: Ports::new(first.min(last), first.max(last)).unwrap(),
                user: User::Named("alice".parse().unwrap()),
                session: SessionKey {
                    source: Source::Radius,
                    client: "edge".into(),
                    session: "s1".into(),
                    nas: Nas { identifier: Some("edge".into()), ..Nas::default() },
                },
                begun, from, to, gone, doubtful,
            };
            prop_assert_eq!(Interval::decode(&interval.encode()).unwrap(), interval);
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets: Vec<u8>) {
            let _ = Interval::decode(&octets);
            let _ = Interval::decode(&[&[VERSION], octets.as_slice()].concat());
        }
    }
}
