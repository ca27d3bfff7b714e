//! The journal is written anew while changes go on.
//!
//! What the table holds is read in slices, so a change that comes meanwhile may be in what was read or not. It is in what
//! is appended behind in any case, and says for each prefix it touches what becomes of it: read over whatever was there,
//! it comes out the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::record;
use bgp_core::{Group, Others, Prefixes, RouteAttributes, SetChange, Walk};
use cloakway_runtime::Stop;

use super::{Engine, LISTING, lock};

/// How often the journal's length is looked at.
const LOOK_AT_JOURNAL: Duration = Duration::from_secs(10);
/// The journal is written anew when it is this much longer than the last time.
const GROWTH: u64 = 64 << 20;
/// How often it is looked whether changes that had begun are in the table.
const SETTLED: Duration = Duration::from_millis(1);

/// Keeps the journal from growing for ever, until the stop.
pub(super) async fn keep(engine: Arc<Engine>, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(LOOK_AT_JOURNAL) => {}
        }
        if engine.journal.length() < lock(&engine.compact).saturating_add(GROWTH) {
            continue;
        }
        if let Err(error) = engine.compact().await {
            tracing::error!(%error, "cannot write the journal anew");
        }
    }
}

impl Engine {
    /// Writes the journal anew; nobody waits for it.
    pub(super) async fn compact(self: &Arc<Self>) -> Result<(), String> {
        self.journal.begin().await?;
        // What was journaled before has to be in the table before it is read.
        let before = std::mem::take(&mut *lock(&self.under_way));
        while Arc::strong_count(&before) > 1 {
            tokio::time::sleep(SETTLED).await;
        }
        let engine = self.clone();
        let sets = self.wanted().await;
        let draft = tokio::task::spawn_blocking(move || {
            let change = |((set, attributes), prefixes)| {
                let add = vec![Group { attributes, prefixes }];
                record::encode_change(None, &SetChange { set, others: Others::Stay, remove: Prefixes::default(), add })
            };
            let bodies: Vec<Vec<u8>> = sets.into_iter().map(change).chain(engine.flows.snapshot()).collect();
            engine.journal.draft(&bodies)
        });
        let draft = draft.await.map_err(|error| error.to_string()).flatten();
        let bodies: Vec<Vec<u8>> = {
            let requests = lock(&self.requests);
            let known = requests.iter().map(|(id, digest, outcome)| record::encode_known(id, digest, outcome));
            known.chain(self.shown.drained().into_iter().map(|set| record::encode_held(&set, true))).collect()
        };
        let error = draft.as_ref().err().cloned();
        self.journal.finish(draft.ok(), bodies).await?;
        *lock(&self.compact) = self.journal.length();
        error.map_or(Ok(()), Err)
    }

    /// What each set wants, by attributes.
    async fn wanted(&self) -> BTreeMap<(String, RouteAttributes), Prefixes> {
        let mut sets: BTreeMap<(String, RouteAttributes), Prefixes> = BTreeMap::new();
        let mut walk = Walk::default();
        loop {
            let flow = {
                let table = lock(&self.table);
                // Neighbours mostly have the same attributes.
                let mut last: Option<((String, RouteAttributes), Prefixes)> = None;
                let mut add = |set: &str, attributes: &RouteAttributes, prefix| match &mut last {
                    Some((key, prefixes)) if key.0 == set && key.1 == *attributes => prefixes.push(prefix),
                    last => {
                        let fresh = ((set.to_owned(), attributes.clone()), Prefixes::from_iter([prefix]));
                        if let Some((key, prefixes)) = last.replace(fresh) {
                            sets.entry(key).or_default().append(prefixes);
                        }
                    }
                };
                let flow = table.rib.visit(&mut walk, LISTING, |route| {
                    add(route.set, route.attributes, route.prefix);
                    for (set, attributes) in table.rib.shadowed(route.prefix) {
                        add(set, attributes, route.prefix);
                    }
                });
                if let Some((key, prefixes)) = last {
                    sets.entry(key).or_default().append(prefixes);
                }
                flow
            };
            if flow.is_break() {
                return sets;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;
    use crate::events::Events;
    use bgp_core::{Draft, Policy};
    use ipnet::IpNet;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn open(folder: &Path) -> Arc<Engine> {
        let settings = Settings {
            api_socket: folder.join("api"),
            journal: folder.join("journal"),
            policy: Arc::new(Policy::new(&["10.0.0.0/8".parse().unwrap()], &[])),
            max_routes: 1_000_000,
            max_flow_rules: 100,
            kept: Default::default(),
            processes: Vec::new(),
            checks: Vec::new(),
        };
        loop {
            // The journal of the engine before is let go when its thread ends.
            match Engine::open(settings.clone(), Events::default()) {
                Ok(engine) => return engine,
                Err(error) => assert!(error.contains("another process"), "{error}"),
            }
        }
    }

    fn held(engine: &Engine) -> BTreeSet<(String, IpNet, Option<u32>)> {
        let (table, mut held) = (lock(&engine.table), BTreeSet::new());
        let mut walk = Walk::default();
        while table
            .rib
            .visit(&mut walk, 1 << 10, |route| {
                held.insert((route.set.to_owned(), route.prefix, route.attributes.med));
                for (set, attributes) in table.rib.shadowed(route.prefix) {
                    held.insert((set.to_owned(), route.prefix, attributes.med));
                }
            })
            .is_continue()
        {}
        held
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_journal_written_anew_while_changes_go_on_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let engine = open(folder.path());
        let changer = |set: &'static str| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for n in 0..60_u32 {
                    let others = if n % 5 == 0 { Others::Go } else { Others::Stay };
                    let mut draft = Draft::new(engine.policy(), set.to_owned(), others).unwrap();
                    let route = RouteAttributes::new("192.0.2.1".parse::<std::net::IpAddr>().unwrap());
                    draft.group(RouteAttributes { med: Some(n), ..route }).unwrap();
                    for m in (n * 37) % 4000..(n * 37) % 4000 + 2000 {
                        let octets = [10, 0, (m >> 8) as u8, m as u8];
                        draft.add(IpNet::new(octets.into(), 32).unwrap()).unwrap();
                    }
                    draft.remove(IpNet::new([10, 0, 0, n as u8].into(), 32).unwrap());
                    engine.submit(Some(format!("{set} {n}")), draft.finish()).await.unwrap();
                }
            })
        };
        let (a, b) = (changer("a"), changer("b"));
        for _ in 0..8 {
            engine.compact().await.unwrap();
            tokio::task::yield_now().await;
        }
        a.await.unwrap();
        b.await.unwrap();
        let before = held(&engine);
        assert!(before.len() > 2000);
        drop(engine);
        let engine = open(folder.path());
        assert_eq!(held(&engine), before);
        assert!(lock(&engine.requests).contains("b 59"));
        engine.compact().await.unwrap();
        drop(engine);
        assert_eq!(held(&open(folder.path())), before);
    }
}
