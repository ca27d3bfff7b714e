//! Which peer is told of a prefix, from which set, and why not: by the same conditions as where routes are sent.

use std::collections::BTreeMap;

use bgp_core::{Export, RouteAttributes, Settings, State, Status, Walk};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Engine, LISTING, lock};
use crate::neighbours::{Asked, Neighbours};

/// A set's route for a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) set: String,
    pub(crate) attributes: RouteAttributes,
    /// Why no peer is told, if so.
    pub(crate) hidden: Option<String>,
}

/// What each peer hears of a prefix: the set that it is told of, or why of none.
#[derive(Debug, Default)]
pub(super) struct Audience(BTreeMap<String, Result<String, String>>);

impl Audience {
    /// The peers that are told.
    pub(super) fn told(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|(_, told)| told.is_ok()).map(|(peer, _)| peer)
    }

    /// The others, and why.
    pub(super) fn not_told(&self) -> Value {
        let not = |(peer, told): (&String, &Result<String, String>)| {
            told.as_ref().err().map(|why| (peer.clone(), json!(why)))
        };
        Value::Object(self.0.iter().filter_map(not).collect())
    }

    /// The peers that are told, and the set.
    pub(super) fn sets(&self) -> Value {
        let told = self.0.iter().filter_map(|(peer, told)| Some((peer.clone(), json!(told.as_ref().ok()?))));
        Value::Object(told.collect())
    }

    /// Why nobody is told, in words.
    pub(super) fn reasons(&self) -> String {
        let not = self.0.iter().filter_map(|(peer, told)| Some(format!("{peer}: {}", told.as_ref().err()?)));
        not.collect::<Vec<_>>().join("; ")
    }
}

/// What a peer is told of, among `candidates` for `prefix` in their order; why of none otherwise.
pub(crate) fn told<'a>(
    candidates: &'a [Candidate],
    asked: &Asked,
    status: &Status,
    prefix: &IpNet,
) -> Result<&'a Candidate, String> {
    let (settings, address) = (&asked.peer.settings, asked.peer.address.ip());
    let mut first = None;
    for candidate in candidates {
        let Candidate { set, attributes, hidden } = candidate;
        let why = match (hidden, settings.tells_injected(status, address, prefix, (set, attributes))) {
            (None, Ok(())) => return Ok(candidate),
            (Some(hidden), _) => format!("set {set}: {hidden}"),
            (None, Err(why)) => why.to_string(),
        };
        first.get_or_insert(why);
    }
    Err(first.unwrap_or_else(|| "no set wants it".to_owned()))
}

/// Why a peer that should be told of sets hears of nothing at all.
fn away(settings: &Settings, status: &Status) -> Option<String> {
    let told_of_sets = matches!(settings.export, Export::All | Export::Injected);
    let down = status.last_down.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    (told_of_sets && status.state != State::Established).then(|| format!("the session is {}{down}", status.state))
}

impl Engine {
    /// Wanted prefixes inside `inside`, at most `limit`.
    pub(crate) async fn prefixes(&self, inside: Option<IpNet>, limit: usize) -> Vec<IpNet> {
        let (mut walk, mut found) = (Walk::default(), Vec::new());
        loop {
            let more = lock(&self.table).rib.visit(&mut walk, LISTING, |route| {
                if found.len() < limit && inside.is_none_or(|inside| inside.contains(&route.prefix)) {
                    found.push(route.prefix);
                }
            });
            if more.is_break() || found.len() >= limit {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Every set's route for `prefix`: first the one that is announced, then those in its shadow, by name.
    pub(crate) fn candidates(&self, prefix: &IpNet) -> Vec<Candidate> {
        let table = lock(&self.table);
        let policy = table.rib.policy();
        let candidate = |route: bgp_core::Wanted<'_>| Candidate {
            set: route.set.to_owned(),
            attributes: route.attributes.clone(),
            hidden: match policy.check(*prefix, route.attributes.guard) {
                Err(refusal) => Some(refusal.to_string()),
                Ok(()) if !route.shown => {
                    Some("its check fails, its watchdog holds it back, or it is drained".to_owned())
                }
                Ok(()) => None,
            },
        };
        table.rib.all_of(prefix).map(candidate).collect()
    }

    /// What each peer hears of `prefix`.
    pub(super) async fn audience(&self, neighbours: &Neighbours, prefix: &IpNet) -> Audience {
        let candidates = self.candidates(prefix);
        let mut audience = Audience::default();
        for asked in neighbours.list().await {
            let Some(report) = asked.report().await else { continue };
            let told = told(&candidates, &asked, &report.status, prefix).map(|candidate| candidate.set.clone());
            audience.0.insert(asked.peer.name.clone(), told);
        }
        audience
    }

    /// Peers that are to be told of sets and have no session, and why.
    pub(super) async fn away(&self, neighbours: &Neighbours) -> Value {
        let mut away = serde_json::Map::new();
        for asked in neighbours.list().await {
            let Some(report) = asked.report().await else { continue };
            away.extend(
                self::away(&asked.peer.settings, &report.status).map(|why| (asked.peer.name.clone(), json!(why))),
            );
        }
        Value::Object(away)
    }
}
