//! What goes into a session, what comes out, and what can be asked of it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bgp_wire::{Asn, AttributeError, Context, Family, HoldTime, Message, Notification, Role, RouterId, Update};
use cloakway_types::Instant;
use ipnet::IpNet;

use super::limit::MaxPrefix;
use super::restart::{Helper, PeerRestart};
use crate::flow::Flows;
use crate::injector::Routes;
use crate::prefix_list::Filter;

/// What the operator settled for a peer.
#[derive(Debug, Clone, PartialEq)]
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
    /// What the peer is told.
    pub export: Export,
    /// What else the session may do.
    pub options: Options,
}

impl Settings {
    /// Whether the peer is in our own AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.local_as == self.remote_as
    }
}

/// Which routes a peer is told (RFC 8212: an external one none, unless the operator says so).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// None.
    Nothing,
    /// The private routes.
    Private,
    /// What is injected in sets and is not private.
    Injected,
    /// The private routes and what is injected in sets.
    All,
}

/// What a session does only if the operator asks for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Wait this long for the peer's OPEN before sending ours (RFC 4271 §8.1.1, DelayOpen).
    pub delay_open: Option<Duration>,
    /// Offer path identifiers in both directions (RFC 7911).
    pub add_path: bool,
    /// What we are to an external peer (RFC 9234).
    pub role: Option<RoleSetting>,
    /// Offer flow specifications for packets of both families (RFC 8955, RFC 8956).
    pub flow: bool,
    /// Hand out what the peer says of routes: [`Output::Heard`].
    pub import: bool,
    /// Other peers' routes are told by [`Session::teller`]: End-of-RIB waits for [`Session::passed_on`].
    pub pass_on: bool,
    /// An internal peer that does not follow RFC 9494 is told of long-lived stale routes all the same (§4.6).
    pub pass_on_stale: bool,
    /// Take a peer of any of these, instead of the one; all are internal or all are external.
    pub remote_as_among: Vec<RangeInclusive<Asn>>,
    /// Have the peer keep what is to be kept for so many seconds or longer, and that for so many, when we are gone, if it
    /// follows RFC 9494.
    pub keep: Option<u32>,
    /// Of the sets, the peer is told these alone.
    pub sets: Option<SetNames>,
    /// The peer's address, by which a flow rule says whom it is for; without it, the peer is told what is for all.
    pub address: Option<IpAddr>,
    /// How many routes the peer may tell: [`Input::Held`] says how many there are.
    pub max_prefix: Option<MaxPrefix>,
    /// Keep the peer's routes for a while when it is gone.
    pub helper: Option<Helper>,
    /// What of [`Settings::export`] the peer is told.
    pub filter: Filter,
}

/// Names of sets. A name stands for those, too, that begin with it and a slash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetNames(Arc<BTreeSet<String>>);

impl SetNames {
    /// Whether `set` is among them.
    #[must_use]
    pub fn has(&self, set: &str) -> bool {
        let mut heads = set.match_indices('/').filter_map(|(at, _)| set.get(..at));
        self.0.contains(set) || heads.any(|head| self.0.contains(head))
    }
}

impl SetNames {
    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

impl FromIterator<String> for SetNames {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(Arc::new(names.into_iter().collect()))
    }
}

/// Our role towards an external peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleSetting {
    /// What we are.
    pub role: Role,
    /// Refuse a peer that does not say what it is (RFC 9234 §4.2).
    pub strict: bool,
}

/// One connection to the peer, named for as long as the session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(super) u64);

/// What the shell tells the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The operator wants the session.
    Start,
    /// The operator ends it: NOTIFICATION Cease, Administrative Shutdown, with a word to the peer's operator (RFC 9003)
    /// unless it is empty.
    Stop(&'a str),
    /// So many routes of a family that the peer told are kept.
    Held(Family, usize),
    /// The operator ends the process, and wants something kept: what is not to be kept is withdrawn first. Once
    /// [`Session::has_left`], [`Input::Left`] is due; without it [`Input::Stop`].
    Leave,
    /// Everything that was to be withdrawn is: the connection ends without a word, so that the peer keeps the rest.
    Left,
    /// The operator no longer knows the peer: Cease, Peer De-configured.
    Remove,
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
    /// The socket takes nothing more of what was sent.
    Stalled(LinkId),
    /// The socket took some of what had stalled; `all`: nothing is left.
    Took {
        /// Which connection.
        link: LinkId,
        /// Nothing is left.
        all: bool,
    },
    /// Bidirectional forwarding detection lost the peer (RFC 9384).
    PathLost(&'a str),
    /// The private routes to announce from now on, with the rules that go with them.
    Routes(Arc<Routes>),
    /// The injected flow rules to announce from now on.
    Flows(Arc<Flows>),
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
    /// What the peer says of routes, between [`Event::Up`] and [`Event::Down`]; with [`Options::import`], but for
    /// [`Heard::Wants`].
    Heard(Heard),
    /// For logs and counters.
    Event(Event),
}

/// What an Established peer says of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Routes come and go. [`Update::reachable`] and [`Update::unreachable`] say which, with RFC 7606 obeyed; families
    /// that were not agreed on, or are no longer listened to, are taken out.
    Update(Box<Update>),
    /// All routes of the family were told (RFC 4724 §2).
    EndOfRib(Family),
    /// All routes of the family were told, as far as can be known: the peer marks no end.
    Settled(Family),
    /// The peer tells a family again: from here (RFC 7313, BoRR).
    RefreshBegins(Family),
    /// That was all of the family: what was not told again is gone (RFC 7313, EoRR).
    RefreshEnds(Family),
    /// The peer wants the family again (RFC 2918); with [`Options::pass_on`] only.
    Wants(Family),
    /// Just before [`Event::Down`]: what was told of the family is outdated and stays for now (RFC 4724 §4.2).
    Stale(Family),
    /// What is outdated of the family becomes the least preferred, and goes if it is marked NO_LLGR (RFC 9494 §4.2).
    LongLived(Family),
    /// What is outdated of the family goes.
    Sweep(Family),
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
    /// A prefix of multicast groups came among those of hosts, and is left out (RFC 4271 §6.3): told once in a session.
    MulticastPrefix(IpNet),
    /// An UPDATE was so damaged that the family is no longer listened to in this session (RFC 7606 §2).
    FamilyDisabled(Family),
    /// The same of flow rules for packets of the family.
    FlowDisabled(Family),
    /// The peer has told nearly as many routes as it may, or more: each is told once in a session.
    ManyPrefixes {
        /// Of which family.
        family: Family,
        /// How many.
        held: usize,
        /// How many it may.
        limit: usize,
    },
    /// The peer passes on a route that it must keep (RFC 9234 §5): told once in a session, counted always.
    RouteLeak(IpNet),
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
    /// We ended TCP without a word, so that the peer keeps what is to be kept.
    Left,
    /// The peer, which restarts gracefully, has opened another connection (RFC 4724 §5).
    ConnectedAnew,
    /// TCP never came to be.
    ConnectFailed(String),
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { notification, detail } => write!(f, "sent {notification}: {detail}"),
            Self::Received(notification) => write!(f, "received {notification}"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::Left => f.write_str("left without a word: the peer keeps what is to be kept"),
            Self::ConnectedAnew => f.write_str("the peer has restarted: it connects anew"),
            Self::ConnectFailed(reason) => write!(f, "cannot connect: {reason}"),
        }
    }
}

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub asn: Asn,
    /// The peer's router id.
    pub router_id: RouterId,
    /// The smaller of both offers.
    pub hold_time: HoldTime,
    /// Families that both take.
    pub families: BTreeSet<Family>,
    /// How our messages are written.
    pub context: Context,
    /// How the peer's messages read.
    pub incoming: Context,
    /// The peer keeps what is to be kept when we are gone, and drops what is marked NO_LLGR (RFC 9494).
    pub keeps: bool,
    /// A NOTIFICATION leaves routes in place, Hard Reset does not (RFC 8538).
    pub notification_restart: bool,
    /// What is kept of the peer's routes when it is gone.
    pub restart: Option<Box<PeerRestart>>,
    /// The peer knows what long-lived stale means (RFC 9494).
    pub long_lived: bool,
    /// The peer marks the end of its routes for sure: both offer graceful restart (RFC 4724 §2).
    pub marks_end: bool,
    /// The peer answers a request for routes (RFC 2918).
    pub route_refresh: bool,
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
    pub(super) fn count(&mut self, message: &Message) {
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
    /// Flow rules that came, and may since have gone.
    pub flow_announced: u64,
    /// Flow rules that went.
    pub flow_withdrawn: u64,
    /// Damaged UPDATEs that were borne with.
    pub flaws: u64,
    /// Prefixes of ours that the peer announced.
    pub private_received: u64,
    /// Routes that the peer should have kept (RFC 9234 §5).
    pub leaks: u64,
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
    /// How many flow rules the peer was told of and not told otherwise.
    pub flow_advertised: usize,
    /// How many of the peer's flow rules are kept to be shown.
    pub flow_heard: usize,
    /// Why the last connection ended.
    pub last_down: Option<Down>,
    /// Totals.
    pub counters: Counters,
}
