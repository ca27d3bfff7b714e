//! A session on a bench, and a scripted peer.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{
    Event, Export, Guard, Heard, Input, LinkId, Options, Output, PrivateRoute, Routes, Session, Settings, State,
};
use bgp_wire::{Asn, Context, ErrorCode, Family, HoldTime, Message, Notification, Open, RouterId};
use cloakway_types::Instant;

pub const PRIVATE: &str = "203.0.113.200/32";
pub const PRIVATE_V6: &str = "2001:db8:c10a::200/128";

pub fn at(seconds: u64) -> Instant {
    Instant::after_origin(Duration::from_secs(seconds))
}

pub fn router_id(text: &str) -> RouterId {
    RouterId::new(text.parse::<Ipv4Addr>().unwrap()).unwrap()
}

pub fn hold(seconds: u16) -> HoldTime {
    HoldTime::from_secs(seconds).unwrap()
}

pub fn settings() -> Settings {
    Settings {
        local_as: Asn(64500),
        router_id: router_id("10.0.0.5"),
        remote_as: Asn(64500),
        hold_time: hold(90),
        passive: false,
        private: [PRIVATE.parse().unwrap()].into(),
        export: Export::Private,
        options: Options::default(),
    }
}

pub fn routes(prefixes: &[&str]) -> Arc<Routes> {
    let route = |prefix: &&str| {
        let next_hop = if prefix.contains(':') { "2001:db8:5100:1::2" } else { "198.51.100.2" };
        PrivateRoute::new(prefix.parse().unwrap(), next_hop.parse().unwrap(), Guard::NoExport, Vec::new()).unwrap()
    };
    Arc::new(prefixes.iter().map(route).map(|route| (route.prefix(), route)).collect())
}

pub fn peer_open() -> Open {
    Open::new(Asn(64500), hold(30), router_id("10.0.0.9"), Family::ALL)
}

pub fn encode(message: Message) -> Vec<u8> {
    message.encode(Context::default()).unwrap()
}

/// What the session puts out, for comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Connect,
    Open,
    KeepAlive,
    Update(String),
    Notification(ErrorCode, Vec<u8>),
    /// Family and subtype.
    Refresh(u16, u8),
    Close,
    Up,
    Down,
    Failed,
    Other(Event),
    Heard(Heard),
}

pub struct Bench {
    pub session: Session,
    pub link: Option<LinkId>,
    pub now: Instant,
    /// How the peer reads what we send.
    pub reading: Context,
}

impl Bench {
    pub fn new(settings: Settings) -> Self {
        Self { session: Session::new(settings, 1, at(0)), link: None, now: at(0), reading: Context::default() }
    }

    pub fn drain(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(output) = self.session.poll_output() {
            seen.push(match output {
                Output::Connect(id) => {
                    self.link = Some(id);
                    Seen::Connect
                }
                Output::Close(_) => Seen::Close,
                Output::Heard(heard) => Seen::Heard(heard),
                Output::Event(Event::Up(_)) => Seen::Up,
                Output::Event(Event::Down(_)) => Seen::Down,
                Output::Event(Event::Failed(_)) => Seen::Failed,
                Output::Event(event) => Seen::Other(event),
                Output::Send(_, bytes) => match Message::decode(&bytes, self.reading).unwrap() {
                    Message::Open(_) => Seen::Open,
                    Message::KeepAlive => Seen::KeepAlive,
                    Message::Notification(Notification { error, data }) => Seen::Notification(error, data),
                    Message::Update(update) => Seen::Update(match update.ends_rib_of() {
                        Some(family) => format!("end of {family}"),
                        None => {
                            let gone = update.unreachable().map(|prefix| format!("-{prefix}"));
                            gone.chain(update.reachable().map(|prefix| format!("+{prefix}")))
                                .collect::<Vec<_>>()
                                .join(" ")
                        }
                    }),
                    Message::RouteRefresh(refresh) => Seen::Refresh(refresh.afi, refresh.subtype),
                },
            });
        }
        seen
    }

    pub fn handle(&mut self, input: Input<'_>) -> Vec<Seen> {
        self.session.handle(input, self.now);
        self.drain()
    }

    pub fn tick_at(&mut self, now: Instant) -> Vec<Seen> {
        self.now = now;
        self.handle(Input::Tick)
    }

    pub fn hear(&mut self, message: Message) -> Vec<Seen> {
        self.hear_bytes(&encode(message))
    }

    pub fn hear_bytes(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let link = self.link.unwrap();
        self.handle(Input::Received(link, bytes))
    }

    pub fn open_sent(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        assert_eq!(bench.handle(Input::Start), [Seen::Connect]);
        assert_eq!(bench.state(), State::Connect);
        let link = bench.link.unwrap();
        assert_eq!(bench.handle(Input::Connected(link)), [Seen::Open]);
        assert_eq!(bench.state(), State::OpenSent);
        bench
    }

    pub fn open_confirm() -> Self {
        let mut bench = Self::open_sent(settings());
        assert_eq!(bench.hear(Message::Open(peer_open())), [Seen::KeepAlive]);
        assert_eq!(bench.state(), State::OpenConfirm);
        bench
    }

    pub fn established() -> Self {
        let mut bench = Self::open_confirm();
        let ends = ["end of ipv4-unicast", "end of ipv6-unicast"].map(|end| Seen::Update(end.to_owned()));
        assert_eq!(bench.hear(Message::KeepAlive), [&[Seen::Up], &ends[..]].concat());
        assert_eq!(bench.state(), State::Established);
        bench
    }

    pub fn state(&self) -> State {
        self.session.status().state
    }
}

pub fn refused(error: ErrorCode) -> [Seen; 3] {
    [Seen::Notification(error, vec![]), Seen::Close, Seen::Failed]
}

pub fn reset(error: ErrorCode) -> [Seen; 3] {
    [Seen::Notification(error, vec![]), Seen::Close, Seen::Down]
}
