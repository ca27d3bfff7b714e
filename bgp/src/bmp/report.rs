//! What operators are told of the station and the watch: logs, metrics, events, `show`.

use std::collections::BTreeMap;

use bgp_bmp::{Counted, Leak, LeakState, Notice, RouterCounters, Watch, WatchEvent};
use cloakway_runtime::clock;
use metrics::{counter, gauge};
use serde::Serialize;

use super::Station;
use crate::events::{Event, Events};

pub(super) fn connected(router: &str, connected: bool) {
    gauge!("bgp_speaker_bmp_connected", "router" => router.to_owned()).set(if connected { 1.0 } else { 0.0 });
}

pub(super) fn counters(router: &str, counters: RouterCounters) {
    let count = |name: &'static str, value: u64| gauge!(name, "router" => router.to_owned()).set(value as f64);
    count("bgp_speaker_bmp_messages", counters.messages);
    count("bgp_speaker_bmp_unreadable", counters.unreadable);
    count("bgp_speaker_bmp_mirrored", counters.mirrored);
    count("bgp_speaker_bmp_mirroring_lost", counters.mirroring_lost);
}

/// Summed up over the router's peers: who they are is up to it, and a label is for ever.
pub(super) fn statistics(router: &str, statistics: &BTreeMap<Counted, u64>) {
    for (counted, value) in statistics {
        let family = counted.family.map_or_else(|| "all".to_owned(), |family| family.to_string());
        let labels = [("router", router.to_owned()), ("statistic", counted.name.to_owned()), ("family", family)];
        gauge!("bgp_speaker_bmp_statistics", &labels).set(*value as f64);
    }
}

pub(super) fn notice(router: &str, notice: &Notice) {
    match notice {
        Notice::Name(name) => tracing::info!(router, name, "BMP: the router says who it is"),
        Notice::PeerUp(peer) => tracing::info!(router, peer = %peer.key, asn = %peer.asn, "BMP: a session is up"),
        Notice::PeerDown(peer, why) => {
            tracing::info!(router, peer = %peer.key, asn = %peer.asn, why, "BMP: a session is down");
        }
        Notice::Statistics => {}
        Notice::MirroringLost => {
            tracing::warn!(router, "BMP: the router does not mirror all messages: the watch may miss something");
        }
        Notice::Unreadable(what) => {
            tracing::warn!(router, what, "BMP: a message cannot be read: the watch may miss something");
        }
    }
}

pub(super) fn event(event: &WatchEvent, events: &Events) {
    match event {
        WatchEvent::Raised(leak) => {
            let Leak { private, finding, router, peer, peer_as, view, route, as_path, .. } = leak.as_ref();
            tracing::error!(%private, %finding, router, %peer, %peer_as, %view, %route, as_path, "LEAK: a private prefix is where it must not be");
            counter!("bgp_speaker_leaks_total", "finding" => finding.to_string()).increment(1);
            events.tell(Event::LeakRaised {
                prefix: private.to_string(),
                finding: finding.to_string(),
                router: router.clone(),
                peer: peer.to_string(),
                peer_as: peer_as.0,
                view: view.to_string(),
                as_path: as_path.clone(),
            });
        }
        WatchEvent::Ended(leak) => {
            let Leak { private, finding, router, peer, .. } = leak.as_ref();
            tracing::warn!(%private, %finding, router, %peer, "the leak is over");
            events.tell(Event::LeakEnded {
                prefix: private.to_string(),
                finding: finding.to_string(),
                router: router.clone(),
                peer: peer.to_string(),
            });
        }
        WatchEvent::Blind { router, why } => {
            tracing::error!(router, why, "the leak watch is blind: the router tells nothing");
            gauge!("bgp_speaker_leak_watch_blind", "router" => router.clone()).set(1.0);
            events.tell(Event::WatchBlind { router: router.clone(), reason: why.clone() });
        }
        WatchEvent::Sighted { router } => {
            tracing::info!(router, "the leak watch sees again");
            gauge!("bgp_speaker_leak_watch_blind", "router" => router.clone()).set(0.0);
            events.tell(Event::WatchSighted { router: router.clone() });
        }
        WatchEvent::Withheld { private, reason } => {
            tracing::error!(%private, reason, "a private route is kept back");
            events.tell(Event::LeakWithheld { prefix: private.to_string(), reason: reason.clone() });
        }
        WatchEvent::Released { private } => {
            tracing::warn!(%private, "a private route is kept back no more");
            events.tell(Event::LeakReleased { prefix: private.to_string() });
        }
    }
}

pub(super) fn leaks(watch: &Watch) {
    let present = watch.leaks().filter(|leak| leak.state == LeakState::Present).count();
    gauge!("bgp_speaker_leaks_present").set(present as f64);
    gauge!("bgp_speaker_leak_withheld_prefixes").set(watch.withheld().len() as f64);
}

#[derive(Serialize)]
pub(crate) struct LeakRow {
    prefix: String,
    finding: String,
    state: &'static str,
    router: String,
    peer: String,
    peer_as: u32,
    view: String,
    route: String,
    as_path: String,
    routes: usize,
    times: u32,
    first_s: u64,
    withholds: bool,
}

#[derive(Serialize)]
pub(crate) struct RouterRow {
    router: String,
    connected: bool,
    blind: Option<String>,
    from: Option<String>,
    name: Option<String>,
    for_s: Option<u64>,
    messages: u64,
    updates: u64,
    unreadable: u64,
    mirrored: u64,
    mirroring_lost: u64,
    peers: Vec<String>,
    statistics: Vec<String>,
}

impl Station {
    /// Rows of `show leaks`.
    pub(crate) fn leak_rows(&self) -> Vec<LeakRow> {
        let now = clock::now();
        let row = |leak: &Leak| LeakRow {
            prefix: leak.private.to_string(),
            finding: leak.finding.to_string(),
            state: match leak.state {
                LeakState::Present => "present",
                LeakState::Over(_) => "over",
                LeakState::Cleared => "cleared",
            },
            router: leak.router.clone(),
            peer: leak.peer.to_string(),
            peer_as: leak.peer_as.0,
            view: leak.view.to_string(),
            route: leak.route.to_string(),
            as_path: leak.as_path.clone(),
            routes: leak.routes,
            times: leak.times,
            first_s: (now - leak.first).as_secs(),
            withholds: leak.withholds && leak.state != LeakState::Cleared,
        };
        self.lock().watch.leaks().map(row).collect()
    }

    /// Rows of `show bmp`.
    pub(crate) fn router_rows(&self) -> Vec<RouterRow> {
        let now = clock::now();
        let shared = self.lock();
        let blind =
            |name: &str| shared.watch.blind().find(|(router, _)| *router == name).map(|(_, why)| why.to_owned());
        let mut names: Vec<String> = self.settings.routers.iter().map(|router| router.name.clone()).collect();
        names.extend(shared.connections.keys().filter(|name| !self.is_named(name)).cloned());
        let row = |router: String| {
            let connection = shared.connections.get(&router);
            let counters = connection.map(|connection| connection.counters).unwrap_or_default();
            let peers = connection.map(|connection| connection.peers.as_slice()).unwrap_or_default();
            let peer = |peer: &bgp_bmp::PeerInfo| {
                let views: Vec<String> = peer.views.iter().map(ToString::to_string).collect();
                format!("{} AS {}: {}", peer.key, peer.asn, views.join("+"))
            };
            let reported = |peer: &bgp_bmp::PeerInfo| {
                let numbers: Vec<String> =
                    peer.statistics.iter().map(|(counted, value)| format!("{counted} {value}")).collect();
                (!numbers.is_empty()).then(|| format!("{}: {}", peer.key, numbers.join(", ")))
            };
            RouterRow {
                connected: connection.is_some(),
                blind: blind(&router),
                from: connection.map(|connection| connection.from.to_string()),
                name: connection.and_then(|connection| connection.said_name.clone()),
                for_s: connection.map(|connection| (now - connection.since).as_secs()),
                messages: counters.messages,
                updates: counters.updates,
                unreadable: counters.unreadable,
                mirrored: counters.mirrored,
                mirroring_lost: counters.mirroring_lost,
                peers: peers.iter().map(peer).collect(),
                statistics: peers.iter().filter_map(reported).collect(),
                router,
            }
        };
        names.into_iter().map(row).collect()
    }
}
