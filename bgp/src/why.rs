//! "Why was this (not) announced?": for one prefix, each peer, and each way that the prefix could come to it.

use std::net::IpAddr;

use bgp_core::PrivateRoute;
use cloakway_runtime::admin::Request;
use cloakway_runtime::clock;
use ipnet::IpNet;
use serde::Serialize;

use crate::health::lock;
use crate::inject::told::{Candidate, told};
use crate::neighbours::Asked;
use crate::peer::Report;
use crate::show::Shared;

/// One way to one peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    prefix: String,
    /// Where the route comes from: `private`, `injected`, `received`, or nowhere.
    source: &'static str,
    peer: String,
    announced: bool,
    reason: String,
}

/// What is known of the prefix before any peer is looked at.
struct Wanted {
    source: &'static str,
    /// Why nobody is told, whatever the peer.
    stopped: Option<String>,
    /// More, for people.
    note: String,
    route: Route,
}

enum Route {
    Private(PrivateRoute),
    Injected(Vec<Candidate>),
    Received,
}

/// Answers `{"topic":"why"}`.
pub(crate) async fn answer(shared: &Shared, request: &Request) -> Result<Vec<Row>, String> {
    let text = request.argument("prefix").ok_or("why takes a prefix: which one?")?;
    let prefix: IpNet = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is no prefix: write it as 203.0.113.0/24"))?;
    let prefix = prefix.trunc();
    let mut wanted: Vec<Wanted> = private(shared, prefix).into_iter().collect();
    wanted.extend(injected(shared, prefix));
    let received = |note| Wanted { source: "received", stopped: None, note, route: Route::Received };
    wanted.extend(shared.rib.standing(&prefix).map(received));
    let mut peers = shared.neighbours.list().await;
    if let Some(name) = request.argument("peer") {
        peers.retain(|asked| asked.peer.name == name);
        if peers.is_empty() {
            return Err(format!("no peer is called {name:?}"));
        }
    }
    let mut rows = Vec::new();
    for asked in peers {
        let Some(report) = asked.report().await else { continue };
        if wanted.is_empty() {
            let reason =
                "no private route and no injected set has this prefix, and no importing peer told it".to_owned();
            rows.push(Row {
                prefix: prefix.to_string(),
                source: "none",
                peer: asked.peer.name,
                announced: false,
                reason,
            });
            continue;
        }
        rows.extend(wanted.iter().map(|wanted| row(shared, prefix, wanted, &asked, &report)));
    }
    Ok(rows)
}

fn private(shared: &Shared, prefix: IpNet) -> Option<Wanted> {
    let now = clock::now();
    let injector = lock(&shared.injector);
    let (route, health) = injector.routes(now).find(|(route, _)| route.prefix() == prefix)?;
    let stopped = match (health.is_healthy(), injector.withheld(&prefix)) {
        (false, _) => Some(format!("unhealthy: {health}")),
        (true, Some(reason)) => Some(format!("kept back: {reason}")),
        (true, None) => None,
    };
    let note = format!("kept in by {}; health: {health}", route.keep());
    Some(Wanted { source: "private", stopped, note, route: Route::Private(route.clone()) })
}

fn injected(shared: &Shared, prefix: IpNet) -> Option<Wanted> {
    let candidates = shared.engine.as_ref()?.candidates(&prefix);
    let (_, rest) = candidates.split_first()?;
    let shadow: Vec<&str> = rest.iter().map(|other| other.set.as_str()).collect();
    let note = if shadow.is_empty() { String::new() } else { format!("; in its shadow: {}", shadow.join(", ")) };
    Some(Wanted { source: "injected", stopped: None, note, route: Route::Injected(candidates) })
}

fn row(shared: &Shared, prefix: IpNet, wanted: &Wanted, asked: &Asked, report: &Report) -> Row {
    let (announced, reason) = match (&wanted.stopped, &wanted.route) {
        (Some(stopped), _) => (false, stopped.clone()),
        // A private route that is told is what the peer hears of its prefix, where it is told private routes.
        (None, Route::Private(route)) => match asked.peer.settings.tells_private(&report.status, route) {
            Err(why) => (false, why.to_string()),
            Ok(()) => {
                let sent = report.status.advertised.contains(&prefix);
                let how = match (sent, route.is_by_rules_alone()) {
                    (true, false) => "announced",
                    (true, true) => "announced by its flow rules alone",
                    (false, _) => "about to be announced",
                };
                (sent, format!("{how}: {}", wanted.note))
            }
        },
        (None, Route::Injected(candidates)) => match told(candidates, asked, &report.status, &prefix) {
            Ok(candidate) => {
                let how = match report.queue.behind || report.queue.unsent > 0 {
                    true => "announced, or about to be (the peer is behind)",
                    false => "announced",
                };
                (true, format!("{how}: from set {}{}", candidate.set, wanted.note))
            }
            Err(why) => (false, why),
        },
        (None, Route::Received) => match shared.rib.passes_on(&asked.peer, &prefix) {
            Ok(()) => (true, format!("announced: {}", wanted.note)),
            Err(why) => (false, format!("{why}; {}", wanted.note)),
        },
    };
    let peer = asked.peer.name.clone();
    Row { prefix: prefix.to_string(), source: wanted.source, peer, announced, reason }
}
