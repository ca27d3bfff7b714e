//! The loop: what the kernel says goes into the health, what the health says goes to its clients.
//!
//! Applying the policy to the kernel runs beside the loop, because `nft` may take its time and the
//! loss of a link must not wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Context, Outcome, Stop, admin, clock, metrics};
use forwarder_core::{Applied, Change, Health, Input, LinkState, Policy};
use forwarder_dataplane::{Counters, Counts, DataplaneError, Event, Events, Interface, Kernel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;
use crate::data_plane::DataPlane;
use crate::health_socket::HealthSocket;
use crate::show::{self, Shared};

/// Guard and routes are read back this often.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

// A little below the contract, so that a late wake-up keeps it.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// Runs until the stop.
///
/// # Errors
/// When the kernel cannot be talked to, the guard cannot be put up at the start, or a socket cannot be opened.
pub async fn run(config: Config, context: Context) -> Outcome {
    let stop = context.stop;
    let kernel = Arc::new(Kernel::open()?);
    let policy = Arc::new(config.policy);
    let health = Health::new(&policy, config.timing, clock::now());
    let data_plane = Arc::new(DataPlane::new(config.data_plane));
    let shared = Arc::new(Shared {
        policy: policy.clone(),
        data_plane: data_plane.clone(),
        kernel: kernel.clone(),
        health: Mutex::new(health),
        interfaces: Mutex::default(),
    });
    let socket = HealthSocket::serve(&config.health_socket, stop.clone())?;
    {
        let shared = shared.clone();
        admin::serve(&config.admin_socket, stop.clone(), move |request| show::answer(shared.clone(), request))?;
    }
    if let Some(listen) = config.metrics_listen {
        metrics::serve(listen, stop.clone()).await?;
    }
    let events = Events::open(interfaces(&policy))?;
    let probe_interval = config.probe_interval;
    let mut engine =
        Engine { policy, kernel, data_plane, shared, socket, probe_interval, applying: None, again: false };
    engine.start().await?;
    engine.run(events, stop).await
}

struct Engine {
    policy: Arc<Policy>,
    kernel: Arc<Kernel>,
    data_plane: Arc<DataPlane>,
    shared: Arc<Shared>,
    socket: HealthSocket,
    probe_interval: Duration,
    /// The work beside the loop.
    applying: Option<JoinHandle<Round>>,
    /// Something happened since that work began: do it again.
    again: bool,
}

/// What one round of applying found.
struct Round {
    applied: Applied,
    interfaces: BTreeMap<String, Interface>,
    counters: Result<Counters, DataplaneError>,
    counts: Counts,
}

impl Engine {
    /// The guard first: until it stands nothing else is done, and without it there is nothing to run for.
    async fn start(&mut self) -> Outcome {
        let all: Vec<Change> = lock(&self.shared.health).status().map(|status| status.word.clone()).collect();
        self.say(&all);
        let round = round(&self.kernel, &self.data_plane, &self.policy, self.probe_interval).await;
        if let Err(broken) = &round.applied.guard {
            return Err(format!("the guard cannot be put up: {broken}").into());
        }
        self.take_in(&round);
        tracing::info!(prefixes = self.policy.prefixes().len(), "the guard stands");
        Ok(())
    }

    async fn run(mut self, mut events: Events, stop: Stop) -> Outcome {
        let mut check = ticks(CHECK_INTERVAL);
        let mut probe = ticks(self.probe_interval);
        let mut heartbeat = ticks(HEARTBEAT);
        loop {
            let timeout = lock(&self.shared.health).poll_timeout();
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => self.on_event(event),
                    None => {
                        tracing::warn!("the stream of kernel events ended: reading everything again");
                        events = Events::open(interfaces(&self.policy))?;
                        self.apply();
                    }
                },
                () = stop.told() => break,
                () = clock::until(timeout) => self.handle(Input::Tick),
                round = finished(&mut self.applying) => self.on_round(round),
                _ = heartbeat.tick() => self.socket.heartbeat(),
                _ = probe.tick() => self.probe(),
                _ = check.tick() => self.apply(),
            }
        }
        self.handle(Input::Stop);
        // A round in flight could put the routes back.
        if let Some(applying) = self.applying.take() {
            let _ = applying.await;
        }
        let removed = self.kernel.remove_routes().await;
        // Without routes it has nothing to forward by.
        self.data_plane.stop().await;
        self.socket.close().await;
        tracing::info!("routes removed; guard and blackholes stay: `forwarder guard remove` takes them away");
        Ok(removed?)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Link { index, name, state } => self.on_link(index, &name, state),
            Event::Neighbour { index, address, answered } => {
                let interfaces = lock(&self.shared.interfaces);
                let name = interfaces.iter().find(|(_, found)| found.index == index).map(|(name, _)| name.clone());
                drop(interfaces);
                if let Some(interface) = name {
                    self.handle(Input::Neighbour { interface: &interface, address, answered });
                }
            }
            Event::GuardTouched | Event::Addresses => self.apply(),
            Event::Overrun => {
                tracing::warn!("kernel events were lost: reading everything again");
                self.apply();
            }
        }
    }

    fn on_link(&mut self, index: u32, name: &str, state: LinkState) {
        // One of ours under a new name is gone under the old one.
        let renamed: Vec<String> = {
            let mut interfaces = lock(&self.shared.interfaces);
            let gone = interfaces.iter_mut().filter(|(known, found)| found.index == index && known.as_str() != name);
            gone.map(|(known, found)| {
                *found = Interface { index: 0, state: LinkState::Missing };
                known.clone()
            })
            .collect()
        };
        for old in renamed {
            // Before anybody is told: the fast path knows interfaces by index, and not that this one is no longer it.
            self.data_plane.stand_aside();
            self.link(&old, LinkState::Missing);
            self.apply();
        }
        if self.policy.link_of(name).is_none() {
            return;
        }
        let now = Interface { index: if state == LinkState::Missing { 0 } else { index }, state };
        let before = lock(&self.shared.interfaces).insert(name.to_owned(), now);
        if before != Some(now) && state != LinkState::Up {
            self.data_plane.stand_aside();
        }
        self.link(name, state);
        if before != Some(now) {
            tracing::info!(interface = name, ?state, "private link");
            // The kernel dropped the routes of a link that went down, without a word for IPv4.
            self.apply();
            self.probe();
        }
    }

    fn link(&mut self, interface: &str, state: LinkState) {
        self.handle(Input::Link { interface, state });
    }

    fn handle(&mut self, input: Input<'_>) {
        let changes = lock(&self.shared.health).handle(input, clock::now());
        self.say(&changes);
    }

    fn say(&self, changes: &[Change]) {
        for change in changes {
            self.socket.say(change);
            show::count_health(change);
            tracing::info!(prefix = %change.prefix, healthy = change.healthy, reason = %change.reason, "health");
        }
    }

    /// Asks every neighbour now; the answers are events.
    fn probe(&self) {
        for entry in self.policy.prefixes() {
            let interface = self.policy.interface(entry.link);
            let found = lock(&self.shared.interfaces).get(interface).copied();
            let Some(Interface { index, state: LinkState::Up }) = found else { continue };
            let (kernel, address) = (self.kernel.clone(), entry.probe);
            tokio::spawn(async move {
                if let Err(error) = kernel.probe(index, address).await {
                    tracing::debug!(%error, "probe");
                }
            });
        }
    }

    fn apply(&mut self) {
        if self.applying.is_some() {
            self.again = true;
            return;
        }
        let (kernel, data_plane, policy) = (self.kernel.clone(), self.data_plane.clone(), self.policy.clone());
        let interval = self.probe_interval;
        self.applying = Some(tokio::spawn(async move { round(&kernel, &data_plane, &policy, interval).await }));
    }

    fn on_round(&mut self, round: Result<Round, tokio::task::JoinError>) {
        self.applying = None;
        match round {
            // Older than what happened since: only its bad news counts.
            Ok(round) if !self.again || round.applied.guard.is_err() => self.take_in(&round),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a round of checks broke off"),
        }
        if std::mem::take(&mut self.again) {
            self.apply();
        }
    }

    fn take_in(&mut self, round: &Round) {
        if let Err(broken) = &round.applied.guard {
            tracing::warn!(reason = %broken, "the guard is broken");
        }
        for (name, found) in &round.interfaces {
            let before = lock(&self.shared.interfaces).insert(name.clone(), *found);
            self.link(name, found.state);
            if before.is_some_and(|before| before != *found) {
                self.probe();
            }
        }
        self.handle(Input::Applied(&round.applied));
        show::count_round(&self.policy, &round.applied, &round.interfaces, round.counters.as_ref().ok(), &round.counts);
        show::count_clients(self.socket.clients());
    }
}

/// Applies the policy and reads back everything that the loop wants to know.
async fn round(kernel: &Kernel, data_plane: &DataPlane, policy: &Arc<Policy>, probe_interval: Duration) -> Round {
    let applied = kernel.apply(policy, probe_interval).await;
    // The slow path first: what the fast one hands over must find it.
    if applied.guard.is_ok() {
        data_plane.apply(kernel, policy).await;
    }
    let mut interfaces = BTreeMap::new();
    for link in policy.links() {
        match kernel.interface(&link.interface).await {
            Ok(found) => {
                interfaces.insert(link.interface.clone(), found);
            }
            Err(error) => tracing::warn!(%error, "interface"),
        }
    }
    let counters = kernel.counters().await.map(|counters| show::together(counters, &data_plane.user_counters()));
    Round { applied, interfaces, counters, counts: data_plane.counts() }
}

/// The end of the work beside the loop; for ever when there is none.
async fn finished(applying: &mut Option<JoinHandle<Round>>) -> Result<Round, tokio::task::JoinError> {
    match applying {
        Some(applying) => applying.await,
        None => std::future::pending().await,
    }
}

fn interfaces(policy: &Policy) -> Vec<String> {
    policy.links().iter().map(|link| link.interface.clone()).collect()
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A poisoned lock still holds the state of the moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
