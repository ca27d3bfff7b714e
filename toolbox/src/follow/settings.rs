//! The table `[changes]`.

use std::time::Duration;

use cloakway_runtime::config::Invalid;
use serde::Deserialize;

use crate::config::seconds;

/// How streams of changes are served.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// After so much silence there is a sign of life.
    pub heartbeat: Duration,
    /// How long a reader may leave what there is for it.
    pub patience: Duration,
    /// Streams of one caller at once.
    pub per_caller: usize,
}

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Raw {
    heartbeat_s: u64,
    patience_s: u64,
    streams_per_caller: usize,
}

impl Default for Raw {
    fn default() -> Self {
        Self { heartbeat_s: 15, patience_s: 60, streams_per_caller: 4 }
    }
}

impl Raw {
    pub(crate) fn validate(self) -> Result<Settings, Invalid> {
        let per_caller = self.streams_per_caller;
        if !(1..=64).contains(&per_caller) {
            let reason = format!("{per_caller} is not allowed: 1 to 64");
            return Err(Invalid::at("changes.streams-per-caller", reason));
        }
        Ok(Settings {
            heartbeat: seconds("changes.heartbeat-s", self.heartbeat_s, 1, 30)?,
            patience: seconds("changes.patience-s", self.patience_s, 1, 3600)?,
            per_caller,
        })
    }
}
