//! The session (RFC 5880 §6).

use std::collections::VecDeque;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use cloakway_types::Instant;

use crate::packet::{Diagnostic, LENGTH, Packet, State};

/// No session that is not Up sends oftener (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// What the operator wants.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Between packets, both ways, once the session is up.
    pub interval: Duration,
    /// So many of ours missed mean that the path is down.
    pub multiplier: NonZeroU8,
    /// Our number for the session: no two of this host are the same.
    pub discriminator: NonZeroU32,
}

/// What the shell tells the session.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A datagram from the neighbour, which came with a TTL of 255.
    Received(&'a [u8]),
    /// [`Session::poll_timeout`] has come.
    Tick,
    /// The operator ends it.
    Stop,
}

/// What the session tells the shell, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram.
    Send([u8; LENGTH]),
    /// The path works, both ways.
    Up,
    /// It does no longer.
    Down(Diagnostic),
}

/// What the neighbour said last.
#[derive(Debug, Clone, Copy)]
struct Neighbour {
    discriminator: u32,
    required_receive: Duration,
    demand: bool,
}

/// Of one that says nothing (RFC 5880 §6.8.1).
const SILENT: Neighbour = Neighbour { discriminator: 0, required_receive: Duration::from_micros(1), demand: false };

/// A session with one neighbour.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    neighbour: Neighbour,
    polling: bool,
    send_at: Option<Instant>,
    detect_at: Option<Instant>,
    random: u64,
    output: VecDeque<Output>,
}

impl Session {
    /// Down, and sending at once. `seed` spreads the packets.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        Self {
            settings,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            neighbour: SILENT,
            polling: false,
            send_at: Some(now),
            detect_at: None,
            random: seed,
            output: VecDeque::new(),
        }
    }

    /// Takes an input; every octet in it is hostile.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Received(bytes) => {
                if let Ok(packet) = Packet::decode(bytes)
                    && (packet.yours == 0 || packet.yours == self.settings.discriminator.get())
                    && self.state != State::AdminDown
                {
                    self.received(&packet, now);
                }
            }
            Input::Tick => self.tick(now),
            Input::Stop => {
                if self.state != State::AdminDown {
                    self.enter(State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
                    self.send(false);
                    (self.send_at, self.detect_at) = (None, None);
                }
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.send_at, self.detect_at].into_iter().flatten().min()
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    fn desired_transmit(&self) -> Duration {
        if self.state == State::Up { self.settings.interval } else { self.settings.interval.max(SLOW) }
    }

    fn received(&mut self, packet: &Packet, now: Instant) {
        let pace = (self.neighbour.required_receive, self.desired_transmit());
        self.neighbour = Neighbour {
            discriminator: packet.mine,
            required_receive: packet.required_receive,
            demand: packet.demand && packet.state == State::Up,
        };
        if packet.is_final {
            self.polling = false;
        }
        // RFC 5880 §6.8.6, in its order.
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(State::Down, Diagnostic::NEIGHBOUR_DOWN);
            }
            (State::Down, State::Down) => self.enter(State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE);
            }
            _ => {}
        }
        let detection = self.settings.interval.max(packet.desired_transmit) * u32::from(packet.multiplier);
        self.detect_at = Some(now + detection);
        if packet.poll {
            self.send(true);
        }
        if pace != (self.neighbour.required_receive, self.desired_transmit()) {
            self.plan(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            self.neighbour = SILENT;
            if matches!(self.state, State::Init | State::Up) {
                self.enter(State::Down, Diagnostic::EXPIRED);
                // The neighbour may still hear us: it is told at once.
                self.send(false);
                self.plan(now);
            }
        }
        if self.send_at.is_some_and(|at| at <= now) {
            self.send(false);
            self.plan(now);
        }
    }

    fn enter(&mut self, state: State, diagnostic: Diagnostic) {
        let was_up = self.state == State::Up;
        self.state = state;
        self.diagnostic = diagnostic;
        // Our pace changes with the state: the neighbour has to confirm it (RFC 5880 §6.8.3).
        self.polling = state == State::Up;
        match (was_up, state) {
            (false, State::Up) => self.output.push_back(Output::Up),
            (true, State::AdminDown | State::Down | State::Init) => self.output.push_back(Output::Down(diagnostic)),
            _ => {}
        }
    }

    fn send(&mut self, answer: bool) {
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling && !answer,
            is_final: answer,
            demand: false,
            multiplier: self.settings.multiplier.get(),
            mine: self.settings.discriminator.get(),
            yours: self.neighbour.discriminator,
            desired_transmit: self.desired_transmit(),
            required_receive: self.settings.interval,
        };
        self.output.push_back(Output::Send(packet.encode()));
    }

    /// When the next packet is due: never in step with others, and not at all where none is wanted (RFC 5880 §6.8.7).
    fn plan(&mut self, now: Instant) {
        let told_to_be_silent = self.neighbour.demand && !self.polling;
        let wanted = !self.neighbour.required_receive.is_zero() && !told_to_be_silent;
        let interval = self.desired_transmit().max(self.neighbour.required_receive);
        let most = if self.settings.multiplier.get() == 1 { 900 } else { 1000 };
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let thousandths = 750 + u32::try_from((self.random >> 33) % (most - 749)).unwrap_or_default();
        self.send_at = wanted.then(|| now + interval.saturating_mul(thousandths) / 1000);
    }
}
