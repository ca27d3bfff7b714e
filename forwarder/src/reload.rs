//! A new configuration while the forwarder runs: validated whole, then carried out by the loop without a packet lost.
//! What is live and what takes a restart is told in `docs/forwarder.md`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{config, reload};
use forwarder_core::{MadeLink, Policy, Timing};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::config::{Config, Fixed};
use crate::{data_plane, show};

/// Whoever reads the file again. One at a time.
#[derive(Debug)]
pub(crate) struct Reloader {
    path: PathBuf,
    running: Mutex<Running>,
    engine: mpsc::Sender<Reload>,
}

/// What was carried out last.
#[derive(Debug)]
struct Running {
    text: String,
    fixed: Fixed,
}

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
    /// The loop takes its work from the channel.
    pub(crate) fn new(path: PathBuf, text: String, fixed: Fixed) -> (Self, mpsc::Receiver<Reload>) {
        let (engine, reloads) = mpsc::channel(1);
        (Self { path, running: Mutex::new(Running { text, fixed }), engine }, reloads)
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
        let fixed = config.fixed.changes(&running.fixed);
        if !fixed.is_empty() {
            return Err(format!("{shown}: {}: takes a restart to change: nothing has changed", fixed.join(", ")));
        }
        let changed = reload::differences(&running.text, &text);
        let (done, answer) = oneshot::channel();
        let Config { policy, made, timing, probe_interval, data_plane, .. } = config;
        let reload = Reload { policy, made, timing, probe_interval, data_plane, done };
        let stopping = || "the forwarder is stopping".to_owned();
        self.engine.send(reload).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())??;
        running.text = text;
        Ok(json!({ "changed": changed }))
    }
}
