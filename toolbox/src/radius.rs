//! The accounting server (RFC 2866): what a NAS says becomes an event, and is acknowledged once durable.
//!
//! A packet from a stranger, or with a wrong authenticator, gets no answer. It is counted, and the log has a
//! line about it now and then, without what it said.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_store::StoreError;
use cloakway_types::{Instant, PrefixMap, Timestamp};
use metrics::counter;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use toolbox_core::Event;
use toolbox_wire::accounting::{self, RecordError};
use toolbox_wire::http::Source;
use toolbox_wire::radius::{AuthenticityError, MAX_LENGTH, Packet, PacketError, Request};

use crate::bindings::Bindings;
use crate::config::Client;
use crate::say::Sparingly;

/// Packets that may wait for the disk; over it they are dropped, and the NAS sends again.
const WAITING: usize = 4096;
/// How long an answer is kept for a NAS that did not get it (RFC 5080 §2.2.2).
const KEPT: Duration = Duration::from_secs(30);
/// Answers kept at once.
const KEPT_ANSWERS: usize = 65_536;

/// What was heard from one client.
#[derive(Debug, Clone, Serialize)]
pub struct Heard {
    /// The kind of source.
    pub source: Source,
    /// The client's name.
    pub client: String,
    /// Where it sends from.
    pub prefix: String,
    /// Records that were made durable and acknowledged.
    pub acknowledged: u64,
    /// Copies of packets that were answered before.
    pub copies: u64,
    /// Status-Server packets that were answered.
    pub probes: u64,
    /// Packets that got no answer.
    pub dropped: u64,
    /// Arrival of the last genuine packet, RFC 3339.
    pub last: Option<String>,
}

/// What is known of the sources, for `show sources`.
#[derive(Debug, Serialize)]
pub struct Sources {
    /// Each configured client.
    pub clients: Vec<Heard>,
    /// Packets without an answer, by reason, from anywhere.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// The accounting server. Clones share it.
#[derive(Debug, Clone)]
pub struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clients: PrefixMap<Client>,
    bindings: Bindings,
    tally: Mutex<Tally>,
    answers: Mutex<Answers>,
    say: Sparingly,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Tally {
    clients: BTreeMap<String, Heard>,
    dropped: BTreeMap<&'static str, u64>,
}

/// Why a packet gets no answer.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error("no client is configured for the address")]
    UnknownClient,
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Authenticity(#[from] AuthenticityError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("more packets wait for the disk than are allowed")]
    Busy,
}

impl Dropped {
    const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownClient => "unknown-client",
            Self::Packet(_) => "malformed",
            Self::Authenticity(AuthenticityError::Code(_)) => "other-code",
            Self::Authenticity(AuthenticityError::RequestAuthenticator) => "bad-authenticator",
            Self::Authenticity(
                AuthenticityError::MessageAuthenticator | AuthenticityError::MessageAuthenticatorForm,
            ) => "bad-message-authenticator",
            Self::Authenticity(AuthenticityError::MessageAuthenticatorMissing) => "no-message-authenticator",
            Self::Record(_) => "unusable-record",
            Self::Busy => "busy",
        }
    }
}

/// What to do about a packet.
enum Reaction {
    Answer(Vec<u8>),
    /// A copy of a packet whose answer is on its way.
    Wait,
    Record {
        event: Box<Event>,
        key: AnswerKey,
        answer: Vec<u8>,
    },
}

impl Server {
    /// A server that knows `clients` and feeds `bindings`.
    #[must_use]
    pub fn new(clients: &[Client], bindings: Bindings) -> Self {
        let heard = |client: &Client| Heard {
            source: Source::Radius,
            client: client.name.clone(),
            prefix: client.prefix.to_string(),
            acknowledged: 0,
            copies: 0,
            probes: 0,
            dropped: 0,
            last: None,
        };
        let tally = Tally {
            clients: clients.iter().map(|client| (client.name.clone(), heard(client))).collect(),
            dropped: BTreeMap::new(),
        };
        Self(Arc::new(Shared {
            clients: clients.iter().map(|client| (client.prefix, client.clone())).collect(),
            bindings,
            tally: Mutex::new(tally),
            answers: Mutex::default(),
            say: Sparingly::default(),
            places: Arc::new(Semaphore::new(WAITING)),
        }))
    }

    /// Serves `socket` until the stop. An error of the disk is told to `failed` and ends the role.
    pub async fn serve(self, socket: UdpSocket, stop: Stop, failed: mpsc::Sender<StoreError>) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; MAX_LENGTH + 1];
        loop {
            let received = tokio::select! {
                () = stop.told() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            // An ICMP error about an earlier answer comes back here; the next packet is not the worse for it.
            let Ok((length, from)) = received else { continue };
            let datagram = buffer.get(..length).unwrap_or_default();
            self.packet(datagram, from, &socket, &failed).await;
        }
    }

    async fn packet(
        &self,
        datagram: &[u8],
        from: SocketAddr,
        socket: &Arc<UdpSocket>,
        failed: &mpsc::Sender<StoreError>,
    ) {
        let client = self.0.clients.lookup(from.ip()).map(|(_, client)| client);
        let place = self.0.places.clone().try_acquire_owned();
        let reaction = match (client, place) {
            (None, _) => Err(Dropped::UnknownClient),
            (Some(_), Err(_)) => Err(Dropped::Busy),
            (Some(client), Ok(place)) => self.react(client, datagram, from).map(|reaction| (client, reaction, place)),
        };
        match reaction {
            Err(why) => self.dropped(client, &why),
            Ok((_, Reaction::Wait, _)) => {}
            Ok((_, Reaction::Answer(answer), _)) => drop(socket.send_to(&answer, from).await),
            Ok((client, Reaction::Record { event, key, answer }, place)) => {
                let durable = self.0.bindings.apply(&event);
                let (server, socket, failed) = (self.clone(), socket.clone(), failed.clone());
                let client = client.name.clone();
                tokio::spawn(async move {
                    match durable.await {
                        Ok(_) => {
                            server.acknowledged(&client);
                            server.answers().done(key, answer.clone());
                            let _ = socket.send_to(&answer, from).await;
                        }
                        Err(error) => drop(failed.try_send(error)),
                    }
                    drop(place);
                });
            }
        }
    }

    fn react(&self, client: &Client, datagram: &[u8], from: SocketAddr) -> Result<Reaction, Dropped> {
        let secret = client.secret.expose().as_bytes();
        let packet = Packet::parse(datagram)?;
        let verified = packet.verify(secret, client.require_message_authenticator)?;
        let arrival = clock::wall();
        self.heard(&client.name, arrival);
        if verified.request() == Request::StatusServer {
            self.count(&client.name, |heard| heard.probes += 1);
            return Ok(Reaction::Answer(verified.response(secret)));
        }
        let key = AnswerKey { from, identifier: packet.identifier(), authenticator: packet.authenticator() };
        let now = clock::now();
        match self.answers().get(&key, now) {
            Some(Kept::Sent(answer)) => {
                self.count(&client.name, |heard| heard.copies += 1);
                return Ok(Reaction::Answer(answer));
            }
            Some(Kept::OnItsWay) => {
                self.count(&client.name, |heard| heard.copies += 1);
                return Ok(Reaction::Wait);
            }
            None => {}
        }
        let record = accounting::read(&verified, arrival)?;
        self.answers().begin(key, now);
        let event = Event { source: Source::Radius, client: client.name.clone(), record, arrival };
        Ok(Reaction::Record { event: Box::new(event), key, answer: verified.response(secret) })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, client: &str, change: impl FnOnce(&mut Heard)) {
        if let Some(heard) = self.tally().clients.get_mut(client) {
            change(heard);
        }
    }

    fn heard(&self, client: &str, arrival: Timestamp) {
        self.count(client, |heard| heard.last = Some(arrival.to_string()));
    }

    fn acknowledged(&self, client: &str) {
        counter!("toolbox_radius_acknowledged_total", "client" => client.to_owned()).increment(1);
        self.count(client, |heard| heard.acknowledged += 1);
    }

    fn dropped(&self, client: Option<&Client>, why: &Dropped) {
        let reason = why.reason();
        counter!("toolbox_radius_dropped_total", "reason" => reason).increment(1);
        *self.tally().dropped.entry(reason).or_default() += 1;
        if let Some(client) = client {
            self.count(&client.name, |heard| heard.dropped += 1);
        }
        if let Some(held_back) = self.0.say.may(reason, clock::now()) {
            let client = client.map(|client| client.name.as_str());
            tracing::warn!(client, reason, error = %why, held_back, "RADIUS packet dropped");
        }
    }

    /// What was heard so far.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let tally = self.tally();
        Sources { clients: tally.clients.values().cloned().collect(), dropped: tally.dropped.clone() }
    }
}

/// What makes two packets copies of one (RFC 5080 §2.2.2): the port tells apart processes of one NAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AnswerKey {
    from: SocketAddr,
    identifier: u8,
    authenticator: [u8; 16],
}

#[derive(Debug, Clone)]
enum Kept {
    OnItsWay,
    Sent(Vec<u8>),
}

/// Answers of the last half minute.
#[derive(Debug, Default)]
struct Answers {
    kept: HashMap<AnswerKey, Kept>,
    order: VecDeque<(Instant, AnswerKey)>,
}

impl Answers {
    fn get(&mut self, key: &AnswerKey, now: Instant) -> Option<Kept> {
        while let Some((begun, oldest)) = self.order.front().copied() {
            if now.since(begun) < KEPT && self.order.len() < KEPT_ANSWERS {
                break;
            }
            self.order.pop_front();
            self.kept.remove(&oldest);
        }
        self.kept.get(key).cloned()
    }

    fn begin(&mut self, key: AnswerKey, now: Instant) {
        self.kept.insert(key, Kept::OnItsWay);
        self.order.push_back((now, key));
    }

    fn done(&mut self, key: AnswerKey, answer: Vec<u8>) {
        if let Some(kept) = self.kept.get_mut(&key) {
            *kept = Kept::Sent(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_half_a_minute_and_only_so_many() {
        let at = |s| Instant::after_origin(Duration::from_secs(s));
        let key = |port: u16| AnswerKey { from: ([127, 0, 0, 1], port).into(), identifier: 1, authenticator: [0; 16] };
        let mut answers = Answers::default();
        answers.begin(key(1), at(0));
        assert!(matches!(answers.get(&key(1), at(1)), Some(Kept::OnItsWay)));
        answers.done(key(1), vec![5]);
        assert!(matches!(answers.get(&key(1), at(29)), Some(Kept::Sent(_))));
        assert!(answers.get(&key(1), at(30)).is_none());
        for n in 0..=u16::MAX {
            answers.begin(key(n), at(31));
        }
        assert!(answers.get(&key(9), at(31)).is_some());
        assert!(answers.get(&key(0), at(31)).is_none(), "the oldest made room");
    }
}
