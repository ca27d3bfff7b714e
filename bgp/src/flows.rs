//! What `show flows` tells: the rules that peers are told, and those that they tell us, which are validated and not used.

use std::collections::BTreeMap;

use bgp_core::{FlowHeard, FlowRoute};
use bgp_wire::FlowRule;
use serde::Serialize;

use crate::health::lock;
use crate::show::Shared;

#[derive(Serialize)]
pub(crate) struct FlowRow {
    rule: String,
    then: String,
    communities: Vec<String>,
    guard: Option<String>,
    /// A private prefix, a set, or a peer.
    from: String,
    announced_to: Vec<String>,
    /// Of a received one: whether it would be used (RFC 8955 §6, RFC 9117), and why not.
    valid: Option<bool>,
    reason: Option<String>,
}

/// Every rule that somebody was told, and every rule that was heard.
pub(crate) async fn rows(shared: &Shared) -> Vec<FlowRow> {
    let mut told: BTreeMap<FlowRule, (FlowRoute, Vec<String>)> = BTreeMap::new();
    let mut heard: Vec<(String, FlowRule, FlowHeard)> = Vec::new();
    for asked in shared.neighbours.list().await {
        let Some(report) = asked.report().await else { continue };
        let peer = asked.peer.name.clone();
        for (rule, route) in report.flow_advertised {
            told.entry(rule).or_insert_with(|| (route, Vec::new())).1.push(peer.clone());
        }
        heard.extend(report.flow_heard.into_iter().map(|(rule, said)| (peer.clone(), rule, said)));
    }
    let private: BTreeMap<FlowRule, String> = {
        let injector = lock(&shared.injector);
        let routes = injector.announced();
        let rules = routes.values().flat_map(|route| {
            let prefix = route.prefix().to_string();
            route.flow_routes().map(move |(rule, _)| (rule, prefix.clone()))
        });
        rules.collect()
    };
    let ours = told.into_iter().map(|(rule, (route, announced_to))| FlowRow {
        from: match (private.get(&rule), shared.engine.as_ref().and_then(|engine| engine.flow_source(&rule))) {
            (Some(prefix), _) => format!("private route {prefix}"),
            (None, Some(set)) => format!("set {set}"),
            (None, None) => "a set that is gone".to_owned(),
        },
        then: route.actions.to_string(),
        communities: route.communities.iter().map(ToString::to_string).collect(),
        guard: route.guard.map(|guard| guard.to_string()),
        rule: rule.to_string(),
        announced_to,
        valid: None,
        reason: None,
    });
    let verdicts = shared.rib.check_flows(&heard).await;
    let theirs = heard.into_iter().zip(verdicts).map(|((peer, rule, said), verdict)| FlowRow {
        rule: rule.to_string(),
        then: said.actions.to_string(),
        communities: Vec::new(),
        guard: None,
        from: format!("peer {peer}, not used"),
        announced_to: Vec::new(),
        valid: Some(verdict.is_ok()),
        reason: verdict.err().map(|reason| reason.to_string()),
    });
    ours.chain(theirs).collect()
}
