//! The speaker inside the test's own process, with the folder it lives in.

use std::path::PathBuf;
use std::time::Duration;

use bgp::config::Config;
use cloakway_runtime::{Context, Outcome, Stop, admin, config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::soon;

/// A speaker that runs from a file, in which `$` is its folder.
pub struct Inside {
    folder: TempDir,
    stop: Stop,
    task: JoinHandle<Outcome>,
}

/// A folder for a speaker, and what may be there before it.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A configuration, with the folder in place of `$`.
    pub fn text(&self, config: &str) -> String {
        config.replace('$', self.0.path().to_str().unwrap())
    }

    /// Starts a speaker here.
    pub fn start(self, config: &str) -> Inside {
        let (text, path) = (self.text(config), self.path("speaker.toml"));
        std::fs::write(&path, &text).unwrap();
        let config: Config = config::parse("speaker.toml", &text).unwrap();
        let stop = Stop::new();
        let context = Context { stop: stop.clone(), config_path: path, config_text: text };
        Inside { folder: self.0, task: tokio::spawn(bgp::speaker::run(config, context)), stop }
    }
}

impl Inside {
    /// Starts a speaker with this configuration.
    pub fn start(config: &str) -> Self {
        Place::new().start(config)
    }

    /// A file of its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes another configuration.
    pub fn configure(&self, config: &str) {
        let text = config.replace('$', self.folder.path().to_str().unwrap());
        std::fs::write(self.path("speaker.toml"), text).unwrap();
    }

    /// Asks for a topic, as soon as the speaker answers.
    pub async fn ask(&self, topic: &str) -> Result<Value, String> {
        soon("the admin socket", async {
            loop {
                match admin::ask(&self.path("admin"), topic).await {
                    Err(error) if error.contains("is the role running") => tokio::task::yield_now().await,
                    answer => return answer,
                }
            }
        })
        .await
    }

    /// What it shows of a topic.
    pub async fn show(&self, topic: &str) -> Value {
        self.ask(topic).await.unwrap()
    }

    /// The same, once it fits.
    pub async fn show_until(&self, topic: &str, fits: impl Fn(&Value) -> bool) -> Value {
        soon(topic, async {
            loop {
                let value = self.show(topic).await;
                if fits(&value) {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Tells it to stop, and waits until it has.
    pub async fn end(self) {
        self.stop.tell();
        soon("the end", self.task).await.unwrap().unwrap();
    }
}
