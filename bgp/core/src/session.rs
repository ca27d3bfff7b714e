//! One peer: the state machine of RFC 4271 §8, over as many connections as the two ends open.
//!
//! ```text
//!  Idle ──Start / wait over──> Connect ──connected──> OpenSent ──OPEN──> OpenConfirm ──KEEPALIVE──> Established
//!   ^                            │  ^                    │                    │                          │
//!   │                    refused │  │ retry      TCP end │        error, NOTIFICATION, hold timer        │
//!   │                            v  │                    v                    │                          │
//!   └──────────── damped ─────── Active <────────────────┘                    └────────> Idle <──────────┘
//! ```
//! Two connections may cross; once both OPENs of a second one are in, the router ids decide which stays, and an
//! Established one always does (§6.8).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bgp_wire::{Context, ErrorCode, Family, Framer, Message, Notification, Open};
use cloakway_types::Instant;

use crate::flow::{FlowRoutes, Flows};
use crate::injector::Routes;
use crate::jitter::{Backoff, Jitter};

mod burst;
mod configure;
mod connections;
mod feed;
mod flow;
mod limit;
mod negotiation;
mod restart;
mod routes;
mod timers;
mod values;
mod why;

pub use configure::Configured;
pub use feed::Ends;
use feed::Feed;
pub use feed::Teller;
pub use flow::FlowHeard;
pub use limit::MaxPrefix;
use restart::Stale;
pub use restart::{Helper, PeerRestart};
use routes::Reported;
pub use values::{
    Counters, Down, Event, Export, Heard, Input, LinkId, MessageCounts, Negotiated, Options, Output, RoleSetting,
    SetNames, Settings, State, Status,
};
pub use why::NotTold;

/// The longest wait between attempts to connect.
const CONNECT_RETRY_LIMIT: Duration = Duration::from_secs(10);
/// The longest wait after a session that ended in an error (RFC 4271 §8.1.1, DampPeerOscillations).
const IDLE_HOLD_LIMIT: Duration = Duration::from_secs(60);
#[derive(Debug)]
enum Link {
    Connecting {
        until: Instant,
    },
    Open {
        outgoing: bool,
        phase: Phase,
        framer: Framer,
        hold_until: Option<Instant>,
        keepalive_at: Option<Instant>,
        /// Since the socket takes nothing (RFC 9687).
        send_hold_until: Option<Instant>,
    },
}

#[derive(Debug, Clone)]
enum Phase {
    /// Connected, and waiting for the peer's OPEN before ours is sent.
    Delayed,
    OpenSent,
    OpenConfirm(Arc<Negotiated>),
    Established(Arc<Negotiated>),
}

/// What the session does when it has no connection and makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Not wanted.
    Stopped,
    /// Waits after an error; the peer may not connect.
    Idle { until: Instant },
    /// Ended over too many routes, until the operator changes something; the peer may not connect.
    Held,
    /// The peer may connect; at `retry_at` we do.
    Active { retry_at: Option<Instant> },
}

/// The session with one peer.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    jitter: Jitter,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    rest: Rest,
    connect_backoff: Backoff,
    idle_backoff: Backoff,
    routes: Arc<Routes>,
    advertised: Routes,
    flows: Arc<Flows>,
    flow_advertised: FlowRoutes,
    flow_heard: flow::Heard,
    feed: Feed,
    reported: Reported,
    burst: burst::Burst,
    output: VecDeque<Output>,
    counters: Counters,
    last_down: Option<Down>,
    /// The process has started again, with routes of before, and the peer was not told yet.
    restarted: bool,
    /// The peer would keep routes without the rules that tell it which: it is offered nothing.
    keep_withheld: bool,
    /// What of the peer's is outdated.
    stale: BTreeMap<Family, Stale>,
    /// What the peer last said of its restarts.
    last_restart: Option<Box<PeerRestart>>,
    state: State,
    since: Instant,
}

impl Session {
    /// Stopped, with nothing to announce. `seed` spreads the timers.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        Self {
            settings,
            jitter: Jitter::new(seed),
            links: BTreeMap::new(),
            next_link: 0,
            rest: Rest::Stopped,
            connect_backoff: Backoff::new(CONNECT_RETRY_LIMIT),
            idle_backoff: Backoff::new(IDLE_HOLD_LIMIT),
            routes: Arc::default(),
            advertised: Routes::new(),
            flows: Arc::default(),
            flow_advertised: FlowRoutes::new(),
            flow_heard: flow::Heard::default(),
            feed: Feed::default(),
            reported: Reported::default(),
            burst: burst::Burst::default(),
            output: VecDeque::new(),
            counters: Counters::default(),
            last_down: None,
            restarted: false,
            keep_withheld: false,
            stale: BTreeMap::new(),
            last_restart: None,
            state: State::Idle,
            since: now,
        }
    }

    /// A name for a connection that the peer opened, for [`Input::Accepted`].
    pub fn new_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// Takes an input; every byte in it is hostile.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Start => {
                if self.rest == Rest::Stopped && self.links.is_empty() {
                    self.begin(now);
                }
            }
            Input::Stop(word) => self.stop(word, now),
            Input::Held(family, held) => self.held(family, held, now),
            Input::Leave => self.leave(),
            Input::Left => self.left(),
            Input::Remove => self.end(&ErrorCode::PEER_DECONFIGURED.into(), "no longer configured", now),
            Input::Connected(id) => {
                if let Some(Link::Connecting { .. }) = self.links.get(&id) {
                    self.opened(id, true, now);
                }
            }
            Input::ConnectFailed(id, reason) => {
                if self.links.remove(&id).is_some() {
                    self.connect_failed(reason, now);
                }
            }
            Input::Accepted(id) => self.accepted(id, now),
            Input::Received(id, bytes) => self.received(id, bytes, now),
            Input::Closed(id) => self.closed(id, now),
            Input::Stalled(id) => self.stalled(id, now),
            Input::Took { link, all } => self.took(link, all, now),
            Input::PathLost(why) => {
                if let Some((id, _)) = self.established() {
                    self.fail(id, ErrorCode::BFD_DOWN.into(), why.to_owned(), now);
                }
            }
            Input::Routes(routes) => {
                self.routes = routes;
                self.announce();
            }
            Input::Flows(flows) => {
                self.flows = flows;
                self.announce();
            }
            Input::Tick => self.tick(now),
        }
        self.note_state(now);
    }

    fn note_state(&mut self, now: Instant) {
        let state = self.current_state();
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rest = match self.rest {
            Rest::Idle { until } => Some(until),
            Rest::Active { retry_at } => retry_at,
            Rest::Stopped | Rest::Held => None,
        };
        let links = self.links.values().flat_map(|link| match link {
            Link::Connecting { until } => [Some(*until), None, None],
            Link::Open { hold_until, keepalive_at, send_hold_until, .. } => {
                [*hold_until, *keepalive_at, *send_hold_until]
            }
        });
        links.chain([rest, self.stale_timeout()]).flatten().min()
    }

    /// For operators.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            since: self.since,
            negotiated: self.established().map(|(_, negotiated)| negotiated.clone()),
            advertised: self.advertised.keys().copied().collect(),
            flow_advertised: self.flow_advertised.len(),
            flow_heard: self.flow_heard().len(),
            last_down: self.last_down.clone(),
            counters: self.counters,
        }
    }

    /// The connection of an Established session.
    #[must_use]
    pub fn established_link(&self) -> Option<LinkId> {
        self.established().map(|(id, _)| id)
    }

    /// What the peer was told and not told otherwise; empty unless Established.
    #[must_use]
    pub fn advertised(&self) -> &Routes {
        &self.advertised
    }

    /// What both ends agreed on for the connection, as soon as both OPENs are read.
    #[must_use]
    pub fn negotiated(&self, id: LinkId) -> Option<&Negotiated> {
        match self.links.get(&id)? {
            Link::Open { phase: Phase::OpenConfirm(negotiated) | Phase::Established(negotiated), .. } => {
                Some(negotiated)
            }
            Link::Open { .. } | Link::Connecting { .. } => None,
        }
    }

    fn current_state(&self) -> State {
        let rest = match self.rest {
            Rest::Stopped | Rest::Held | Rest::Idle { .. } => State::Idle,
            Rest::Active { .. } => State::Active,
        };
        let links = self.links.values().map(|link| match link {
            Link::Connecting { .. } | Link::Open { phase: Phase::Delayed, outgoing: true, .. } => State::Connect,
            Link::Open { phase: Phase::Delayed, outgoing: false, .. } => State::Active,
            Link::Open { phase: Phase::OpenSent, .. } => State::OpenSent,
            Link::Open { phase: Phase::OpenConfirm(_), .. } => State::OpenConfirm,
            Link::Open { phase: Phase::Established(_), .. } => State::Established,
        });
        links.max().unwrap_or(rest)
    }

    fn established(&self) -> Option<(LinkId, &Negotiated)> {
        self.links.iter().find_map(|(id, link)| match link {
            Link::Open { phase: Phase::Established(negotiated), .. } => Some((*id, negotiated.as_ref())),
            _ => None,
        })
    }

    fn event(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    fn send(&mut self, id: LinkId, message: &Message) {
        self.counters.sent.count(message);
        // Everything sent by this way is short and the same to two-octet and four-octet speakers.
        let bytes = message.encode(Context::default()).expect("what is no UPDATE of ours is short");
        self.output.push_back(Output::Send(id, bytes));
    }

    fn received(&mut self, id: LinkId, bytes: &[u8], now: Instant) {
        if let Some(Link::Open { framer, .. }) = self.links.get_mut(&id) {
            framer.push(bytes);
        }
        // A message may end the connection; what follows it then no longer counts.
        while let Some(Link::Open { framer, phase, .. }) = self.links.get_mut(&id) {
            let context = match phase {
                Phase::Delayed | Phase::OpenSent => Context::default(),
                Phase::OpenConfirm(negotiated) | Phase::Established(negotiated) => negotiated.incoming,
            };
            let message = match framer.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => Message::decode(frame, context),
                Err(error) => Err(error),
            };
            match message {
                Ok(message) => {
                    self.counters.received.count(&message);
                    self.message(id, message, now);
                }
                Err(error) => self.fail(id, error.notification(), error.to_string(), now),
            }
        }
    }

    fn message(&mut self, id: LinkId, message: Message, now: Instant) {
        let Some(Link::Open { phase, hold_until, .. }) = self.links.get_mut(&id) else { return };
        if let Phase::OpenConfirm(negotiated) | Phase::Established(negotiated) = phase
            && matches!(message, Message::KeepAlive | Message::Update(_))
        {
            *hold_until = negotiated.hold_time.duration().map(|hold| now + hold);
        }
        let kind = message.kind();
        match (phase.clone(), message) {
            // The peer is fine and does not want this connection. Were both ends to wait this out in Idle, where
            // each refuses the other, they could miss each other for ever.
            (Phase::OpenSent | Phase::OpenConfirm(_), Message::Notification(notification))
                if matches!(notification.error, ErrorCode::CONNECTION_REJECTED | ErrorCode::CONNECTION_COLLISION) =>
            {
                self.links.remove(&id);
                self.output.push_back(Output::Close(id));
                self.ended_early(Down::Received(notification));
                self.rest_active(now);
            }
            (_, Message::Notification(notification)) => {
                self.output.push_back(Output::Close(id));
                self.lost(id, Down::Received(notification), now);
            }
            (Phase::OpenSent, Message::Open(open)) => self.opening(id, &open, now),
            (Phase::OpenConfirm(negotiated), Message::KeepAlive) => self.establish(id, negotiated, now),
            (Phase::Established(_), Message::KeepAlive) => self.keepalive_came(now),
            (Phase::Established(negotiated), Message::Update(update)) => {
                self.update_came(now);
                self.update(update, &negotiated.families);
            }
            (Phase::Established(negotiated), Message::RouteRefresh(refresh)) => {
                self.refresh(id, &negotiated, refresh);
            }
            (Phase::Delayed, Message::Open(open)) => {
                self.end_delay(id, now);
                self.opening(id, &open, now);
            }
            (Phase::Delayed, Message::Update(_) | Message::KeepAlive | Message::RouteRefresh(_)) => {
                self.unexpected(id, (ErrorCode::UNEXPECTED_IN_OPEN_SENT, kind), now);
            }
            (Phase::OpenSent, Message::Update(_) | Message::KeepAlive | Message::RouteRefresh(_)) => {
                self.unexpected(id, (ErrorCode::UNEXPECTED_IN_OPEN_SENT, kind), now);
            }
            (Phase::OpenConfirm(_), Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_)) => {
                self.unexpected(id, (ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM, kind), now);
            }
            (Phase::Established(_), Message::Open(_)) => {
                self.unexpected(id, (ErrorCode::UNEXPECTED_IN_ESTABLISHED, kind), now);
            }
        }
    }

    /// RFC 6608 §4: the data is the type of what came.
    fn unexpected(&mut self, id: LinkId, (error, kind): (ErrorCode, u8), now: Instant) {
        let notification = Notification::new(error, [kind]);
        self.fail(id, notification, format!("a message of type {kind}, which this state does not take"), now);
    }

    /// The peer's OPEN, in OpenSent.
    fn opening(&mut self, id: LinkId, open: &Open, now: Instant) {
        let negotiated = match negotiation::negotiate(&self.settings, open, !self.keep_withheld) {
            // Looked at for every message: never copied.
            Ok(negotiated) => Arc::new(negotiated),
            Err((notification, detail)) => return self.fail(id, notification, detail, now),
        };
        if self.withholds_keep(id, open, now) || !self.survives_collision(id, &negotiated) {
            return;
        }
        if let Some(Link::Open { phase, hold_until, framer, .. }) = self.links.get_mut(&id) {
            framer.allow_extended_messages();
            *phase = Phase::OpenConfirm(negotiated.clone());
            *hold_until = negotiated.hold_time.duration().map(|hold| now + hold);
        }
        self.keepalive(id, negotiated.hold_time, now);
    }

    /// RFC 4271 §6.8: of two connections whose OPENs are in, the one stays that the higher router id opened.
    fn survives_collision(&mut self, id: LinkId, negotiated: &Negotiated) -> bool {
        let Some(Link::Open { outgoing, .. }) = self.links.get(&id) else { return false };
        let outgoing = *outgoing;
        let rivals = self.links.iter().filter_map(|(rival, link)| match link {
            Link::Open { phase: Phase::OpenConfirm(_), .. } if *rival != id => Some((*rival, false)),
            Link::Open { phase: Phase::Established(_), .. } => Some((*rival, true)),
            _ => None,
        });
        // RFC 6286 §2.3: between equal identifiers of two ASes the AS numbers decide.
        let ours = (self.settings.router_id, self.settings.local_as);
        let theirs = (negotiated.router_id, self.settings.remote_as);
        let keep_outgoing = ours > theirs;
        let rivals: Vec<(LinkId, bool)> = rivals.collect();
        for (rival, established) in rivals {
            let loser = if established || outgoing != keep_outgoing { id } else { rival };
            let detail = "another connection of this session stays".to_owned();
            self.refuse(loser, ErrorCode::CONNECTION_COLLISION.into(), detail);
            if loser == id {
                return false;
            }
        }
        true
    }

    fn establish(&mut self, id: LinkId, negotiated: Arc<Negotiated>, now: Instant) {
        // No more attempts of our own. A connection that stands already is tracked until its OPEN comes (§6.8).
        let attempts = self.links.extract_if(.., |_, link| matches!(link, Link::Connecting { .. }));
        self.output.extend(attempts.map(|(attempt, _)| Output::Close(attempt)));
        if let Some(Link::Open { phase, .. }) = self.links.get_mut(&id) {
            *phase = Phase::Established(negotiated.clone());
        }
        self.rest = Rest::Active { retry_at: None };
        self.connect_backoff.reset();
        self.counters.established += 1;
        self.restarted = false;
        self.burst = burst::Burst::default();
        self.event(Event::Up((*negotiated).clone()));
        self.back(&negotiated, now);
        self.announce();
        self.end_flow();
        if let Some((id, exporter)) = self.exporter() {
            self.feed.start(&exporter.families, self.settings.options.pass_on);
            let ends = self.ends().into_iter().map(|message| Output::Send(id, message));
            self.output.extend(ends);
        }
    }
}
