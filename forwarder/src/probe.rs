//! The neighbours whose answers are the heartbeat of the ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use forwarder_core::{LinkState, Policy};
use forwarder_dataplane::{Interface, Kernel};
use tokio::task::JoinHandle;

/// Asks them; the answers are events.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    running: Option<JoinHandle<()>>,
}

impl Probe {
    /// Asks every neighbour now, each once, however many prefixes are behind it. While the last time takes its time nobody is
    /// asked again.
    pub(crate) fn ask(&mut self, kernel: &Arc<Kernel>, policy: &Policy, interfaces: &BTreeMap<String, Interface>) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let mut asked: BTreeSet<(u32, IpAddr)> = BTreeSet::new();
        for way in policy.prefixes().iter().flat_map(|entry| &entry.ways) {
            let found = interfaces.get(policy.interface(way.link)).copied();
            let Some(Interface { index, state: LinkState::Up }) = found else { continue };
            asked.insert((index, way.probe));
        }
        let kernel = kernel.clone();
        self.running = Some(tokio::spawn(async move {
            for (index, address) in asked {
                if let Err(error) = kernel.probe(index, address).await {
                    tracing::debug!(%error, "probe");
                }
            }
        }));
    }
}
