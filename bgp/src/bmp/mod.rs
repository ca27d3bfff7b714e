//! The station that routers tell of their tables, and the leak watch over what they say (RFC 7854, A3).

pub(crate) mod cli;
mod report;
pub(crate) mod settings;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_bmp::{PeerInfo, Private, Report, Router, RouterCounters, Watch};
use cloakway_runtime::{Stop, clock};
use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use settings::MonitoredRouter;
pub use settings::Settings;

use crate::events::{Event, Events};
use crate::health::Gate;

/// What one read takes at most.
const READ: usize = 64 * 1024;
/// The first wait before connecting again, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// A router may have nothing to say for days: the kernel asks whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// One connection of a router.
struct Connection {
    /// Which of the router's connections it is: an older one has nothing more to say.
    generation: u64,
    from: SocketAddr,
    since: cloakway_types::Instant,
    said_name: Option<String>,
    peers: Vec<PeerInfo>,
    counters: RouterCounters,
    /// Dropped, it ends the connection.
    _alive: oneshot::Sender<()>,
}

struct Shared {
    watch: Watch,
    private: Arc<[Private]>,
    connections: BTreeMap<String, Connection>,
    generation: u64,
}

/// The station of the running process.
pub(crate) struct Station {
    shared: Mutex<Shared>,
    settings: Settings,
    gate: Gate,
    events: Events,
    /// The watch may be due at another time.
    retimed: Notify,
}

impl Station {
    /// Opens the sockets, and starts whoever listens and connects, until the stop.
    ///
    /// # Errors
    /// Names the address that can't be had.
    pub(crate) fn start(
        settings: Settings,
        gate: Gate,
        events: Events,
        tasks: &mut JoinSet<()>,
        stop: &Stop,
    ) -> Result<Arc<Self>, String> {
        let watch = Watch::new(settings.watch.clone(), clock::now());
        let private = settings.private.clone().into();
        let shared = Shared { watch, private, connections: BTreeMap::new(), generation: 0 };
        let station = Arc::new(Self { shared: Mutex::new(shared), settings, gate, events, retimed: Notify::new() });
        for address in &station.settings.listen {
            let listen = || {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            };
            let listener = listen().map_err(|error| format!("cannot listen for BMP on {address}: {error}"))?;
            tasks.spawn(station.clone().listen(listener, stop.clone()));
        }
        for router in station.settings.routers.iter().filter(|router| router.port.is_some()) {
            tasks.spawn(station.clone().connect(router.clone(), stop.clone()));
        }
        tasks.spawn(station.clone().time(stop.clone()));
        for router in &station.settings.routers {
            report::connected(&router.name, false);
        }
        Ok(station)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self: Arc<Self>, listener: TcpListener, stop: Stop) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.told() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => match self.who(from.ip().to_canonical()) {
                    Some(name) => {
                        let station = self.clone();
                        connections.spawn(async move {
                            station.follow(&name, stream, from).await;
                        });
                    }
                    None => {
                        metrics::counter!("bgp_speaker_bmp_connections_refused_total").increment(1);
                        tracing::debug!(%from, "BMP connection refused: neither a router's nor in bmp.allow, or too many");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a BMP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// The name of the router at `address`, if it may connect and there is room for it.
    fn who(&self, address: IpAddr) -> Option<String> {
        let named = self.settings.routers.iter().find(|router| router.address == address);
        let allowed = || self.settings.allow.iter().any(|prefix| prefix.contains(&address));
        let name = match named {
            Some(router) => router.name.clone(),
            None if allowed() => address.to_string(),
            None => return None,
        };
        let shared = self.lock();
        // Places of named routers are theirs.
        let strangers = shared.connections.keys().filter(|name| !self.is_named(name)).count();
        let room = self.settings.max_routers.saturating_sub(self.settings.routers.len());
        (named.is_some() || shared.connections.contains_key(&name) || strangers < room).then_some(name)
    }

    fn is_named(&self, name: &str) -> bool {
        self.settings.routers.iter().any(|router| router.name == name)
    }

    async fn connect(self: Arc<Self>, router: MonitoredRouter, stop: Stop) {
        let to = SocketAddr::new(router.address, router.port.unwrap_or_default());
        let mut wait = WAITS.0;
        loop {
            let attempt = async {
                match tokio::time::timeout(CONNECT, TcpStream::connect(to)).await {
                    Ok(Ok(stream)) => {
                        self.follow(&router.name, stream, to).await;
                        true
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(router = router.name, %to, %error, "cannot connect for BMP");
                        false
                    }
                    Err(_) => false,
                }
            };
            tokio::select! {
                () = stop.told() => return,
                connected = attempt => if connected { wait = WAITS.0 },
            }
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(wait) => wait = wait.saturating_mul(2).min(WAITS.1),
            }
        }
    }

    /// Reads one connection to its end.
    async fn follow(&self, name: &str, mut stream: TcpStream, from: SocketAddr) {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
            tracing::debug!(%error, "cannot keep a BMP connection alive");
        }
        let (alive, mut replaced) = oneshot::channel();
        let (generation, mut router) = self.enter(name, from, alive);
        let mut buffer = Vec::with_capacity(READ);
        let reason = loop {
            buffer.clear();
            let read = tokio::select! {
                _ = &mut replaced => break "another connection has taken its place".to_owned(),
                read = stream.read_buf(&mut buffer) => read,
            };
            match read {
                Ok(0) => break "the router closed the connection".to_owned(),
                Ok(_) => {
                    router.received(&buffer);
                    if let Some(reason) = self.take(name, generation, &mut router) {
                        break reason;
                    }
                }
                Err(error) => break error.to_string(),
            }
            // A router that tells a whole table leaves the others their turn.
            tokio::task::yield_now().await;
        };
        self.leave(name, generation, &reason);
    }

    fn enter(&self, name: &str, from: SocketAddr, alive: oneshot::Sender<()>) -> (u64, Router) {
        let now = clock::now();
        let mut shared = self.lock();
        shared.generation += 1;
        let generation = shared.generation;
        let router = Router::new(shared.private.clone(), self.settings.limits);
        let counters = RouterCounters::default();
        let connection =
            Connection { generation, from, since: now, said_name: None, peers: Vec::new(), counters, _alive: alive };
        if shared.connections.insert(name.to_owned(), connection).is_some() {
            shared.watch.disconnected(name, "another connection has taken its place", now);
        }
        shared.watch.connected(name, now);
        report::connected(name, true);
        tracing::info!(router = name, %from, "BMP: connected");
        self.events.tell(Event::BmpUp { router: name.to_owned() });
        self.settle(&mut shared);
        (generation, router)
    }

    /// Gives the watch what `router` says; the reason to close, if there is one.
    fn take(&self, name: &str, generation: u64, router: &mut Router) -> Option<String> {
        let now = clock::now();
        let mut shared = self.lock();
        if shared.connections.get(name).is_none_or(|connection| connection.generation != generation) {
            return Some("another connection has taken its place".to_owned());
        }
        let mut close = None;
        let mut retold = false;
        while let Some(report) = router.poll_output() {
            match report {
                Report::Notice(notice) => {
                    retold = true;
                    report::notice(name, &notice);
                }
                Report::Close(reason) => close = Some(reason),
                report => shared.watch.report(name, report, now),
            }
        }
        let counters = router.counters();
        report::counters(name, counters);
        if retold {
            report::statistics(name, &router.statistics());
        }
        if let Some(connection) = shared.connections.get_mut(name) {
            connection.counters = counters;
            if retold {
                connection.said_name = router.name().map(str::to_owned);
            }
            connection.peers = router.peers().cloned().collect();
        }
        self.settle(&mut shared);
        close
    }

    fn leave(&self, name: &str, generation: u64, reason: &str) {
        tracing::warn!(router = name, reason, "BMP: the connection ended");
        self.events.tell(Event::BmpDown { router: name.to_owned(), reason: reason.to_owned() });
        let mut shared = self.lock();
        if shared.connections.get(name).is_some_and(|connection| connection.generation == generation) {
            shared.connections.remove(name);
            shared.watch.disconnected(name, reason, clock::now());
            report::connected(name, false);
            self.settle(&mut shared);
        }
    }

    /// Ticks the watch when it is due.
    async fn time(self: Arc<Self>, stop: Stop) {
        loop {
            let due = self.lock().watch.poll_timeout();
            tokio::select! {
                () = stop.told() => return,
                () = self.retimed.notified() => continue,
                () = clock::until(due) => {}
            }
            let mut shared = self.lock();
            shared.watch.tick(clock::now());
            self.settle(&mut shared);
        }
    }

    /// Tells everybody what the watch has to tell, and has private routes kept back as it says.
    fn settle(&self, shared: &mut Shared) {
        let mut changed = false;
        while let Some(event) = shared.watch.poll_event() {
            changed = true;
            report::event(&event, &self.events);
        }
        if changed {
            report::leaks(&shared.watch);
            self.gate.withhold(shared.watch.withheld());
        }
        self.retimed.notify_one();
    }

    /// Private routes or peers have changed: the routers are to tell everything anew where other prefixes are watched.
    pub(crate) fn configure(&self, settings: Settings) {
        let mut shared = self.lock();
        shared.watch.configure(settings.watch.internal, settings.watch.private);
        if *shared.private != *settings.private {
            shared.private = settings.private.into();
            // Dropped, they end; whoever leads them says so to the watch.
            let now = clock::now();
            for name in std::mem::take(&mut shared.connections).into_keys() {
                shared.watch.disconnected(&name, "other prefixes are watched now", now);
                report::connected(&name, false);
            }
        }
        self.settle(&mut shared);
    }

    /// The operator is done with the leaks of `private`, or of all.
    pub(crate) fn clear(&self, private: Option<IpNet>) -> Result<usize, String> {
        let mut shared = self.lock();
        let cleared = shared.watch.clear(private)?;
        report::leaks(&shared.watch);
        self.settle(&mut shared);
        tracing::info!(cleared, "the operator has cleared leaks");
        Ok(cleared)
    }
}
