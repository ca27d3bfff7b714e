//! What `show neighbours` tells: what each peer is configured as, and what became of it.

use bgp_wire::Family;
use cloakway_runtime::clock;
use serde::Serialize;

use super::Neighbours;

/// One neighbour.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    peer: String,
    group: Option<String>,
    dynamic: bool,
    address: String,
    local_address: Option<String>,
    remote_as: u32,
    state: String,
    for_s: u64,
    /// When the session does something by itself next: a keepalive, an attempt, the end of a wait.
    next_timer_ms: Option<u64>,
    hold_time_s: u16,
    agreed_hold_time_s: Option<u16>,
    passive: bool,
    export: String,
    /// The sets that it is told alone, if not all.
    sets: Option<Vec<String>>,
    signed: bool,
    ttl_security_hops: Option<u8>,
    established: u64,
    flaps: u64,
    /// What it keeps of ours when we are gone.
    keeps: String,
    /// What of its own stays although it is gone, and for how long.
    outdated: Vec<String>,
    held: Vec<String>,
    max_prefix: Option<u32>,
    /// How the path stands, if BFD watches it (RFC 5880 §6.8.6).
    bfd: Option<String>,
    bfd_for_s: Option<u64>,
    bfd_last_down: Option<String>,
    unsent: usize,
    unacknowledged: u64,
    last_down: Option<String>,
}

/// All neighbours, those of the file first.
pub(crate) async fn rows(neighbours: &Neighbours) -> Vec<Row> {
    let mut rows = Vec::new();
    for asked in neighbours.list().await {
        let Some(report) = asked.report().await else { continue };
        let (now, status, settings) = (clock::now(), report.status, &asked.peer.settings);
        let millis = |wait: std::time::Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let agreed = status.negotiated.as_ref();
        let keeps = match (settings.options.keep, agreed) {
            (None, _) => "nothing: not asked to",
            (Some(_), _) if report.restart.withheld => "nothing: it offers graceful restart without RFC 9494",
            (Some(_), None) => "not up: what it was told to, if it follows RFC 9494",
            (Some(_), Some(agreed)) if agreed.keeps => "the sets that are to be kept",
            (Some(_), Some(_)) => "nothing: it does not follow RFC 9494",
        };
        let outdated = report.restart.stale.iter().map(|(family, long_lived, until)| {
            let how = if *long_lived { ", as the least preferred" } else { "" };
            format!("{family} for {} s{how}", (*until - now).as_secs())
        });
        let held = report.held.iter().filter(|(_, held)| *held > 0);
        rows.push(Row {
            peer: asked.peer.name.clone(),
            group: asked.peer.group.clone(),
            dynamic: asked.dynamic,
            address: asked.peer.address.to_string(),
            local_address: asked.peer.local_address.map(|address| address.to_string()),
            remote_as: agreed.map_or(settings.remote_as, |agreed| agreed.asn).0,
            state: status.state.to_string(),
            for_s: (now - status.since).as_secs(),
            next_timer_ms: report.restart.next_timer.map(|at| millis(at - now)),
            hold_time_s: settings.hold_time.as_secs(),
            agreed_hold_time_s: agreed.map(|agreed| agreed.hold_time.as_secs()),
            passive: settings.passive,
            export: format!("{:?}", settings.export).to_lowercase(),
            sets: settings.options.sets.as_ref().map(|sets| sets.iter().cloned().collect()),
            signed: asked.peer.protection.is_signed(),
            ttl_security_hops: asked.peer.protection.ttl_security_hops.map(std::num::NonZeroU8::get),
            established: status.counters.established,
            flaps: status.counters.flaps,
            keeps: match (settings.options.keep, agreed) {
                (Some(keep_s), Some(agreed)) if agreed.keeps => format!("{keeps}, for {keep_s} s"),
                _ => keeps.to_owned(),
            },
            outdated: outdated.collect(),
            held: held.map(|(family, held): &(Family, usize)| format!("{held} of {family}")).collect(),
            max_prefix: settings.options.max_prefix.map(|max| max.limit),
            bfd: asked.path.as_ref().map(|path| format!("{:?}", path.state)),
            bfd_for_s: asked.path.as_ref().map(|path| (now - path.since).as_secs()),
            bfd_last_down: asked.path.as_ref().and_then(|path| path.last_down.clone()),
            unsent: report.queue.unsent,
            unacknowledged: report.queue.unacknowledged,
            last_down: status.last_down.as_ref().map(ToString::to_string),
        });
    }
    rows
}
