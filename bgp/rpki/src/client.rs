//! One cache: what we ask, what its answers add up to, and how long they are good (RFC 8210 §6 to §8).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cloakway_types::Instant;

use crate::pdu::{ErrorKind, Framer, MAX_PDU, Pdu, Timing, Version};
use crate::table::{Vrp, Vrps};

/// How long an attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a cache may be silent in the middle of an answer.
const ANSWER: Duration = Duration::from_secs(60);
/// The first wait after a connection that could not be made or broke; it doubles up to the cache's retry interval.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// What the operator settled for a cache.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The most payloads that it may send: beyond, its answer is refused.
    pub max_payloads: usize,
    /// Until the cache says otherwise.
    pub timing: Timing,
}

/// What the shell tells the client.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection that [`Output::Connect`] asked for stands.
    Connected,
    /// It could not be made, or it broke, for the reason given.
    Closed(&'a str),
    /// Bytes from the cache; every one of them is hostile.
    Received(&'a [u8]),
    /// [`Client::poll_timeout`] has come.
    Tick,
}

/// What the client tells the shell, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to the cache.
    Connect,
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send what is unsent, then close; nothing more is heard of the connection. Also ends an attempt to connect.
    Close,
    /// For logs and counters.
    Event(Event),
}

/// Something that an operator wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The cache has answered whole; [`Client::data`] is new.
    Updated {
        /// How far the data have come.
        serial: u32,
        /// Payloads in all.
        payloads: usize,
        /// How many came with this answer.
        added: usize,
        /// How many went with it.
        removed: usize,
    },
    /// The connection ended, or could not be made: told once for attempts that fail alike.
    Down(String),
    /// The cache has not answered for so long that what it said counts no more; [`Client::data`] is `None`.
    Expired,
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits to connect again.
    Waiting,
    /// TCP handshake under way.
    Connecting,
    /// Asked, and not yet answered whole.
    Asking,
    /// Answered; asks again when it is time, or when the cache says that there is something new.
    Synchronised,
    /// The cache said that it has nothing yet.
    NoData,
}

/// The cache as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// How far the conversation is.
    pub state: State,
    /// The version in use.
    pub version: Version,
    /// Of the cache's data.
    pub session: Option<u16>,
    /// How far the data have come.
    pub serial: Option<u32>,
    /// Payloads that count.
    pub payloads: usize,
    /// When the cache last answered whole.
    pub updated: Option<Instant>,
    /// When what it said counts no more.
    pub expires: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Waiting {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    /// A query is on its way; `answer`: what has come of the answer.
    Asking {
        until: Instant,
        answer: Option<Answer>,
    },
    Synchronised {
        refresh_at: Instant,
    },
    NoData {
        retry_at: Instant,
    },
}

/// An answer that has begun.
#[derive(Debug)]
struct Answer {
    session: u16,
    /// All of it, not what changed.
    whole: bool,
    changes: BTreeMap<Vrp, bool>,
}

/// The conversation with one cache.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    phase: Phase,
    framer: Framer,
    version: Version,
    /// A unit of the cache has been read in this connection: the version is settled.
    settled: bool,
    /// What was asked: all, or what changed.
    whole: bool,
    /// The session and serial number of `data`.
    known: Option<(u16, u32)>,
    data: Option<Arc<Vrps>>,
    timing: Timing,
    updated: Option<Instant>,
    expires: Option<Instant>,
    wait: Duration,
    told: Option<String>,
    output: VecDeque<Output>,
}

impl Client {
    /// Connects at the first [`Input::Tick`].
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            phase: Phase::Waiting { until: now },
            framer: Framer::default(),
            version: Version::V1,
            settled: false,
            whole: true,
            known: None,
            data: None,
            timing: settings.timing.bounded(),
            updated: None,
            expires: None,
            wait: FIRST_WAIT,
            told: None,
            output: VecDeque::new(),
        }
    }

    /// What the cache said, if it is still good.
    #[must_use]
    pub fn data(&self) -> Option<Arc<Vrps>> {
        self.data.clone()
    }

    /// For operators.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: match self.phase {
                Phase::Waiting { .. } => State::Waiting,
                Phase::Connecting { .. } => State::Connecting,
                Phase::Asking { .. } => State::Asking,
                Phase::Synchronised { .. } => State::Synchronised,
                Phase::NoData { .. } => State::NoData,
            },
            version: self.version,
            session: self.known.map(|(session, _)| session),
            serial: self.known.map(|(_, serial)| serial),
            payloads: self.data.as_ref().map_or(0, |data| data.len()),
            updated: self.updated,
            expires: self.expires,
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Waiting { until } | Phase::Connecting { until } | Phase::Asking { until, .. } => until,
            Phase::Synchronised { refresh_at } => refresh_at,
            Phase::NoData { retry_at } => retry_at,
        };
        Some(self.expires.map_or(phase, |expires| expires.min(phase)))
    }

    /// Takes an input.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Connected => {
                if matches!(self.phase, Phase::Connecting { .. }) {
                    self.framer = Framer::default();
                    self.settled = false;
                    self.ask(now);
                }
            }
            Input::Closed(why) => match self.phase {
                Phase::Waiting { .. } => {}
                // RFC 8210 §7: a cache of RFC 6810 may hang up on what it does not know.
                Phase::Asking { answer: None, .. } if !self.settled && self.version == Version::V1 => {
                    self.version = Version::V0;
                    self.rest(now, why.to_owned());
                }
                Phase::Connecting { .. } | Phase::Asking { .. } | Phase::Synchronised { .. } | Phase::NoData { .. } => {
                    self.version = Version::V1;
                    self.rest(now, why.to_owned());
                }
            },
            Input::Received(bytes) => self.received(bytes, now),
            Input::Tick => self.tick(now),
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.expires.is_some_and(|expires| expires <= now) {
            self.forget();
            self.output.push_back(Output::Event(Event::Expired));
            if !self.whole && matches!(self.phase, Phase::Asking { .. }) {
                self.output.push_back(Output::Close);
                self.rest(now, "what it is to be a difference to has expired".to_owned());
            }
        }
        match self.phase {
            Phase::Waiting { until } if until <= now => {
                self.phase = Phase::Connecting { until: now + CONNECT };
                self.output.push_back(Output::Connect);
            }
            Phase::Connecting { until } if until <= now => {
                self.output.push_back(Output::Close);
                self.rest(now, format!("no connection within {} s", CONNECT.as_secs()));
            }
            Phase::Asking { until, .. } if until <= now => {
                self.output.push_back(Output::Close);
                self.rest(now, format!("no answer within {} s", ANSWER.as_secs()));
            }
            Phase::Synchronised { refresh_at: at } | Phase::NoData { retry_at: at } if at <= now => self.ask(now),
            _ => {}
        }
    }

    /// Asks for what is new where we have something, else for all.
    fn ask(&mut self, now: Instant) {
        self.whole = self.known.is_none();
        let query = match self.known {
            Some((session, serial)) => Pdu::SerialQuery { session, serial },
            None => Pdu::ResetQuery,
        };
        self.send(&query);
        self.phase = Phase::Asking { until: now + ANSWER, answer: None };
    }

    fn send(&mut self, pdu: &Pdu) {
        self.output.push_back(Output::Send(pdu.encode(self.version)));
    }

    fn forget(&mut self) {
        self.known = None;
        self.data = None;
        self.expires = None;
    }

    /// The connection has ended.
    fn rest(&mut self, now: Instant, why: String) {
        self.phase = Phase::Waiting { until: now + self.wait.min(self.timing.retry) };
        self.wait = self.wait.saturating_mul(2).min(self.timing.retry);
        if self.told.as_ref() != Some(&why) {
            self.told = Some(why.clone());
            self.output.push_back(Output::Event(Event::Down(why)));
        }
    }

    /// Tells the cache what is wrong, and ends the connection.
    fn fail(&mut self, kind: ErrorKind, about: &[u8], why: String, now: Instant) {
        let about = about.get(..about.len().min(MAX_PDU / 2)).unwrap_or_default().to_vec();
        self.send(&Pdu::ErrorReport { kind, about, text: why.clone() });
        self.output.push_back(Output::Close);
        self.rest(now, why);
    }

    fn received(&mut self, bytes: &[u8], now: Instant) {
        let mut framer = std::mem::take(&mut self.framer);
        framer.push(bytes);
        // A unit may end the connection; what follows it then no longer counts.
        while !matches!(self.phase, Phase::Waiting { .. } | Phase::Connecting { .. }) {
            match framer.next_pdu() {
                Ok(None) => break,
                Ok(Some(unit)) => self.unit(unit, now),
                Err(error) => self.fail(error.kind(), &[], error.to_string(), now),
            }
        }
        self.framer = framer;
    }

    fn unit(&mut self, unit: &[u8], now: Instant) {
        let (version, pdu) = match Pdu::decode(unit) {
            Ok(read) => read,
            Err(error) => return self.fail(error.kind(), unit, error.to_string(), now),
        };
        // RFC 8210 §7: an older cache answers in its own version, or says that it does not know ours. Until it has
        // answered, whatever it says by itself is not heard.
        if !self.settled && matches!(pdu, Pdu::SerialNotify { .. }) {
            return;
        }
        if !self.settled && version < self.version && !matches!(pdu, Pdu::ErrorReport { .. }) {
            self.version = version;
        }
        if version != self.version && !matches!(pdu, Pdu::ErrorReport { .. }) {
            let why = format!("version {} after version {} was settled", version.octet(), self.version.octet());
            return self.fail(ErrorKind::UnexpectedVersion, unit, why, now);
        }
        self.settled |= !matches!(pdu, Pdu::ErrorReport { .. });
        match pdu {
            Pdu::SerialNotify { session, serial } => {
                // Asked already, or nothing new: nothing to do.
                if matches!(self.phase, Phase::Synchronised { .. } | Phase::NoData { .. })
                    && self.known != Some((session, serial))
                {
                    if self.known.is_some_and(|(known, _)| known != session) {
                        self.known = None;
                    }
                    self.ask(now);
                }
            }
            Pdu::CacheResponse { session } => self.response(session, unit, now),
            Pdu::Prefix { announce, vrp } => self.prefix(announce, vrp, unit, now),
            Pdu::EndOfData { session, serial, timing } => self.end(session, serial, timing, unit, now),
            Pdu::CacheReset => match self.phase {
                Phase::Asking { answer: None, .. } if !self.whole => {
                    // What we have counts until all of the new is here.
                    self.known = None;
                    self.ask(now);
                }
                _ => self.fail(ErrorKind::CorruptData, unit, "Cache Reset to no Serial Query".to_owned(), now),
            },
            Pdu::RouterKey(_) => match &mut self.phase {
                Phase::Asking { until, answer: Some(_) } => *until = now + ANSWER,
                _ => self.fail(ErrorKind::CorruptData, unit, "a router key outside an answer".to_owned(), now),
            },
            Pdu::ErrorReport { kind, text, .. } => self.report(version, kind, &text, now),
            Pdu::SerialQuery { .. } | Pdu::ResetQuery => {
                self.fail(ErrorKind::InvalidRequest, unit, "a cache asks nothing".to_owned(), now);
            }
        }
    }

    fn response(&mut self, session: u16, unit: &[u8], now: Instant) {
        let known = self.known.filter(|_| !self.whole).map(|(session, _)| session);
        match &mut self.phase {
            Phase::Asking { until, answer: answer @ None } if known.is_none_or(|known| known == session) => {
                *answer = Some(Answer { session, whole: self.whole, changes: BTreeMap::new() });
                *until = now + ANSWER;
            }
            Phase::Asking { answer: None, .. } => {
                // RFC 8210 §5.1: the cache has started anew. What we have counts until all of the new is here.
                self.known = None;
                self.fail(ErrorKind::CorruptData, unit, format!("session {session} is not the one we know"), now);
            }
            _ => self.fail(ErrorKind::CorruptData, unit, "an answer to no question".to_owned(), now),
        }
    }

    fn prefix(&mut self, announce: bool, vrp: Vrp, unit: &[u8], now: Instant) {
        let Phase::Asking { until, answer: Some(answer) } = &mut self.phase else {
            return self.fail(ErrorKind::CorruptData, unit, "a payload outside an answer".to_owned(), now);
        };
        *until = now + ANSWER;
        let before = self.data.as_ref().filter(|_| !answer.whole);
        let held = |vrp: &Vrp| before.is_some_and(|data| data.contains(vrp));
        let there = answer.changes.get(&vrp).copied().unwrap_or_else(|| held(&vrp));
        let room = self.settings.max_payloads.saturating_sub(before.map_or(0, |data| data.len()));
        match (announce, there) {
            (true, true) => {
                let why = format!("{} of AS {} is announced twice", vrp.prefix, vrp.asn);
                self.fail(ErrorKind::DuplicateAnnouncement, unit, why, now);
            }
            (false, false) => {
                let why = format!("{} of AS {} was never announced", vrp.prefix, vrp.asn);
                self.fail(ErrorKind::UnknownWithdrawal, unit, why, now);
            }
            (true, false) if answer.changes.len() >= room => {
                let why = format!("more than {} payloads: rpki.max-payloads", self.settings.max_payloads);
                self.fail(ErrorKind::Internal, &[], why, now);
            }
            (announce, _) => {
                // What comes and goes in one answer is as if it had not been said.
                if held(&vrp) == announce {
                    answer.changes.remove(&vrp);
                } else {
                    answer.changes.insert(vrp, announce);
                }
            }
        }
    }

    fn end(&mut self, session: u16, serial: u32, timing: Option<Timing>, unit: &[u8], now: Instant) {
        let answer = match &mut self.phase {
            Phase::Asking { answer, .. } => answer.take(),
            _ => None,
        };
        let Some(answer) = answer else {
            return self.fail(ErrorKind::CorruptData, unit, "the end of no answer".to_owned(), now);
        };
        if answer.session != session {
            self.known = None;
            let why = format!("an answer of session {} ends as session {session}", answer.session);
            return self.fail(ErrorKind::CorruptData, unit, why, now);
        }
        let before = self.data.clone().unwrap_or_default();
        let data = if answer.whole {
            answer.changes.keys().copied().collect()
        } else if answer.changes.is_empty() {
            Vrps::clone(&before)
        } else {
            before.changed(&answer.changes)
        };
        let (added, removed) = if answer.whole {
            (data.len(), before.len())
        } else {
            let added = answer.changes.values().filter(|added| **added).count();
            (added, answer.changes.len() - added)
        };
        self.timing = timing.unwrap_or(self.settings.timing).bounded();
        self.known = Some((session, serial));
        self.updated = Some(now);
        self.expires = Some(now + self.timing.expire);
        self.phase = Phase::Synchronised { refresh_at: now + self.timing.refresh };
        self.wait = FIRST_WAIT;
        self.told = None;
        let event = Event::Updated { serial, payloads: data.len(), added, removed };
        if self.data.as_deref() != Some(&data) {
            self.data = Some(Arc::new(data));
        }
        self.output.push_back(Output::Event(event));
    }

    fn report(&mut self, version: Version, kind: ErrorKind, text: &str, now: Instant) {
        match kind {
            ErrorKind::NoData if matches!(self.phase, Phase::Asking { answer: None, .. }) => {
                self.settled = true;
                self.phase = Phase::NoData { retry_at: now + self.timing.retry };
                let why = format!("the cache has no data yet: {text}");
                if self.told.as_ref() != Some(&why) {
                    self.told = Some(why.clone());
                    self.output.push_back(Output::Event(Event::Down(why)));
                }
            }
            kind => {
                let downgrade = kind == ErrorKind::UnsupportedVersion && version < self.version;
                self.output.push_back(Output::Close);
                self.rest(now, format!("the cache reports error {}: {text}", kind.code()));
                self.version = if downgrade { version } else { self.version };
            }
        }
    }
}
