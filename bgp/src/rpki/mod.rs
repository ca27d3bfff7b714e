//! Caches of validated ROA payloads, and what they say together (RFC 8210, RFC 6811).

pub(crate) mod settings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bgp_rpki::{Client, Event as Said, Input, Output, Selection, State, Status, Validity, Vrps};
use bgp_wire::Asn;
use cloakway_runtime::{Stop, clock};
use ipnet::IpNet;
use metrics::{counter, gauge};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use settings::Cache;
pub use settings::Settings;

use crate::events::{Event, Events};

/// What one read takes at most.
const READ: usize = 64 * 1024;

struct Shared {
    selection: Selection,
    status: Vec<Status>,
    last_down: Vec<Option<String>>,
    chosen: Option<usize>,
}

/// What all caches say.
pub(crate) struct Rpki {
    shared: Mutex<Shared>,
    settings: Settings,
    /// The payloads that count; empty while no cache has any.
    payloads: watch::Sender<Arc<Vrps>>,
    events: Events,
}

#[derive(Serialize)]
pub(crate) struct CacheRow {
    cache: String,
    address: String,
    preference: u8,
    counts: bool,
    state: &'static str,
    version: u8,
    session: Option<u16>,
    serial: Option<u32>,
    payloads: usize,
    updated_s: Option<u64>,
    expires_in_s: Option<u64>,
    last_down: Option<String>,
}

impl Rpki {
    /// Starts a conversation with each cache, until the stop.
    pub(crate) fn start(
        settings: Settings,
        payloads: watch::Sender<Arc<Vrps>>,
        events: Events,
        tasks: &mut JoinSet<()>,
        stop: &Stop,
    ) -> Arc<Self> {
        let idle = || client(&settings).status();
        let shared = Shared {
            selection: Selection::new(settings.caches.iter().map(|cache| cache.preference)),
            status: settings.caches.iter().map(|_| idle()).collect(),
            last_down: vec![None; settings.caches.len()],
            chosen: None,
        };
        let rpki = Arc::new(Self { shared: Mutex::new(shared), settings, payloads, events });
        for (index, cache) in rpki.settings.caches.clone().into_iter().enumerate() {
            let (rpki, stop) = (rpki.clone(), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.told() => {}
                    () = rpki.follow(index, cache) => {}
                }
            });
        }
        rpki
    }

    /// What the payloads that count say of `prefix` from `origin`.
    pub(crate) fn validate(&self, prefix: IpNet, origin: Option<Asn>) -> Validity {
        self.payloads.borrow().validate(prefix, origin)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Talks with one cache for ever.
    #[tracing::instrument(name = "rpki", skip_all, fields(cache = %cache.name))]
    async fn follow(&self, index: usize, cache: Cache) {
        let mut client = client(&self.settings);
        let mut stream: Option<TcpStream> = None;
        let mut buffer = Vec::with_capacity(READ);
        client.handle(Input::Tick, clock::now());
        loop {
            if self.carry_out(index, &cache, &mut client, &mut stream).await.is_break() {
                continue;
            }
            buffer.clear();
            let read = async {
                match &mut stream {
                    Some(stream) => stream.read_buf(&mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                read = read => Some(read),
                () = clock::until(client.poll_timeout()) => None,
            };
            match read {
                None => client.handle(Input::Tick, clock::now()),
                Some(Ok(0)) => {
                    stream = None;
                    client.handle(Input::Closed("the cache closed the connection"), clock::now());
                }
                Some(Ok(_)) => client.handle(Input::Received(&buffer), clock::now()),
                Some(Err(error)) => {
                    stream = None;
                    client.handle(Input::Closed(&error.to_string()), clock::now());
                }
            }
            // Half a million payloads come in one go: others get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Does what `client` wants; a break when that gave it something new to think about.
    async fn carry_out(
        &self,
        index: usize,
        cache: &Cache,
        client: &mut Client,
        stream: &mut Option<TcpStream>,
    ) -> std::ops::ControlFlow<()> {
        let mut again = std::ops::ControlFlow::Continue(());
        while let Some(output) = client.poll_output() {
            match output {
                Output::Connect => {
                    let due = client.poll_timeout();
                    let connected = tokio::select! {
                        connected = TcpStream::connect((cache.host.as_str(), cache.port)) => connected,
                        () = clock::until(due) => continue,
                    };
                    match connected {
                        Ok(connected) => {
                            *stream = Some(connected);
                            client.handle(Input::Connected, clock::now());
                        }
                        Err(error) => client.handle(Input::Closed(&error.to_string()), clock::now()),
                    }
                    again = std::ops::ControlFlow::Break(());
                }
                Output::Send(bytes) => {
                    if let Some(to) = stream
                        && let Err(error) = to.write_all(&bytes).await
                    {
                        *stream = None;
                        client.handle(Input::Closed(&error.to_string()), clock::now());
                        again = std::ops::ControlFlow::Break(());
                    }
                }
                Output::Close => *stream = None,
                Output::Event(event) => self.tell(index, cache, &event),
            }
        }
        self.settle(index, cache, client);
        again
    }

    fn tell(&self, index: usize, cache: &Cache, event: &Said) {
        let name = cache.name.clone();
        match event {
            Said::Updated { serial, payloads, added, removed } => {
                tracing::info!(serial, payloads, added, removed, "the cache has told everything");
                counter!("bgp_speaker_rpki_updates_total", "cache" => name.clone()).increment(1);
                let (serial, payloads, added, removed) = (*serial, *payloads, *added, *removed);
                self.events.tell(Event::RpkiUpdated { cache: name, serial, payloads, added, removed });
            }
            Said::Down(reason) => {
                tracing::warn!(reason, "no connection to the cache");
                counter!("bgp_speaker_rpki_failures_total", "cache" => name.clone()).increment(1);
                if let Some(last) = self.lock().last_down.get_mut(index) {
                    *last = Some(reason.clone());
                }
                self.events.tell(Event::RpkiDown { cache: name, reason: reason.clone() });
            }
            Said::Expired => {
                tracing::error!("what the cache said counts no more");
                self.events.tell(Event::RpkiExpired { cache: name });
            }
        }
    }

    /// Has the data of the right cache count.
    fn settle(&self, index: usize, cache: &Cache, client: &Client) {
        let status = client.status();
        let mut shared = self.lock();
        if let Some(held) = shared.status.get_mut(index) {
            *held = status;
        }
        gauge!("bgp_speaker_rpki_payloads", "cache" => cache.name.clone()).set(status.payloads as f64);
        gauge!("bgp_speaker_rpki_synchronised", "cache" => cache.name.clone())
            .set(if status.state == State::Synchronised { 1.0 } else { 0.0 });
        shared.selection.set(index, client.data());
        let chosen = shared.selection.chosen();
        if chosen != shared.chosen {
            shared.chosen = chosen;
            let name = chosen.and_then(|chosen| self.settings.caches.get(chosen)).map(|cache| cache.name.clone());
            tracing::info!(cache = name.as_deref().unwrap_or("none"), "this cache's payloads count from now on");
            self.events.tell(Event::RpkiChosen { cache: name });
        }
        let current = shared.selection.current().unwrap_or_default();
        self.payloads.send_if_modified(|payloads| {
            if Arc::ptr_eq(payloads, &current) {
                return false;
            }
            let changed = **payloads != *current;
            *payloads = current;
            changed
        });
    }

    /// Rows of `show rpki`.
    pub(crate) fn rows(&self) -> Vec<CacheRow> {
        let now = clock::now();
        let shared = self.lock();
        let caches = self.settings.caches.iter().zip(&shared.status).zip(&shared.last_down).enumerate();
        let row = |(index, ((cache, status), last_down)): (usize, ((&Cache, &Status), &Option<String>))| CacheRow {
            cache: cache.name.clone(),
            address: format!("{}:{}", cache.host, cache.port),
            preference: cache.preference,
            counts: shared.chosen == Some(index),
            state: match status.state {
                State::Waiting => "waiting",
                State::Connecting => "connecting",
                State::Asking => "asking",
                State::Synchronised => "synchronised",
                State::NoData => "no-data",
            },
            version: status.version.octet(),
            session: status.session,
            serial: status.serial,
            payloads: status.payloads,
            updated_s: status.updated.map(|at| (now - at).as_secs()),
            expires_in_s: status.expires.map(|at| (at - now).as_secs()),
            last_down: last_down.clone(),
        };
        caches.map(row).collect()
    }
}

fn client(settings: &Settings) -> Client {
    let settings = bgp_rpki::Settings { max_payloads: settings.max_payloads, timing: settings.timing };
    Client::new(settings, clock::now())
}
