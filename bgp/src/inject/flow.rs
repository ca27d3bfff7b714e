//! Sets of flow rules: asked for in words, journaled like routes, told before them.

use std::net::IpAddr;
use std::sync::Arc;

use bgp_core::record;
use bgp_core::{FlowChange, FlowChangeError, FlowRoute, FlowTable, Flows, Guard, Others, Outcome, Policy, check_name};
use bgp_wire::{Community, FlowRule};
use cloakway_crypto::hash::sha256;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Engine, lock};

/// Rules of a set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawFlow {
    set: String,
    /// The rules are the whole set.
    #[serde(default)]
    replace: bool,
    #[serde(default)]
    rules: Vec<RawRule>,
    #[serde(default)]
    remove: Vec<String>,
}

/// A rule, and what is said of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawRule {
    rule: String,
    then: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<RawGuard>,
    /// Who is told; all, when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    peers: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGuard {
    NoExport,
    NoAdvertise,
}

impl RawFlow {
    pub(crate) fn change(self) -> Result<FlowChange, String> {
        let remove = self
            .remove
            .iter()
            .enumerate()
            .map(|(at, rule)| rule.parse::<FlowRule>().map_err(|error| format!("remove[{at}]: {error}")));
        let add =
            self.rules.into_iter().enumerate().map(|(at, raw)| raw.read().map_err(|why| format!("rules[{at}]: {why}")));
        Ok(FlowChange {
            remove: remove.collect::<Result<_, _>>()?,
            add: add.collect::<Result<_, _>>()?,
            others: if self.replace { Others::Go } else { Others::Stay },
            set: self.set,
        })
    }
}

impl RawRule {
    fn read(self) -> Result<(FlowRule, FlowRoute), String> {
        let rule = self.rule.parse::<FlowRule>().map_err(|error| error.to_string())?;
        let actions = self.then.parse().map_err(|error: bgp_wire::ActionTextError| error.to_string())?;
        let communities = self.communities.iter().map(|text| text.parse::<Community>().map_err(|e| e.to_string()));
        let guard = self.guard.map(|guard| match guard {
            RawGuard::NoExport => Guard::NoExport,
            RawGuard::NoAdvertise => Guard::NoAdvertise,
        });
        let communities = communities.collect::<Result<_, _>>()?;
        Ok((rule, FlowRoute { actions, communities, guard, audience: self.peers }))
    }

    fn new(rule: &FlowRule, route: &FlowRoute) -> Self {
        Self {
            rule: rule.to_string(),
            then: route.actions.to_string(),
            communities: route.communities.iter().map(ToString::to_string).collect(),
            guard: route.guard.map(|guard| match guard {
                Guard::NoExport => RawGuard::NoExport,
                Guard::NoAdvertise => RawGuard::NoAdvertise,
            }),
            peers: route.audience.clone(),
        }
    }
}

/// The rules that are wanted, and what peers are to be told of them.
#[derive(Debug)]
pub(super) struct FlowSets {
    table: Mutex<FlowTable>,
    told: Mutex<Arc<Flows>>,
}

impl FlowSets {
    pub(super) fn new(policy: Arc<Policy>) -> Self {
        Self { table: Mutex::new(FlowTable::new(policy)), told: Mutex::default() }
    }

    /// Makes a change that was accepted.
    pub(super) fn apply(&self, change: &FlowChange) -> Outcome {
        let mut table = lock(&self.table);
        let outcome = table.apply(change);
        self.tell(&table);
        outcome
    }

    /// Empties sets whose owner is gone.
    pub(super) fn forget(&self, gone: impl Fn(&str) -> bool) {
        let mut table = lock(&self.table);
        let sets: Vec<String> = table.sets().map(|(name, _)| name.to_owned()).filter(|name| gone(name)).collect();
        for set in sets {
            table.apply(&FlowChange { set, others: Others::Go, remove: Vec::new(), add: Vec::new() });
        }
        self.tell(&table);
    }

    /// What `set` wants of `rule`.
    pub(super) fn wanted_by(&self, set: &str, rule: &FlowRule) -> Option<FlowRoute> {
        let table = lock(&self.table);
        table.sets().find(|(name, _)| *name == set).and_then(|(_, rules)| rules.get(rule)).cloned()
    }

    /// The sets that there are.
    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.table).sets().map(|(name, _)| name.to_owned()).collect()
    }

    fn tell(&self, table: &FlowTable) {
        let wanted = table.wanted();
        metrics::gauge!("bgp_speaker_inject_flow_rules").set(wanted.len() as f64);
        *lock(&self.told) = Arc::new(wanted);
    }

    pub(super) fn show(&self, set: &str, shown: bool) {
        let mut table = lock(&self.table);
        table.show(set, shown);
        self.tell(&table);
    }

    pub(super) fn set_policy(&self, policy: Arc<Policy>) {
        let mut table = lock(&self.table);
        table.set_policy(policy);
        self.tell(&table);
    }

    /// Changes that amount to all sets.
    pub(super) fn snapshot(&self) -> Vec<Vec<u8>> {
        let table = lock(&self.table);
        let change = |(set, rules): (&str, &bgp_core::FlowRoutes)| {
            let add = rules.iter().map(|(rule, route)| (rule.clone(), route.clone())).collect();
            let change = FlowChange { set: set.to_owned(), others: Others::Stay, remove: Vec::new(), add };
            record::encode_flow(None, &change)
        };
        table.sets().map(change).collect()
    }
}

/// What a record asks, whoever asked it.
pub(super) fn digest(change: &FlowChange) -> bgp_core::Digest {
    let record = record::encode_flow(None, change);
    sha256(&[record::body_of(&record, None)])
}

impl Engine {
    /// The injected rules, as peers are to be told of them.
    pub(crate) fn flows(&self) -> Arc<Flows> {
        lock(&self.flows.told).clone()
    }

    /// The set that `rule` is announced from.
    pub(crate) fn flow_source(&self, rule: &FlowRule) -> Option<String> {
        lock(&self.flows.table).source(rule).map(ToOwned::to_owned)
    }

    /// Accepts a change of rules: journaled, then applied. The same request again gets the same answer. Once begun it
    /// is carried through, whether or not anybody waits for the answer.
    pub(crate) async fn submit_flow(self: &Arc<Self>, id: Option<String>, flow: RawFlow) -> Result<Value, String> {
        let change = flow.change()?.check(&self.policy()).map_err(|error| error.to_string())?;
        if change.set.starts_with(super::process::SETS) {
            return Err(format!("the set {:?} belongs to a program: give another name", change.set));
        }
        self.accept_flow(id, change).await
    }

    /// The same, of a change that was checked.
    pub(super) async fn accept_flow(self: &Arc<Self>, id: Option<String>, change: FlowChange) -> Result<Value, String> {
        let engine = self.clone();
        let work = tokio::spawn(async move { engine.carry_flow_through(id, change).await });
        work.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn carry_flow_through(&self, id: Option<String>, change: FlowChange) -> Result<Value, String> {
        if let Some(id) = &id {
            check_name("request", id).map_err(|error| error.to_string())?;
        }
        let answer = |id: &Option<String>, Outcome { added, changed, removed }: Outcome| json!({ "id": id, "added": added, "changed": changed, "removed": removed });
        let digest = digest(&change);
        let _under_way = lock(&self.under_way).clone();
        let id_lock = id.as_ref().map(|id| self.lock_for(&format!("id {id}")));
        let _one_of_id = match &id_lock {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        // All sets share one bound: one change at a time.
        let table_lock = self.lock_for("flow");
        let _one_at_a_time = table_lock.lock().await;
        if let Some(id) = &id
            && let Some(outcome) = lock(&self.requests).find(id, &digest).map_err(|error| error.to_string())?
        {
            return Ok(answer(&Some(id.clone()), outcome));
        }
        let (would, limit) = (lock(&self.flows.table).after(&change), self.settings.max_flow_rules);
        if would > limit {
            return Err(FlowChangeError::TooMany { would, limit }.to_string());
        }
        self.journal.append(record::encode_flow(id.as_deref(), &change)).await?;
        let outcome = self.flows.apply(&change);
        self.wake();
        if let Some(id) = &id {
            lock(&self.requests).remember(id, digest, outcome);
        }
        metrics::counter!("bgp_speaker_inject_requests_total").increment(1);
        Ok(answer(&id, outcome))
    }

    /// The rules of `set`, in the order in which routers apply them.
    pub(crate) fn flow_rules(&self, set: &str) -> Value {
        let table = lock(&self.flows.table);
        let rules = table.sets().find(|(name, _)| *name == set).map(|(_, rules)| rules);
        let rules = rules.into_iter().flatten().map(|(rule, route)| json!(RawRule::new(rule, route)));
        json!({ "set": set, "rules": rules.collect::<Vec<_>>() })
    }
}
