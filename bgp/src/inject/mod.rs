//! The desired state: accepted when journaled, then applied, then told to the peers.

mod acknowledged;
pub(crate) mod api;
pub mod check;
pub mod cli;
mod compact;
mod flow;
mod journal;
mod lines;
mod ping;
pub mod process;
mod request;
mod script;
pub(crate) mod settings;
mod shown;
mod text;
pub(crate) mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bgp_core::record::{self, Record};
use bgp_core::{
    Applying, Batch, ChangeError, Checked, Ends, FenceId, LinkId, Others, Outcome, Policy, Prefixes, Requests, Rib,
    Session, SetChange, SetId, Walk, apply, check_name,
};
use cloakway_crypto::hash::sha256;
use cloakway_runtime::Stop;
use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub(crate) use acknowledged::acknowledged;
use flow::FlowSets;
use journal::Journal;
use shown::Why;

use crate::events::Events;
use crate::health::Announced;
use crate::neighbours::Neighbours;

/// Routes that are applied while the table is held: what an urgent change may have to wait for.
const SLICE: usize = 1024;
/// Slices of a bulk between two words to the peers: each costs them one message that is not full.
const SLICES_A_WAKE: usize = 128;
/// Octets of UPDATEs made while the table is held, and put before the socket at a time.
const PULL: usize = 64 * 1024;
/// Routes shown while the table is held.
const LISTING: u32 = 4096;
/// What the operator settled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where requests come in.
    pub api_socket: PathBuf,
    /// Where accepted changes are kept.
    pub journal: PathBuf,
    /// What may be injected, and what only under guard.
    pub policy: Arc<Policy>,
    /// The most routes in all sets.
    pub max_routes: usize,
    /// The most flow rules in all sets.
    pub max_flow_rules: usize,
    /// Programs that say what to announce.
    pub processes: Vec<process::Process>,
    /// What hides sets while it fails.
    pub checks: Vec<check::Check>,
    /// Sets that peers are to keep while we are down, and for how many seconds.
    pub kept: BTreeMap<String, u32>,
}

/// The table, and who waits for what in it.
#[derive(Debug)]
struct Table {
    rib: Rib,
    /// Peers that read.
    reading: BTreeSet<String>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    fence: FenceId,
    peers: BTreeSet<String>,
    done: oneshot::Sender<Result<(), String>>,
}

/// The desired state of the running process.
#[derive(Debug)]
pub(crate) struct Engine {
    table: Mutex<Table>,
    flows: FlowSets,
    requests: Mutex<Requests>,
    journal: Journal,
    /// The length of the journal when it was written anew.
    compact: Mutex<u64>,
    /// One lock for each set and each request id that is at work.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Held by changes that are on their way from the journal into the table.
    under_way: Mutex<Arc<()>>,
    changed: watch::Sender<u64>,
    settings: Settings,
    events: Events,
    shown: shown::Shown,
}

/// A bulk takes the table slice after slice, and a session must get it in between: the standard lock goes to whoever asks
/// while it is free, and that is the bulk again; this one goes to who has waited longest.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Engine {
    /// Opens the journal and restores what it says.
    ///
    /// # Errors
    /// Names the journal and what is wrong with it.
    pub(crate) fn open(settings: Settings, events: Events) -> Result<Arc<Self>, String> {
        let mut rib = Rib::new(settings.policy.clone());
        let mut requests = Requests::default();
        let shown = shown::Shown::default();
        let flows = FlowSets::new(settings.policy.clone());
        let journal = Journal::open(&settings.journal, |record| match record {
            Record::Change { id, change } => {
                let outcome = apply(&change, &mut rib);
                if let Some(id) = id {
                    let record = record::encode_change(None, &change);
                    requests.remember(&id, sha256(&[record::body_of(&record, None)]), outcome);
                }
            }
            Record::Flow { id, change } => {
                let outcome = flows.apply(&change);
                if let Some(id) = id {
                    requests.remember(&id, flow::digest(&change), outcome);
                }
            }
            Record::Known { id, digest, outcome } => requests.remember(&id, digest, outcome),
            Record::Held { set, held } => drop(shown.set(&set, Why::Drained, !held)),
        })?;
        // A program that is gone vouches for nothing, and every program begins anew.
        let of_programs = |rib: &Rib| {
            let sets = rib.sets().filter(|(set, routes)| set.starts_with(process::SETS) && *routes > 0);
            sets.map(|(set, _)| set.to_owned()).collect::<Vec<_>>()
        };
        flows.forget(|set| set.starts_with(process::SETS));
        for set in of_programs(&rib) {
            apply(&SetChange { set, others: Others::Go, remove: Prefixes::default(), add: Vec::new() }, &mut rib);
        }
        for (name, keep_s) in &settings.kept {
            let set = rib.set(name);
            rib.keep(set, Some(*keep_s));
        }
        // Whatever was accepted: a set that is checked waits for its first good looks.
        for check in &settings.checks {
            shown.set(&check.set, Why::Check, false);
        }
        for set in settings.checks.iter().map(|check| check.set.clone()).chain(shown.drained()) {
            flows.show(&set, false);
            let set = rib.set(&set);
            rib.show(set, false, None);
            while rib.settle_set(set, &mut Walk::default(), u32::MAX).is_continue() {}
        }
        tracing::info!(routes = rib.routes(), journal = %settings.journal.display(), "restored the accepted routes");
        let table = Table { rib, reading: BTreeSet::new(), waiting: Vec::new() };
        Ok(Arc::new(Self {
            table: Mutex::new(table),
            flows,
            requests: Mutex::new(requests),
            compact: Mutex::new(journal.length()),
            journal,
            locks: Mutex::default(),
            under_way: Mutex::default(),
            changed: watch::Sender::new(0),
            settings,
            events,
            shown,
        }))
    }

    /// Told whenever there may be something new to pull.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Accepts `change`: journaled, then applied. The same request again gets the same answer. Once begun it is
    /// carried through, whether or not anybody waits for the answer.
    pub(crate) async fn submit(self: &Arc<Self>, id: Option<String>, change: Checked) -> Result<Outcome, String> {
        let engine = self.clone();
        let work = tokio::spawn(async move {
            let (set, request) = (change.change().set.clone(), id.clone());
            let outcome = engine.carry_through(id, change).await;
            match &outcome {
                Ok(Outcome { added, changed, removed }) => {
                    for (kind, count) in [("added", added), ("changed", changed), ("removed", removed)] {
                        metrics::counter!("bgp_speaker_inject_accepted_prefixes_total", "change" => kind)
                            .increment(*count);
                    }
                }
                Err(_) => metrics::counter!("bgp_speaker_inject_refused_total").increment(1),
            }
            engine.events.injected(set, request, &outcome);
            outcome
        });
        work.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn carry_through(&self, id: Option<String>, change: Checked) -> Result<Outcome, String> {
        if let Some(id) = &id {
            check_name("request", id).map_err(|error| error.to_string())?;
        }
        let large = change.change().size() > SLICE;
        let write = move || {
            let body = record::encode_change(id.as_deref(), change.change());
            let digest = sha256(&[record::body_of(&body, id.as_deref())]);
            (id, change, body, digest)
        };
        // A million routes take milliseconds, which no other task has to wait for.
        let (id, change, body, digest) = match large {
            true => tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?,
            false => write(),
        };
        let change = change.change();
        let _under_way = lock(&self.under_way).clone();
        let id_lock = id.as_ref().map(|id| self.lock_for(&format!("id {id}")));
        let _one_of_id = match &id_lock {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        let set_lock = self.lock_for(&format!("set {}", change.set));
        let _one_of_set = set_lock.lock().await;
        if let Some(id) = &id
            && let Some(outcome) = lock(&self.requests).find(id, &digest).map_err(|error| error.to_string())?
        {
            return Ok(outcome);
        }
        self.check_room(change).await.map_err(|error| error.to_string())?;
        self.journal.append(body).await?;
        let mut applying = Applying::new(change, &mut lock(&self.table).rib);
        let mut slices = 0;
        let outcome = loop {
            if let ControlFlow::Break(outcome) = applying.step(&mut lock(&self.table).rib, SLICE) {
                break outcome;
            }
            slices += 1;
            if slices % SLICES_A_WAKE == 0 {
                self.wake();
            }
            tokio::task::yield_now().await;
        };
        self.wake();
        if let Some(id) = &id {
            lock(&self.requests).remember(id, digest, outcome);
        }
        metrics::counter!("bgp_speaker_inject_requests_total").increment(1);
        metrics::gauge!("bgp_speaker_inject_routes").set(lock(&self.table).rib.routes() as f64);
        Ok(outcome)
    }

    async fn check_room(&self, change: &SetChange) -> Result<(), ChangeError> {
        let limit = self.settings.max_routes;
        let would = {
            let table = lock(&self.table);
            let replaced = match change.others {
                Others::Go => table.rib.find_set(&change.set).map_or(0, |set| table.rib.routes_of(set)),
                Others::Stay => 0,
            };
            table.rib.routes() - replaced + change.adds()
        };
        if would <= limit {
            return Ok(());
        }
        // Close to the limit it is counted what is new, and what goes.
        let would = self.count_after(change).await;
        if would > limit { Err(ChangeError::TooMany { would, limit }) } else { Ok(()) }
    }

    /// How many routes there would be in all sets after `change`.
    async fn count_after(&self, change: &SetChange) -> usize {
        let stays = change.others == Others::Stay;
        let named: HashSet<IpNet> = change.add.iter().flat_map(|group| group.prefixes.iter()).collect();
        let gone: HashSet<IpNet> = change.remove.iter().filter(|prefix| !named.contains(prefix)).collect();
        let (mut known, mut seen) = (0, 0_u32);
        for prefix in named.iter().chain(&gone) {
            {
                let rib = &lock(&self.table).rib;
                known += usize::from(rib.find_set(&change.set).is_some_and(|set| rib.wanted_by(set, prefix).is_some()));
            }
            seen += 1;
            if seen % LISTING == 0 {
                tokio::task::yield_now().await;
            }
        }
        let rib = &lock(&self.table).rib;
        let before = rib.find_set(&change.set).map_or(0, |set| rib.routes_of(set));
        rib.routes() - if stays { known } else { before } + named.len()
    }

    fn lock_for(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.locks);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let fresh = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&fresh));
        fresh
    }

    /// Returns when everything accepted so far is on the wire to every peer that reads, or those `among` them, and
    /// acknowledged by its TCP.
    ///
    /// # Errors
    /// Which of them have not acknowledged in time.
    pub(crate) async fn wait(
        &self,
        among: Option<BTreeSet<String>>,
        patience: Duration,
    ) -> Result<Vec<String>, String> {
        let (fence, peers, done) = {
            let mut table = lock(&self.table);
            let mut peers = table.reading.clone();
            peers.retain(|peer| among.as_ref().is_none_or(|among| among.contains(peer)));
            if peers.is_empty() {
                return Err("no peer that takes injected routes is established".to_owned());
            }
            let fence = table.rib.fence().ok_or("no peer that takes injected routes is established")?;
            let (done, wait) = oneshot::channel();
            table.waiting.push(Waiting { fence, peers: peers.clone(), done });
            (fence, peers, wait)
        };
        self.wake();
        match tokio::time::timeout(patience, done).await {
            Ok(Ok(result)) => result.map(|()| peers.into_iter().collect()),
            Ok(Err(_)) => Err("the speaker is stopping".to_owned()),
            Err(_) => {
                let waiting = &mut lock(&self.table).waiting;
                let left = waiting.extract_if(.., |waiting| waiting.fence == fence).next();
                let left = left.map(|waiting| waiting.peers).unwrap_or_default();
                let names =
                    |peers: &mut dyn Iterator<Item = &String>| peers.map(String::as_str).collect::<Vec<_>>().join(", ");
                let acknowledged = match names(&mut peers.difference(&left)) {
                    none if none.is_empty() => String::new(),
                    some => format!("; acknowledged by {some}"),
                };
                let (ms, left) = (patience.as_millis(), names(&mut left.iter()));
                Err(format!("not on the wire and acknowledged within {ms} ms by {left}{acknowledged}"))
            }
        }
    }

    /// Whether there are routes that peers are to keep while we are down.
    pub(crate) fn keeps_anything(&self) -> bool {
        lock(&self.table).rib.keeps_anything()
    }

    /// Has peers keep the sets in `kept` while we are down, for so many seconds each, and no others.
    pub(crate) async fn keep(&self, kept: &BTreeMap<String, u32>) {
        let changed: Vec<SetId> = {
            let rib = &mut lock(&self.table).rib;
            let names: BTreeSet<String> =
                rib.sets().map(|(name, _)| name.to_owned()).chain(kept.keys().cloned()).collect();
            names
                .iter()
                .filter_map(|name| {
                    let set = rib.set(name);
                    rib.keep(set, kept.get(name).copied()).then_some(set)
                })
                .collect()
        };
        for set in changed {
            let mut walk = Walk::default();
            while lock(&self.table).rib.tell_set(set, &mut walk, LISTING).is_continue() {
                tokio::task::yield_now().await;
            }
        }
        self.wake();
    }

    /// What may be injected.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        lock(&self.table).rib.policy()
    }

    /// Allows what `policy` allows from now on; gives back the one before, for [`Engine::settle_policy`].
    pub(crate) fn set_policy(&self, policy: Arc<Policy>) -> Arc<Policy> {
        self.flows.set_policy(policy.clone());
        self.wake();
        lock(&self.table).rib.set_policy(policy)
    }

    /// Withdraws what `before` allowed and the present policy does not, and announces the reverse.
    pub(crate) async fn settle_policy(&self, before: &Policy) {
        let mut walk = Walk::default();
        while lock(&self.table).rib.settle_policy(before, &mut walk, LISTING).is_continue() {
            tokio::task::yield_now().await;
        }
        self.wake();
    }

    /// What the session of `peer` may send next; see [`Session::pull`].
    pub(crate) fn pull(
        &self,
        peer: &str,
        session: &mut Session,
        ends: impl Fn(LinkId) -> Option<Ends>,
    ) -> Option<(LinkId, Batch)> {
        let mut table = lock(&self.table);
        let lost = session.lost_table();
        let pulled = session.pull(&mut table.rib, PULL, ends);
        if lost && table.reading.remove(peer) {
            for waiting in table.waiting.extract_if(.., |waiting| waiting.peers.contains(peer)) {
                let _ = waiting.done.send(Err(format!("the session with {peer} ended: ask again")));
            }
        }
        if pulled.is_some() && !table.reading.contains(peer) {
            table.reading.insert(peer.to_owned());
        }
        pulled
    }

    /// The TCP of `peer` has acknowledged everything up to `fence`.
    pub(crate) fn passed(&self, peer: &str, fence: FenceId) {
        let mut table = lock(&self.table);
        for waiting in &mut table.waiting {
            if waiting.fence == fence {
                waiting.peers.remove(peer);
            }
        }
        for waiting in table.waiting.extract_if(.., |waiting| waiting.peers.is_empty() || waiting.done.is_closed()) {
            let _ = waiting.done.send(Ok(()));
        }
    }
}

/// What runs beside the API, until the stop.
pub(crate) fn start(
    engine: &Arc<Engine>,
    neighbours: &Neighbours,
    announced: &watch::Receiver<Announced>,
    tasks: &mut JoinSet<()>,
    stop: &Stop,
) {
    for process in engine.settings.processes.clone() {
        tasks.spawn(process::run(process, engine.clone(), neighbours.clone(), stop.clone()));
    }
    for check in engine.settings.checks.clone() {
        tasks.spawn(check::run(check, engine.clone(), announced.clone(), neighbours.clone(), stop.clone()));
    }
    tasks.spawn(compact::keep(engine.clone(), stop.clone()));
}
