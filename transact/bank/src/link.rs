//! The connections to one institution, and what is owed over them.
//!
//! ```text
//! Down --Connected--> SigningOn --0810/00--> Up --silence--> echo 0800/301 --silence--> Disconnect
//!                                             └--SignOff--> SigningOff 0800/002 --0810, or silence--> Disconnect
//!   ^                     |                   |
//!   └── Disconnected, or a Disconnect output ─┘   every request of this connection without an answer: TimedOut
//! ```
//!
//! A request (0100, 0200) is sent once or not at all, over the connection that has the fewest waiting: while none is up
//! it is refused with [`Output::NotSent`], and when its answer does not come it ends in [`Output::TimedOut`], upon which
//! the caller hands in the reversal. A reversal (0400, then 0401; or 0420, then 0421) is repeated, with back-off and over
//! as many connections as it takes, until the institution confirms it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cloakway_types::{Instant, Money, Timestamp};

use crate::counters::{Count, Counters};
use crate::events::{DisconnectReason, Input, LinkConfig, Output, Verdict, Why};
use crate::frame::Framer;
use crate::message::{DecodeError, Message, MessageType};
use crate::request::{Answer, Movement, NetworkCode, ResponseCode, Reversal, Trace};

/// Ended requests that are remembered, to tell late and repeated answers from answers to nothing.
const REMEMBERED: usize = 4096;
/// Reversals that are sent at one time; the others follow [`REVERSAL_PACE`] later.
const REVERSALS_AT_ONCE: usize = 32;
const REVERSAL_PACE: Duration = Duration::from_millis(100);

/// The name of a request on the wire: trace number and transmission time. The terminal is always ours.
type Key = (String, String);

fn key_of(trace: Trace) -> Key {
    (trace.stan(), trace.transmitted())
}

#[derive(Debug)]
enum State {
    Down,
    SigningOn { deadline: Instant },
    Up { heard_at: Instant, echo: Option<Instant> },
    SigningOff { deadline: Instant },
}

#[derive(Debug)]
struct Line {
    state: State,
    framer: Framer,
    /// Of the last 0800.
    network_stan: u32,
}

#[derive(Debug)]
struct Outstanding<K> {
    reference: K,
    /// The connection that it was sent over.
    line: usize,
    movement: Movement,
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
    lines: Vec<Line>,
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
        let line = || Line { state: State::Down, framer: Framer::new(config.framing.clone()), network_stan: 0 };
        Self {
            lines: (0..config.lines.max(1)).map(|_| line()).collect(),
            config,
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
            Input::Connected(line) => {
                self.lose(line);
                let framer = Framer::new(self.config.framing.clone());
                if let Some(line) = self.lines.get_mut(line) {
                    line.framer = framer;
                    line.state = State::SigningOn { deadline: now + self.config.answer_timeout };
                }
                self.send_network(line, NetworkCode::SignOn, wall);
            }
            Input::Bytes(line, octets) => self.bytes(line, octets, now),
            Input::Disconnected(line) => self.lose(line),
            Input::Authorise(reference, asked) => {
                let mut message = asked.message(&self.config.acceptor);
                if asked.add_pin(&mut message, self.config.pin_key.as_ref()) {
                    self.ask(reference, &message, asked.trace, asked.movement, asked.amount, now);
                } else {
                    self.counters.add(Count::NotSent);
                    self.outputs.push_back(Output::NotSent(reference));
                }
            }
            Input::Refund(reference, asked) => {
                let message = asked.message(&self.config.acceptor);
                self.ask(reference, &message, asked.trace, Movement::Refund, asked.amount, now);
            }
            Input::Reverse(reference, reversal) => self.reverse(reference, reversal, now),
            Input::SignOff => self.sign_off(now, wall),
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
        let lines = self.lines.iter().filter_map(|line| match line.state {
            State::Down => None,
            State::SigningOn { deadline } | State::SigningOff { deadline } => Some(deadline),
            State::Up { echo: Some(deadline), .. } => Some(deadline),
            State::Up { heard_at, echo: None } => Some(heard_at + self.config.echo_interval),
        });
        let answers = self.outstanding.values().map(|request| request.deadline);
        let reversals = self.schedule.first().filter(|_| self.is_up()).map(|(due, _)| *due);
        lines.chain(answers).chain(reversals).min()
    }

    /// Whether requests can be sent now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lines_up() > 0
    }

    /// Connections over which requests can be sent now.
    #[must_use]
    pub fn lines_up(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line.state, State::Up { .. })).count()
    }

    /// Connections that are made, signed on or not.
    #[must_use]
    pub fn lines_made(&self) -> usize {
        self.lines.iter().filter(|line| !matches!(line.state, State::Down)).count()
    }

    /// Requests that wait for an answer.
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

    /// The connection over which the next message goes: of those that are up, the one with the fewest requests waiting.
    fn choose(&self) -> Option<usize> {
        let waiting = |line: usize| self.outstanding.values().filter(|request| request.line == line).count();
        let up = self.lines.iter().enumerate().filter(|(_, line)| matches!(line.state, State::Up { .. }));
        up.map(|(line, _)| line).min_by_key(|line| if self.lines.len() > 1 { waiting(*line) } else { 0 })
    }

    fn ask(&mut self, reference: K, message: &Message, trace: Trace, movement: Movement, amount: Money, now: Instant) {
        let key = key_of(trace);
        let used =
            self.outstanding.contains_key(&key) || self.reversing.contains_key(&key) || self.past.contains_key(&key);
        let free = self.outstanding.len() < self.config.max_outstanding;
        let Some(line) = self.choose().filter(|_| free && !used) else {
            self.counters.add(Count::NotSent);
            self.outputs.push_back(Output::NotSent(reference));
            return;
        };
        self.counters.add(if movement == Movement::Refund { Count::Refund } else { Count::Authorisation });
        self.send(line, message);
        let request = Outstanding {
            reference,
            line,
            movement,
            retrieval_reference: trace.retrieval_reference(),
            amount,
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

    fn bytes(&mut self, number: usize, octets: &[u8], now: Instant) {
        let Some(line) = self.lines.get_mut(number).filter(|line| !matches!(line.state, State::Down)) else { return };
        let mut messages = Vec::new();
        let codec = &self.config.codec;
        let read = line.framer.push(octets, |message| messages.push(codec.decode(message)));
        if let State::Up { heard_at, .. } = &mut line.state
            && !messages.is_empty()
        {
            *heard_at = now;
        }
        for message in messages {
            match message {
                Ok(message) => self.message(number, &message, now),
                Err(DecodeError::NoCode { .. } | DecodeError::WrongCode { .. }) => {
                    self.counters.add(Count::Unauthentic);
                }
                Err(_) => self.counters.add(Count::Undecodable),
            }
        }
        if let Err(error) = read {
            self.disconnect(number, DisconnectReason::Stream(error));
        }
    }

    fn message(&mut self, line: usize, message: &Message, now: Instant) {
        use MessageType as T;
        match message.message_type() {
            T::NetworkResponse => self.network_answer(line, message, now),
            T::NetworkRequest => {
                let mut answer = Message::new(T::NetworkResponse);
                answer.copy(message, &[7, 11, 70]);
                // Two characters of field 39 always fit.
                let _ = answer.set(39, "00");
                self.send(line, &answer);
            }
            T::AuthorisationResponse | T::FinancialResponse => match Answer::from_message(message) {
                Ok(answer) => self.request_answer(message.message_type(), &answer),
                Err(_) => self.counters.add(Count::Undecodable),
            },
            T::ReversalResponse | T::ReversalAdviceResponse => match Answer::from_message(message) {
                Ok(answer) => self.reversal_answer(&answer),
                Err(_) => self.counters.add(Count::Undecodable),
            },
            T::AuthorisationRequest
            | T::FinancialRequest
            | T::ReversalRequest
            | T::ReversalRepeat
            | T::ReversalAdvice
            | T::ReversalAdviceRepeat => self.counters.add(Count::Unexpected),
        }
    }

    fn network_answer(&mut self, number: usize, message: &Message, now: Instant) {
        let Some(code) = message.get(39).and_then(ResponseCode::parse) else {
            return self.counters.add(Count::Undecodable);
        };
        let first = !self.is_up();
        let Some(line) = self.lines.get_mut(number) else { return };
        let ours = message.get(11) == Some(format!("{:06}", line.network_stan).as_str());
        match &mut line.state {
            State::SigningOn { .. } if ours && code.is_approval() => {
                line.state = State::Up { heard_at: now, echo: None };
                self.counters.add(Count::SignedOn);
                // The first connection is the moment to try what is owed.
                let owed: Vec<Key> = if first { self.reversing.keys().cloned().collect() } else { Vec::new() };
                owed.into_iter().for_each(|key| self.reschedule(&key, now));
            }
            State::SigningOn { .. } if ours => self.disconnect(number, DisconnectReason::SignOnRefused(code)),
            State::Up { echo, .. } if ours && echo.is_some() => *echo = None,
            State::SigningOff { .. } if ours => {
                self.counters.add(Count::SignedOff);
                self.disconnect(number, DisconnectReason::SignedOff);
            }
            State::SigningOn { .. } | State::Up { .. } | State::SigningOff { .. } | State::Down => {
                self.counters.add(Count::Unmatched);
            }
        }
    }

    fn request_answer(&mut self, answered_by: MessageType, answer: &Answer) {
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
        let other_type = request.movement.request().answer() != Some(answered_by);
        let other_reference =
            answer.retrieval_reference.as_ref().is_some_and(|retrieval| *retrieval != request.retrieval_reference);
        if other_type || other_reference {
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
        for number in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(number) else { continue };
            match line.state {
                State::SigningOn { deadline } if now >= deadline => {
                    self.disconnect(number, DisconnectReason::SignOnTimedOut);
                }
                State::Up { echo: Some(deadline), .. } if now >= deadline => {
                    self.disconnect(number, DisconnectReason::EchoTimedOut);
                }
                State::Up { heard_at, echo: None } if now >= heard_at + self.config.echo_interval => {
                    line.state = State::Up { heard_at, echo: Some(now + self.config.answer_timeout) };
                    self.counters.add(Count::Echo);
                    self.send_network(number, NetworkCode::Echo, wall);
                }
                State::SigningOff { deadline } if now >= deadline => {
                    self.disconnect(number, DisconnectReason::SignedOff);
                }
                State::Down | State::SigningOn { .. } | State::Up { .. } | State::SigningOff { .. } => {}
            }
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
        self.send_reversals(now);
    }

    fn send_reversals(&mut self, now: Instant) {
        for _ in 0..REVERSALS_AT_ONCE {
            let Some(line) = self.choose() else { return };
            let Some((_, key)) = self.schedule.first().filter(|(due, _)| *due <= now).cloned() else { return };
            let Some(reversing) = self.reversing.get_mut(&key) else { return };
            let (kind, repeated) = (self.config.reversals, reversing.sent > 0);
            let message = reversing.reversal.message(&self.config.acceptor, kind, repeated);
            let pause = self.config.reversal_retry.saturating_mul(2_u32.saturating_pow(reversing.sent));
            reversing.sent = reversing.sent.saturating_add(1);
            self.reschedule(&key, now + pause.min(self.config.reversal_retry_max));
            self.counters.add(Count::Reversal);
            self.send(line, &message);
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

    fn disconnect(&mut self, line: usize, reason: DisconnectReason) {
        self.outputs.push_back(Output::Disconnect(line, reason));
        self.lose(line);
    }

    fn lose(&mut self, number: usize) {
        let Some(line) = self.lines.get_mut(number).filter(|line| !matches!(line.state, State::Down)) else { return };
        line.state = State::Down;
        self.counters.add(Count::Disconnected);
        let asked = self.outstanding.iter().filter(|(_, request)| request.line == number);
        let keys: Vec<Key> = asked.map(|(key, _)| key.clone()).collect();
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

    fn sign_off(&mut self, now: Instant, wall: Timestamp) {
        for number in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(number) else { continue };
            match line.state {
                State::Up { .. } => {
                    line.state = State::SigningOff { deadline: now + self.config.answer_timeout };
                    self.send_network(number, NetworkCode::SignOff, wall);
                }
                State::SigningOn { .. } => self.disconnect(number, DisconnectReason::SignedOff),
                State::Down | State::SigningOff { .. } => {}
            }
        }
    }

    fn send_network(&mut self, line: usize, code: NetworkCode, wall: Timestamp) {
        self.network_stan = self.network_stan % 999_999 + 1;
        if let Some(line) = self.lines.get_mut(line) {
            line.network_stan = self.network_stan;
        }
        if let Ok(trace) = Trace::new(self.network_stan, wall) {
            self.send(line, &code.message(trace));
        }
    }

    fn send(&mut self, line: usize, message: &Message) {
        self.outputs.push_back(Output::Send(line, self.config.framing.frame(&self.config.codec.encode(message))));
    }
}
