//! One connection after another to one institution, and what is owed over them.
//!
//! ```text
//! Down --Connected--> SigningOn --0810/00--> Up --silence--> echo 0800/301 --silence--> Disconnect
//!   ^                     |                   |
//!   └── Disconnected, or a Disconnect output ─┘   every authorisation without an answer: TimedOut
//! ```
//!
//! An authorisation (0100) is sent once or not at all: while the link is not up it is refused with
//! [`Output::NotSent`], and when its answer does not come it ends in [`Output::TimedOut`], upon which the
//! caller hands in the reversal. A reversal (0400, then 0401) is repeated, with back-off and over as many
//! connections as it takes, until the institution confirms it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_types::{Instant, Money, Timestamp};

use crate::counters::{Count, Counters};
use crate::frame::{FrameError, Framer, frame};
use crate::message::{Message, MessageType};
use crate::request::{Acceptor, Answer, Authorisation, NetworkCode, ResponseCode, Reversal, Trace};

/// Ended requests that are remembered, to tell late and repeated answers from answers to nothing.
const REMEMBERED: usize = 4096;
/// Reversals that are sent at one time; the others follow [`REVERSAL_PACE`] later.
const REVERSALS_AT_ONCE: usize = 32;
const REVERSAL_PACE: Duration = Duration::from_millis(100);

/// How the link behaves.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Who we are to the institution.
    pub acceptor: Acceptor,
    /// How long an answer may take, to authorisations, sign-on and echo alike.
    pub answer_timeout: Duration,
    /// How long nothing may be heard before an echo is sent.
    pub echo_interval: Duration,
    /// From a reversal to its first repetition; doubled each time.
    pub reversal_retry: Duration,
    /// The longest time between two repetitions.
    pub reversal_retry_max: Duration,
    /// Authorisations that may wait for an answer; more are refused.
    pub max_outstanding: usize,
}

impl LinkConfig {
    /// The usual times: 15 s for an answer, an echo after 60 s, reversals repeated after 2 s to 60 s, 256
    /// authorisations at a time.
    #[must_use]
    pub const fn new(acceptor: Acceptor) -> Self {
        Self {
            acceptor,
            answer_timeout: Duration::from_secs(15),
            echo_interval: Duration::from_secs(60),
            reversal_retry: Duration::from_secs(2),
            reversal_retry_max: Duration::from_secs(60),
            max_outstanding: 256,
        }
    }
}

/// What happens to the link. `K` is the caller's own name for a request.
#[derive(Debug)]
pub enum Input<'a, K> {
    /// A connection was made.
    Connected,
    /// Octets arrived on it.
    Bytes(&'a [u8]),
    /// It ended.
    Disconnected,
    /// Ask for an authorisation. The caller has stored its trace before.
    Authorise(K, Box<Authorisation>),
    /// Take an authorisation back. The caller keeps it stored until [`Output::Reversed`]; the link holds as
    /// many as the caller hands in, each once.
    Reverse(K, Reversal),
    /// [`Link::poll_timeout`] is due.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<K> {
    /// Write these octets to the connection.
    Send(Secret<Vec<u8>>),
    /// The institution has answered.
    Authorised(K, Verdict),
    /// Whether the institution holds an authorisation is unknown: reverse it.
    TimedOut(K, Why),
    /// Nothing was sent and nothing will be: nothing is to be reversed.
    NotSent(K),
    /// An answer came after [`Output::TimedOut`]; the reversal stands. For the log.
    Late(K, ResponseCode),
    /// The institution holds no authorisation any more.
    Reversed(K, ResponseCode),
    /// End the connection; [`Input::Disconnected`] need not follow.
    Disconnect(DisconnectReason),
}

/// An institution's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The card may be charged.
    Approved {
        /// Field 38; empty when the institution gave none.
        authorisation_code: String,
    },
    /// It may not.
    Declined(ResponseCode),
}

/// Why an authorisation's outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No answer within [`LinkConfig::answer_timeout`].
    Deadline,
    /// The connection ended first.
    ConnectionLost,
    /// Approved, but conditionally or for something else than what was asked.
    Unclear(ResponseCode),
}

/// Why the link wants its connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// The sign-on was not answered.
    #[error("the institution did not answer the sign-on in time")]
    SignOnTimedOut,
    /// The sign-on was refused.
    #[error("the institution refused the sign-on with response code {0}")]
    SignOnRefused(ResponseCode),
    /// The echo was not answered.
    #[error("the institution did not answer the echo in time")]
    EchoTimedOut,
    /// The stream cannot be read on.
    #[error("the institution's stream cannot be read on: {0}")]
    Stream(FrameError),
}

/// The name of a request on the wire: trace number and transmission time. The terminal is always ours.
type Key = (String, String);

fn key_of(trace: Trace) -> Key {
    (trace.stan(), trace.transmitted())
}

#[derive(Debug)]
enum Connection {
    Down,
    SigningOn { deadline: Instant },
    Up { heard_at: Instant, echo: Option<Instant> },
}

#[derive(Debug)]
struct Outstanding<K> {
    reference: K,
    retrieval_reference: String,
    amount: Money,
    deadline: Instant,
}

#[derive(Debug)]
struct Reversing<K> {
    reference: K,
    reversal: Reversal,
    /// How often it was sent.
    sent: u32,
    due: Instant,
}

/// What became of a request that is over.
#[derive(Debug)]
enum Past<K> {
    Answered,
    TimedOut(K),
}

/// The link to one institution.
#[derive(Debug)]
pub struct Link<K> {
    config: LinkConfig,
    connection: Connection,
    framer: Framer,
    outstanding: BTreeMap<Key, Outstanding<K>>,
    reversing: BTreeMap<Key, Reversing<K>>,
    /// Reversals by the time when they are sent next.
    schedule: BTreeSet<(Instant, Key)>,
    past: BTreeMap<Key, Past<K>>,
    past_order: VecDeque<Key>,
    network_stan: u32,
    outputs: VecDeque<Output<K>>,
    counters: Counters,
}

impl<K: Clone> Link<K> {
    /// A link that is down and owes nothing.
    #[must_use]
    pub fn new(config: LinkConfig) -> Self {
        Self {
            config,
            connection: Connection::Down,
            framer: Framer::default(),
            outstanding: BTreeMap::new(),
            reversing: BTreeMap::new(),
            schedule: BTreeSet::new(),
            past: BTreeMap::new(),
            past_order: VecDeque::new(),
            network_stan: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes what happened. Then take every [`Link::poll_output`].
    pub fn handle(&mut self, input: Input<'_, K>, now: Instant, wall: Timestamp) {
        match input {
            Input::Connected => {
                self.lose_connection();
                self.framer = Framer::default();
                self.connection = Connection::SigningOn { deadline: now + self.config.answer_timeout };
                self.send_network(NetworkCode::SignOn, wall);
            }
            Input::Bytes(octets) => self.bytes(octets, now),
            Input::Disconnected => self.lose_connection(),
            Input::Authorise(reference, authorisation) => self.authorise(reference, &authorisation, now),
            Input::Reverse(reference, reversal) => self.reverse(reference, reversal, now),
            Input::Tick => {}
        }
        self.run_timers(now, wall);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output<K>> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let connection = match self.connection {
            Connection::Down => return None,
            Connection::SigningOn { deadline } => return Some(deadline),
            Connection::Up { echo: Some(deadline), .. } => deadline,
            Connection::Up { heard_at, echo: None } => heard_at + self.config.echo_interval,
        };
        let answers = self.outstanding.values().map(|request| request.deadline).min();
        let reversals = self.schedule.first().map(|(due, _)| *due);
        [Some(connection), answers, reversals].into_iter().flatten().min()
    }

    /// Whether authorisations can be sent now.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.connection, Connection::Up { .. })
    }

    /// Authorisations that wait for an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Reversals that are not confirmed.
    #[must_use]
    pub fn reversing(&self) -> usize {
        self.reversing.len()
    }

    /// What happened so far, by reason.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn authorise(&mut self, reference: K, authorisation: &Authorisation, now: Instant) {
        let key = key_of(authorisation.trace);
        let used =
            self.outstanding.contains_key(&key) || self.reversing.contains_key(&key) || self.past.contains_key(&key);
        if !self.is_up() || self.outstanding.len() >= self.config.max_outstanding || used {
            self.counters.add(Count::NotSent);
            self.outputs.push_back(Output::NotSent(reference));
            return;
        }
        self.counters.add(Count::Authorisation);
        self.send(&authorisation.message(&self.config.acceptor));
        let request = Outstanding {
            reference,
            retrieval_reference: authorisation.trace.retrieval_reference(),
            amount: authorisation.amount,
            deadline: now + self.config.answer_timeout,
        };
        self.outstanding.insert(key, request);
    }

    fn reverse(&mut self, reference: K, reversal: Reversal, now: Instant) {
        let key = key_of(reversal.trace);
        if let Some(request) = self.outstanding.remove(&key) {
            self.remember(key.clone(), Past::TimedOut(request.reference));
        }
        if self.reversing.contains_key(&key) {
            return;
        }
        self.schedule.insert((now, key.clone()));
        self.reversing.insert(key, Reversing { reference, reversal, sent: 0, due: now });
    }

    fn bytes(&mut self, octets: &[u8], now: Instant) {
        if matches!(self.connection, Connection::Down) {
            return;
        }
        let mut messages = Vec::new();
        let read = self.framer.push(octets, |message| messages.push(Message::decode(message)));
        for message in messages {
            if let Connection::Up { heard_at, .. } = &mut self.connection {
                *heard_at = now;
            }
            match message {
                Ok(message) => self.message(&message, now),
                Err(_) => self.counters.add(Count::Undecodable),
            }
        }
        if let Err(error) = read {
            self.disconnect(DisconnectReason::Stream(error));
        }
    }

    fn message(&mut self, message: &Message, now: Instant) {
        match message.message_type() {
            MessageType::NetworkResponse => self.network_answer(message, now),
            MessageType::NetworkRequest => {
                let mut answer = Message::new(MessageType::NetworkResponse);
                answer.copy(message, &[7, 11, 70]);
                // Two characters of field 39 always fit.
                let _ = answer.set(39, "00");
                self.send(&answer);
            }
            MessageType::AuthorisationResponse => match Answer::from_message(message) {
                Ok(answer) => self.authorisation_answer(&answer),
                Err(_) => self.counters.add(Count::Undecodable),
            },
            MessageType::ReversalResponse => match Answer::from_message(message) {
                Ok(answer) => self.reversal_answer(&answer),
                Err(_) => self.counters.add(Count::Undecodable),
            },
            MessageType::AuthorisationRequest | MessageType::ReversalRequest | MessageType::ReversalRepeat => {
                self.counters.add(Count::Unexpected);
            }
        }
    }

    fn network_answer(&mut self, message: &Message, now: Instant) {
        let Some(code) = message.get(39).and_then(ResponseCode::parse) else {
            return self.counters.add(Count::Undecodable);
        };
        let ours = message.get(11) == Some(format!("{:06}", self.network_stan).as_str());
        match &mut self.connection {
            Connection::SigningOn { .. } if ours && code.is_approval() => {
                self.connection = Connection::Up { heard_at: now, echo: None };
                self.counters.add(Count::SignedOn);
                // A new connection is the moment to try what is owed.
                let owed: Vec<Key> = self.reversing.keys().cloned().collect();
                owed.into_iter().for_each(|key| self.reschedule(&key, now));
            }
            Connection::SigningOn { .. } if ours => self.disconnect(DisconnectReason::SignOnRefused(code)),
            Connection::Up { echo, .. } if ours && echo.is_some() => *echo = None,
            Connection::SigningOn { .. } | Connection::Up { .. } | Connection::Down => {
                self.counters.add(Count::Unmatched);
            }
        }
    }

    fn authorisation_answer(&mut self, answer: &Answer) {
        let key = (answer.stan.clone(), answer.transmitted.clone());
        if answer.terminal != self.config.acceptor.terminal() {
            return self.counters.add(Count::Unmatched);
        }
        let Some(request) = self.outstanding.get(&key) else {
            return match self.past.get(&key) {
                Some(Past::TimedOut(reference)) => {
                    self.outputs.push_back(Output::Late(reference.clone(), answer.code));
                    self.remember(key, Past::Answered);
                    self.counters.add(Count::Late);
                }
                Some(Past::Answered) => self.counters.add(Count::Duplicate),
                None => self.counters.add(Count::Unmatched),
            };
        };
        if answer.retrieval_reference.as_ref().is_some_and(|retrieval| *retrieval != request.retrieval_reference) {
            return self.counters.add(Count::Unmatched);
        }
        let as_asked = answer.amount_minor.is_none_or(|minor| minor == request.amount.minor())
            && answer.currency.is_none_or(|currency| currency == request.amount.currency());
        let reference = request.reference.clone();
        self.outstanding.remove(&key);
        self.remember(key, Past::Answered);
        let (count, output) = match answer.code {
            code if code.is_conditional_approval() || (code.is_approval() && !as_asked) => {
                (Count::Unclear, Output::TimedOut(reference, Why::Unclear(code)))
            }
            code if code.is_approval() => {
                let authorisation_code = answer.authorisation_code.clone().unwrap_or_default();
                (Count::Approved, Output::Authorised(reference, Verdict::Approved { authorisation_code }))
            }
            code => (Count::Declined, Output::Authorised(reference, Verdict::Declined(code))),
        };
        self.counters.add(count);
        self.outputs.push_back(output);
    }

    fn reversal_answer(&mut self, answer: &Answer) {
        let key = (answer.stan.clone(), answer.transmitted.clone());
        if answer.terminal != self.config.acceptor.terminal() {
            return self.counters.add(Count::Unmatched);
        }
        match self.reversing.get(&key) {
            None => self.counters.add(if self.past.contains_key(&key) { Count::Duplicate } else { Count::Unmatched }),
            Some(_) if !answer.code.settles_reversal() => self.counters.add(Count::ReversalRefused),
            Some(reversing) => {
                self.schedule.remove(&(reversing.due, key.clone()));
                self.outputs.push_back(Output::Reversed(reversing.reference.clone(), answer.code));
                self.reversing.remove(&key);
                self.remember(key, Past::Answered);
                self.counters.add(Count::Reversed);
            }
        }
    }

    fn run_timers(&mut self, now: Instant, wall: Timestamp) {
        match self.connection {
            Connection::SigningOn { deadline } if now >= deadline => self.disconnect(DisconnectReason::SignOnTimedOut),
            Connection::Up { echo: Some(deadline), .. } if now >= deadline => {
                self.disconnect(DisconnectReason::EchoTimedOut);
            }
            Connection::Up { heard_at, echo: None } if now >= heard_at + self.config.echo_interval => {
                self.connection = Connection::Up { heard_at, echo: Some(now + self.config.answer_timeout) };
                self.counters.add(Count::Echo);
                self.send_network(NetworkCode::Echo, wall);
            }
            Connection::Down | Connection::SigningOn { .. } | Connection::Up { .. } => {}
        }
        let late: Vec<Key> = self
            .outstanding
            .iter()
            .filter(|(_, request)| now >= request.deadline)
            .map(|(key, _)| key.clone())
            .collect();
        for key in late {
            self.give_up(key, Why::Deadline, Count::TimedOut);
        }
        if self.is_up() {
            self.send_reversals(now);
        }
    }

    fn send_reversals(&mut self, now: Instant) {
        for _ in 0..REVERSALS_AT_ONCE {
            let Some((_, key)) = self.schedule.first().filter(|(due, _)| *due <= now).cloned() else { return };
            let Some(reversing) = self.reversing.get_mut(&key) else { return };
            let message = reversing.reversal.message(&self.config.acceptor, reversing.sent > 0);
            let pause = self.config.reversal_retry.saturating_mul(2_u32.saturating_pow(reversing.sent));
            reversing.sent = reversing.sent.saturating_add(1);
            self.reschedule(&key, now + pause.min(self.config.reversal_retry_max));
            self.counters.add(Count::Reversal);
            self.send(&message);
        }
        let crowd: Vec<Key> =
            self.schedule.range(..).take_while(|(due, _)| *due <= now).map(|(_, key)| key.clone()).collect();
        crowd.into_iter().for_each(|key| self.reschedule(&key, now + REVERSAL_PACE));
    }

    fn reschedule(&mut self, key: &Key, due: Instant) {
        if let Some(reversing) = self.reversing.get_mut(key) {
            self.schedule.remove(&(reversing.due, key.clone()));
            reversing.due = due;
            self.schedule.insert((due, key.clone()));
        }
    }

    fn disconnect(&mut self, reason: DisconnectReason) {
        self.outputs.push_back(Output::Disconnect(reason));
        self.lose_connection();
    }

    fn lose_connection(&mut self) {
        if matches!(self.connection, Connection::Down) {
            return;
        }
        self.connection = Connection::Down;
        self.counters.add(Count::Disconnected);
        let keys: Vec<Key> = self.outstanding.keys().cloned().collect();
        for key in keys {
            self.give_up(key, Why::ConnectionLost, Count::ConnectionLost);
        }
    }

    fn give_up(&mut self, key: Key, why: Why, count: Count) {
        if let Some(request) = self.outstanding.remove(&key) {
            self.remember(key, Past::TimedOut(request.reference.clone()));
            self.counters.add(count);
            self.outputs.push_back(Output::TimedOut(request.reference, why));
        }
    }

    fn remember(&mut self, key: Key, what: Past<K>) {
        if self.past.insert(key.clone(), what).is_none() {
            self.past_order.push_back(key);
        }
        if self.past_order.len() > REMEMBERED
            && let Some(oldest) = self.past_order.pop_front()
        {
            self.past.remove(&oldest);
        }
    }

    fn send_network(&mut self, code: NetworkCode, wall: Timestamp) {
        self.network_stan = self.network_stan % 999_999 + 1;
        if let Ok(trace) = Trace::new(self.network_stan, wall) {
            self.send(&code.message(trace));
        }
    }

    fn send(&mut self, message: &Message) {
        self.outputs.push_back(Output::Send(frame(&message.encode())));
    }
}
