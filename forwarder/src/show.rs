//! What `show` and Prometheus tell of the running process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cloakway_runtime::admin::Request;
use cloakway_runtime::{Topic, clock, reload};
use cloakway_types::Instant;
use forwarder_core::fast::Outcome;
use forwarder_core::meter::{Metering, Over};
use forwarder_core::{Applied, Change, Health, LinkState, Policy, Reason, ruleset};
use forwarder_dataplane::{Counter, Counters, Counts, Interface, Kernel};
use serde::Serialize;
use serde_json::Value;

use crate::data_plane::DataPlane;
use crate::dropped;
use crate::engine::lock;
use crate::live::{self, Live};
use crate::memory;
use crate::reload::Reloader;
use crate::sources;

/// What can be shown.
pub const TOPICS: &[Topic] = &[
    Topic { name: "health", about: "Each private prefix: healthy or not, why, since when" },
    Topic { name: "ways", about: "Each link of each private prefix: used, resting or bad, and why" },
    Topic { name: "table", about: "The policy: which prefix by which link, for which subscribers" },
    Topic { name: "links", about: "The private links and their state" },
    Topic { name: "counters", about: "What was forwarded, and what was dropped by reason" },
    Topic {
        name: "sources",
        about: "What each private prefix, and those sources that use most, have used and have left",
    },
    Topic {
        name: live::SUBSCRIBERS,
        about: "Every subscriber prefix, and whether it is configured or which feed tells of it",
    },
    Topic { name: "feeds", about: "The feeds of live subscriber prefixes: what each tells, what is left out, and why" },
    Topic { name: "memory", about: "How much memory prefixes and metered sources take at most, each and in all" },
    Topic { name: "data-plane", about: "What forwards at each interface, and why that" },
    Topic { name: "fast-path", about: "What the fast path forwarded, and what it handed to the kernel by reason" },
];

/// What the loop and the admin socket both see.
#[derive(Debug)]
pub struct Shared {
    pub(crate) policy: Mutex<Arc<Policy>>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) data_plane: Arc<DataPlane>,
    pub(crate) health: Mutex<Health>,
    pub(crate) interfaces: Mutex<BTreeMap<String, Interface>>,
    pub(crate) reloader: Arc<Reloader>,
    /// What is wrong with links that are to be made, by interface.
    pub(crate) problems: Mutex<BTreeMap<String, String>>,
    pub(crate) live: Arc<Live>,
}

impl Shared {
    pub(crate) fn policy(&self) -> Arc<Policy> {
        lock(&self.policy).clone()
    }
}

#[derive(Serialize)]
struct WayRow {
    prefix: String,
    link: String,
    interface: String,
    #[serde(rename = "use")]
    use_: &'static str,
    healthy: bool,
    reason: String,
    probe: String,
    answered_ms_ago: Option<u64>,
    unanswered: u32,
}

#[derive(Serialize)]
struct HealthRow {
    prefix: String,
    healthy: bool,
    reason: String,
    link: String,
    probe: String,
    for_s: u64,
    answered_ms_ago: Option<u64>,
    unanswered: u32,
}

#[derive(Serialize)]
struct TableRow {
    destination: String,
    action: String,
    link: String,
    interface: String,
    next_hop: Option<String>,
    services: Vec<String>,
    from_interfaces: Vec<String>,
    /// The first of them.
    from_prefixes: Vec<String>,
    from_prefixes_in_all: usize,
}

/// With each of thousands of private prefixes no more of thousands of subscriber prefixes are told.
const MOST_TOLD: usize = 64;

#[derive(Serialize)]
struct LinkRow {
    link: String,
    interface: String,
    state: &'static str,
    index: Option<u32>,
    prefixes: Vec<String>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct CounterRow {
    counter: &'static str,
    packets: u64,
    bytes: u64,
    meaning: &'static str,
}

/// Answers one request of the admin socket.
///
/// # Errors
/// For an unknown topic, or when the kernel does not answer.
pub async fn answer(shared: Arc<Shared>, request: Request) -> Result<Value, String> {
    match request.topic.as_str() {
        reload::TOPIC => shared.reloader.clone().reload().await,
        dropped::TOPIC => dropped::answer(&shared, &request).await,
        "health" => to_json(health(&shared)),
        "ways" => to_json(ways(&shared)),
        "table" => to_json(table(&shared.policy())),
        "links" => to_json(links(&shared)),
        "counters" => {
            let counted = shared.kernel.counters().await.map_err(|error| error.to_string())?;
            let counted = together(counted, &shared.data_plane.user_counters().await);
            to_json(counters(&shared.policy(), &counted, &shared.data_plane.counts().await))
        }
        "sources" => to_json(sources::rows(&shared).await?),
        live::SUBSCRIBERS => to_json(shared.live.subscribers(&shared.policy())),
        "feeds" => to_json(shared.live.rows(&shared.policy())),
        "memory" => to_json(memory::rows(&shared.policy())),
        "data-plane" => to_json(shared.data_plane.rows().await),
        "fast-path" => to_json(fast_path(&shared.data_plane.counts().await)),
        other => Err(format!("no such topic: {other}")),
    }
}

fn to_json<T: Serialize>(rows: Vec<T>) -> Result<Value, String> {
    serde_json::to_value(rows).map_err(|error| error.to_string())
}

fn health(shared: &Shared) -> Vec<HealthRow> {
    let now = clock::now();
    let row = |status: forwarder_core::Status| {
        // The way that carries the packets, or would.
        let way = status.ways.iter().find(|way| way.healthy).or(status.ways.first());
        HealthRow {
            prefix: status.word.prefix.to_string(),
            healthy: status.word.healthy,
            reason: status.word.reason.clone(),
            link: way.map(|way| way.link.clone()).unwrap_or_default(),
            probe: way.map(|way| way.probe.to_string()).unwrap_or_default(),
            for_s: now.since(status.since).as_secs(),
            answered_ms_ago: way.and_then(|way| way.answered_at).map(|at| ms_since(at, now)),
            unanswered: way.map(|way| way.misses).unwrap_or_default(),
        }
    };
    lock(&shared.health).status().map(row).collect()
}

fn ms_since(at: Instant, now: Instant) -> u64 {
    u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)
}

fn ways(shared: &Shared) -> Vec<WayRow> {
    let now = clock::now();
    let policy = shared.policy();
    let mut rows = Vec::new();
    for status in lock(&shared.health).status() {
        let prefix = status.word.prefix;
        let spread = policy.private_prefix(prefix.addr()).is_some_and(|entry| entry.spread);
        let healthy = status.ways.iter().filter(|way| way.healthy).count();
        let first = status.ways.iter().position(|way| way.healthy).unwrap_or_default();
        for (index, way) in status.ways.into_iter().enumerate() {
            let use_ = match (healthy > 0, way.healthy) {
                (true, true) if spread || index == first => "used",
                (true, true) => "ready",
                (true, false) => "rests",
                (false, _) => "bad",
            };
            rows.push(WayRow {
                prefix: prefix.to_string(),
                link: way.link,
                interface: way.interface,
                use_,
                healthy: way.healthy,
                reason: way.reason,
                probe: way.probe.to_string(),
                answered_ms_ago: way.answered_at.map(|at| ms_since(at, now)),
                unanswered: way.misses,
            });
        }
    }
    rows
}

fn table(policy: &Policy) -> Vec<TableRow> {
    let row = |entry: &forwarder_core::PrivatePrefix| {
        let v4 = entry.prefix.addr().is_ipv4();
        let of_family = || policy.subscriber_prefixes().iter().filter(|prefix| prefix.addr().is_ipv4() == v4);
        let each = |of: &dyn Fn(&forwarder_core::Way) -> Option<String>| {
            let all: Vec<String> = entry.ways.iter().filter_map(of).collect();
            all.join(if entry.spread { " + " } else { ", " })
        };
        TableRow {
            destination: entry.prefix.to_string(),
            action: if entry.spread { "spread" } else { "forward" }.to_owned(),
            link: each(&|way| Some(policy.link_name(way.link).to_owned())),
            interface: each(&|way| Some(policy.interface(way.link).to_owned())),
            next_hop: Some(each(&|way| way.next_hop.map(|address| address.to_string())))
                .filter(|hops| !hops.is_empty()),
            services: entry.services.iter().map(ToString::to_string).collect(),
            from_interfaces: policy.subscriber_interfaces().to_vec(),
            from_prefixes: of_family().take(MOST_TOLD).map(ToString::to_string).collect(),
            from_prefixes_in_all: of_family().count(),
        }
    };
    policy.prefixes().iter().map(row).collect()
}

fn links(shared: &Shared) -> Vec<LinkRow> {
    let found = lock(&shared.interfaces).clone();
    let (policy, problems) = (shared.policy(), lock(&shared.problems).clone());
    let row = |link: &forwarder_core::Link| {
        let interface = found.get(&link.interface);
        let id = policy.link_of(&link.interface);
        let behind = policy.prefixes().iter().filter(|entry| id.is_some_and(|id| entry.is_behind(id)));
        LinkRow {
            link: link.name.clone(),
            interface: link.interface.clone(),
            state: match interface.map_or(LinkState::Missing, |found| found.state) {
                LinkState::Missing => "missing",
                LinkState::Down => "down",
                LinkState::Up => "up",
            },
            index: interface.map(|found| found.index).filter(|index| *index != 0),
            prefixes: behind.map(|entry| entry.prefix.to_string()).collect(),
            problem: problems.get(&link.interface).cloned(),
        }
    };
    policy.links().iter().map(row).collect()
}

/// Every counter, with those of the meter where there are limits.
fn names(policy: &Policy) -> impl Iterator<Item = &'static str> {
    let over = Over::ALL.iter().filter(|_| policy.metering() != Metering::None);
    ruleset::counters().chain(over.map(|over| over.name()))
}

fn counters(policy: &Policy, counted: &Counters, counts: &Counts) -> Vec<CounterRow> {
    let row = |counter: &'static str| {
        let Counter { packets, bytes } = whole(counter, counted, counts).unwrap_or_default();
        CounterRow { counter, packets, bytes, meaning: meaning(counter) }
    };
    names(policy).map(row).collect()
}

/// What the guard and the user data plane counted.
pub(crate) fn together(mut guard: Counters, user: &Counters) -> Counters {
    for (name, counted) in user {
        // The guard knows nothing of limits.
        if Over::ALL.into_iter().any(|over| over.name() == name) {
            guard.insert(name.clone(), *counted);
        } else if let Some(all) = guard.get_mut(name) {
            all.packets += counted.packets;
            all.bytes += counted.bytes;
        }
    }
    guard
}

/// What was counted on both paths together: the guard never sees what the fast path forwards.
fn whole(counter: &str, counted: &Counters, counts: &Counts) -> Option<Counter> {
    let over = Over::ALL.into_iter().find(|over| over.name() == counter);
    // Either nftables has the meter or the program, and the other knows nothing of it.
    let nothing = over.map(|_| Counter::default());
    let slow = counted.get(counter).copied().or(nothing)?;
    let fast = match counter {
        ruleset::TO_PRIVATE => counts.get(&Outcome::ToPrivate),
        ruleset::FROM_PRIVATE => counts.get(&Outcome::FromPrivate),
        _ => over.and_then(|over| counts.get(&over.into())),
    };
    let fast = fast.copied().unwrap_or_default();
    Some(Counter { packets: slow.packets + fast.packets, bytes: slow.bytes + fast.bytes })
}

fn fast_path(counts: &Counts) -> Vec<CounterRow> {
    let row = |outcome: Outcome| {
        let Counter { packets, bytes } = counts.get(&outcome).copied().unwrap_or_default();
        CounterRow { counter: outcome.name(), packets, bytes, meaning: outcome.meaning() }
    };
    Outcome::ALL.into_iter().map(row).collect()
}

fn meaning(counter: &str) -> &'static str {
    match counter {
        ruleset::TO_PRIVATE => "forwarded to a private link",
        ruleset::FROM_PRIVATE => "forwarded from a private link to a subscriber",
        ruleset::LINK_UPKEEP => "this host's own ND, MLD and ICMP errors on a private link",
        _ => {
            let over = Over::ALL.into_iter().find(|over| over.name() == counter).map(Over::meaning);
            over.or_else(|| Reason::ALL.into_iter().find(|reason| reason.name() == counter).map(Reason::meaning))
                .unwrap_or_default()
        }
    }
}

pub(crate) fn count_health(change: &Change) {
    let value = if change.healthy { 1.0 } else { 0.0 };
    metrics::gauge!("forwarder_prefix_healthy", "prefix" => change.prefix.to_string()).set(value);
}

pub(crate) fn count_reload(done: bool) {
    let result = if done { "done" } else { "refused" };
    metrics::counter!("forwarder_reloads_total", "result" => result).increment(1);
}

pub(crate) fn count_clients(clients: usize) {
    metrics::gauge!("forwarder_health_clients").set(u32::try_from(clients).unwrap_or(u32::MAX));
}

pub(crate) fn count_round(
    policy: &Policy,
    applied: &Applied,
    interfaces: &BTreeMap<String, Interface>,
    counters: Option<&Counters>,
    counts: &Counts,
) {
    memory::tell(policy);
    metrics::gauge!("forwarder_guard_intact").set(if applied.guard.is_ok() { 1.0 } else { 0.0 });
    for link in policy.links() {
        let up = interfaces.get(&link.interface).is_some_and(|found| found.state == LinkState::Up);
        metrics::gauge!("forwarder_link_up", "link" => link.name.clone()).set(if up { 1.0 } else { 0.0 });
    }
    for counter in names(policy) {
        let Some(counted) = counters.and_then(|counters| whole(counter, counters, counts)) else { continue };
        metrics::counter!("forwarder_packets_total", "counter" => counter).absolute(counted.packets);
        metrics::counter!("forwarder_bytes_total", "counter" => counter).absolute(counted.bytes);
    }
    for (outcome, counted) in counts {
        let outcome = outcome.name();
        metrics::counter!("forwarder_fast_path_packets_total", "outcome" => outcome).absolute(counted.packets);
        metrics::counter!("forwarder_fast_path_bytes_total", "outcome" => outcome).absolute(counted.bytes);
    }
}
