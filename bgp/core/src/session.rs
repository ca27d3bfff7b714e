//! One peer: the state machine of RFC 4271 §8, over as many connections as the two ends open.
//!
//! ```text
//!  Idle ──Start / wait over──> Connect ──connected──> OpenSent ──OPEN──> OpenConfirm ──KEEPALIVE──> Established
//!   ^                            │  ^                    │                    │                          │
//!   │                    refused │  │ retry      TCP end │        error, NOTIFICATION, hold timer        │
//!   │                            v  │                    v                    │                          │
//!   └──────────── damped ─────── Active <────────────────┘                    └────────> Idle <──────────┘
//! ```
//! Two connections may cross while neither is Established; the router ids decide which stays (§6.8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bgp_wire::{
    Asn, AttributeError, Capability, Context, ErrorCode, Family, Framer, HoldTime, Message, Notification, Open,
    RouterId, Update,
};
use cloakway_types::Instant;
use ipnet::IpNet;

use crate::export::Exporter;
use crate::feed::Feed;
use crate::injector::Routes;
use crate::jitter::{Backoff, Jitter};

/// Patience for the peer's OPEN (RFC 4271 §8.2.2 suggests four minutes).
const OPEN_WAIT: Duration = Duration::from_secs(240);
/// Patience for the handshake of TCP.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// The longest wait between attempts to connect.
const CONNECT_RETRY_LIMIT: Duration = Duration::from_secs(10);
/// The longest wait after a session that ended in an error (RFC 4271 §8.1.1, DampPeerOscillations).
const IDLE_HOLD_LIMIT: Duration = Duration::from_secs(60);
/// A session that lasted this long clears what earlier failures added to the waits.
const STABLE: Duration = Duration::from_secs(60);

/// What the operator settled for a peer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our AS.
    pub local_as: Asn,
    /// Our router id.
    pub router_id: RouterId,
    /// The peer's AS; the same as ours makes the session internal.
    pub remote_as: Asn,
    /// What we offer.
    pub hold_time: HoldTime,
    /// Wait for the peer to connect, never connect.
    pub passive: bool,
    /// Prefixes that are ours alone: hearing one from the peer is reported (A3).
    pub private: BTreeSet<IpNet>,
}

/// One connection to the peer, named for as long as the session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

/// What the shell tells the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The operator wants the session.
    Start,
    /// The operator ends it: NOTIFICATION Cease, Administrative Shutdown.
    Stop,
    /// The connection that [`Output::Connect`] asked for stands.
    Connected(LinkId),
    /// It could not be made, for the reason given.
    ConnectFailed(LinkId, &'a str),
    /// The peer connected; the id is from [`Session::new_link`].
    Accepted(LinkId),
    /// Bytes from the peer.
    Received(LinkId, &'a [u8]),
    /// The peer closed, or the connection broke.
    Closed(LinkId),
    /// The routes to announce from now on.
    Routes(Arc<Routes>),
    /// [`Session::poll_timeout`] has come.
    Tick,
}

/// What the session tells the shell, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to the peer.
    Connect(LinkId),
    /// Send these bytes.
    Send(LinkId, Vec<u8>),
    /// Send what is unsent, then close; nothing more is heard of the connection. Also ends an attempt to connect.
    Close(LinkId),
    /// For logs and counters.
    Event(Event),
}

/// Something that an operator wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Established.
    Up(Negotiated),
    /// Established no more.
    Down(Down),
    /// A connection ended before it was Established; attempts that fail alike are told once.
    Failed(Down),
    /// An UPDATE was damaged and borne with (RFC 7606): told once for each attribute in a session, counted always.
    Flaw(AttributeError),
    /// The peer announces a prefix inside `ours`: told once for each of ours in a session, counted always.
    PrivatePrefixReceived {
        /// What was received.
        received: IpNet,
        /// The private prefix that holds it.
        ours: IpNet,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// We said so; `detail` is the finding.
    Sent {
        /// The NOTIFICATION.
        notification: Notification,
        /// What exactly was wrong.
        detail: String,
    },
    /// The peer said so.
    Received(Notification),
    /// TCP ended without a word.
    ConnectionLost,
    /// TCP never came to be.
    ConnectFailed(String),
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { notification, detail } => write!(f, "sent {notification}: {detail}"),
            Self::Received(notification) => write!(f, "received {notification}"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::ConnectFailed(reason) => write!(f, "cannot connect: {reason}"),
        }
    }
}

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's router id.
    pub router_id: RouterId,
    /// The smaller of both offers.
    pub hold_time: HoldTime,
    /// Families that both take.
    pub families: BTreeSet<Family>,
    /// How messages read.
    pub context: Context,
}

/// The states of RFC 4271 §8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not wanted, or waiting after an error.
    Idle,
    /// TCP handshake under way.
    Connect,
    /// Waiting for the peer, or for the next attempt.
    Active,
    /// Our OPEN is sent.
    OpenSent,
    /// The peer's OPEN is accepted.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// Messages by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub route_refresh: u64,
}

impl MessageCounts {
    fn count(&mut self, message: &Message) {
        match message {
            Message::Open(_) => self.open += 1,
            Message::Update(_) => self.update += 1,
            Message::Notification(_) => self.notification += 1,
            Message::KeepAlive => self.keepalive += 1,
            Message::RouteRefresh(_) => self.route_refresh += 1,
        }
    }

    /// Of all types.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.route_refresh
    }
}

/// Counted since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages received and understood.
    pub received: MessageCounts,
    /// Messages sent.
    pub sent: MessageCounts,
    /// Times that the session was Established.
    pub established: u64,
    /// Times that it was Established no more.
    pub flaps: u64,
    /// Prefixes that came, and may since have gone.
    pub prefixes_announced: u64,
    /// Prefixes that went.
    pub prefixes_withdrawn: u64,
    /// Damaged UPDATEs that were borne with.
    pub flaws: u64,
    /// Prefixes of ours that the peer announced.
    pub private_received: u64,
}

/// The session as an operator sees it.
#[derive(Debug, Clone)]
pub struct Status {
    /// The furthest state of any connection.
    pub state: State,
    /// When it was entered.
    pub since: Instant,
    /// While Established.
    pub negotiated: Option<Negotiated>,
    /// Prefixes that the peer was told of and not told otherwise.
    pub advertised: Vec<IpNet>,
    /// Why the last connection ended.
    pub last_down: Option<Down>,
    /// Totals.
    pub counters: Counters,
}

#[derive(Debug)]
enum Link {
    Connecting { until: Instant },
    Open { outgoing: bool, phase: Phase, framer: Framer, hold_until: Option<Instant>, keepalive_at: Option<Instant> },
}

#[derive(Debug, Clone)]
enum Phase {
    OpenSent,
    OpenConfirm(Negotiated),
    Established(Negotiated),
}

/// What the session does when it has no connection and makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Not wanted.
    Stopped,
    /// Waits after an error; the peer may not connect.
    Idle { until: Instant },
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
    pub(crate) feed: Feed,
    reported_private: BTreeSet<IpNet>,
    reported_flaws: BTreeSet<u8>,
    output: VecDeque<Output>,
    counters: Counters,
    last_down: Option<Down>,
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
            feed: Feed::default(),
            reported_private: BTreeSet::new(),
            reported_flaws: BTreeSet::new(),
            output: VecDeque::new(),
            counters: Counters::default(),
            last_down: None,
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
            Input::Stop => self.stop(now),
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
            Input::Routes(routes) => {
                self.routes = routes;
                self.announce();
            }
            Input::Tick => self.tick(now),
        }
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
            Rest::Stopped => None,
        };
        let links = self.links.values().flat_map(|link| match link {
            Link::Connecting { until } => [Some(*until), None],
            Link::Open { hold_until, keepalive_at, .. } => [*hold_until, *keepalive_at],
        });
        links.chain([rest]).flatten().min()
    }

    /// For operators.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            since: self.since,
            negotiated: self.established().map(|(_, negotiated)| negotiated.clone()),
            advertised: self.advertised.keys().copied().collect(),
            last_down: self.last_down.clone(),
            counters: self.counters,
        }
    }

    /// What the peer was told and not told otherwise; empty unless Established.
    #[must_use]
    pub fn advertised(&self) -> &Routes {
        &self.advertised
    }

    fn current_state(&self) -> State {
        let rest = match self.rest {
            Rest::Stopped | Rest::Idle { .. } => State::Idle,
            Rest::Active { .. } => State::Active,
        };
        let links = self.links.values().map(|link| match link {
            Link::Connecting { .. } => State::Connect,
            Link::Open { phase: Phase::OpenSent, .. } => State::OpenSent,
            Link::Open { phase: Phase::OpenConfirm(_), .. } => State::OpenConfirm,
            Link::Open { phase: Phase::Established(_), .. } => State::Established,
        });
        links.max().unwrap_or(rest)
    }

    fn is_internal(&self) -> bool {
        self.settings.local_as == self.settings.remote_as
    }

    fn established(&self) -> Option<(LinkId, &Negotiated)> {
        self.links.iter().find_map(|(id, link)| match link {
            Link::Open { phase: Phase::Established(negotiated), .. } => Some((*id, negotiated)),
            _ => None,
        })
    }

    fn event(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    fn send(&mut self, id: LinkId, message: &Message) {
        self.counters.sent.count(message);
        // Everything sent by this way is short and the same to two-octet and four-octet speakers.
        let bytes = message.encode(Context::default()).expect("OPEN, KEEPALIVE and NOTIFICATION of ours are short");
        self.output.push_back(Output::Send(id, bytes));
    }

    /// Connects, or waits for the peer to.
    fn begin(&mut self, now: Instant) {
        self.rest = Rest::Active { retry_at: None };
        if !self.settings.passive {
            let id = self.new_link();
            self.links.insert(id, Link::Connecting { until: now + CONNECT_WAIT });
            self.output.push_back(Output::Connect(id));
        }
    }

    fn connect_failed(&mut self, reason: &str, now: Instant) {
        let why = Down::ConnectFailed(reason.to_owned());
        if self.last_down.as_ref() != Some(&why) {
            self.event(Event::Failed(why.clone()));
            self.last_down = Some(why);
        }
        self.rest_active(now);
    }

    /// Waits for the peer, and for the next attempt unless a connection is there or we never connect.
    fn rest_active(&mut self, now: Instant) {
        let wait = self.connect_backoff.next(&mut self.jitter);
        let retry = self.links.is_empty() && !self.settings.passive;
        self.rest = Rest::Active { retry_at: retry.then_some(now + wait) };
    }

    fn opened(&mut self, id: LinkId, outgoing: bool, now: Instant) {
        let link = Link::Open {
            outgoing,
            phase: Phase::OpenSent,
            framer: Framer::default(),
            hold_until: Some(now + OPEN_WAIT),
            keepalive_at: None,
        };
        self.links.insert(id, link);
        let settings = &self.settings;
        let open = Open::new(settings.local_as, settings.hold_time, settings.router_id, Family::ALL);
        self.send(id, &Message::Open(open));
    }

    fn accepted(&mut self, id: LinkId, now: Instant) {
        match self.rest {
            Rest::Stopped | Rest::Idle { .. } => {
                self.send(id, &Message::Notification(ErrorCode::CONNECTION_REJECTED.into()));
                self.output.push_back(Output::Close(id));
                return;
            }
            Rest::Active { .. } => {}
        }
        // The peer gave up an earlier connection of its own that got nowhere.
        let stale: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                matches!(link, Link::Open { outgoing: false, phase: Phase::OpenSent | Phase::OpenConfirm(_), .. })
            })
            .map(|(id, _)| *id)
            .collect();
        for stale in stale {
            self.refuse(stale, ErrorCode::CONNECTION_COLLISION.into(), "the peer connected anew".to_owned());
        }
        self.rest = Rest::Active { retry_at: None };
        self.opened(id, false, now);
    }

    /// Sends `notification` and closes, without consequences for the session.
    fn refuse(&mut self, id: LinkId, notification: Notification, detail: String) {
        if let Some(link) = self.links.remove(&id) {
            if let Link::Open { .. } = link {
                self.send(id, &Message::Notification(notification.clone()));
                self.event(Event::Failed(Down::Sent { notification, detail }));
            }
            self.output.push_back(Output::Close(id));
        }
    }

    fn closed(&mut self, id: LinkId, now: Instant) {
        match self.links.get(&id) {
            // RFC 4271 §8.2.2, OpenSent, event 18: to Active, not to Idle.
            Some(Link::Open { phase: Phase::OpenSent, .. }) => {
                self.links.remove(&id);
                self.last_down = Some(Down::ConnectionLost);
                self.event(Event::Failed(Down::ConnectionLost));
                self.rest_active(now);
            }
            Some(Link::Connecting { .. }) => {
                self.links.remove(&id);
                self.connect_failed("the connection ended while it was made", now);
            }
            Some(Link::Open { .. }) => self.lost(id, Down::ConnectionLost, now),
            None => {}
        }
    }

    /// Ends a connection over something that we found.
    fn fail(&mut self, id: LinkId, notification: Notification, detail: String, now: Instant) {
        self.send(id, &Message::Notification(notification.clone()));
        self.output.push_back(Output::Close(id));
        self.lost(id, Down::Sent { notification, detail }, now);
    }

    /// A connection is gone: tidy up, and wait before the next if it was the only one.
    fn lost(&mut self, id: LinkId, why: Down, now: Instant) {
        let Some(link) = self.links.remove(&id) else { return };
        let was_established = matches!(link, Link::Open { phase: Phase::Established(_), .. });
        if was_established {
            self.counters.flaps += 1;
            self.advertised.clear();
            self.feed.stop();
            self.reported_private.clear();
            self.reported_flaws.clear();
            if now.since(self.since) >= STABLE {
                self.idle_backoff.reset();
            }
            self.event(Event::Down(why.clone()));
        } else {
            self.event(Event::Failed(why.clone()));
        }
        self.last_down = Some(why);
        if self.links.is_empty() {
            self.rest = Rest::Idle { until: now + self.idle_backoff.next(&mut self.jitter) };
        }
    }

    fn stop(&mut self, now: Instant) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            match self.links.get(&id) {
                Some(Link::Open { .. }) => {
                    let detail = "stopped by the operator".to_owned();
                    self.fail(id, ErrorCode::ADMINISTRATIVE_SHUTDOWN.into(), detail, now);
                }
                Some(Link::Connecting { .. }) | None => {
                    self.links.remove(&id);
                    self.output.push_back(Output::Close(id));
                }
            }
        }
        self.rest = Rest::Stopped;
    }

    fn tick(&mut self, now: Instant) {
        match self.rest {
            Rest::Idle { until } if until <= now => self.begin(now),
            Rest::Active { retry_at: Some(at) } if at <= now => self.begin(now),
            Rest::Idle { .. } | Rest::Active { .. } | Rest::Stopped => {}
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            match self.links.get_mut(&id) {
                Some(Link::Connecting { until }) if *until <= now => {
                    self.links.remove(&id);
                    self.output.push_back(Output::Close(id));
                    self.connect_failed("no answer in time", now);
                }
                Some(Link::Open { hold_until: Some(until), .. }) if *until <= now => {
                    self.fail(id, ErrorCode::HOLD_TIMER_EXPIRED.into(), "the peer is silent".to_owned(), now);
                }
                Some(Link::Open {
                    phase: Phase::OpenConfirm(negotiated) | Phase::Established(negotiated),
                    keepalive_at: Some(at),
                    ..
                }) if *at <= now => {
                    let hold_time = negotiated.hold_time;
                    self.keepalive(id, hold_time, now);
                }
                _ => {}
            }
        }
    }

    /// Sends a KEEPALIVE and plans the next, at a third of the hold time (RFC 4271 §4.4, §10).
    fn keepalive(&mut self, id: LinkId, hold_time: HoldTime, now: Instant) {
        let interval = hold_time.duration().map(|hold| self.jitter.apply(hold / 3));
        if let Some(Link::Open { keepalive_at, .. }) = self.links.get_mut(&id) {
            *keepalive_at = interval.map(|interval| now + interval);
        }
        self.send(id, &Message::KeepAlive);
    }

    fn received(&mut self, id: LinkId, bytes: &[u8], now: Instant) {
        if let Some(Link::Open { framer, .. }) = self.links.get_mut(&id) {
            framer.push(bytes);
        }
        // A message may end the connection; what follows it then no longer counts.
        while let Some(Link::Open { framer, phase, .. }) = self.links.get_mut(&id) {
            let context = match phase {
                Phase::OpenSent => Context::default(),
                Phase::OpenConfirm(negotiated) | Phase::Established(negotiated) => negotiated.context,
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
        match (phase.clone(), message) {
            // The peer is fine and does not want this connection. Were both ends to wait this out in Idle, where
            // each refuses the other, they could miss each other for ever.
            (Phase::OpenSent | Phase::OpenConfirm(_), Message::Notification(notification))
                if matches!(notification.error, ErrorCode::CONNECTION_REJECTED | ErrorCode::CONNECTION_COLLISION) =>
            {
                self.links.remove(&id);
                self.output.push_back(Output::Close(id));
                let why = Down::Received(notification);
                self.event(Event::Failed(why.clone()));
                self.last_down = Some(why);
                self.rest_active(now);
            }
            (_, Message::Notification(notification)) => {
                self.output.push_back(Output::Close(id));
                self.lost(id, Down::Received(notification), now);
            }
            (Phase::OpenSent, Message::Open(open)) => self.opening(id, &open, now),
            (Phase::OpenConfirm(negotiated), Message::KeepAlive) => self.establish(id, negotiated),
            (Phase::Established(_), Message::KeepAlive) => {}
            (Phase::Established(_), Message::Update(update)) => self.update(&update),
            (Phase::Established(negotiated), Message::RouteRefresh(refresh)) => {
                // A family that was not negotiated, or a subtype that was not offered, is ignored (RFC 2918 §4).
                if let Some(family) = Family::from_codes(refresh.afi, refresh.safi)
                    && refresh.subtype == 0
                    && negotiated.families.contains(&family)
                {
                    self.feed.refresh(family);
                    self.advertised.retain(|prefix, _| Family::of(prefix) != family);
                    self.announce();
                }
            }
            (Phase::OpenSent, Message::Update(_) | Message::KeepAlive | Message::RouteRefresh(_)) => {
                self.unexpected(id, ErrorCode::UNEXPECTED_IN_OPEN_SENT, now);
            }
            (Phase::OpenConfirm(_), Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_)) => {
                self.unexpected(id, ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM, now);
            }
            (Phase::Established(_), Message::Open(_)) => {
                self.unexpected(id, ErrorCode::UNEXPECTED_IN_ESTABLISHED, now);
            }
        }
    }

    fn unexpected(&mut self, id: LinkId, error: ErrorCode, now: Instant) {
        self.fail(id, error.into(), "a message that this state does not take".to_owned(), now);
    }

    /// The peer's OPEN, in OpenSent.
    fn opening(&mut self, id: LinkId, open: &Open, now: Instant) {
        let negotiated = match self.negotiate(open) {
            Ok(negotiated) => negotiated,
            Err((notification, detail)) => return self.fail(id, notification, detail, now),
        };
        if !self.survives_collision(id, &negotiated) {
            return;
        }
        if let Some(Link::Open { phase, hold_until, .. }) = self.links.get_mut(&id) {
            *phase = Phase::OpenConfirm(negotiated.clone());
            *hold_until = negotiated.hold_time.duration().map(|hold| now + hold);
        }
        self.keepalive(id, negotiated.hold_time, now);
    }

    fn negotiate(&self, open: &Open) -> Result<Negotiated, (Notification, String)> {
        let settings = &self.settings;
        if open.asn() != settings.remote_as {
            let detail = format!("the peer is AS {}, the configuration says {}", open.asn(), settings.remote_as);
            return Err((ErrorCode::BAD_PEER_AS.into(), detail));
        }
        // RFC 6286 §2.2: the same identifier is an error inside one AS only.
        if self.is_internal() && open.router_id == settings.router_id {
            let detail = format!("the peer has our own router id {}", open.router_id);
            return Err((ErrorCode::BAD_IDENTIFIER.into(), detail));
        }
        // Without keepalives a peer whose host dies suddenly, or ours, would leave routes behind for ever.
        if open.hold_time.duration().is_none() && settings.hold_time.duration().is_some() {
            let detail = "the peer wants no keepalives: set a hold time there".to_owned();
            return Err((ErrorCode::UNACCEPTABLE_HOLD_TIME.into(), detail));
        }
        let families: BTreeSet<Family> = open.families().intersection(&Family::ALL.into()).copied().collect();
        if families.is_empty() {
            let wanted = Family::ALL.iter().flat_map(|family| Capability::Multiprotocol(*family).encode());
            let notification =
                Notification::new(ErrorCode::UNSUPPORTED_CAPABILITY, wanted.flatten().collect::<Vec<_>>());
            return Err((notification, "the peer takes neither IPv4 nor IPv6 unicast".to_owned()));
        }
        Ok(Negotiated {
            router_id: open.router_id,
            hold_time: settings.hold_time.negotiate(open.hold_time),
            families,
            context: Context {
                four_octet_as: open.four_octet_as().is_some(),
                external: !self.is_internal(),
                ..Context::LEAST
            },
        })
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

    fn establish(&mut self, id: LinkId, negotiated: Negotiated) {
        let others: Vec<LinkId> = self.links.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            let detail = "another connection is Established".to_owned();
            self.refuse(other, ErrorCode::CONNECTION_COLLISION.into(), detail);
        }
        if let Some(Link::Open { phase, .. }) = self.links.get_mut(&id) {
            *phase = Phase::Established(negotiated.clone());
        }
        self.rest = Rest::Active { retry_at: None };
        self.connect_backoff.reset();
        self.counters.established += 1;
        self.event(Event::Up(negotiated));
        self.announce();
        if let Some((id, exporter)) = self.exporter() {
            self.feed.start(&exporter.families);
            if !self.feed.on {
                self.send_updates(id, exporter.ends_of_rib());
            }
        }
    }

    pub(crate) fn exporter(&self) -> Option<(LinkId, Exporter)> {
        let (id, negotiated) = self.established()?;
        let exporter = Exporter {
            local_as: self.settings.local_as,
            context: negotiated.context,
            families: negotiated.families.clone(),
        };
        Some((id, exporter))
    }

    /// Sends what differs between the routes to announce and what the peer holds.
    fn announce(&mut self) {
        let Some((id, exporter)) = self.exporter() else { return };
        let routes = exporter.taken(&self.routes);
        self.send_updates(id, exporter.difference(&self.advertised, &routes));
        self.advertised = routes;
    }

    fn send_updates(&mut self, id: LinkId, updates: Vec<Vec<u8>>) {
        for bytes in updates {
            self.counters.sent.update += 1;
            self.output.push_back(Output::Send(id, bytes));
        }
    }

    pub(crate) fn count_updates(&mut self, sent: u64) {
        self.counters.sent.update += sent;
    }

    fn update(&mut self, update: &Update) {
        for flaw in &update.flaws {
            self.counters.flaws += 1;
            if self.reported_flaws.insert(flaw.code) {
                self.event(Event::Flaw(flaw.clone()));
            }
        }
        self.counters.prefixes_withdrawn += update.unreachable().count() as u64;
        for received in update.reachable() {
            self.counters.prefixes_announced += 1;
            let Some(ours) = self.settings.private.iter().copied().find(|ours| ours.contains(&received)) else {
                continue;
            };
            self.counters.private_received += 1;
            if self.reported_private.insert(ours) {
                self.event(Event::PrivatePrefixReceived { received, ours });
            }
        }
    }
}
