//! What Prometheus is told of peers beside what each session tells by itself: looked at every second.

use std::collections::BTreeMap;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use metrics::{Counter, Gauge, counter, gauge};

use super::{Asked, Neighbours};
use crate::peer::Report;

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);

/// A peer's gauges; those of a peer that is gone are zero.
#[derive(Default)]
struct Gauges {
    labelled: BTreeMap<(&'static str, Option<&'static str>), Gauge>,
    sent: Option<Counter>,
}

impl Gauges {
    fn set(&mut self, peer: &str, name: &'static str, family: Option<&'static str>, value: f64) {
        let made = || match family {
            Some(family) => gauge!(name, "peer" => peer.to_owned(), "family" => family),
            None => gauge!(name, "peer" => peer.to_owned()),
        };
        self.labelled.entry((name, family)).or_insert_with(made).set(value);
    }

    fn look(&mut self, asked: &Asked, report: &Report) {
        let (peer, now) = (asked.peer.name.as_str(), clock::now());
        for (family, held) in report.held {
            let name = match family {
                bgp_wire::Family::Ipv4 => "ipv4",
                bgp_wire::Family::Ipv6 => "ipv6",
            };
            let stale = report.restart.stale.iter().find(|(of, ..)| *of == family);
            let left = stale.map_or(0.0, |(.., until)| (*until - now).as_secs_f64());
            let long_lived = stale.is_some_and(|(_, long_lived, _)| *long_lived);
            self.set(peer, "bgp_speaker_held_routes", Some(name), held as f64);
            self.set(peer, "bgp_speaker_outdated_routes", Some(name), stale.map_or(0, |_| held) as f64);
            self.set(peer, "bgp_speaker_outdated_seconds", Some(name), left);
            self.set(peer, "bgp_speaker_outdated_long_lived", Some(name), f64::from(u8::from(long_lived)));
        }
        let options = &asked.peer.settings.options;
        let keeps = report.status.negotiated.as_ref().is_some_and(|agreed| agreed.keeps);
        let keeps = options.keep.filter(|_| keeps).unwrap_or_default();
        self.set(peer, "bgp_speaker_keeps_seconds", None, f64::from(keeps));
        if let Some(max) = options.max_prefix {
            self.set(peer, "bgp_speaker_max_prefix_limit", None, f64::from(max.limit));
        }
        self.set(peer, "bgp_speaker_unsent_octets", None, report.queue.unsent as f64);
        self.set(peer, "bgp_speaker_unacknowledged_octets", None, report.queue.unacknowledged as f64);
        self.set(peer, "bgp_speaker_inject_behind", None, f64::from(u8::from(report.queue.behind)));
        let sent = || counter!("bgp_speaker_inject_sent_prefixes_total", "peer" => peer.to_owned());
        self.sent.get_or_insert_with(sent).absolute(report.queue.sent);
    }
}

/// Looks until the stop.
pub(crate) async fn run(neighbours: Neighbours, stop: Stop) {
    let mut known: BTreeMap<String, Gauges> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(PACE) => {}
        }
        let mut gone = std::mem::take(&mut known);
        for asked in neighbours.list().await {
            let Some(report) = asked.report().await else { continue };
            let name = asked.peer.name.clone();
            let mut gauges = gone.remove(&name).unwrap_or_default();
            gauges.look(&asked, &report);
            known.insert(name, gauges);
        }
        gone.values().flat_map(|gauges| gauges.labelled.values()).for_each(|gauge| gauge.set(0.0));
    }
}
