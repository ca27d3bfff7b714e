//! The loop: what the kernel says goes into the health, what the health says goes to its clients.
//!
//! Applying the policy to the kernel runs beside the loop, because `nft` may take its time and the
//! loss of a link must not wait for it.

mod going_over;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Context, Outcome, Stop, admin, clock, metrics, reload};
use forwarder_core::meter::Metering;
use forwarder_core::{Applied, Change, Health, Input, LinkState, MadeLink, Policy, Resting};
use forwarder_dataplane::{Counters, Counts, DataplaneError, Event, Events, Interface, Kernel};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::Config;
use crate::data_plane::DataPlane;
use crate::health_socket::HealthSocket;
use crate::live::{self, Live};
use crate::probe::Probe;
use crate::reload::{Reload, Reloader};
use crate::show::{self, Shared};

/// Guard and routes are read back this often.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Between two full listings of a guard that nobody is known to have changed.
const LOOK_AGAIN_INTERVAL: Duration = Duration::from_secs(60);

// A little below the contract, so that a late wake-up keeps it.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// Runs until the stop.
///
/// # Errors
/// When the kernel cannot be talked to, the guard cannot be put up at the start, or a socket cannot be opened.
pub async fn run(config: Config, context: Context) -> Outcome {
    let stop = context.stop;
    let kernel = Arc::new(Kernel::open()?);
    let standing = if config.feeds.is_empty() { Vec::new() } else { live::standing(&kernel).await };
    let live = Arc::new(Live::begin(&config.feeds, &standing).await);
    let served = live.prefixes();
    let policy = Arc::new(config.policy.serving(&served).0);
    let health = Health::new(&policy, config.timing, clock::now());
    let data_plane = Arc::new(DataPlane::new(config.data_plane.clone()));
    let file = (context.config_path, context.config_text);
    let (reloader, reloads) = Reloader::new(file, config.clone(), live.clone(), served);
    let shared = Arc::new(Shared {
        policy: Mutex::new(policy.clone()),
        data_plane: data_plane.clone(),
        kernel: kernel.clone(),
        health: Mutex::new(health),
        interfaces: Mutex::default(),
        reloader: Arc::new(reloader),
        problems: Mutex::default(),
        live: live.clone(),
    });
    let socket = HealthSocket::serve(&config.fixed.health_socket, stop.clone())?;
    {
        let shared = shared.clone();
        admin::serve(&config.fixed.admin_socket, stop.clone(), move |request| show::answer(shared.clone(), request))?;
    }
    {
        let reloader = shared.reloader.clone();
        reload::on_hangup(stop.clone(), move || {
            let reloader = reloader.clone();
            async move { reloader.reload().await }
        })?;
    }
    if let Some(listen) = config.fixed.metrics_listen {
        metrics::serve(listen, stop.clone()).await?;
    }
    let events = Events::open(interfaces(&policy))?;
    let mut engine = Engine {
        policy,
        made: Arc::new(config.made),
        kernel,
        data_plane,
        shared,
        socket,
        probe_interval: config.probe_interval,
        probes: ticks(config.probe_interval),
        probe: Probe::default(),
        resting: Resting::new(),
        reloads,
        waiting: None,
        watch_anew: false,
        applying: None,
        again: false,
        asking: None,
    };
    engine.start().await?;
    tokio::spawn(live::follow(live, engine.shared.reloader.clone(), stop.clone()));
    engine.run(events, stop).await
}

struct Engine {
    policy: Arc<Policy>,
    made: Arc<Vec<MadeLink>>,
    kernel: Arc<Kernel>,
    data_plane: Arc<DataPlane>,
    shared: Arc<Shared>,
    socket: HealthSocket,
    probe_interval: Duration,
    probes: Interval,
    probe: Probe,
    /// What the health said last of ways that are not to be used.
    resting: Resting,
    reloads: mpsc::Receiver<Reload>,
    /// A reload that the work beside the loop is in the way of.
    waiting: Option<Reload>,
    /// The events are of interfaces of an older policy.
    watch_anew: bool,
    /// The work beside the loop.
    applying: Option<JoinHandle<Round>>,
    /// Something happened since that work began: do it again.
    again: bool,
    /// The question whether the guard stands, while that work takes its time.
    asking: Option<JoinHandle<bool>>,
}

/// What one round of applying found.
struct Round {
    applied: Applied,
    interfaces: BTreeMap<String, Interface>,
    counters: Result<Counters, DataplaneError>,
    counts: Counts,
    /// What is wrong with links that are to be made.
    problems: BTreeMap<String, String>,
    /// Where the round went over to another policy.
    over_to: Option<(Arc<Policy>, Reload)>,
}

impl Engine {
    /// The guard first: until it stands nothing else is done, and without it there is nothing to run for.
    async fn start(&mut self) -> Outcome {
        let all: Vec<Change> = lock(&self.shared.health).status().map(|status| status.word.clone()).collect();
        self.say(&all);
        let problems = self.kernel.make_links(&self.made).await;
        let applied = self.kernel.apply(&self.policy, &self.resting, self.probe_interval).await;
        self.kernel.remove_other_links(&self.made).await?;
        let round = round((applied, problems), &self.kernel, &self.data_plane, &self.policy).await;
        if let Err(broken) = &round.applied.guard {
            return Err(format!("the guard cannot be put up: {broken}").into());
        }
        self.take_in(&round);
        tracing::info!(prefixes = self.policy.prefixes().len(), "the guard stands");
        Ok(())
    }

    async fn run(mut self, mut events: Events, stop: Stop) -> Outcome {
        let mut check = ticks(CHECK_INTERVAL);
        let mut heartbeat = ticks(HEARTBEAT);
        let mut look_again = ticks(LOOK_AGAIN_INTERVAL);
        look_again.reset();
        loop {
            if std::mem::take(&mut self.watch_anew) {
                events = Events::open(interfaces(&self.policy))?;
                self.apply();
            }
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
                Some(event) = self.probe.answer() => self.on_event(event),
                () = clock::until(timeout) => self.handle(Input::Tick),
                round = finished(&mut self.applying) => self.on_round(round),
                stands = finished(&mut self.asking) => {
                    self.asking = None;
                    if stands.is_ok_and(|stands| stands) {
                        self.handle(Input::GuardStands);
                    }
                }
                () = self.kernel.guard_touched() => self.apply(),
                why = self.kernel.guard_broken() => self.handle(Input::GuardBroken(&why)),
                _ = heartbeat.tick() => {
                    self.socket.heartbeat();
                    self.data_plane.renew_lease();
                }
                Some(reload) = self.reloads.recv() => self.reload(reload),
                _ = self.probes.tick() => self.probe(),
                _ = check.tick() => self.check(),
                _ = look_again.tick() => self.look_again(),
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
            Event::Addresses => self.apply(),
            Event::Overrun => {
                tracing::info!("kernel events were lost: reading everything again");
                self.apply();
                // Answers may be among them.
                self.probe();
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
        let (changes, resting) = {
            let mut health = lock(&self.shared.health);
            (health.handle(input, clock::now()), health.resting())
        };
        self.say(&changes);
        self.rest(resting);
    }

    /// Lets other links take over, or back: at once, and not when the round before is done.
    fn rest(&mut self, resting: Resting) {
        if resting == self.resting {
            return;
        }
        self.resting = resting.clone();
        let (kernel, policy) = (self.kernel.clone(), self.policy.clone());
        tokio::spawn(async move {
            if let Err(error) = kernel.reroute(&policy, &resting).await {
                tracing::warn!(%error, "links cannot take over: the next round tries again");
            }
        });
        self.apply();
    }

    fn say(&self, changes: &[Change]) {
        for change in changes {
            self.socket.say(change);
            show::count_health(change);
            tracing::info!(prefix = %change.prefix, healthy = change.healthy, reason = %change.reason, "health");
        }
    }

    fn probe(&mut self) {
        let interfaces = lock(&self.shared.interfaces);
        self.probe.ask(&self.kernel, (&*self.policy, &self.made[..]), &interfaces);
    }

    /// A round; or while one takes its time, whether the guard stands meanwhile.
    fn check(&mut self) {
        if self.applying.is_none() {
            self.apply();
        } else if self.asking.is_none() {
            let (kernel, policy) = (self.kernel.clone(), self.policy.clone());
            self.asking = Some(tokio::spawn(async move { kernel.still_stands(&policy).await.unwrap_or(false) }));
        }
    }

    /// Lists the guard whole, beside everything else.
    fn look_again(&self) {
        let (kernel, policy) = (self.kernel.clone(), self.policy.clone());
        tokio::spawn(async move { kernel.look_again(&policy).await });
    }

    fn apply(&mut self) {
        if self.applying.is_some() {
            self.again = true;
            return;
        }
        let (kernel, data_plane, policy) = (self.kernel.clone(), self.data_plane.clone(), self.policy.clone());
        let (interval, resting, made) = (self.probe_interval, self.resting.clone(), self.made.clone());
        self.applying = Some(tokio::spawn(async move {
            let problems = kernel.make_links(&made).await;
            let applied = kernel.apply(&policy, &resting, interval).await;
            round((applied, problems), &kernel, &data_plane, &policy).await
        }));
    }

    fn on_round(&mut self, round: Result<Round, tokio::task::JoinError>) {
        self.applying = None;
        match round {
            Ok(mut round) => {
                let over_to = round.over_to.take();
                let refused = over_to.is_some() && round.applied.guard.is_err();
                if let Some((policy, reload)) = over_to {
                    self.gone_over(policy, reload, &round.applied.guard);
                }
                // Older than what happened since: only its bad news counts. What was refused says nothing of what is.
                if !refused && (!self.again || round.applied.guard.is_err()) {
                    self.take_in(&round);
                }
            }
            Err(error) => tracing::error!(%error, "a round of checks broke off"),
        }
        if let Some(reload) = self.waiting.take() {
            self.reload(reload);
        } else if std::mem::take(&mut self.again) {
            self.apply();
        }
    }

    fn take_in(&mut self, round: &Round) {
        let before = std::mem::replace(&mut *lock(&self.shared.problems), round.problems.clone());
        for (interface, problem) in round.problems.iter().filter(|(name, problem)| before.get(*name) != Some(problem)) {
            tracing::error!(%interface, %problem, "a link cannot be made");
        }
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

/// Goes on from what was applied: the fast path, and everything that the loop wants to know.
async fn round(
    (mut applied, problems): (Applied, BTreeMap<String, String>),
    kernel: &Kernel,
    data_plane: &DataPlane,
    policy: &Arc<Policy>,
) -> Round {
    // The slow path first: what the fast one hands over must find it.
    if applied.guard.is_ok() {
        data_plane.apply(kernel, policy).await;
        // Nothing passes then: nothing is to be announced.
        if policy.metering() == Metering::Mark
            && let Some(why) = data_plane.no_meter().await
        {
            applied.guard = Err(format!("the limits are not counted: {why}"));
        }
    }
    for prefix in policy.unserved() {
        applied.routes.insert(prefix, Err("no subscriber prefix of its IP version is known".to_owned()));
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
    let user_counters = data_plane.user_counters().await;
    let counters = kernel.counters().await.map(|counters| show::together(counters, &user_counters));
    let counts = data_plane.counts().await;
    Round { applied, interfaces, counters, counts, problems, over_to: None }
}

/// The end of the work beside the loop; for ever when there is none.
async fn finished<T>(work: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn interfaces(policy: &Policy) -> Vec<String> {
    policy.links().iter().map(|link| link.interface.clone()).collect()
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A poisoned lock still holds the state of the moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
