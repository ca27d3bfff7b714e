//! What Prometheus is told of a peer.

use std::time::Duration;

use bgp_core::{MessageCounts, State, Status};
use metrics::{Counter, Gauge, counter, gauge};

pub(crate) struct PeerMetrics {
    up: Gauge,
    state: Gauge,
    announced: Gauge,
    flow_announced: Gauge,
    flow_received: Gauge,
    last_withdraw: Gauge,
    flaps: Counter,
    flaws: Counter,
    private_received: Counter,
    prefixes_received: Counter,
    received: [Counter; 5],
    sent: [Counter; 5],
}

impl PeerMetrics {
    pub(crate) fn new(peer: &str) -> Self {
        let label = || peer.to_owned();
        let by_type = |name: &'static str| {
            ["open", "update", "notification", "keepalive", "route-refresh"]
                .map(|kind| counter!(name, "peer" => label(), "type" => kind))
        };
        Self {
            up: gauge!("bgp_speaker_session_up", "peer" => label()),
            state: gauge!("bgp_speaker_session_state", "peer" => label()),
            announced: gauge!("bgp_speaker_announced_prefixes", "peer" => label()),
            flow_announced: gauge!("bgp_speaker_announced_flow_rules", "peer" => label()),
            flow_received: gauge!("bgp_speaker_received_flow_rules", "peer" => label()),
            last_withdraw: gauge!("bgp_speaker_last_withdraw_seconds", "peer" => label()),
            flaps: counter!("bgp_speaker_session_flaps_total", "peer" => label()),
            flaws: counter!("bgp_speaker_damaged_attributes_received_total", "peer" => label()),
            private_received: counter!("bgp_speaker_private_prefixes_received_total", "peer" => label()),
            prefixes_received: counter!("bgp_speaker_prefixes_received_total", "peer" => label()),
            received: by_type("bgp_speaker_messages_received_total"),
            sent: by_type("bgp_speaker_messages_sent_total"),
        }
    }

    pub(crate) fn set(&self, status: &Status) {
        let counters = &status.counters;
        // RFC 4271 §8.2.2 in its order: 0 Idle, 1 Connect, 2 Active, 3 OpenSent, 4 OpenConfirm, 5 Established.
        self.state.set(f64::from(status.state as u8));
        self.up.set(if status.state == State::Established { 1.0 } else { 0.0 });
        self.announced.set(status.advertised.len() as f64);
        self.flow_announced.set(status.flow_advertised as f64);
        self.flow_received.set(status.flow_heard as f64);
        self.flaps.absolute(counters.flaps);
        self.flaws.absolute(counters.flaws);
        self.private_received.absolute(counters.private_received);
        self.prefixes_received.absolute(counters.prefixes_announced);
        let set = |to: &[Counter; 5], from: &MessageCounts| {
            let values = [from.open, from.update, from.notification, from.keepalive, from.route_refresh];
            for (counter, value) in to.iter().zip(values) {
                counter.absolute(value);
            }
        };
        set(&self.received, &counters.received);
        set(&self.sent, &counters.sent);
    }

    pub(crate) fn withdrew(&self, took: Duration) {
        self.last_withdraw.set(took.as_secs_f64());
    }
}
