//! RADIUS under TLS (RadSec, RFC 6614): the client is who its certificate says, and the shared secret is a word that
//! everybody knows.
//!
//! Bounded against clients that are idle, slow, many, or do not read what they are answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_crypto::{Secret, ct_eq, hash};
use cloakway_runtime::Stop;
use cloakway_runtime::tls::{self, ServerConfig, Stream};
use metrics::{counter, gauge};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use toolbox_wire::accounting::Naming;
use toolbox_wire::radius::{MAX_LENGTH, PacketError};

use super::service::{Came, Client, Reaction, Recent, Service, Takes};
use super::tally::Dropped;

/// The shared secret of everybody (RFC 6614 §2.3).
const SECRET: &str = "radsec";
/// Time for the handshake, for the rest of a packet once it has begun, and for taking an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Packets of one connection that may wait for their answers; the next are not read before.
const WAITING: usize = 1024;
/// Answers that may wait for a client that does not read.
const UNREAD: usize = 1024;

/// A client, and the certificates that stand for it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name in logs, metrics and bindings.
    pub name: String,
    /// Names of which its certificate has to have one (subjectAltName).
    pub names: Vec<String>,
    /// SHA-256 of certificates of which it may have one.
    pub fingerprints: Vec<[u8; 32]>,
    /// How it names subscribers.
    pub naming: Naming,
}

/// How much is taken from all clients together and from each.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections of one client.
    pub per_client: usize,
    /// How long a connection may say nothing.
    pub idle: Duration,
}

/// A client, what the service knows of it, and its places.
type Entry = (Known, Arc<Client>, Arc<Semaphore>);

/// A server for TLS connections. Clones share it.
#[derive(Debug, Clone)]
pub struct Server {
    service: Service,
    tls: Arc<ServerConfig>,
    known: Arc<Vec<Entry>>,
    places: Arc<Semaphore>,
    limits: Limits,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("no client is configured for the certificate")]
    Unknown,
    #[error("the client has as many connections as it may")]
    Full,
    #[error("nothing was said for too long")]
    Idle,
    #[error("a packet was begun and not ended in time")]
    Slow,
    #[error("answers were not read in time")]
    Unread,
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    #[error("the client closed it")]
    Closed,
    #[error("we are stopping")]
    Stopped,
}

impl Ended {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::Unknown => "unknown-client",
            Self::Full => "full",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Unread => "unread",
            Self::Packet(_) => "malformed",
            Self::Broken(_) => "broken",
            Self::Closed => "closed",
            Self::Stopped => "stopped",
        }
    }
}

impl Server {
    /// A server that lets in the clients that it knows.
    #[must_use]
    pub fn new(service: Service, tls: Arc<ServerConfig>, known: Vec<Known>, limits: Limits) -> Self {
        let client = |known: Known| {
            let secret = Secret::from(SECRET);
            let client =
                Client { name: known.name.clone(), secret, require_message_authenticator: false, naming: known.naming };
            (known, Arc::new(client), Arc::new(Semaphore::new(limits.per_client)))
        };
        Self {
            service,
            tls,
            known: Arc::new(known.into_iter().map(client).collect()),
            places: Arc::new(Semaphore::new(limits.connections)),
            limits,
        }
    }

    /// Serves `listener` until the stop.
    pub async fn serve(self, listener: TcpListener, stop: Stop) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let (server, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        let ended = server.connection(stream, from, &stop).await.unwrap_or_else(|ended| ended);
                        counter!("toolbox_radsec_connections_ended_total", "reason" => ended.reason()).increment(1);
                        tracing::debug!(%from, reason = %ended, "RadSec connection ended");
                        drop(place);
                    });
                }
                // Out of file descriptors, or a client that left early: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, from: SocketAddr, stop: &Stop) -> Result<Ended, Ended> {
        let _ = stream.set_nodelay(true);
        let accepted = timeout(PATIENCE, tls::accept_any(&self.tls, stream)).await;
        let stream = accepted.map_err(|_| Ended::Slow)?.map_err(Ended::Handshake)?;
        let Some((known, client, places)) = self.who(&stream) else {
            self.service.tally().dropped(None, &Dropped::UnknownClient);
            return Err(Ended::Unknown);
        };
        let Ok(_place) = places.try_acquire() else {
            tracing::warn!(client = known.name, "a RadSec client has as many connections as it may");
            return Err(Ended::Full);
        };
        let open = gauge!("toolbox_radsec_connections", "client" => known.name.clone());
        open.increment(1);
        let (reader, writer) = tokio::io::split(stream);
        let (answers, unread) = mpsc::channel(UNREAD);
        let ended = tokio::select! {
            () = stop.told() => Ended::Stopped,
            ended = self.read(reader, client, from, answers) => ended,
            ended = write(writer, unread) => ended,
        };
        open.decrement(1);
        Ok(ended)
    }

    fn who(&self, stream: &Stream) -> Option<&Entry> {
        let certificate = tls::peer_certificate(stream)?;
        let fingerprint = hash::sha256(&[certificate]);
        self.known.iter().find(|(known, ..)| {
            known.fingerprints.iter().any(|right| ct_eq(right, &fingerprint))
                || tls::name_of(certificate, &known.names).is_some()
        })
    }

    async fn read(
        &self,
        reader: ReadHalf<Stream>,
        client: &Arc<Client>,
        from: SocketAddr,
        answers: mpsc::Sender<Vec<u8>>,
    ) -> Ended {
        let mut reader = BufReader::new(reader);
        let recent = Recent::default();
        let waiting = Arc::new(Semaphore::new(WAITING));
        let mut buffer = Vec::with_capacity(MAX_LENGTH);
        loop {
            if let Err(ended) = next(&mut reader, &mut buffer, self.limits.idle).await {
                return ended;
            }
            match self.service.packet(client, Takes::Both, &buffer, Came::just_now(from), &recent) {
                Reaction::Nothing => {}
                Reaction::Answer(answer) => {
                    if answers.try_send(answer).is_err() {
                        return Ended::Unread;
                    }
                }
                Reaction::Learn(learning) => {
                    let learnt = self.service.learn_all(vec![(learning, ())], &recent);
                    let Ok(place) = waiting.clone().acquire_owned().await else { return Ended::Closed };
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        for (answer, ()) in learnt.await {
                            let _ = answers.send(answer).await;
                        }
                        drop(place);
                    });
                }
                Reaction::Wait(answer) => {
                    let Ok(place) = waiting.clone().acquire_owned().await else { return Ended::Closed };
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        if let Some(answer) = answer.await {
                            let _ = answers.send(answer).await;
                        }
                        drop(place);
                    });
                }
            }
        }
    }
}

/// Reads one packet into `buffer`.
async fn next(reader: &mut BufReader<ReadHalf<Stream>>, buffer: &mut Vec<u8>, idle: Duration) -> Result<(), Ended> {
    let code = match timeout(idle, reader.read_u8()).await {
        Err(_) => return Err(Ended::Idle),
        Ok(Ok(code)) => code,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(Ended::Closed),
        Ok(Err(error)) => return Err(Ended::Broken(error)),
    };
    let rest = async {
        let mut head = [0; 3];
        reader.read_exact(&mut head).await.map_err(Ended::Broken)?;
        let stated = usize::from(u16::from_be_bytes([head[1], head[2]]));
        if !(20..=MAX_LENGTH).contains(&stated) {
            // There is no telling where the next packet begins.
            return Err(PacketError::Length { stated }.into());
        }
        buffer.clear();
        buffer.push(code);
        buffer.extend_from_slice(&head);
        buffer.resize(stated, 0);
        let body = buffer.get_mut(4..).unwrap_or_default();
        reader.read_exact(body).await.map(drop).map_err(Ended::Broken)
    };
    timeout(PATIENCE, rest).await.map_err(|_| Ended::Slow)?
}

async fn write(mut writer: WriteHalf<Stream>, mut unread: mpsc::Receiver<Vec<u8>>) -> Ended {
    while let Some(answer) = unread.recv().await {
        let written = async {
            writer.write_all(&answer).await?;
            while let Ok(answer) = unread.try_recv() {
                writer.write_all(&answer).await?;
            }
            writer.flush().await
        };
        match timeout(PATIENCE, written).await {
            Err(_) => return Ended::Unread,
            Ok(Err(error)) => return Ended::Broken(error),
            Ok(Ok(())) => {}
        }
    }
    Ended::Closed
}
