//! Reads the forwarder's health stream; its end, an error in it or its silence withdraws at once (A2).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_core::{HealthInput, Injector, Notice, PrivateRoute, Routes};
use cloakway_runtime::{Stop, clock};
use cloakway_types::Instant;
use forwarder_wire::{MAX_LINE, Message, decode};
use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::events::{Event, Events};

const RECONNECT: Duration = Duration::from_millis(100);

/// The routes to announce, and when the word came that made them so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announced {
    pub(crate) routes: Arc<Routes>,
    pub(crate) changed: Instant,
    /// Whether the change took a route away.
    pub(crate) withdrew: bool,
}

pub(crate) fn lock(injector: &Mutex<Injector>) -> MutexGuard<'_, Injector> {
    injector.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the stream at `path` until the stop, connecting again whenever it ends.
pub(crate) async fn run(path: PathBuf, gate: Gate, stop: Stop) {
    let mut told = String::new();
    loop {
        let reason = tokio::select! {
            () = stop.told() => return,
            reason = follow(&path, &gate) => reason,
        };
        gate.handle(&HealthInput::Disconnected(&reason));
        // Ten attempts a second would fill the log with one message.
        if reason != told {
            tracing::warn!(socket = %path.display(), %reason, "no health from the forwarder: nothing is announced");
            told = reason;
        }
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

/// Reads one stream to its end and says why it ended.
async fn follow(path: &Path, gate: &Gate) -> String {
    let mut lines = match UnixStream::connect(path).await {
        Ok(stream) => Lines { stream, buffer: Vec::new() },
        Err(error) => return error.to_string(),
    };
    tracing::info!(socket = %path.display(), "connected to the forwarder");
    gate.handle(&HealthInput::Connected);
    loop {
        let silence = lock(&gate.injector).poll_timeout();
        let line = tokio::select! {
            line = lines.next() => line,
            () = clock::until(silence) => {
                gate.handle(&HealthInput::Tick);
                continue;
            }
        };
        match line.and_then(|line| decode(line).map_err(|error| error.to_string())) {
            Ok(Message::Prefix { prefix, healthy, reason }) => {
                gate.handle(&HealthInput::Word { prefix, healthy, reason: &reason });
            }
            Ok(Message::Heartbeat { sequence }) => gate.handle(&HealthInput::Heartbeat { sequence }),
            Err(reason) => return reason,
        }
    }
}

/// What the injector lets through goes to the peers.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) injector: Arc<Mutex<Injector>>,
    pub(crate) announce: watch::Sender<Announced>,
    pub(crate) events: Events,
}

impl Gate {
    /// Other routes are wanted from now on.
    pub(crate) fn configure(&self, routes: Vec<PrivateRoute>) {
        self.change(|injector, now| injector.configure(routes, now));
    }

    fn handle(&self, input: &HealthInput<'_>) {
        self.change(|injector, now| injector.handle(input, now));
    }

    /// The leak watch has these private prefixes kept back, and no others.
    pub(crate) fn withhold(&self, withheld: &BTreeMap<IpNet, String>) {
        self.change(|injector, now| injector.withhold(withheld.clone(), now));
    }

    fn change(&self, change: impl FnOnce(&mut Injector, Instant) -> Vec<Notice>) {
        let now = clock::now();
        // One change after the other, so that what was decided last is what the peers are told.
        let mut injector = lock(&self.injector);
        let notices = change(&mut injector, now);
        let routes = injector.announced();
        self.announce.send_if_modified(|announced| {
            if Arc::ptr_eq(&announced.routes, &routes) {
                return false;
            }
            let withdrew = announced.routes.keys().any(|prefix| !routes.contains_key(prefix));
            *announced = Announced { routes, changed: now, withdrew };
            true
        });
        drop(injector);
        for notice in notices {
            match notice {
                Notice::Changed { prefix, announced, reason } => {
                    let to = if announced { "healthy" } else { "unhealthy" };
                    metrics::counter!("bgp_speaker_health_transitions_total", "prefix" => prefix.to_string(), "to" => to)
                        .increment(1);
                    tracing::info!(%prefix, announced, reason, "a private route is announced, or no more");
                    let prefix = prefix.to_string();
                    self.events.tell(if announced {
                        Event::RouteAnnounced { prefix, reason }
                    } else {
                        Event::RouteWithdrawn { prefix, reason }
                    });
                }
                Notice::UnknownPrefix(prefix) => {
                    tracing::warn!(%prefix, "the forwarder speaks of a prefix that is no private route here");
                }
            }
        }
    }
}

/// Lines of a bounded length; giving up on `next` and calling it again loses nothing.
struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(format!("a line exceeds {MAX_LINE} bytes"));
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("the forwarder closed the stream".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
