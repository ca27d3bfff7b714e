//! A new configuration while the forwarder runs: validated whole, then carried out by the loop without a packet lost.
//! What is live and what takes a restart is told in `docs/forwarder.md`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{clock, config, reload};
use cloakway_types::Instant;
use forwarder_core::{MadeLink, Policy, Timing};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::config::Config;
use crate::live::Live;
use crate::{data_plane, show};

/// Whoever reads the file again, or hears of other subscribers. One at a time.
#[derive(Debug)]
pub(crate) struct Reloader {
    path: PathBuf,
    running: Mutex<Running>,
    live: Arc<Live>,
    engine: mpsc::Sender<Reload>,
}

/// What was carried out last.
#[derive(Debug)]
struct Running {
    text: String,
    config: Config,
    /// The live subscriber prefixes in force.
    live: Vec<IpNet>,
    /// When others may be put in force.
    rested: Instant,
}

/// Live prefixes that change all the time take no more of it than a third, and wait for no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// What the loop is to go over to.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) policy: Policy,
    pub(crate) made: Vec<MadeLink>,
    pub(crate) timing: Timing,
    pub(crate) probe_interval: Duration,
    pub(crate) data_plane: data_plane::Settings,
    /// Told when it is done, or why the old one stays.
    pub(crate) done: oneshot::Sender<Result<(), String>>,
}

impl Reloader {
    /// The loop takes its work from the channel, and runs by `config` and the live prefixes that are `served`.
    pub(crate) fn new(
        (path, text): (PathBuf, String),
        config: Config,
        live: Arc<Live>,
        served: Vec<IpNet>,
    ) -> (Self, mpsc::Receiver<Reload>) {
        let (engine, reloads) = mpsc::channel(1);
        let running = Running { text, config, live: served, rested: Instant::default() };
        (Self { path, running: Mutex::new(running), live, engine }, reloads)
    }

    /// Reads the file and makes the running forwarder what it says.
    ///
    /// # Errors
    /// What is wrong with the file, what takes a restart, or what the kernel refused: the old policy stays in force.
    pub(crate) async fn reload(self: Arc<Self>) -> Result<Value, String> {
        // Whoever asked may lose patience; what was begun is ended all the same.
        let work = tokio::spawn(async move { self.carry_out().await });
        let done = work.await.unwrap_or_else(|error| Err(error.to_string()));
        show::count_reload(done.is_ok());
        done
    }

    async fn carry_out(&self) -> Result<Value, String> {
        let mut running = self.running.lock().await;
        let shown = self.path.display().to_string();
        let text = config::read(&self.path).map_err(|error| error.to_string())?;
        let config: Config = config::parse(&shown, &text).map_err(|error| error.to_string())?;
        let fixed = config.fixed.changes(&running.config.fixed);
        if !fixed.is_empty() {
            return Err(format!("{shown}: {}: takes a restart to change: nothing has changed", fixed.join(", ")));
        }
        let changed = reload::differences(&running.text, &text);
        let feeds = self.live.configure(&config.feeds).await;
        let live = self.live.prefixes();
        if let Err(error) = self.hand_over(&config, &live).await {
            self.live.restore(feeds);
            return Err(error);
        }
        *running = Running { text, config, live, rested: clock::now() };
        Ok(json!({ "changed": changed }))
    }

    /// Puts in force what feeds of live prefixes tell now, where it is something else than before; gives when to try again,
    /// where that may not be yet.
    ///
    /// # Errors
    /// What the kernel refused: the prefixes before stay in force.
    pub(crate) async fn serve(&self) -> Result<Option<Instant>, String> {
        let mut running = self.running.lock().await;
        let live = self.live.prefixes();
        let begun = clock::now();
        if live == running.live {
            return Ok(None);
        }
        if begun < running.rested {
            return Ok(Some(running.rested));
        }
        let done = self.hand_over(&running.config, &live).await;
        let ended = clock::now();
        running.rested = ended + (ended.since(begun) * 2).min(LONGEST_REST);
        done?;
        running.live = live;
        Ok(None)
    }

    async fn hand_over(&self, config: &Config, live: &[IpNet]) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let Config { policy, made, timing, probe_interval, data_plane, .. } = config.clone();
        let (policy, _) = policy.serving(live);
        let reload = Reload { policy, made, timing, probe_interval, data_plane, done };
        let stopping = || "the forwarder is stopping".to_owned();
        self.engine.send(reload).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}
