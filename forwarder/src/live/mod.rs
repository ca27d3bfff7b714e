//! Live subscriber prefixes: the feeds asked, what they tell put in force, and shown.
//!
//! [`forwarder_core::live`] decides what of a feed is in force; the reload of the loop carries it out, so that what was and
//! stays a subscriber's loses no packet.

mod ask;
mod settings;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_types::Instant;
use forwarder_core::live::{Feed, State};
use forwarder_core::{Policy, ruleset};
use forwarder_dataplane::Kernel;
use forwarder_wire::prefixes::Told;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

pub use settings::Settings;
pub(crate) use settings::{Raw, settings, summary};

use crate::config::Config;
use crate::engine::lock;
use crate::reload::Reloader;

/// Between two looks at feeds while there is none.
const IDLE: Duration = Duration::from_secs(1);

/// The topic that lists subscriber prefixes.
pub(crate) const SUBSCRIBERS: &str = "subscribers";

/// Where a prefix comes from that no feed tells; no feed can be called so.
const CONFIGURED: &str = "(configured)";

/// The feeds of the running process.
#[derive(Debug, Default)]
pub(crate) struct Live {
    feeds: Mutex<Vec<Running>>,
}

/// A feed, and what it said last.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    settings: Settings,
    feed: Feed,
    /// Of what it told last.
    tag: Option<String>,
    problem: Option<String>,
    heard: Option<Instant>,
    due: Instant,
    asking: bool,
}

impl Running {
    fn new(settings: Settings) -> Self {
        let feed = Feed::new(settings.bounds.clone());
        Self { settings, feed, tag: None, problem: None, heard: None, due: Instant::default(), asking: false }
    }

    fn take(&mut self, answer: Result<Told, String>, now: Instant) {
        let (before, changes) = (self.feed.state(), self.feed.changes());
        let answer = answer.and_then(|told| match told {
            Told::NotReady(why) => Err(why),
            told => Ok(told),
        });
        match answer {
            Ok(told) => {
                if let Told::Prefixes { tag, prefixes } = told {
                    self.tag = Some(tag);
                    self.feed.told(&prefixes);
                } else {
                    self.feed.confirmed();
                }
                (self.heard, self.problem) = (Some(now), None);
            }
            Err(why) => {
                self.feed.failed(now);
                self.problem = Some(why);
            }
        }
        (self.asking, self.due) = (false, now + self.settings.every);
        let (name, state, prefixes) = (&self.settings.name, self.feed.state(), self.feed.in_force().len());
        let problem = self.problem.as_deref().unwrap_or_default();
        match (before.name() == state.name(), state) {
            (true, _) => {}
            (false, State::Held(_)) => {
                let hold_s = self.settings.bounds.hold.as_secs();
                tracing::warn!(feed = %name, %problem, prefixes, hold_s, "a feed of subscriber prefixes is lost: they are held");
            }
            (false, State::Lost(_)) => {
                tracing::warn!(feed = %name, %problem, "a feed of subscriber prefixes is lost: only configured ones are served");
            }
            (false, _) => tracing::info!(feed = %name, prefixes, "a feed of subscriber prefixes speaks"),
        }
        if self.feed.changes() != changes {
            tracing::info!(feed = %name, prefixes, "live subscriber prefixes changed");
        }
        self.count();
    }

    fn count(&self) {
        let name = || self.settings.name.clone();
        let fed = if self.feed.state() == State::Fed { 1.0 } else { 0.0 };
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics::gauge!("forwarder_live_feed_up", "feed" => name()).set(fed);
        metrics::gauge!("forwarder_live_prefixes", "feed" => name()).set(number(self.feed.in_force().len()));
        metrics::gauge!("forwarder_live_foreign_prefixes", "feed" => name()).set(number(self.feed.foreign()));
        metrics::counter!("forwarder_live_changes_total", "feed" => name()).absolute(self.feed.changes());
    }
}

impl Live {
    /// The feeds of a process that begins. Each is asked once; of one that is silent, what of `standing` is within its bounds
    /// counts as what it told last: another process of ours left that in force.
    pub(crate) async fn begin(settings: &[Settings], standing: &[IpNet]) -> Self {
        let live = Self::default();
        let mut feeds = Vec::new();
        let now = clock::now();
        for (settings, answer) in asked(settings).await {
            let mut running = Running::new(settings);
            if !matches!(answer, Ok(Told::Prefixes { .. })) {
                let mut before: Vec<IpNet> = standing.to_vec();
                before.retain(|prefix| running.settings.bounds.within.iter().any(|within| within.contains(prefix)));
                if !before.is_empty() && before.len() <= running.settings.question.most.unwrap_or_default() {
                    running.feed.adopt(&before, now);
                }
            }
            running.take(answer, now);
            feeds.push(running);
        }
        *lock(&live.feeds) = feeds;
        live
    }

    /// Goes over to other feeds, and gives those that were: what is new is asked once, what has only other bounds keeps what it
    /// was told within them.
    pub(crate) async fn configure(&self, settings: &[Settings]) -> Vec<Running> {
        let known = |settings: &Settings| {
            let feeds = lock(&self.feeds);
            feeds.iter().any(|running| running.settings.name == settings.name && running.settings.from == settings.from)
        };
        let new: Vec<Settings> = settings.iter().filter(|settings| !known(settings)).cloned().collect();
        let mut answers = asked(&new).await;
        let now = clock::now();
        let mut feeds = lock(&self.feeds);
        let before = feeds.clone();
        let next = settings.iter().map(|settings| {
            if let Some(at) = answers.iter().position(|(new, _)| new == settings) {
                let (settings, answer) = answers.swap_remove(at);
                let mut running = Running::new(settings);
                running.take(answer, now);
                return running;
            }
            let same = before.iter().find(|running| running.settings.name == settings.name);
            let mut running = same.cloned().unwrap_or_else(|| Running::new(settings.clone()));
            if running.settings != *settings {
                // It is to be told in full what fits the new question.
                (running.settings, running.tag, running.asking, running.due) = (settings.clone(), None, false, now);
                running.feed.bound(settings.bounds.clone());
            }
            running
        });
        *feeds = next.collect();
        for gone in before.iter().filter(|gone| !feeds.iter().any(|kept| kept.settings.name == gone.settings.name)) {
            let name = gone.settings.name.clone();
            metrics::gauge!("forwarder_live_feed_up", "feed" => name.clone()).set(0.0);
            metrics::gauge!("forwarder_live_prefixes", "feed" => name).set(0.0);
        }
        before
    }

    /// Back to what was before [`Live::configure`].
    pub(crate) fn restore(&self, before: Vec<Running>) {
        *lock(&self.feeds) = before;
        // Whoever was asked meanwhile has answered to nobody.
        lock(&self.feeds).iter_mut().for_each(|running| running.asking = false);
    }

    /// The prefixes that are in force.
    pub(crate) fn prefixes(&self) -> Vec<IpNet> {
        lock(&self.feeds).iter().flat_map(|running| running.feed.in_force().to_vec()).collect()
    }

    /// Those that are to be asked now.
    fn due(&self, now: Instant) -> Vec<(Settings, Option<String>)> {
        let mut feeds = lock(&self.feeds);
        let due = feeds.iter_mut().filter(|running| !running.asking && running.due <= now);
        due.map(|running| {
            running.asking = true;
            (running.settings.clone(), running.tag.clone())
        })
        .collect()
    }

    fn next_due(&self) -> Option<Instant> {
        lock(&self.feeds).iter().filter(|running| !running.asking).map(|running| running.due).min()
    }

    fn take(&self, settings: &Settings, answer: Result<Told, String>) {
        let mut feeds = lock(&self.feeds);
        // An answer to a question that is not asked any more is none.
        if let Some(running) = feeds.iter_mut().find(|running| running.settings == *settings) {
            running.take(answer, clock::now());
        }
    }

    /// How it stands with each.
    pub(crate) fn rows(&self, policy: &Policy) -> Vec<Row> {
        let now = clock::now();
        let ms = |at: Instant| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let row = |running: &Running| {
            let state = running.feed.state();
            let held_for = match state {
                State::Held(since) => Some(running.settings.bounds.hold.saturating_sub(now.since(since)).as_secs()),
                _ => None,
            };
            let (_, private) = policy.serving(running.feed.in_force());
            Row {
                feed: running.settings.name.clone(),
                from: running.settings.from,
                state: state.name(),
                prefixes: running.feed.in_force().len() - private.len(),
                foreign: running.feed.foreign(),
                private: private.len(),
                changes: running.feed.changes(),
                heard_ms_ago: running.heard.map(ms),
                held_for_s: held_for,
                problem: running.problem.clone(),
            }
        };
        lock(&self.feeds).iter().map(row).collect()
    }

    /// Every subscriber prefix, and where it comes from.
    pub(crate) fn subscribers(&self, policy: &Policy) -> Vec<Subscriber> {
        let configured = policy.configured_prefixes().iter();
        let mut rows: Vec<Subscriber> =
            configured.map(|prefix| Subscriber { prefix: *prefix, from: CONFIGURED.to_owned() }).collect();
        for running in lock(&self.feeds).iter() {
            let (_, private) = policy.serving(running.feed.in_force());
            let live = running.feed.in_force().iter().filter(|prefix| !private.contains(prefix));
            rows.extend(live.map(|prefix| Subscriber { prefix: *prefix, from: running.settings.name.clone() }));
        }
        rows
    }
}

/// The answer of each feed.
async fn asked(settings: &[Settings]) -> Vec<(Settings, Result<Told, String>)> {
    let mut asking = JoinSet::new();
    for settings in settings.iter().cloned() {
        asking.spawn(async move {
            let answer = ask::ask(&settings, None).await;
            (settings, answer)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(answered, _)| settings.iter().position(|known| known == answered));
    answers
}

/// Asks each feed when its time has come, and puts in force what it tells, until the stop.
pub(crate) async fn follow(live: Arc<Live>, reloader: Arc<Reloader>, stop: Stop) {
    loop {
        for (settings, known) in live.due(clock::now()) {
            let (live, reloader) = (live.clone(), reloader.clone());
            tokio::spawn(async move {
                let answer = ask::ask(&settings, known).await;
                live.take(&settings, answer);
                loop {
                    match reloader.serve().await {
                        Ok(None) => return,
                        Ok(again) => clock::until(again).await,
                        Err(error) => {
                            tracing::warn!(%error, "live subscriber prefixes cannot be put in force: tried again");
                            return;
                        }
                    }
                }
            });
        }
        let now = clock::now();
        let wait = live.next_due().map_or(IDLE, |due| due.max(now).since(now).min(IDLE));
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(wait.max(Duration::from_millis(20))) => {}
        }
    }
}

/// What a guard in the kernel lets through.
pub(crate) async fn standing(kernel: &Kernel) -> Vec<IpNet> {
    let found = kernel.guard().await.ok().and_then(|guard| guard.table);
    found.and_then(|text| ruleset::Table::parse(&text)).map(|table| ruleset::subscribers(&table)).unwrap_or_default()
}

/// The policy with the live prefixes that the running forwarder says; without an answer, with those that its guard has.
pub(crate) async fn policy_now(config: &Config) -> Policy {
    if config.feeds.is_empty() {
        return config.policy.clone();
    }
    let told = cloakway_runtime::admin::ask(&config.fixed.admin_socket, SUBSCRIBERS).await;
    let rows = told.and_then(|rows| serde_json::from_value::<Vec<Subscriber>>(rows).map_err(|error| error.to_string()));
    let live: Vec<IpNet> = match rows {
        Ok(rows) => rows.into_iter().filter(|row| row.from != CONFIGURED).map(|row| row.prefix).collect(),
        Err(error) => {
            eprintln!("forwarder: live subscriber prefixes: {error}: those of the guard are taken");
            let all = match Kernel::open() {
                Ok(kernel) => standing(&kernel).await,
                Err(_) => Vec::new(),
            };
            let within: Vec<&IpNet> = config.feeds.iter().flat_map(|feed| &feed.bounds.within).collect();
            let allowed = |prefix: &IpNet| within.iter().any(|within| within.contains(prefix));
            let live = all.into_iter().filter(|prefix| !config.policy.configured_prefixes().contains(prefix));
            live.filter(allowed).collect()
        }
    };
    config.policy.serving(&live).0
}

/// A feed as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    feed: String,
    from: &'static str,
    state: &'static str,
    prefixes: usize,
    /// Told, and outside what is allowed.
    foreign: usize,
    /// Told, and left out because they touch the private side.
    private: usize,
    changes: u64,
    heard_ms_ago: Option<u64>,
    held_for_s: Option<u64>,
    problem: Option<String>,
}

/// A subscriber prefix as it is shown.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Subscriber {
    prefix: IpNet,
    from: String,
}
