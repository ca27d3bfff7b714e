//! What a source is doing, for `show access` and Prometheus.

use std::sync::{Arc, Mutex, PoisonError};

use cloakway_runtime::clock;
use metrics::{counter, gauge};
use serde::Serialize;
use toolbox_wire::http::Source;

use super::settings::SourceSettings;
use crate::say::Sparingly;

/// What a source is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its kind in the configuration.
    pub kind: &'static str,
    /// What it reads.
    pub of: String,
    /// Which kind of source its bindings have.
    pub source: Source,
    /// Whether it is followed. While it is not, what it said answers for nobody.
    pub up: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// Leases, translations or entries that it has.
    pub known: usize,
    /// Records that it told.
    pub records: u64,
    /// Records that could not be read.
    pub damaged: u64,
    /// Alarms: what an operator should look at.
    pub alarms: u64,
    /// The last alarm.
    pub last_alarm: Option<String>,
    /// When it said something the last time, RFC 3339.
    pub last: Option<String>,
    /// Comparisons with what the server itself says.
    pub audits: u64,
}

/// A status that its source writes and others read.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Status>>, Arc<Sparingly>);

impl Shared {
    pub(super) fn new(source: &SourceSettings) -> Self {
        let status = Status {
            name: source.name.clone(),
            kind: source.kind.word(),
            of: source.kind.of(),
            source: source.kind.source(),
            up: false,
            problem: None,
            known: 0,
            records: 0,
            damaged: 0,
            alarms: 0,
            last_alarm: None,
            last: None,
            audits: 0,
        };
        Self(Arc::new(Mutex::new(status)), Arc::default())
    }

    pub(super) fn get(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn up(&self) {
        let (name, was_down) = self.change(|status| {
            status.problem = None;
            (status.name.clone(), !std::mem::replace(&mut status.up, true))
        });
        if was_down {
            tracing::info!(source = name, "followed");
        }
        gauge!("toolbox_source_up", "source" => name).set(1.0);
    }

    /// Says a problem once.
    pub(super) fn down(&self, problem: &str) {
        let (name, news) = self.change(|status| {
            status.up = false;
            let news = status.problem.as_deref() != Some(problem);
            status.problem = Some(problem.to_owned());
            (status.name.clone(), news)
        });
        gauge!("toolbox_source_up", "source" => name.clone()).set(0.0);
        if news {
            tracing::error!(source = name, problem, "not followed: what it said answers for nobody");
        }
    }

    pub(super) fn known(&self, known: usize) {
        let name = self.change(|status| {
            status.known = known;
            status.name.clone()
        });
        gauge!("toolbox_source_known", "source" => name).set(known as f64);
    }

    pub(super) fn told(&self) {
        let name = self.change(|status| {
            status.records += 1;
            status.last = Some(clock::wall().to_string());
            status.name.clone()
        });
        counter!("toolbox_source_records_total", "source" => name).increment(1);
    }

    pub(super) fn audited(&self) {
        let name = self.change(|status| {
            status.audits += 1;
            status.name.clone()
        });
        counter!("toolbox_source_audits_total", "source" => name).increment(1);
    }

    pub(super) fn damaged(&self) {
        let name = self.change(|status| {
            status.damaged += 1;
            status.name.clone()
        });
        counter!("toolbox_source_damaged_total", "source" => name).increment(1);
    }

    /// Something that an operator should look at; `what` names no subscriber.
    pub(super) fn alarm(&self, reason: &'static str, what: &str) {
        let name = self.change(|status| {
            status.alarms += 1;
            status.last_alarm = Some(format!("{reason}: {what}"));
            status.name.clone()
        });
        if let Some(held_back) = self.1.may(reason, clock::now()) {
            tracing::warn!(source = name, reason, what, held_back, "alarm");
        }
        counter!("toolbox_source_alarms_total", "source" => name, "reason" => reason).increment(1);
    }
}
