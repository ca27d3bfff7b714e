//! What is done about a packet, however it came: checked, learnt, passed on, answered.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloakway_crypto::Secret;
use cloakway_runtime::clock;
use cloakway_store::StoreError;
use cloakway_types::{Instant, Timestamp};
use tokio::sync::mpsc;
use toolbox_core::Event;
use toolbox_wire::access::{self, Line};
use toolbox_wire::accounting::{self, Naming};
use toolbox_wire::http::Source;
use toolbox_wire::radius::{Packet, Request, Verified, code};

use super::annex::Annex;
use super::copies::{Copies, Key, Known};
use super::home::Homes;
use super::tally::{Dropped, Tally};
use crate::bindings::Bindings;

/// Who sent a packet, as the configuration knows them.
#[derive(Debug)]
pub struct Client {
    /// Its name in logs, metrics and bindings.
    pub name: String,
    /// The shared secret.
    pub secret: Secret<String>,
    /// Whether a packet without Message-Authenticator is dropped.
    pub require_message_authenticator: bool,
    /// How it names subscribers.
    pub naming: Naming,
}

impl Client {
    fn secret(&self) -> &[u8] {
        self.secret.expose().as_bytes()
    }
}

/// What a port takes, beside Status-Server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Accounting-Requests.
    Accounting,
    /// Access-Requests.
    Access,
    /// Both: RADIUS under TLS has one port (RFC 6614 §2.1).
    Both,
}

/// The service behind all ports. Clones share it.
#[derive(Debug, Clone)]
pub struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bindings: Bindings,
    annex: Annex,
    homes: Option<Homes>,
    tally: Tally,
    failed: mpsc::Sender<StoreError>,
}

/// Something that takes a while.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What to do about a packet.
pub(super) enum Reaction {
    /// Send this now.
    Answer(Vec<u8>),
    /// Nothing: the answer to a copy of it is on its way.
    Nothing,
    /// A record, to be learnt with others of its moment: see [`Service::learn_all`].
    Learn(Learning),
    /// Wait for the answer; `None` when there is none.
    Wait(Later<Option<Vec<u8>>>),
}

/// A record that was read, and is not learnt before [`Service::learn_all`].
pub(super) struct Learning {
    client: Arc<Client>,
    arrival: Timestamp,
    read: Read,
    answer: Vec<u8>,
}

/// Where a packet came from, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    from: SocketAddr,
    arrival: Timestamp,
    now: Instant,
}

impl Came {
    /// From there, just now.
    pub(super) fn just_now(from: SocketAddr) -> Self {
        Self { from, arrival: clock::wall(), now: clock::now() }
    }

    /// Together with this one, from there.
    pub(super) const fn with(self, from: SocketAddr) -> Self {
        Self { from, ..self }
    }
}

/// What a packet says, for the table.
struct Read {
    events: Vec<Event>,
    /// When it is on disk what the session has beside its records.
    kept: Option<Later<Result<(), StoreError>>>,
}

/// What was seen at one socket or connection lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(Arc<Mutex<Copies>>);

impl Recent {
    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// A service that feeds `bindings`, with what is in `annex`, and, where there are `homes`, passes on to them. An error of the disk is told to
    /// `failed` and ends the role.
    #[must_use]
    pub fn new(
        bindings: Bindings,
        annex: Annex,
        homes: Option<Homes>,
        tally: Tally,
        failed: mpsc::Sender<StoreError>,
    ) -> Self {
        Self(Arc::new(Shared { bindings, annex, homes, tally, failed }))
    }

    /// The counts.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Takes one packet. What gets no answer is counted.
    pub(super) fn packet(
        &self,
        client: &Arc<Client>,
        takes: Takes,
        datagram: &[u8],
        came: Came,
        recent: &Recent,
    ) -> Reaction {
        self.react(client, takes, datagram, came, recent).unwrap_or_else(|why| {
            self.0.tally.dropped(Some(&client.name), &why);
            Reaction::Nothing
        })
    }

    fn react(
        &self,
        client: &Arc<Client>,
        takes: Takes,
        datagram: &[u8],
        Came { from, arrival, now }: Came,
        recent: &Recent,
    ) -> Result<Reaction, Dropped> {
        let secret = client.secret();
        let packet = Packet::parse(datagram)?;
        let strict = client.require_message_authenticator;
        let verified = match takes {
            Takes::Accounting => packet.verify(secret, strict)?,
            Takes::Access | Takes::Both => packet.verify_any(secret, strict)?,
        };
        let heard = || self.0.tally.heard(&client.name, arrival);
        if verified.request() == Request::StatusServer {
            heard();
            self.0.tally.count(&client.name, |heard| heard.probes += 1);
            let here = if takes == Takes::Accounting { verified.response(secret) } else { verified.here(secret) };
            return Ok(Reaction::Answer(here));
        }
        let key = Key { from, identifier: packet.identifier(), authenticator: packet.authenticator() };
        let known = recent.copies().get(&key, now);
        if let Some(known) = known {
            heard();
            self.0.tally.count(&client.name, |heard| heard.copies += 1);
            return Ok(match known {
                Known::Sent(answer) => Reaction::Answer(answer),
                Known::Learnt => Reaction::Answer(verified.response(secret)),
                Known::OnItsWay => Reaction::Nothing,
            });
        }
        let answer = match (verified.request(), &self.0.homes) {
            (Request::Accounting, Some(homes)) if homes.take_accounting() => {
                heard();
                self.record(client, verified, arrival, homes)?
            }
            (Request::Accounting, _) => {
                let read = self.read(Source::Radius, client, &verified, arrival).inspect_err(|_| heard())?;
                recent.copies().begin_in_group(key, now);
                let answer = verified.response(secret);
                return Ok(Reaction::Learn(Learning { client: client.clone(), arrival, read, answer }));
            }
            (Request::Access, Some(homes)) if takes != Takes::Accounting => {
                heard();
                self.access(client, verified, homes)?
            }
            (Request::Access | Request::StatusServer, _) => {
                heard();
                return Err(toolbox_wire::radius::AuthenticityError::Code(packet.code()).into());
            }
        };
        recent.copies().begin(key, now);
        let recent = recent.clone();
        Ok(Reaction::Wait(Box::pin(async move {
            let answer = answer.await;
            match &answer {
                Some(answer) => recent.copies().done(key, answer.clone()),
                None => recent.copies().failed(&key),
            }
            answer
        })))
    }

    /// Learns from records in their order; each is answered once all are durable. The answers come with what came with
    /// their records.
    pub(super) fn learn_all<T: Send>(
        &self,
        learning: Vec<(Learning, T)>,
        recent: &Recent,
    ) -> impl Future<Output = Vec<(Vec<u8>, T)>> + Send + use<T> {
        let (mut events, mut kept) = (Vec::with_capacity(learning.len()), Vec::new());
        let mut answers = Vec::with_capacity(learning.len());
        // What came for one client at once is counted at once.
        let mut clients: Vec<(Arc<Client>, u64)> = Vec::new();
        for (Learning { client, arrival, read, answer }, of) in learning {
            events.extend(read.events);
            kept.extend(read.kept);
            answers.push((answer, of));
            match clients.last_mut() {
                Some((last, count)) if Arc::ptr_eq(last, &client) => *count += 1,
                _ => {
                    self.0.tally.heard(&client.name, arrival);
                    clients.push((client, 1));
                }
            }
        }
        let group = recent.copies().group();
        let durable = self.0.bindings.apply_all(&events);
        let service = self.clone();
        async move {
            let mut outcome = durable.await;
            for one in kept {
                outcome = outcome.and(one.await);
            }
            let durable = service.durable(outcome);
            group.ended(durable);
            if !durable {
                return Vec::new();
            }
            for (client, count) in &clients {
                service.0.tally.acknowledged(&client.name, *count);
            }
            answers
        }
    }

    /// Learns from a record and passes it on; it is answered once it is durable and was answered there.
    fn record(
        &self,
        client: &Arc<Client>,
        verified: Verified<'_>,
        arrival: Timestamp,
        homes: &Homes,
    ) -> Result<Later<Option<Vec<u8>>>, Dropped> {
        let learnt = self.learn(Source::Radius, client, &verified, arrival)?;
        let asked = homes.ask(verified.packet(), client.secret())?;
        let (service, client) = (self.clone(), client.clone());
        Ok(Box::pin(async move {
            let (durable, answer) = tokio::join!(learnt, asked);
            if !service.durable(durable) {
                return None;
            }
            match &answer {
                Some(_) => service.0.tally.acknowledged(&client.name, 1),
                None => service.0.tally.dropped(Some(&client.name), &Dropped::NoHome),
            }
            answer
        }))
    }

    /// What a genuine record says.
    fn read(
        &self,
        source: Source,
        client: &Client,
        verified: &Verified<'_>,
        arrival: Timestamp,
    ) -> Result<Read, Dropped> {
        let record = accounting::read_as(verified, arrival, client.naming)?;
        let blocks = accounting::blocks(verified)?;
        let line = || Line::of(verified.packet());
        let (records, kept) = self.0.annex.complete(source, &client.name, record, line, &blocks, arrival);
        let event = |record| Event { source, client: client.name.clone(), record, arrival };
        Ok(Read { events: records.into_iter().map(event).collect(), kept })
    }

    /// Learns what a genuine record says; the future ends when it is durable.
    pub(super) fn learn(
        &self,
        source: Source,
        client: &Client,
        verified: &Verified<'_>,
        arrival: Timestamp,
    ) -> Result<Later<Result<(), StoreError>>, Dropped> {
        let Read { events, kept } = self.read(source, client, verified, arrival)?;
        let durable = self.0.bindings.apply_all(&events);
        Ok(Box::pin(async move {
            durable.await?;
            match kept {
                Some(kept) => kept.await,
                None => Ok(()),
            }
        }))
    }

    /// Remembers what an Access-Accept grants, until the session begins. `request` is genuine, or else nobody but its
    /// client was told anything by the answer.
    pub(super) fn granted(&self, client: &Client, request: Packet<'_>, answer: Packet<'_>) -> Result<(), Dropped> {
        if answer.code() == code::ACCESS_ACCEPT {
            self.0.annex.granted(&client.name, access::grant(request, answer, client.naming)?);
        }
        Ok(())
    }

    /// What cannot be kept ends the role.
    pub(super) fn durable(&self, outcome: Result<(), StoreError>) -> bool {
        outcome.map_err(|error| self.0.failed.try_send(error)).is_ok()
    }

    /// Passes an Access-Request on.
    fn access(
        &self,
        client: &Arc<Client>,
        verified: Verified<'_>,
        homes: &Homes,
    ) -> Result<Later<Option<Vec<u8>>>, Dropped> {
        let asked = homes.ask(verified.packet(), client.secret())?;
        let request = verified.packet().bytes().to_vec();
        let (service, client) = (self.clone(), client.clone());
        Ok(Box::pin(async move {
            let answer = asked.await;
            match &answer {
                Some(answer) => {
                    service.0.tally.count(&client.name, |heard| heard.relayed += 1);
                    // What cannot be understood is passed on all the same: it is not for us.
                    let packets = (Packet::parse(&request), Packet::parse(answer));
                    if let (Ok(request), Ok(answer)) = packets
                        && let Err(why) = service.granted(&client, request, answer)
                    {
                        service.0.tally.unusable(&client.name, &why);
                    }
                }
                None => service.0.tally.dropped(Some(&client.name), &Dropped::NoHome),
            }
            answer
        }))
    }
}
