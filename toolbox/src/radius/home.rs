//! The ISP's own RADIUS servers, to which we pass on what we hear.
//!
//! A request is sent again until a server answers, then the next server is tried; one that was silent is asked last for a
//! while. Each request has an identifier of its own at a socket of its own choosing (RFC 2865 §3 gives 256 per socket).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_runtime::clock;
use cloakway_types::Instant;
use metrics::counter;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::timeout;
use toolbox_wire::radius::relay::{self, RelayError, Side};
use toolbox_wire::radius::{MAX_LENGTH, Packet, code};

use super::service::Later;

/// Sockets to one server: 256 requests each may be on their way.
const SOCKETS: usize = 64;
/// How long a server that was silent is asked last.
const REST: Duration = Duration::from_secs(30);

/// A server as configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in logs and metrics.
    pub name: String,
    /// Where it takes Accounting-Requests.
    pub accounting: Option<SocketAddr>,
    /// Where it takes Access-Requests.
    pub authentication: Option<SocketAddr>,
    /// The secret that we share with it.
    pub secret: Secret<String>,
}

/// How patient we are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long one sending may take to be answered.
    pub wait: Duration,
    /// How often a request is sent to one server.
    pub tries: u32,
}

/// A home server for `show homes`.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Its name.
    pub home: String,
    /// What it is asked.
    pub takes: &'static str,
    /// Where.
    pub address: String,
    /// Whether it answered when it was last asked.
    pub answers: bool,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests that it did not answer, however often they were sent.
    pub silent: u64,
    /// Packets from it that were no answers.
    pub false_answers: u64,
}

/// All home servers. Clones share them.
#[derive(Debug, Clone)]
pub struct Homes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    accounting: Vec<Arc<Home>>,
    authentication: Vec<Arc<Home>>,
    patience: Patience,
}

impl Homes {
    /// The servers in the order in which they are tried.
    #[must_use]
    pub fn new(servers: &[Settings], patience: Patience) -> Self {
        let homes = |takes: &'static str, place: fn(&Settings) -> Option<SocketAddr>| {
            let of = |server: &Settings| place(server).map(|address| Arc::new(Home::new(server, takes, address)));
            servers.iter().filter_map(of).collect()
        };
        Self(Arc::new(Shared {
            accounting: homes("accounting", |server| server.accounting),
            authentication: homes("authentication", |server| server.authentication),
            patience,
        }))
    }

    /// Whether accounting is passed on.
    #[must_use]
    pub fn take_accounting(&self) -> bool {
        !self.0.accounting.is_empty()
    }

    /// The servers for an operator.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        self.0.accounting.iter().chain(&self.0.authentication).map(|home| home.shown()).collect()
    }

    /// Asks the servers what `packet`, from who shares `secret` with us, asks. The answer is for them, signed.
    ///
    /// # Errors
    /// [`RelayError`] when the packet cannot be passed on.
    pub fn ask(&self, packet: Packet<'_>, secret: &[u8]) -> Result<Later<Option<Vec<u8>>>, RelayError> {
        let access = packet.code() == code::ACCESS_REQUEST;
        let request = Request { bytes: packet.bytes().to_vec(), secret: Secret::new(secret.to_vec()) };
        // What is wrong with the packet is wrong at every server.
        request.for_home(0, b"")?;
        let shared = self.0.clone();
        Ok(Box::pin(async move {
            let homes = if access { &shared.authentication } else { &shared.accounting };
            let now = clock::now();
            let (fresh, resting): (Vec<_>, Vec<_>) = homes.iter().partition(|home| !home.rests(now));
            for home in fresh.into_iter().chain(resting) {
                if let Some(answer) = home.ask(&request, shared.patience).await {
                    return Some(answer);
                }
            }
            None
        }))
    }
}

/// What is to be passed on.
struct Request {
    bytes: Vec<u8>,
    secret: Secret<Vec<u8>>,
}

impl Request {
    fn for_home(&self, identifier: u8, secret: &[u8]) -> Result<Vec<u8>, RelayError> {
        let Ok(packet) = Packet::parse(&self.bytes) else { return Ok(Vec::new()) };
        relay::request(packet, identifier, self.secret.expose(), secret)
    }

    fn answer(&self, answer: &[u8], home: Side<'_>) -> Option<Vec<u8>> {
        let (request, answer) = (Packet::parse(&self.bytes).ok()?, Packet::parse(answer).ok()?);
        let client = Side { secret: self.secret.expose(), authenticator: request.authenticator() };
        relay::answer(answer, request.identifier(), home, client).ok()
    }
}

#[derive(Debug)]
struct Home {
    name: String,
    takes: &'static str,
    address: SocketAddr,
    secret: Secret<String>,
    lines: Mutex<Vec<Arc<Line>>>,
    rests_until: Mutex<Option<Instant>>,
    answered: AtomicU64,
    silent: AtomicU64,
    false_answers: Arc<AtomicU64>,
}

impl Home {
    fn new(settings: &Settings, takes: &'static str, address: SocketAddr) -> Self {
        Self {
            name: settings.name.clone(),
            takes,
            address,
            secret: settings.secret.clone(),
            lines: Mutex::default(),
            rests_until: Mutex::default(),
            answered: AtomicU64::default(),
            silent: AtomicU64::default(),
            false_answers: Arc::default(),
        }
    }

    fn shown(&self) -> Shown {
        Shown {
            home: self.name.clone(),
            takes: self.takes,
            address: self.address.to_string(),
            answers: !self.rests(clock::now()),
            answered: self.answered.load(Ordering::Relaxed),
            silent: self.silent.load(Ordering::Relaxed),
            false_answers: self.false_answers.load(Ordering::Relaxed),
        }
    }

    fn rests(&self, now: Instant) -> bool {
        lock(&self.rests_until).is_some_and(|until| until.since(now) > Duration::ZERO)
    }

    async fn ask(&self, request: &Request, patience: Patience) -> Option<Vec<u8>> {
        let place = self.place().await?;
        let secret = self.secret.expose().as_bytes();
        let bytes = request.for_home(place.identifier, secret).ok()?;
        let asked = Packet::parse(&bytes).ok()?;
        let mut answered = place.wait_for(asked);
        for _ in 0..patience.tries {
            let _ = place.line.socket.send(&bytes).await;
            let Ok(answer) = timeout(patience.wait, &mut answered).await else { continue };
            self.answered.fetch_add(1, Ordering::Relaxed);
            counter!("toolbox_radius_home_answers_total", "home" => self.name.clone(), "takes" => self.takes)
                .increment(1);
            *lock(&self.rests_until) = None;
            let home = Side { secret, authenticator: asked.authenticator() };
            return request.answer(&answer.ok()?, home);
        }
        self.silent.fetch_add(1, Ordering::Relaxed);
        counter!("toolbox_radius_home_silent_total", "home" => self.name.clone(), "takes" => self.takes).increment(1);
        let rested = lock(&self.rests_until).replace(clock::now() + REST);
        if rested.is_none() {
            tracing::warn!(home = self.name, takes = self.takes, "a home server does not answer");
        }
        None
    }

    /// An identifier that nothing else on its way has.
    async fn place(&self) -> Option<Place> {
        let free = || lock(&self.lines).iter().find_map(Line::place);
        if let Some(place) = free() {
            return Some(place);
        }
        if lock(&self.lines).len() >= SOCKETS {
            return None;
        }
        let any: SocketAddr = if self.address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await.ok()?;
        socket.connect(self.address).await.ok()?;
        let line = Arc::new(Line { socket, slots: Mutex::new(Slots::default()) });
        let secret = self.secret.clone();
        tokio::spawn(listen(Arc::downgrade(&line), secret, self.false_answers.clone()));
        let place = Line::place(&line);
        lock(&self.lines).push(line);
        place
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket to a server.
#[derive(Debug)]
struct Line {
    socket: UdpSocket,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    waiting: Vec<Slot>,
    /// Where the next one is looked for: an identifier rests as long as possible before it is used again.
    next: u8,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Free,
    Taken,
    Asked {
        code: u8,
        authenticator: [u8; 16],
        answer: oneshot::Sender<Vec<u8>>,
    },
}

impl Default for Slots {
    fn default() -> Self {
        Self { waiting: (0..=u8::MAX).map(|_| Slot::Free).collect(), next: 0 }
    }
}

impl Slots {
    fn set(&mut self, identifier: u8, slot: Slot) {
        if let Some(place) = self.waiting.get_mut(usize::from(identifier)) {
            *place = slot;
        }
    }
}

impl Line {
    fn place(self: &Arc<Self>) -> Option<Place> {
        let mut slots = lock(&self.slots);
        let first = slots.next;
        let free = |n: u8| matches!(slots.waiting.get(usize::from(n)), Some(Slot::Free));
        let identifier = (0..=u8::MAX).map(|step| first.wrapping_add(step)).find(|n| free(*n))?;
        slots.next = identifier.wrapping_add(1);
        slots.set(identifier, Slot::Taken);
        Some(Place { line: self.clone(), identifier })
    }
}

/// An identifier at a socket; free again when this is dropped.
struct Place {
    line: Arc<Line>,
    identifier: u8,
}

impl Place {
    fn wait_for(&self, asked: Packet<'_>) -> oneshot::Receiver<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let slot = Slot::Asked { code: asked.code(), authenticator: asked.authenticator(), answer };
        lock(&self.line.slots).set(self.identifier, slot);
        answered
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.line.slots).set(self.identifier, Slot::Free);
    }
}

/// Hands answers to who waits for them, as long as the line is there. What is no answer to what was asked is left out:
/// the answer may still come.
async fn listen(line: Weak<Line>, secret: Secret<String>, false_answers: Arc<AtomicU64>) {
    let mut buffer = vec![0; MAX_LENGTH + 1];
    loop {
        let Some(line) = line.upgrade() else { return };
        let received = timeout(Duration::from_secs(1), line.socket.recv(&mut buffer)).await;
        // An ICMP error about a server that is away is no answer either.
        let Ok(Ok(length)) = received else { continue };
        let bytes = buffer.get(..length).unwrap_or_default();
        if !take(&line, bytes, secret.expose().as_bytes()) {
            false_answers.fetch_add(1, Ordering::Relaxed);
            counter!("toolbox_radius_home_false_answers_total").increment(1);
        }
    }
}

fn take(line: &Line, bytes: &[u8], secret: &[u8]) -> bool {
    let Ok(packet) = Packet::parse(bytes) else { return false };
    let mut slots = lock(&line.slots);
    let Some(slot) = slots.waiting.get_mut(usize::from(packet.identifier())) else { return false };
    let genuine = match slot {
        Slot::Asked { code, authenticator, .. } => {
            let fits = match packet.code() {
                code::ACCOUNTING_RESPONSE => *code == code::ACCOUNTING_REQUEST,
                code::ACCESS_ACCEPT | code::ACCESS_REJECT | code::ACCESS_CHALLENGE => *code == code::ACCESS_REQUEST,
                _ => false,
            };
            fits && packet.verify_response(authenticator, secret, false).is_ok()
        }
        Slot::Free | Slot::Taken => false,
    };
    if genuine && let Slot::Asked { answer, .. } = std::mem::replace(slot, Slot::Taken) {
        let _ = answer.send(bytes.to_vec());
    }
    genuine
}
