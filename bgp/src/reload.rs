//! A new configuration while the speaker runs: validated whole, then carried out; a neighbour that it leaves as it was is
//! not touched. What resets what is told in `docs/bgp.md`.

use std::path::PathBuf;
use std::sync::Arc;

use cloakway_runtime::{config, reload};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::bmp::Station;
use crate::config::Config;
use crate::events::{Event, Events};
use crate::health::Gate;
use crate::inject::Engine;
use crate::neighbours::{Effect, Neighbours, Wanted};
use crate::rib::Table;

/// What may change while the speaker runs; everything else takes a restart.
const LIVE: [&str; 7] =
    ["peers", "peer-groups", "dynamic-peers", "prefix-lists", "private-routes", "inject.allow", "inject.sets"];
/// Tables all of whose keys may.
const LIVE_TABLES: [&str; 1] = ["speaker."];

/// Whoever carries a new configuration out.
pub(crate) struct Reloader {
    pub(crate) path: PathBuf,
    /// The file as it was carried out last; nobody else reloads meanwhile.
    pub(crate) text: Mutex<String>,
    pub(crate) neighbours: Neighbours,
    pub(crate) gate: Gate,
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) station: Option<Arc<Station>>,
    pub(crate) events: Events,
    pub(crate) rib: Arc<Table>,
}

/// What came of it.
#[derive(Serialize)]
struct Done {
    changed: Vec<String>,
    peers: Vec<Effect>,
}

impl Reloader {
    /// Reads the file and makes the running speaker what it says.
    ///
    /// # Errors
    /// What is wrong with the file, or takes a restart, or which socket can't be had; nothing has changed then.
    pub(crate) async fn reload(&self) -> Result<Value, String> {
        let done = self.carry_out().await;
        metrics::counter!("bgp_speaker_reloads_total", "result" => if done.is_ok() { "done" } else { "refused" })
            .increment(1);
        self.events.tell(match &done {
            Ok(Done { changed, peers }) => Event::Reloaded {
                changed: changed.clone(),
                peers: peers.iter().map(|Effect { peer, effect }| format!("{peer}: {effect}")).collect(),
            },
            Err(reason) => Event::ReloadRefused { reason: reason.clone() },
        });
        serde_json::to_value(done?).map_err(|error| error.to_string())
    }

    async fn carry_out(&self) -> Result<Done, String> {
        let mut running = self.text.lock().await;
        let shown = self.path.display().to_string();
        let text = config::read(&self.path).map_err(|error| error.to_string())?;
        let config: Config = config::parse(&shown, &text).map_err(|error| error.to_string())?;
        let changed = reload::differences(&running, &text);
        let fixed =
            |path: &&String| !LIVE.contains(&path.as_str()) && !LIVE_TABLES.iter().any(|table| path.starts_with(table));
        let fixed: Vec<&str> = changed.iter().filter(fixed).map(String::as_str).collect();
        if !fixed.is_empty() {
            return Err(format!("{shown}: {}: takes a restart to change: nothing has changed", fixed.join(", ")));
        }
        let wanted = Wanted { listen: config.listen, peers: config.peers, dynamic: config.dynamic };
        let (gate, engine, station) = (self.gate.clone(), self.engine.clone(), self.station.clone());
        let bmp = config.bmp;
        let rib = self.rib.clone();
        let (private, own) = (config.rib.private, config.rib.own);
        let (routes, (policy, kept)) =
            (config.routes, config.inject.map(|inject| (inject.policy, inject.kept)).unzip());
        // What is allowed is narrowed, and private routes are taken back, before anybody new is told of anything.
        let first = Box::new(move || {
            let before = engine.zip(policy).map(|(engine, policy)| (engine.set_policy(policy), engine));
            if let Some((station, settings)) = station.zip(bmp) {
                station.configure(settings);
            }
            rib.configure(private, own);
            gate.configure(routes);
            before
        });
        let (before, peers) = self.neighbours.want(wanted, first).await?;
        if let Some((before, engine)) = before {
            engine.settle_policy(&before).await;
            engine.keep(&kept.unwrap_or_default()).await;
        }
        *running = text;
        Ok(Done { changed: changed.into_iter().collect(), peers })
    }
}
