//! The neighbours whose answers are the heartbeat of the ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use std::time::Duration;

use cloakway_runtime::clock;
use forwarder_core::{LinkState, MadeLink, Policy};
use forwarder_dataplane::{Event, Interface, Kernel};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Asks them; the answers are events.
#[derive(Debug)]
pub(crate) struct Probe {
    running: Option<JoinHandle<()>>,
    /// Of links where the kernel has no such event.
    answers: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
}

impl Default for Probe {
    fn default() -> Self {
        Self { running: None, answers: mpsc::channel(64) }
    }
}

impl Probe {
    /// Asks every neighbour now, each once, however many prefixes are behind it. While the last time takes its time nobody is
    /// asked again.
    pub(crate) fn ask(
        &mut self,
        kernel: &Arc<Kernel>,
        (policy, made): (&Policy, &[MadeLink]),
        interfaces: &BTreeMap<String, Interface>,
    ) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let mut asked: BTreeSet<(u32, IpAddr)> = BTreeSet::new();
        let mut tunnels: Vec<(MadeLink, u32, BTreeSet<IpAddr>)> = Vec::new();
        for way in policy.prefixes().iter().flat_map(|entry| &entry.ways) {
            let name = policy.interface(way.link);
            let Some(Interface { index, state: LinkState::Up }) = interfaces.get(name).copied() else { continue };
            let Some(link) = made.iter().find(|link| link.interface == name && link.wireguard().is_some()) else {
                asked.insert((index, way.probe));
                continue;
            };
            match tunnels.iter_mut().find(|(_, known, _)| *known == index) {
                Some((_, _, addresses)) => drop(addresses.insert(way.probe)),
                None => tunnels.push((link.clone(), index, [way.probe].into())),
            }
        }
        let (kernel, answers) = (kernel.clone(), self.answers.0.clone());
        self.running = Some(tokio::spawn(async move {
            for (index, address) in asked {
                if let Err(error) = kernel.probe(index, address).await {
                    tracing::debug!(%error, "probe");
                }
            }
            for (link, index, addresses) in tunnels {
                match kernel.is_heard(&link, Duration::from_millis(clock::wall().as_millis())).await {
                    Ok(true) => {
                        for address in addresses {
                            let _ = answers.send(Event::Neighbour { index, address, answered: true }).await;
                        }
                    }
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "handshake"),
                }
            }
        }));
    }

    /// The next answer that is no event of the kernel's.
    pub(crate) async fn answer(&mut self) -> Option<Event> {
        self.answers.1.recv().await
    }
}
