//! Listening to RADIUS between others, at an interface that sees it: a mirror port, or that of the server itself.
//!
//! Nothing is sent. A record counts once the server has acknowledged it, and both the record and the acknowledgement are genuine
//! by the secret that the NAS and the server share.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_types::{Instant, PrefixMap, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use toolbox_wire::frame::Udp;
use toolbox_wire::http::Source;
use toolbox_wire::radius::{Packet, code};

use super::service::{Client, Service};
use crate::ear::Ear;

/// How long a request waits for its answer.
const FRESH: Duration = Duration::from_secs(30);
/// Requests that wait; the oldest makes room.
const WAITING: usize = 65_536;
/// How long the reader waits before it looks after other things.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often the kernel is asked what it dropped.
const INTERVAL: Duration = Duration::from_secs(1);
/// Records that may wait for the disk; over it, frames wait in the kernel.
const LEARNING: usize = 16_384;

/// An interface to listen at.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in bindings, logs and metrics.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// The servers whose answers count.
    pub servers: PrefixMap<()>,
    /// Where they take accounting.
    pub accounting_ports: Vec<u16>,
    /// Where they take authentication.
    pub authentication_ports: Vec<u16>,
    /// Octets that may wait in the socket.
    pub buffer: usize,
}

/// A listener at one interface.
#[derive(Debug)]
pub struct Tap {
    settings: Settings,
    clients: Arc<PrefixMap<Arc<Client>>>,
    service: Service,
    asked: Asked,
    places: Arc<Semaphore>,
}

/// What became of something that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Asked,
    Learnt,
    Granted,
    Refused,
    Counted(&'static str),
}

impl Tap {
    /// A listener that knows the secrets of `clients`.
    #[must_use]
    pub fn new(settings: Settings, clients: Arc<PrefixMap<Arc<Client>>>, service: Service) -> Self {
        Self { settings, clients, service, asked: Asked::default(), places: Arc::new(Semaphore::new(LEARNING)) }
    }

    /// Opens the interface, and listens on a thread of its own until the stop.
    ///
    /// # Errors
    /// There is no such interface, or we may not listen (CAP_NET_RAW).
    pub fn start(mut self, stop: Stop) -> io::Result<()> {
        let Settings { interface, accounting_ports, authentication_ports, buffer, .. } = &self.settings;
        let ports = [accounting_ports.as_slice(), authentication_ports].concat();
        let mut ear = Ear::open(interface, &ports, *buffer, PATIENCE)?;
        let handle = Handle::current();
        self.service.tally().tapped(&self.settings.name, "learnt", 0);
        self.service.tally().kernel_dropped(&self.settings.interface, 0);
        let thread = std::thread::Builder::new().name("radius-tap".to_owned());
        thread.spawn(move || {
            let mut looked = clock::now();
            while !stop.is_told() {
                match ear.hear(clock::now) {
                    Ok(Some(datagram)) => self.heard(datagram, &handle),
                    Ok(None) => {}
                    Err(error) => {
                        // The interface went down; it may come back.
                        tracing::warn!(tap = self.settings.name, %error, "nothing is heard");
                        std::thread::sleep(INTERVAL);
                    }
                }
                let now = clock::now();
                if now.since(looked) >= INTERVAL {
                    looked = now;
                    self.service.tally().kernel_dropped(&self.settings.interface, ear.dropped());
                    self.several("fragments", ear.given_up(now).count);
                    let late = self.asked.forget(now);
                    self.several("unanswered", late);
                }
            }
        })?;
        Ok(())
    }

    fn count(&self, what: &'static str, more: u64) {
        self.service.tally().tapped(&self.settings.name, what, more);
    }

    fn heard(&mut self, datagram: Udp<'_>, handle: &Handle) {
        match self.datagram(datagram, handle) {
            Seen::Nothing | Seen::Asked => {}
            Seen::Learnt => self.count("learnt", 1),
            Seen::Granted => self.count("granted", 1),
            Seen::Refused => self.count("refused", 1),
            Seen::Counted(what) => self.count(what, 1),
        }
    }

    fn several(&self, what: &'static str, more: u64) {
        if more > 0 {
            self.count(what, more);
        }
    }

    fn takes(&self, port: u16) -> bool {
        self.settings.accounting_ports.contains(&port) || self.settings.authentication_ports.contains(&port)
    }

    fn datagram(&mut self, datagram: Udp<'_>, handle: &Handle) -> Seen {
        let Udp { source, destination, payload } = datagram;
        let is_server = |of: SocketAddr| self.settings.servers.lookup(of.ip()).is_some();
        let (asks, answers) =
            (self.takes(destination.port()) && is_server(destination), self.takes(source.port()) && is_server(source));
        if !asks && !answers {
            return Seen::Nothing;
        }
        let Ok(packet) = Packet::parse(payload) else { return Seen::Counted("malformed") };
        match packet.code() {
            code::ACCOUNTING_REQUEST | code::ACCESS_REQUEST if asks => {
                let key = Key { client: source, server: destination, identifier: packet.identifier() };
                let late = self.asked.ask(key, packet, clock::now(), clock::wall());
                self.several("unanswered", late);
                Seen::Asked
            }
            code::ACCOUNTING_RESPONSE | code::ACCESS_ACCEPT | code::ACCESS_REJECT | code::ACCESS_CHALLENGE
                if answers =>
            {
                let key = Key { client: destination, server: source, identifier: packet.identifier() };
                self.answer(key, packet, handle)
            }
            _ => Seen::Nothing,
        }
    }

    fn answer(&mut self, key: Key, answer: Packet<'_>, handle: &Handle) -> Seen {
        let Some((_, client)) = self.clients.lookup(key.client.ip()) else { return Seen::Counted("unknown-client") };
        let client = client.clone();
        let secret = client.secret.expose().as_bytes();
        let waiting = match self.asked.waiting.get_mut(&key) {
            None => return Seen::Counted("unasked"),
            // A copy: the same frame at another place of its way, or sent again.
            Some(Waiting { answered: true, .. }) => return Seen::Nothing,
            Some(waiting) => waiting,
        };
        let Ok(request) = Packet::parse(&waiting.bytes) else { return Seen::Nothing };
        let strict = client.require_message_authenticator;
        if answer.verify_response(&request.authenticator(), secret, false).is_err() {
            return Seen::Counted("not-genuine");
        }
        let Ok(verified) = request.verify_any(secret, strict) else { return Seen::Counted("not-genuine") };
        waiting.answered = true;
        match (request.code(), answer.code()) {
            (code::ACCOUNTING_REQUEST, code::ACCOUNTING_RESPONSE) => {
                let Ok(learnt) = self.service.learn(Source::RadiusTap, &client, &verified, waiting.arrival) else {
                    return Seen::Counted("unusable-record");
                };
                let Ok(place) = handle.block_on(self.places.clone().acquire_owned()) else { return Seen::Nothing };
                let service = self.service.clone();
                handle.spawn(async move {
                    service.durable(learnt.await);
                    drop(place);
                });
                Seen::Learnt
            }
            (code::ACCESS_REQUEST, code::ACCESS_ACCEPT) => match self.service.granted(&client, request, answer) {
                Ok(()) => Seen::Granted,
                Err(_) => Seen::Counted("unusable-record"),
            },
            (code::ACCESS_REQUEST, code::ACCESS_REJECT) => Seen::Refused,
            // What was asked goes on with another packet.
            (code::ACCESS_REQUEST, code::ACCESS_CHALLENGE) => Seen::Nothing,
            _ => Seen::Counted("not-genuine"),
        }
    }
}

/// What tells requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    client: SocketAddr,
    server: SocketAddr,
    identifier: u8,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    at: Instant,
    arrival: Timestamp,
    answered: bool,
}

/// Requests that were seen lately.
#[derive(Debug, Default)]
struct Asked {
    waiting: HashMap<Key, Waiting>,
    order: VecDeque<(Instant, Key)>,
}

impl Asked {
    /// How many requests had no answer until this one took their place.
    fn ask(&mut self, key: Key, packet: Packet<'_>, now: Instant, arrival: Timestamp) -> u64 {
        // Sent again, it is as old as it was.
        if self.waiting.get(&key).is_some_and(|known| known.bytes == packet.bytes()) {
            return 0;
        }
        let bytes = packet.bytes().to_vec();
        let before = self.waiting.insert(key, Waiting { bytes, at: now, arrival, answered: false });
        self.order.push_back((now, key));
        let full = if self.order.len() > WAITING { self.pop() } else { 0 };
        u64::from(before.is_some_and(|before| !before.answered)) + full
    }

    fn pop(&mut self) -> u64 {
        let Some((at, key)) = self.order.pop_front() else { return 0 };
        // Another one may have its place since.
        if self.waiting.get(&key).is_none_or(|waiting| waiting.at != at) {
            return 0;
        }
        self.waiting.remove(&key).map_or(0, |waiting| u64::from(!waiting.answered))
    }

    /// How many got no answer that we saw.
    fn forget(&mut self, now: Instant) -> u64 {
        let mut late = 0;
        while self.order.front().is_some_and(|(at, _)| now.since(*at) > FRESH) {
            late += self.pop();
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox_wire::radius::{Request, build_request};

    fn at(s: u64) -> Instant {
        Instant::after_origin(Duration::from_secs(s))
    }

    fn key(port: u16) -> Key {
        Key { client: ([192, 0, 2, 1], port).into(), server: ([192, 0, 2, 2], 1813).into(), identifier: 7 }
    }

    fn packet(session: &[u8]) -> Vec<u8> {
        build_request(Request::Accounting, 7, &[(44, session)], b"s", [0; 16], false).unwrap()
    }

    #[test]
    fn a_request_waits_half_a_minute_from_its_first_sending() {
        let mut asked = Asked::default();
        let (one, two) = (packet(b"one"), packet(b"two"));
        let arrival = Timestamp::from_secs;
        assert_eq!(asked.ask(key(1), Packet::parse(&one).unwrap(), at(0), arrival(0)), 0);
        assert_eq!(asked.ask(key(1), Packet::parse(&one).unwrap(), at(5), arrival(5)), 0);
        assert_eq!(asked.waiting[&key(1)].arrival, arrival(0));
        assert_eq!(asked.forget(at(30)), 0);
        assert_eq!(asked.forget(at(31)), 1);
        assert_eq!(asked.ask(key(1), Packet::parse(&one).unwrap(), at(40), arrival(40)), 0);
        assert_eq!(asked.ask(key(1), Packet::parse(&two).unwrap(), at(41), arrival(41)), 1, "another in its place");
        assert_eq!(asked.forget(at(71)), 0, "the first is counted already");
        asked.waiting.get_mut(&key(1)).unwrap().answered = true;
        assert_eq!(asked.forget(at(72)), 0);
        assert!(asked.waiting.is_empty() && asked.order.is_empty());
    }

    #[test]
    fn only_so_many_wait() {
        let mut asked = Asked::default();
        let one = packet(b"one");
        for port in 0..=u16::MAX {
            asked.ask(key(port), Packet::parse(&one).unwrap(), at(0), Timestamp::from_secs(0));
        }
        let more = Key { identifier: 8, ..key(0) };
        assert_eq!(asked.ask(more, Packet::parse(&one).unwrap(), at(0), Timestamp::from_secs(0)), 1);
        assert_eq!(asked.waiting.len(), WAITING);
    }
}
