//! The TCP side of the bank link: connects, moves bytes, and hands what the link says to the engine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transact_bank::{Authorisation, Input, Link, LinkConfig, Output, Reversal, Trace, TraceError, Verdict};
use transact_core::{BankEvent, OrderKey};

use crate::engine::{BankRequest, Engine};

const RECONNECT: Duration = Duration::from_millis(500);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The link's state, for `show`.
#[derive(Debug, Clone, Default)]
pub(crate) struct BankState(Arc<Mutex<Value>>);

impl BankState {
    pub(crate) fn show(&self) -> Value {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, link: &Link<OrderKey>) {
        let counters: serde_json::Map<String, Value> =
            link.counters().iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = json!({
            "up": link.is_up(), "outstanding": link.outstanding(), "reversing": link.reversing(), "counters": counters,
        });
    }
}

/// Keeps a connection to `address` until the stop, and does what `requests` ask over it.
pub(crate) async fn run(
    address: SocketAddr,
    config: LinkConfig,
    mut requests: mpsc::UnboundedReceiver<BankRequest>,
    engine: Engine,
    state: BankState,
    stop: Stop,
) {
    let mut link = Link::new(config);
    let mut stream: Option<TcpStream> = None;
    // A task of its own, so that requests that come meanwhile do not start the attempt anew.
    let mut connecting = Some(tokio::spawn(connect(address, clock::now())));
    let mut buffer = vec![0; 16 * 1024];
    loop {
        drain(&mut link, &mut stream, &engine).await;
        state.set(&link);
        let connected = stream.is_some();
        if !connected && connecting.is_none() {
            connecting = Some(tokio::spawn(connect(address, clock::now() + RECONNECT)));
        }
        tokio::select! {
            () = stop.told() => return,
            request = requests.recv() => match request {
                Some(request) => ask(&mut link, request, &engine).await,
                None => return,
            },
            made = attempt(&mut connecting) => {
                connecting = None;
                match made {
                    Ok(made) => {
                        tracing::info!(bank = %address, "bank connected");
                        stream = Some(made);
                        link.handle(Input::Connected, clock::now(), clock::wall());
                    }
                    Err(error) => tracing::warn!(bank = %address, %error, "bank not reachable"),
                }
            },
            read = receive(&mut stream, &mut buffer), if connected => match read {
                Ok(octets) if octets > 0 => {
                    let bytes = buffer.get(..octets).unwrap_or_default();
                    link.handle(Input::Bytes(bytes), clock::now(), clock::wall());
                }
                end => {
                    tracing::warn!(bank = %address, error = ?end.err(), "bank disconnected");
                    stream = None;
                    link.handle(Input::Disconnected, clock::now(), clock::wall());
                }
            },
            () = clock::until(link.poll_timeout()) => link.handle(Input::Tick, clock::now(), clock::wall()),
        }
    }
}

async fn connect(address: SocketAddr, at: cloakway_types::Instant) -> std::io::Result<TcpStream> {
    clock::until(Some(at)).await;
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The end of the attempt that is under way, if there is one.
async fn attempt(connecting: &mut Option<JoinHandle<std::io::Result<TcpStream>>>) -> std::io::Result<TcpStream> {
    match connecting {
        Some(attempt) => attempt.await.unwrap_or_else(|error| Err(std::io::Error::other(error))),
        None => std::future::pending().await,
    }
}

async fn receive(stream: &mut Option<TcpStream>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn ask(link: &mut Link<OrderKey>, request: BankRequest, engine: &Engine) {
    let (key, input): (OrderKey, Result<Input<'_, OrderKey>, TraceError>) = match request {
        BankRequest::Authorise(order) => {
            let key = order.key.clone();
            let input = Trace::new(order.attempt.stan, order.attempt.sent_at).map(|trace| {
                let authorisation =
                    Authorisation { trace, card: order.card, expiry: order.expiry, amount: order.amount };
                Input::Authorise(order.key, Box::new(authorisation))
            });
            (key, input)
        }
        BankRequest::Reverse(reversal) => {
            let key = reversal.key.clone();
            let input = Trace::new(reversal.attempt.stan, reversal.attempt.sent_at)
                .map(|trace| Input::Reverse(reversal.key, Reversal { trace, amount: reversal.amount }));
            (key, input)
        }
    };
    match input {
        Ok(input) => link.handle(input, clock::now(), clock::wall()),
        // The engine makes trace numbers within their range.
        Err(error) => {
            tracing::error!(%error, order = %key, "not sent");
            engine.bank(key, BankEvent::NotSent).await;
        }
    }
}

/// Does everything that the link wants done.
async fn drain(link: &mut Link<OrderKey>, stream: &mut Option<TcpStream>, engine: &Engine) {
    while let Some(output) = link.poll_output() {
        match output {
            Output::Send(octets) => {
                let written = match stream.as_mut() {
                    Some(stream) => tokio::time::timeout(CONNECT_LIMIT, stream.write_all(octets.expose())).await,
                    None => continue,
                };
                if !matches!(written, Ok(Ok(()))) {
                    *stream = None;
                    link.handle(Input::Disconnected, clock::now(), clock::wall());
                }
            }
            Output::Authorised(key, Verdict::Approved { authorisation_code }) => {
                engine.bank(key, BankEvent::Approved { authorisation_code }).await;
            }
            Output::Authorised(key, Verdict::Declined(code)) => {
                tracing::info!(order = %key, %code, "declined");
                engine.bank(key, BankEvent::Declined).await;
            }
            Output::TimedOut(key, why) => {
                tracing::warn!(order = %key, ?why, "no clear answer from the bank: reversing");
                metrics::counter!("cloakway_bank_timeouts_total").increment(1);
                engine.bank(key, BankEvent::TimedOut).await;
            }
            Output::NotSent(key) => engine.bank(key, BankEvent::NotSent).await,
            Output::Late(key, code) => tracing::warn!(order = %key, %code, "late answer: the reversal stands"),
            Output::Reversed(key, code) => {
                tracing::info!(order = %key, %code, "reversed");
                engine.bank(key, BankEvent::Reversed).await;
            }
            Output::Disconnect(reason) => {
                tracing::warn!(%reason, "bank connection ended");
                *stream = None;
            }
        }
    }
}
