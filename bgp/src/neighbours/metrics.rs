//! What Prometheus is told of peers beside what each session tells by itself: looked at every second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::FlowHeard;
use bgp_wire::FlowRule;
use cloakway_runtime::{Stop, clock};
use cloakway_types::Instant;
use metrics::{Counter, Gauge, counter, gauge};

use super::{Asked, Neighbours};
use crate::peer::Report;
use crate::rib::Table;

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);
/// Between two looks at routes, which decide whether rules that have not changed are valid.
const VALIDATION: Duration = Duration::from_secs(10);

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

/// How many flow rules of each peer are valid, and how many are not.
#[derive(Default)]
struct Validity {
    heard: Vec<(String, FlowRule, FlowHeard)>,
    counts: BTreeMap<String, [usize; 2]>,
    next: Option<Instant>,
}

impl Validity {
    async fn look(&mut self, rib: &Table, heard: Vec<(String, FlowRule, FlowHeard)>) {
        let now = clock::now();
        if heard == self.heard && (heard.is_empty() || self.next.is_some_and(|next| now < next)) {
            return;
        }
        self.counts.clear();
        for ((peer, ..), verdict) in heard.iter().zip(rib.check_flows(&heard).await) {
            let [valid, invalid] = self.counts.entry(peer.clone()).or_default();
            *(if verdict.is_ok() { valid } else { invalid }) += 1;
        }
        (self.heard, self.next) = (heard, Some(now + VALIDATION));
    }
}

/// Looks until the stop.
pub(crate) async fn run(neighbours: Neighbours, rib: Arc<Table>, stop: Stop) {
    let mut known: BTreeMap<String, Gauges> = BTreeMap::new();
    let mut validity = Validity::default();
    loop {
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(PACE) => {}
        }
        let mut gone = std::mem::take(&mut known);
        let mut heard = Vec::new();
        for asked in neighbours.list().await {
            let Some(mut report) = asked.report().await else { continue };
            let name = asked.peer.name.clone();
            let rules = std::mem::take(&mut report.flow_heard);
            heard.extend(rules.into_iter().map(|(rule, said)| (name.clone(), rule, said)));
            let mut gauges = gone.remove(&name).unwrap_or_default();
            gauges.look(&asked, &report);
            known.insert(name, gauges);
        }
        validity.look(&rib, heard).await;
        for (peer, gauges) in &mut known {
            let [valid, invalid] = validity.counts.get(peer).copied().unwrap_or_default();
            gauges.set(peer, "bgp_speaker_valid_flow_rules", None, valid as f64);
            gauges.set(peer, "bgp_speaker_invalid_flow_rules", None, invalid as f64);
        }
        gone.values().flat_map(|gauges| gauges.labelled.values()).for_each(|gauge| gauge.set(0.0));
    }
}
