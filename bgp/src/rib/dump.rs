//! An MRT dump as a source of whose an address is, where no peer has told: read at the start and whenever its file changes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use cloakway_runtime::Stop;
use cloakway_runtime::file::{self, Watched};
use cloakway_types::AddressMap;
use ipnet::IpNet;
use look_up_wire::Verdict;
use metrics::{counter, gauge};
use mrt_wire::{Origins, Summary, Whose};
use serde::Serialize;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

type Map = AddressMap<(Whose, u8)>;

/// What was read last.
#[derive(Debug)]
pub(super) struct Dump {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    map: Map,
    summary: Summary,
    /// Of the file that was read.
    written: Option<std::time::SystemTime>,
    /// Why what is there now is not what is used.
    problem: Option<String>,
}

/// The dump as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    file: String,
    prefixes: usize,
    routes: u64,
    /// Routes in it that could not be read.
    bad: u64,
    /// Since when the file that was read is as it is.
    age_s: Option<u64>,
    problem: Option<String>,
}

impl Dump {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: RwLock::default() }
    }

    /// Keeps what is known as the file has it, until the stop. A dump that cannot be read leaves the one before in use.
    pub(super) async fn follow(&self, stop: &Stop) {
        let mut file = Watched::new(&self.path);
        loop {
            self.look(&mut file).await;
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn look(&self, file: &mut Watched) {
        match file.has_changed() {
            Ok(true) => {}
            Ok(false) => return self.measure(),
            Err(error) => return self.refuse(error.to_string()),
        }
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((map, summary)) => {
                tracing::info!(file = %self.path.display(), prefixes = map.len(), bad = summary.bad, "MRT dump read");
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                *state = State { map, summary, written: file.written(), problem: None };
                drop(state);
                self.measure();
            }
            Err(reason) => self.refuse(reason),
        }
    }

    fn refuse(&self, reason: String) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.problem.as_ref() != Some(&reason) {
            counter!("bgp_speaker_dump_errors_total").increment(1);
            tracing::warn!(file = %self.path.display(), %reason, "MRT dump not read: what was read before is used");
            state.problem = Some(reason);
        }
    }

    fn measure(&self) {
        let shown = self.shown();
        gauge!("bgp_speaker_dump_prefixes").set(shown.prefixes as f64);
        gauge!("bgp_speaker_dump_age_seconds").set(shown.age_s.unwrap_or_default() as f64);
    }

    /// Whose `address` is by the dump.
    pub(super) fn verdict(&self, address: IpAddr) -> Option<Verdict> {
        let address = address.to_canonical();
        let (whose, bits) = self.state.read().unwrap_or_else(PoisonError::into_inner).map.find(address)?;
        let prefix = IpNet::new(address, bits).ok()?.trunc();
        Some(match whose {
            Whose::Origin(asn) => Verdict::Origin { prefix, asn: asn.0 },
            Whose::Disputed => Verdict::Disputed { prefix },
        })
    }

    pub(super) fn shown(&self) -> Shown {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Shown {
            file: self.path.display().to_string(),
            prefixes: state.map.len(),
            routes: state.summary.routes,
            bad: state.summary.bad,
            age_s: state.written.map(|written| written.elapsed().unwrap_or_default().as_secs()),
            problem: state.problem.clone(),
        }
    }
}

fn read(path: &Path) -> Result<(Map, Summary), String> {
    let mut origins = Origins::default();
    file::unpack(std::fs::File::open(path).map_err(|error| error.to_string())?, |piece| origins.push(piece))?;
    origins.finish().map_err(|error| error.to_string())
}
