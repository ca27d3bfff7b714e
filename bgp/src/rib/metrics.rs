//! What Prometheus is told of the table.

use std::sync::Arc;
use std::time::Duration;

use bgp_wire::Family;
use cloakway_runtime::Stop;
use metrics::gauge;

use super::Table;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the gauges as the table is, until the stop.
pub(crate) fn start(table: Arc<Table>, stop: Stop) {
    tokio::spawn(async move {
        loop {
            table.measure();
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    });
}

impl Table {
    fn measure(&self) {
        gauge!("bgp_speaker_rib_ready").set(if self.readiness().is_ok() { 1.0 } else { 0.0 });
        let inner = self.lock();
        gauge!("bgp_speaker_rib_attribute_sets").set(inner.rib.attribute_sets() as f64);
        for family in Family::ALL {
            let name = family.to_string();
            gauge!("bgp_speaker_rib_prefixes", "family" => name.clone()).set(inner.rib.prefixes(family) as f64);
            for (peer, known) in inner.peers.iter().filter(|(_, known)| known.imports) {
                let counts = inner.rib.counts(known.id, family);
                let labels = [("peer", peer.clone()), ("family", name.clone())];
                gauge!("bgp_speaker_rib_routes", &labels).set(counts.routes as f64);
                gauge!("bgp_speaker_rib_rejected_routes", &labels).set(counts.rejected as f64);
            }
        }
        for (peer, known) in &inner.peers {
            if let Some(reader) = known.reader {
                gauge!("bgp_speaker_passed_on_prefixes", "peer" => peer.clone()).set(inner.rib.told(reader) as f64);
            }
        }
    }
}
