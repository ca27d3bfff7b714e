//! What `show routes` tells: private routes, injected ones and those of peers, and what becomes of each.

use bgp_core::{Health, PrivateRoute};
use cloakway_runtime::admin::Request;
use cloakway_runtime::clock;
use ipnet::IpNet;
use serde::Serialize;

use crate::health::lock;
use crate::inject::told::told;
use crate::neighbours::Asked;
use crate::peer::Report;
use crate::show::Shared;

/// Routes of one source that are shown unless more are asked for.
const LIMIT: usize = 1000;

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    prefix: String,
    /// `private`, `injected` or `received`.
    source: &'static str,
    /// The set or the peer that it comes from.
    from: Option<String>,
    restricted: bool,
    rules_alone: bool,
    next_hop: String,
    guard: String,
    communities: Vec<String>,
    healthy: bool,
    announced_to: Vec<String>,
    reason: String,
}

/// What is asked for.
struct Narrowed {
    source: Option<String>,
    inside: Option<IpNet>,
    limit: usize,
}

impl Narrowed {
    fn of(request: &Request) -> Result<Self, String> {
        let source = request.argument("source").map(str::to_owned);
        if let Some(other) = source.as_deref().filter(|source| !["private", "injected", "received"].contains(source)) {
            return Err(format!("source {other:?}: there is private, injected and received"));
        }
        let inside = request.argument("inside").map(|text| text.parse().map_err(|_| format!("{text:?} is no prefix")));
        let limit = request
            .argument("limit")
            .map_or(Ok(LIMIT), |text| text.parse().map_err(|_| format!("limit {text:?}: a number")));
        Ok(Self { source, inside: inside.transpose()?, limit: limit? })
    }

    fn wants(&self, source: &str) -> bool {
        self.source.as_deref().is_none_or(|only| only == source)
    }

    fn holds(&self, prefix: &IpNet) -> bool {
        self.inside.is_none_or(|inside| inside.contains(prefix))
    }

    /// Cuts what is too much, and says so in the place of the first that is cut.
    fn cut(&self, mut rows: Vec<Row>, source: &'static str) -> Vec<Row> {
        if rows.len() > self.limit {
            rows.truncate(self.limit);
            rows.push(Row {
                prefix: "…".to_owned(),
                source,
                from: None,
                restricted: false,
                rules_alone: false,
                next_hop: String::new(),
                guard: String::new(),
                communities: Vec::new(),
                healthy: false,
                announced_to: Vec::new(),
                reason: format!("there are more than {}: --inside narrows, --limit widens", self.limit),
            });
        }
        rows
    }
}

/// Answers `{"topic":"routes"}`: the private routes first.
pub(crate) async fn rows(shared: &Shared, request: &Request) -> Result<Vec<Row>, String> {
    let narrowed = Narrowed::of(request)?;
    let mut peers = Vec::new();
    for asked in shared.neighbours.list().await {
        if let Some(report) = asked.report().await {
            peers.push((asked, report));
        }
    }
    let mut rows = Vec::new();
    if narrowed.wants("private") {
        rows.extend(
            private(shared, &peers).into_iter().filter(|(prefix, _)| narrowed.holds(prefix)).map(|(_, row)| row),
        );
    }
    if narrowed.wants("injected") {
        rows.extend(narrowed.cut(injected(shared, &peers, &narrowed).await, "injected"));
    }
    if narrowed.wants("received") {
        rows.extend(narrowed.cut(received(shared, &narrowed).await, "received"));
    }
    Ok(rows)
}

fn private(shared: &Shared, peers: &[(Asked, Report)]) -> Vec<(IpNet, Row)> {
    let injector = lock(&shared.injector);
    let row = |(route, health): (&PrivateRoute, Health)| {
        let prefix = route.prefix();
        let to = peers.iter().filter(|(_, report)| report.status.advertised.contains(&prefix));
        let announced_to: Vec<String> = to.map(|(asked, _)| asked.peer.name.clone()).collect();
        let reason = match (health.is_healthy(), announced_to.is_empty()) {
            (true, _) if let Some(reason) = injector.withheld(&prefix) => reason.to_owned(),
            (true, true) if route.is_restricted() => {
                format!("no session takes it with its flow rules; health: {health}")
            }
            (true, true) => format!("no session takes it; health: {health}"),
            (true, false) | (false, _) => health.to_string(),
        };
        let row = Row {
            prefix: prefix.to_string(),
            source: "private",
            from: None,
            restricted: route.is_restricted(),
            rules_alone: route.is_by_rules_alone(),
            next_hop: route.next_hop().to_string(),
            guard: route.keep().to_string(),
            communities: route.communities().iter().map(ToString::to_string).collect(),
            healthy: health.is_healthy(),
            announced_to,
            reason,
        };
        (prefix, row)
    };
    injector.routes(clock::now()).map(row).collect()
}

async fn injected(shared: &Shared, peers: &[(Asked, Report)], narrowed: &Narrowed) -> Vec<Row> {
    let Some(engine) = &shared.engine else { return Vec::new() };
    let mut rows = Vec::new();
    for prefix in engine.prefixes(narrowed.inside, narrowed.limit + 1).await {
        let candidates = engine.candidates(&prefix);
        // It may have gone since.
        let Some(first) = candidates.first() else { continue };
        let told = peers.iter().filter(|(asked, report)| told(&candidates, asked, &report.status, &prefix).is_ok());
        let announced_to: Vec<String> = told.map(|(asked, _)| asked.peer.name.clone()).collect();
        rows.push(Row {
            prefix: prefix.to_string(),
            source: "injected",
            from: Some(first.set.clone()),
            restricted: false,
            rules_alone: false,
            next_hop: first.attributes.next_hop.to_string(),
            guard: first.attributes.guard.map(|guard| guard.to_string()).unwrap_or_default(),
            communities: first.attributes.communities.iter().map(ToString::to_string).collect(),
            healthy: first.hidden.is_none(),
            reason: match (&first.hidden, announced_to.is_empty()) {
                (Some(reason), _) => reason.clone(),
                (None, true) => "no session takes it".to_owned(),
                (None, false) => "wanted".to_owned(),
            },
            announced_to,
        });
    }
    rows
}

async fn received(shared: &Shared, narrowed: &Narrowed) -> Vec<Row> {
    let found = shared.rib.received(narrowed.inside, narrowed.limit).await;
    let row = |route: crate::rib::Received| Row {
        prefix: route.prefix.to_string(),
        source: "received",
        from: Some(route.peer),
        restricted: false,
        rules_alone: false,
        next_hop: route.next_hop.to_string(),
        guard: String::new(),
        communities: route.communities,
        healthy: route.usable,
        announced_to: route.announced_to,
        reason: route.reason,
    };
    found.into_iter().map(row).collect()
}
