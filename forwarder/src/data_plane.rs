//! Which data plane forwards: the guarded kernel alone, or with the fast path before it, or this process.
//!
//! The kernel's part is always there. The fast path only saves work: when it cannot be had, its packets take the slow
//! path, and nothing else changes. So its failure is told, loudly where the operator asked for it, and is
//! no reason to stop.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakway_runtime::clock;
use cloakway_runtime::config::Invalid;
use cloakway_types::Instant;
use forwarder_core::Policy;
use forwarder_core::fast::{Hook, Outcome, Role, Table};
use forwarder_core::meter::Use;
use forwarder_core::trace::{Dropped, Recent};
use forwarder_core::user::Host;
use forwarder_dataplane::{Counters, Counts, FastPath, FastPathError, Kernel, Rations, UserPlane};
use serde::{Deserialize, Serialize};

use crate::engine::lock;

/// Between two tries of what the kernel refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long the fast path forwards after this process has last said that it lives, where that matters: many times the
/// time between two of these words.
const LEASE: Duration = Duration::from_secs(3);

const NOT_TRIED: &str = "not tried yet";
const BY_CONFIGURATION: &str = "the configuration says so";

/// The table `[data-plane]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Raw {
    mode: String,
    hook: String,
    pin_directory: PathBuf,
    clamp_mss: bool,
    on_crash: Option<String>,
}

impl Default for Raw {
    fn default() -> Self {
        let (mode, hook) = ("kernel".into(), "auto".into());
        Self { mode, hook, pin_directory: "/sys/fs/bpf/cloakway".into(), clamp_mss: false, on_crash: None }
    }
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel alone.
    Kernel,
    /// The fast path before it; that it cannot be had is an error to be told.
    Bpf,
    /// The fast path where it can be had.
    Auto,
    /// This process, on raw sockets: for labs, and to hold the others against.
    User,
}

/// What becomes of packets while no process runs that should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// They pass by the policy that was in force.
    Keep,
    /// Nothing passes.
    Drop,
}

impl OnCrash {
    const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
        }
    }
}

/// The data plane as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What the operator wants.
    pub mode: Mode,
    /// Where the fast path meets packets; `None` for what suits the interfaces.
    pub hook: Option<Hook>,
    /// Where its pins are: one directory for each network namespace, on a BPF file system.
    pub pin_directory: PathBuf,
    /// Whether TCP is told to send no more than fits the way there and back.
    pub clamp_mss: bool,
    /// What becomes of packets when the process does not end as it should.
    pub on_crash: OnCrash,
}

impl Settings {
    fn has_fast_path(&self) -> bool {
        matches!(self.mode, Mode::Bpf | Mode::Auto)
    }

    pub(crate) fn new(raw: Raw) -> Result<Self, Invalid> {
        let mode = match raw.mode.as_str() {
            "kernel" => Mode::Kernel,
            "bpf" => Mode::Bpf,
            "auto" => Mode::Auto,
            "user" => Mode::User,
            other => {
                let why = format!("{other:?} is no data plane: give \"kernel\", \"bpf\", \"auto\" or \"user\"");
                return Err(Invalid::at("data-plane.mode", why));
            }
        };
        let hook = match raw.hook.as_str() {
            "auto" => None,
            "xdp" => Some(Hook::Xdp),
            "tcx" => Some(Hook::Tcx),
            other => {
                let why = format!("{other:?} is no hook: give \"xdp\", \"tcx\" or \"auto\"");
                return Err(Invalid::at("data-plane.hook", why));
            }
        };
        if !raw.pin_directory.is_absolute() {
            return Err(Invalid::at("data-plane.pin-directory", "an absolute path is needed"));
        }
        let on_crash = match (raw.on_crash.as_deref(), mode) {
            (Some("keep"), Mode::User) => {
                let why = "the user data plane forwards nothing without its process: give \"drop\", or leave it out";
                return Err(Invalid::at("data-plane.on-crash", why));
            }
            (Some("drop"), _) | (None, Mode::User) => OnCrash::Drop,
            (Some("keep") | None, _) => OnCrash::Keep,
            (Some(other), _) => {
                let why = format!("{other:?} is not known: give \"keep\" or \"drop\"");
                return Err(Invalid::at("data-plane.on-crash", why));
            }
        };
        Ok(Self { mode, hook, pin_directory: raw.pin_directory, clamp_mss: raw.clamp_mss, on_crash })
    }
}

/// An interface and what forwards there.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    interface: String,
    role: &'static str,
    data_plane: &'static str,
    hook: Option<&'static str>,
    generation: Option<u64>,
    on_crash: &'static str,
    why: String,
}

/// The data plane of the running process.
#[derive(Debug)]
pub(crate) struct DataPlane {
    settings: Mutex<Settings>,
    work: Arc<Mutex<Work>>,
    /// How often it was told to stand aside: what was begun before that lets nothing forward any more.
    asides: Arc<Mutex<u64>>,
}

#[derive(Debug, Default)]
struct Work {
    fast: Option<FastPath>,
    /// This process's own forwarding.
    user: Option<UserPlane>,
    /// What is in place, and why that.
    now: Option<(Hook, String)>,
    ports: Vec<(String, Role)>,
    /// Why there is no fast path.
    why_not: String,
    /// What was refused, and when it may be tried again.
    refused: Option<(Table, Instant)>,
    /// An XDP program that an interface would not take, and its words.
    no_xdp: Option<String>,
    sweeps: Sweeps,
    /// Of what the program dropped.
    dropped: Recent,
}

/// When the accounts of idle sources are forgotten.
#[derive(Debug, Default)]
struct Sweeps {
    next: Instant,
    /// How often there was no room.
    full: u64,
}

/// Between two sweeps while there is room.
const SWEEP: Duration = Duration::from_secs(60);
/// And while there is none.
const SWEEP_WHEN_FULL: Duration = Duration::from_secs(2);

impl DataPlane {
    pub(crate) fn new(settings: Settings) -> Self {
        let work = Work { why_not: NOT_TRIED.into(), ..Work::default() };
        Self { settings: Mutex::new(settings), work: Arc::new(Mutex::new(work)), asides: Arc::default() }
    }

    /// How it is configured.
    pub(crate) fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// Goes over to other settings; [`DataPlane::apply`] carries them out.
    pub(crate) async fn configure(&self, settings: Settings) {
        let before = std::mem::replace(&mut *lock(&self.settings), settings.clone());
        if before == settings {
            return;
        }
        let configure = move |work: &mut Work| {
            if settings.mode != Mode::User {
                work.user = None;
            }
            (work.refused, work.no_xdp, work.why_not) = (None, None, NOT_TRIED.into());
            if before.pin_directory == settings.pin_directory {
                return;
            }
            (work.fast, work.now) = (None, None);
            match FastPath::remove(&before.pin_directory) {
                Ok(()) | Err(FastPathError::NoBpfFs(_)) => {}
                Err(error) => tracing::error!(%error, "the fast path is still there at its old pins"),
            }
        };
        self.aside(configure).await;
    }

    /// Works with what may have to be waited for, the kernel or whoever works with it now, beside the loop and those who ask.
    async fn aside<T: Send + 'static>(&self, with: impl FnOnce(&mut Work) -> T + Send + 'static) -> Option<T> {
        let work = self.work.clone();
        let done = tokio::task::spawn_blocking(move || with(&mut lock(&work))).await;
        done.inspect_err(|error| tracing::error!(%error, "the data plane")).ok()
    }

    /// Lets everything take the slow path from now on, until [`DataPlane::apply`] has seen what is new.
    pub(crate) fn stand_aside(&self) {
        let settings = self.settings();
        if !settings.has_fast_path() {
            return;
        }
        let mut asides = lock(&self.asides);
        *asides += 1;
        match FastPath::stand_aside(&settings.pin_directory) {
            Ok(()) | Err(FastPathError::NoBpfFs(_)) => {}
            Err(error) => tracing::error!(%error, "the fast path does not stand aside"),
        }
    }

    /// Says that this process lives to a fast path that forwards no longer without that.
    pub(crate) fn renew_lease(&self) {
        let settings = self.settings();
        if !settings.has_fast_path() || settings.on_crash == OnCrash::Keep {
            return;
        }
        match FastPath::renew_lease(&settings.pin_directory, LEASE) {
            Ok(()) | Err(FastPathError::NoBpfFs(_)) => {}
            Err(error) => tracing::error!(%error, "the fast path's lease is not renewed"),
        }
    }

    /// Brings the fast path to what the policy and the host are now.
    pub(crate) async fn apply(&self, kernel: &Kernel, policy: &Arc<Policy>) {
        let settings = self.settings();
        if !settings.has_fast_path() {
            self.stay_away(settings.pin_directory, policy).await;
            if settings.mode == Mode::User {
                self.apply_user(kernel, policy).await;
            }
            return;
        }
        let begun = *lock(&self.asides);
        let host = match kernel.host(policy).await {
            Ok(host) => host,
            Err(error) => return tracing::warn!(%error, "the fast path cannot be kept up"),
        };
        let table = policy.fast_table(&host);
        let suits = policy.hook(&host);
        let asides = self.asides.clone();
        let forward = move |fast: &FastPath, generation| {
            let asides = lock(&asides);
            if *asides == begun { fast.forwards(generation) } else { Ok(()) }
        };
        self.aside(move |work| work.apply(&settings, table, suits, &forward)).await;
        // A program that was just loaded has none yet.
        self.renew_lease();
    }

    /// The kernel alone: what an earlier configuration left behind is taken away, once.
    async fn stay_away(&self, directory: PathBuf, policy: &Policy) {
        let ports = ports_of(policy);
        let stay_away = move |work: &mut Work| {
            work.ports = ports;
            if work.why_not != NOT_TRIED {
                return;
            }
            (work.fast, work.now) = (None, None);
            match FastPath::remove(&directory) {
                Ok(()) => work.why_not = BY_CONFIGURATION.to_owned(),
                // Where there is no BPF file system nothing was left on one.
                Err(FastPathError::NoBpfFs(_)) => work.why_not = BY_CONFIGURATION.to_owned(),
                Err(error) => tracing::error!(%error, "the fast path of an earlier configuration is still there"),
            }
        };
        self.aside(stay_away).await;
    }

    /// Lets this process forward, at the interfaces that are there now.
    async fn apply_user(&self, kernel: &Kernel, policy: &Arc<Policy>) {
        let host = match kernel.user_host(policy).await {
            Ok(host) => host,
            Err(error) => return tracing::warn!(%error, "the user data plane cannot be kept up"),
        };
        let policy = policy.clone();
        self.aside(move |work| work.apply_user(&policy, host)).await;
    }

    /// What the user data plane forwarded and dropped.
    pub(crate) async fn user_counters(&self) -> Counters {
        let counters = |work: &mut Work| work.user.as_ref().map(UserPlane::counters).unwrap_or_default();
        self.aside(counters).await.unwrap_or_default()
    }

    /// What each source and private prefix has used, where this process counts it.
    pub(crate) async fn user_uses(&self) -> Vec<Use> {
        let uses = |work: &mut Work| work.user.as_ref().map(UserPlane::uses).unwrap_or_default();
        self.aside(uses).await.unwrap_or_default()
    }

    /// Takes the fast path away, and ends the forwarding of this process.
    pub(crate) async fn stop(&self) {
        // Its threads are waited for.
        self.aside(|work| work.user = None).await;
        let settings = self.settings();
        if !settings.has_fast_path() {
            return;
        }
        let directory = settings.pin_directory;
        let remove = move |work: &mut Work| {
            work.now = None;
            FastPath::remove(&directory)
        };
        if let Some(Err(error)) = self.aside(remove).await {
            tracing::error!(%error, "the fast path cannot be taken away");
        }
    }

    /// What it counted.
    pub(crate) async fn counts(&self) -> Counts {
        match self.aside(|work| work.fast.as_ref().map(FastPath::counts)).await.flatten() {
            Some(Ok(counts)) => counts,
            Some(Err(error)) => {
                tracing::warn!(%error, "the fast path's counts");
                Counts::new()
            }
            None => Counts::new(),
        }
    }

    /// What each source and private prefix has used, where the program counts it.
    pub(crate) async fn uses(&self) -> Result<Vec<Use>, String> {
        let uses = |work: &mut Work| work.fast.as_mut().map_or_else(|| Ok(Vec::new()), FastPath::uses);
        let uses = self.aside(uses).await.ok_or("the data plane broke off")?;
        uses.map_err(|error| error.to_string())
    }

    /// What this data plane has dropped by itself since that number, as far as it is sampled, and the number to ask with next.
    pub(crate) async fn dropped(&self, since: Option<u64>) -> (u64, Vec<Dropped>) {
        self.aside(move |work| work.dropped(since)).await.unwrap_or_default()
    }

    /// Why nothing is charged, when that is so.
    pub(crate) async fn no_meter(&self) -> Option<String> {
        self.aside(|work| work.now.is_none().then(|| work.why_not.clone())).await.flatten()
    }

    /// Where what forwards.
    pub(crate) async fn rows(&self) -> Vec<Row> {
        let on_crash = self.settings().on_crash.name();
        self.aside(move |work| work.rows(on_crash)).await.unwrap_or_default()
    }
}

/// Lets a generation forward, if it still may.
type Forward<'a> = &'a dyn Fn(&FastPath, u64) -> Result<(), FastPathError>;

impl Work {
    fn rows(&self, on_crash: &'static str) -> Vec<Row> {
        let (data_plane, hook, why) = match &self.now {
            Some((hook, why)) => ("bpf", Some(hook.name()), why),
            None if self.user.is_some() => ("user", None, &self.why_not),
            None => ("kernel", None, &self.why_not),
        };
        let generation = self.fast.as_ref().and_then(FastPath::generation);
        let row = |(interface, role): &(String, Role)| Row {
            interface: interface.clone(),
            role: match role {
                Role::Subscribers => "subscribers",
                Role::Link => "private link",
            },
            data_plane,
            hook,
            generation,
            on_crash,
            why: why.clone(),
        };
        self.ports.iter().map(row).collect()
    }

    fn dropped(&mut self, since: Option<u64>) -> (u64, Vec<Dropped>) {
        if let Some(user) = &self.user {
            return user.dropped(since);
        }
        match self.fast.as_ref().map(FastPath::dropped) {
            Some(Ok(dropped)) => dropped.into_iter().for_each(|one| self.dropped.push(one)),
            Some(Err(error)) => tracing::warn!(%error, "what the fast path dropped"),
            None => {}
        }
        self.dropped.since(since)
    }

    /// Lets this process forward by `policy`, at the interfaces of `host`.
    fn apply_user(&mut self, policy: &Arc<Policy>, host: Host) {
        let user = match self.user.take() {
            Some(user) => user,
            None => match UserPlane::new(policy.clone()) {
                Ok(user) => {
                    tracing::warn!(
                        "the user data plane forwards: it is slow, for labs, and forwards nothing while it is not running"
                    );
                    user
                }
                Err(error) => {
                    tracing::error!(%error, "the user data plane cannot begin: nothing is forwarded");
                    self.why_not = error.to_string();
                    return;
                }
            },
        };
        match self.user.insert(user).apply(policy, host, Rations::read()) {
            Ok(()) => self.why_not = BY_CONFIGURATION.to_owned(),
            Err(error) => {
                tracing::error!(%error, "no raw socket at an interface: nothing is forwarded there");
                self.why_not = format!("not at every interface: {error}");
            }
        }
    }

    fn apply(&mut self, settings: &Settings, table: Table, (suits, why): (Hook, String), forward: Forward<'_>) {
        self.ports = table.ports.values().map(|port| (port.name.clone(), port.role)).collect();
        if let Some((refused, until)) = &self.refused
            && *refused == table
            && clock::now() < *until
        {
            return;
        }
        self.refused = None;
        let (hook, why) = match (settings.hook, &self.no_xdp) {
            (Some(hook), _) => (hook, BY_CONFIGURATION.to_owned()),
            (None, Some(words)) if suits == Hook::Xdp => (Hook::Tcx, format!("XDP is not to be had: {words}")),
            (None, _) => (suits, why),
        };
        let is_metered = table.metered.is_some();
        match self.put(settings, &table, hook, forward) {
            Ok(false) if is_metered => self.sweep(),
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(hook = hook.name(), %why, "fast path in place");
                self.now = Some((hook, why));
            }
            Err(error) if hook == Hook::Xdp && settings.hook.is_none() => {
                tracing::info!(%error, "an interface takes no XDP program: tcx instead");
                self.no_xdp = Some(error.to_string());
                self.apply(settings, table, (suits, why), forward);
            }
            Err(error) => {
                let words = error.to_string();
                self.now = None;
                if words != self.why_not {
                    let told = "the guarded kernel forwards without the fast path";
                    match settings.mode {
                        Mode::Bpf => tracing::error!(error = %words, "{told}"),
                        Mode::Auto | Mode::Kernel | Mode::User => tracing::info!(reason = %words, "{told}"),
                    }
                }
                self.why_not = words;
                self.refused = Some((table, clock::now() + PATIENCE));
            }
        }
    }

    /// Makes room for new sources, now and then.
    fn sweep(&mut self) {
        let Some(fast) = &mut self.fast else { return };
        let now = clock::now();
        let full = fast.counts().ok().and_then(|counts| counts.get(&Outcome::SourcesFull).map(|found| found.packets));
        let full = full.unwrap_or_default();
        let soon = if full > self.sweeps.full { SWEEP_WHEN_FULL } else { SWEEP };
        self.sweeps.next = self.sweeps.next.min(now + soon);
        if now < self.sweeps.next {
            return;
        }
        self.sweeps = Sweeps { next: now + SWEEP, full };
        match fast.sweep() {
            Ok(sources) => metrics::gauge!("forwarder_metered_sources").set(u32::try_from(sources).unwrap_or(u32::MAX)),
            Err(error) => tracing::warn!(%error, "idle sources are not forgotten"),
        }
    }

    fn put(
        &mut self,
        settings: &Settings,
        table: &Table,
        hook: Hook,
        forward: Forward<'_>,
    ) -> Result<bool, FastPathError> {
        let fast = match &mut self.fast {
            Some(fast) => fast,
            empty => empty.insert(FastPath::open(&settings.pin_directory)?),
        };
        // What the operator asks for by name is taken to be had, where the kernel cannot say.
        fast.apply(table, hook, settings.hook.is_some(), forward)
    }
}

fn ports_of(policy: &Policy) -> Vec<(String, Role)> {
    let links = policy.links().iter().map(|link| (link.interface.clone(), Role::Link));
    policy.subscriber_interfaces().iter().map(|name| (name.clone(), Role::Subscribers)).chain(links).collect()
}
