//! The TCP side of the links to institutions: connects, moves bytes, and hands what a link says to the engine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_runtime::outage::Outage;
use cloakway_runtime::{Stop, clock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use transact_bank::{Authorisation, Input, Link, Original, Output, Refund, Reversal, Trace, TraceError, Verdict};
use transact_core::{Asked, Attempt, BankEvent, BankOrder, BankRefund, BankReversal};

use crate::engine::{BankRequest, Engine};
use crate::institutions::Institution;

const RECONNECT: Duration = Duration::from_millis(500);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What connections have heard and the link has not taken yet.
const HEARD: usize = 64;

/// The links' state, for `show`.
#[derive(Debug, Clone, Default)]
pub(crate) struct BankState(Arc<Mutex<BTreeMap<String, Value>>>);

impl BankState {
    pub(crate) fn show(&self) -> Value {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn set<K: Clone>(&self, id: &str, link: &Link<K>) {
        let counters: serde_json::Map<String, Value> =
            link.counters().iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        let shown = json!({
            "institution": id, "up": link.is_up(), "connections_up": link.lines_up(),
            "outstanding": link.outstanding(), "reversing": link.reversing(), "counters": counters,
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), shown);
    }
}

/// Octets on their way out.
pub(crate) type Out = mpsc::UnboundedSender<Secret<Vec<u8>>>;

/// What a connection says.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It was made; what is sent here goes out, and it ends when this is dropped.
    Connected(Out),
    Bytes(Secret<Vec<u8>>),
    Disconnected,
}

/// The connections of a link, by number.
#[derive(Debug)]
pub(crate) struct Lines(Vec<Option<Out>>);

impl Lines {
    /// Keeps a connection to each address; what they say comes in order.
    pub(crate) fn open(id: &str, addresses: Vec<SocketAddr>) -> (Self, mpsc::Receiver<(usize, Heard)>) {
        let lines = addresses.iter().map(|_| None).collect();
        let (tell, heard) = mpsc::channel(HEARD);
        for (line, address) in addresses.into_iter().enumerate() {
            tokio::spawn(connection(line, id.to_owned(), address, tell.clone()));
        }
        (Self(lines), heard)
    }

    /// Takes up a connection that was made, and lets go of one that ended.
    pub(crate) fn note(&mut self, line: usize, said: Heard) {
        if let (Some(out), Heard::Connected(_) | Heard::Disconnected) = (self.0.get_mut(line), &said) {
            *out = match said {
                Heard::Connected(sender) => Some(sender),
                Heard::Bytes(_) | Heard::Disconnected => None,
            };
        }
    }

    /// Sends; a connection that is gone says so itself.
    pub(crate) fn send(&self, line: usize, octets: Secret<Vec<u8>>) {
        if let Some(Some(out)) = self.0.get(line) {
            let _ = out.send(octets);
        }
    }

    /// Ends a connection.
    pub(crate) fn drop_line(&mut self, line: usize) {
        if let Some(out) = self.0.get_mut(line) {
            *out = None;
        }
    }
}

/// Keeps connections to the institution until the stop, and does what `requests` ask over them.
pub(crate) async fn run(
    institution: Institution,
    mut requests: mpsc::UnboundedReceiver<BankRequest>,
    engine: Engine,
    state: BankState,
    stop: Stop,
) {
    let Institution { id, addresses, link } = institution;
    let mut link = Link::new(link);
    let (mut leaving, mut closed) = (false, false);
    let (mut lines, mut heard) = Lines::open(&id, addresses);
    loop {
        drain(&mut link, &mut lines, &engine, &id).await;
        state.set(&id, &link);
        metrics::gauge!("cloakway_bank_connections", "institution" => id.clone())
            .set(u32::try_from(link.lines_up()).unwrap_or(u32::MAX));
        metrics::gauge!("cloakway_bank_reversals_owed", "institution" => id.clone())
            .set(u32::try_from(link.reversing()).unwrap_or(u32::MAX));
        if leaving && link.lines_made() == 0 {
            return;
        }
        tokio::select! {
            () = stop.told(), if !leaving => {
                leaving = true;
                link.handle(Input::SignOff, clock::now(), clock::wall());
            }
            request = requests.recv(), if !closed => match request {
                Some(request) => ask(&mut link, request, &engine).await,
                None if leaving => closed = true,
                None => return,
            },
            said = heard.recv() => {
                let Some((line, said)) = said else { return };
                if leaving && matches!(said, Heard::Connected(_)) {
                    continue;
                }
                let input = match &said {
                    Heard::Connected(_) => Input::Connected(line),
                    Heard::Bytes(octets) => Input::Bytes(line, octets.expose()),
                    Heard::Disconnected => Input::Disconnected(line),
                };
                link.handle(input, clock::now(), clock::wall());
                lines.note(line, said);
            },
            () = clock::until(link.poll_timeout()) => link.handle(Input::Tick, clock::now(), clock::wall()),
        }
    }
}

/// Makes one connection after another. What it says comes in order, so that what an old connection said is never taken
/// for a word of the next one.
async fn connection(line: usize, id: String, address: SocketAddr, tell: mpsc::Sender<(usize, Heard)>) {
    let mut outage = Outage::default();
    loop {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await.map_err(Into::into).flatten() {
            Ok(stream) => {
                let away_s = outage.well(clock::now()).map(|away| away.as_secs());
                tracing::info!(institution = id, bank = %address, away_s, "bank connected");
                let (out, outgoing) = mpsc::unbounded_channel();
                if tell.send((line, Heard::Connected(out))).await.is_err() {
                    return;
                }
                let end = converse(stream, line, outgoing, &tell).await;
                tracing::warn!(institution = id, bank = %address, error = ?end.err(), "bank disconnected");
                if tell.send((line, Heard::Disconnected)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Not every half second of a long night.
                if let Some(held_back) = outage.failed(clock::now()) {
                    tracing::warn!(institution = id, bank = %address, %error, held_back, "bank not reachable");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RECONNECT) => {}
            () = tell.closed() => return,
        }
    }
}

/// Moves bytes both ways until one side ends, or the link lets go of it.
async fn converse(
    mut stream: TcpStream,
    line: usize,
    mut outgoing: mpsc::UnboundedReceiver<Secret<Vec<u8>>>,
    tell: &mpsc::Sender<(usize, Heard)>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reading, mut writing) = stream.split();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            read = reading.read(&mut buffer) => {
                let octets = read?;
                let bytes = Secret::new(buffer.get(..octets).unwrap_or_default().to_vec());
                if octets == 0 || tell.send((line, Heard::Bytes(bytes))).await.is_err() {
                    return Ok(());
                }
            }
            octets = outgoing.recv() => match octets {
                Some(octets) => tokio::time::timeout(CONNECT_LIMIT, writing.write_all(octets.expose())).await??,
                None => return Ok(()),
            },
        }
    }
}

async fn ask(link: &mut Link<Asked>, request: BankRequest, engine: &Engine) {
    let (asked, input) = match request {
        BankRequest::Authorise(order) => (order.asked.clone(), authorise(*order)),
        BankRequest::Refund(refund) => (refund.asked.clone(), give_back(*refund)),
        BankRequest::Reverse(reversal) => (reversal.asked.clone(), take_back(reversal)),
    };
    match input {
        Ok(input) => link.handle(input, clock::now(), clock::wall()),
        // The engine makes trace numbers within their range.
        Err(error) => {
            tracing::error!(%error, order = %asked, "not sent");
            engine.bank(asked, BankEvent::NotSent).await;
        }
    }
}

fn trace(attempt: &Attempt) -> Result<Trace, TraceError> {
    Trace::new(attempt.stan, attempt.sent_at)
}

fn authorise(order: BankOrder) -> Result<Input<'static, Asked>, TraceError> {
    let (trace, movement) = (trace(&order.attempt)?, order.attempt.movement);
    let (card, expiry, pin, amount) = (order.card, order.expiry, order.pin, order.amount);
    Ok(Input::Authorise(order.asked, Box::new(Authorisation { trace, movement, card, expiry, pin, amount })))
}

fn give_back(refund: BankRefund) -> Result<Input<'static, Asked>, TraceError> {
    let original = Original {
        trace: trace(&refund.original)?,
        movement: refund.original.movement,
        authorisation_code: refund.authorisation_code.filter(|code| !code.is_empty()),
    };
    let asked = Refund { trace: trace(&refund.attempt)?, amount: refund.amount, original };
    Ok(Input::Refund(refund.asked, Box::new(asked)))
}

fn take_back(reversal: BankReversal) -> Result<Input<'static, Asked>, TraceError> {
    let (trace, movement) = (trace(&reversal.attempt)?, reversal.attempt.movement);
    Ok(Input::Reverse(reversal.asked, Reversal { trace, movement, amount: reversal.amount }))
}

/// Does everything that the link wants done.
async fn drain(link: &mut Link<Asked>, lines: &mut Lines, engine: &Engine, id: &str) {
    while let Some(output) = link.poll_output() {
        match output {
            Output::Send(line, octets) => lines.send(line, octets),
            Output::Authorised(key, Verdict::Approved { authorisation_code }) => {
                engine.bank(key, BankEvent::Approved { authorisation_code }).await;
            }
            Output::Authorised(key, Verdict::Declined(code)) => {
                tracing::info!(order = %key, %code, institution = id, "declined");
                engine.bank(key, BankEvent::Declined).await;
            }
            Output::TimedOut(key, why) => {
                tracing::warn!(order = %key, ?why, institution = id, "no clear answer from the bank: reversing");
                metrics::counter!("cloakway_bank_timeouts_total").increment(1);
                engine.bank(key, BankEvent::TimedOut).await;
            }
            Output::NotSent(key) => engine.bank(key, BankEvent::NotSent).await,
            Output::Late(key, code) => {
                tracing::warn!(order = %key, %code, institution = id, "late answer: the reversal stands");
            }
            Output::Reversed(key, code) => {
                tracing::info!(order = %key, %code, institution = id, "reversed");
                engine.bank(key, BankEvent::Reversed).await;
            }
            Output::Disconnect(line, reason) => {
                tracing::warn!(%reason, institution = id, "bank connection ended");
                lines.drop_line(line);
            }
        }
    }
}
