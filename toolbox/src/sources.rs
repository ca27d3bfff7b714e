//! Where bindings come from beside RADIUS: leases, translations, neighbour tables, files.
//!
//! Each source is a thread or a task of its own that turns what it hears into records (`toolbox_wire::record`). None is
//! up before it has said all that it knows: until then what was known when the process ended would be answered.

mod audit;
mod computed;
mod conntrack;
mod dhcp_tap;
mod files;
mod fixed;
mod follow;
mod ipfix;
mod isc;
mod kea;
mod leases;
mod neighbours;
pub mod probe;
pub mod settings;
mod status;
mod teller;

use std::path::Path;
use std::sync::Arc;

use cloakway_runtime::Stop;
use cloakway_store::StoreError;
use tokio::sync::mpsc;
use toolbox_core::Translator;

use crate::bindings::Bindings;
use settings::{Kind, Settings};
use status::Shared;
pub use status::Status;
use teller::Teller;

/// The sources that run. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Vec<Shared>>);

impl Sources {
    /// Starts all of `settings`; ends when each has said all that it knows.
    ///
    /// # Errors
    /// What keeps a source from being opened at all: a socket, a privilege. A file that is not there is no error: its
    /// source is down, says so, and goes on when the file appears.
    pub async fn start(
        settings: &Settings,
        data: &Path,
        bindings: &Bindings,
        stop: &Stop,
        failed: &mpsc::Sender<StoreError>,
    ) -> Result<Self, String> {
        let watched = data.join("watched");
        std::fs::create_dir_all(&watched).map_err(|error| format!("{}: {error}", watched.display()))?;
        let mut all = Vec::new();
        for source in &settings.sources {
            let status = Shared::new(source);
            all.push(status.clone());
            let mut teller = Teller::new(bindings.clone(), status, watched.join(&source.name), failed.clone());
            let stop = stop.clone();
            let at = |error: String| format!("source {}: {error}", source.name);
            // What was said before this process was started is over: nobody watched since.
            teller.begin().await.map_err(|error| error.to_string())?;
            match &source.kind {
                Kind::Kea(file) => follow::start(kea::Files::new(file.path.clone()), file, teller, stop).await,
                Kind::Isc(file) => follow::start(isc::File::new(file.path.clone()), file, teller, stop).await,
                Kind::Fixed(path) => fixed::start(path.clone(), teller, stop).await,
                Kind::Conntrack(conntrack) => conntrack::start(conntrack, teller, stop).await.map_err(at)?,
                Kind::Neighbours(table) => neighbours::start(table, teller, stop).await.map_err(at)?,
                Kind::DhcpTap(tap) => dhcp_tap::start(tap, teller, stop).map_err(at)?,
                Kind::Ipfix(ipfix) => ipfix::start(ipfix, teller, stop).await.map_err(at)?,
            }
        }
        Ok(Self(Arc::new(all)))
    }

    /// What each source is doing, for the operator.
    #[must_use]
    pub fn list(&self) -> Vec<Status> {
        self.0.iter().map(Shared::get).collect()
    }
}

/// The rules by which external addresses are computed.
#[must_use]
pub fn translators(settings: &Settings) -> Vec<Arc<dyn Translator>> {
    settings.rules.iter().map(|(rule, period)| computed::translator(rule.clone(), *period)).collect()
}
