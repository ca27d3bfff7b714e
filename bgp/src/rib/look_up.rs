//! Other roles ask whose an address is, by the protocol of `look-up-wire`: on a Unix socket, and by TCP under TLS with
//! certificates of both ends, or without it on this host.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::tls::{self, Identity};
use cloakway_runtime::{Stop, admin};
use look_up_wire::{Answer, Framer, Question, Verdict};
use metrics::counter;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Table;

/// Askers at a time.
const ASKERS: usize = 64;
/// How long an asker may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An asker of another host that is silent for so long is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(30);
/// What one read takes at most.
const READ: usize = 64 * 1024;

/// Where askers come in by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses and ports.
    pub listen: Vec<SocketAddr>,
    /// Who we are, and whose certificates are let in. Without it every address is a loopback.
    pub tls: Option<(Identity, PathBuf)>,
}

/// Answers on a Unix socket at `path` until the stop.
///
/// # Errors
/// When the socket cannot be opened.
pub(crate) fn serve(path: &Path, table: Arc<Table>, stop: Stop) -> std::io::Result<()> {
    let listener = admin::bind(path)?;
    let askers = Askers::new(table, stop.clone());
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => askers.take(async move { Ok(stream) }),
                Err(error) => refused(&error).await,
            }
        }
    });
    Ok(())
}

/// Answers by TCP until the stop.
///
/// # Errors
/// Names the address that can't be had, or the file that is wrong.
pub(crate) async fn serve_tcp(settings: Listen, table: Arc<Table>, stop: Stop) -> Result<(), String> {
    let tls = settings.tls.map(|(identity, ca)| tls::server(&identity, Some(&ca))).transpose();
    let tls = tls.map_err(|error| format!("rib.look-up-tcp: {error}"))?;
    let askers = Askers::new(table, stop.clone());
    for address in settings.listen {
        let listener =
            TcpListener::bind(address).await.map_err(|error| format!("rib.look-up-tcp.listen: {address}: {error}"))?;
        let (askers, stop, tls) = (askers.clone(), stop.clone(), tls.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.told() => return,
                    accepted = listener.accept() => accepted,
                };
                match (accepted, tls.clone()) {
                    (Ok((stream, _)), None) => askers.take(async move { alive(&stream).map(|()| stream) }),
                    (Ok((stream, _)), Some(tls)) => askers.take(async move {
                        alive(&stream)?;
                        let accepted = tls::accept(&tls, look_up_wire::PROTOCOL, stream);
                        tokio::time::timeout(PATIENCE, accepted).await.unwrap_or_else(|late| Err(late.into()))
                    }),
                    (Err(error), _) => refused(&error).await,
                }
            }
        });
    }
    Ok(())
}

/// A connection whose other end has died is not kept for ever.
fn alive(stream: &TcpStream) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    stream.set_nodelay(true)
}

/// Out of file descriptors, or an asker that left early: neither ends the service.
async fn refused(error: &std::io::Error) {
    tracing::warn!(%error, "an asker is not let in");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Those who are answered.
#[derive(Clone)]
struct Askers {
    table: Arc<Table>,
    places: Arc<Semaphore>,
    stop: Stop,
}

impl Askers {
    fn new(table: Arc<Table>, stop: Stop) -> Self {
        Self { table, places: Arc::new(Semaphore::new(ASKERS)), stop }
    }

    /// Answers whoever comes in, if there is a place.
    fn take<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        coming: impl Future<Output = std::io::Result<S>> + Send + 'static,
    ) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            counter!("bgp_speaker_askers_refused_total").increment(1);
            return;
        };
        let (table, stop) = (self.table.clone(), self.stop.clone());
        let answered = async move {
            let stream = coming.await.map_err(|error| error.to_string())?;
            answer(stream, &table).await
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.told() => {}
                ended = answered => if let Err(error) = ended {
                    counter!("bgp_speaker_askers_refused_total").increment(1);
                    tracing::debug!(%error, "an asker is sent away");
                }
            }
            drop(place);
        });
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, table: &Table) -> Result<(), String> {
    let mut framer = Framer::default();
    let mut buffer = Vec::with_capacity(READ);
    loop {
        buffer.clear();
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(_) => framer.push(&buffer),
            Err(error) => return Err(error.to_string()),
        }
        let mut answers = Vec::new();
        let readiness = table.readiness();
        while let Some(question) = framer.next_question().map_err(|error| error.to_string())? {
            answer_one(table, readiness, question).encode(&mut answers);
        }
        let written = async {
            stream.write_all(&answers).await?;
            stream.flush().await
        };
        let written = tokio::time::timeout(PATIENCE, written).await;
        written.map_err(|_| "it does not read")?.map_err(|error| error.to_string())?;
    }
}

fn answer_one(table: &Table, readiness: Result<(), &'static str>, question: Question) -> Answer {
    let (verdict, source) = table.whose(readiness, question.address);
    let name = match verdict {
        Verdict::Origin { .. } => "origin",
        Verdict::Disputed { .. } => "disputed",
        Verdict::NoRoute => "no-route",
        Verdict::NotReady => "not-ready",
    };
    counter!("bgp_speaker_look_ups_total", "verdict" => name, "source" => source).increment(1);
    Answer { id: question.id, verdict }
}
