//! Which sets peers are told of, and how they hear that one is about to go.
//!
//! A set may be held back by its check, by its watchdog, and by the operator, who drains it; it is told when nothing
//! holds it back. Whoever holds it back may let it be drained first: for a while it is told in a way that makes peers
//! prefer any other path, and only then taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Drain, Walk, record};
use parking_lot::Mutex;

use super::{Engine, lock};

/// Places that are gone through while the table is held.
const SLOTS: u32 = 4096;

/// Who holds a set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    /// What it leads to does not work.
    Check,
    /// Its script says so.
    Watchdog,
    /// The operator says so.
    Drained,
}

/// How a set is told of before it is taken back, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draining {
    pub(crate) how: Drain,
    pub(crate) lasts: Duration,
}

#[derive(Debug, Default)]
struct State {
    why: BTreeSet<Why>,
    /// Counts up whenever the set is shown or held back: what was put off for an earlier count is void.
    turn: u64,
}

/// The sets that somebody held back.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<BTreeMap<String, State>>);

impl Shown {
    /// `why` holds `set` back, or does not any more. Gives the turn that begins with it, if it makes a difference.
    pub(super) fn set(&self, set: &str, why: Why, shown: bool) -> Option<u64> {
        let mut states = lock(&self.0);
        let state = states.entry(set.to_owned()).or_default();
        let before = state.why.is_empty();
        if shown {
            state.why.remove(&why)
        } else {
            state.why.insert(why)
        };
        if before == state.why.is_empty() {
            return None;
        }
        state.turn += 1;
        Some(state.turn)
    }

    /// Who holds `set` back.
    pub(super) fn why(&self, set: &str) -> Vec<Why> {
        lock(&self.0).get(set).map(|state| state.why.iter().copied().collect()).unwrap_or_default()
    }

    /// The sets that the operator drained.
    pub(super) fn drained(&self) -> Vec<String> {
        let states = lock(&self.0);
        let drained = states.iter().filter(|(_, state)| state.why.contains(&Why::Drained));
        drained.map(|(set, _)| set.clone()).collect()
    }

    fn is_at(&self, set: &str, turn: u64) -> bool {
        lock(&self.0).get(set).is_some_and(|state| state.turn == turn)
    }
}

impl Engine {
    /// `why` holds `set` back from now on, or does not any more; peers hear of it at once, unless it is drained
    /// first.
    pub(super) async fn show(self: &Arc<Self>, set: &str, why: Why, shown: bool, draining: Option<Draining>) {
        let Some(turn) = self.shown.set(set, why, shown) else { return };
        match draining.filter(|_| !shown) {
            None => self.settle(set, turn, shown, None).await,
            Some(Draining { how, lasts }) => {
                self.settle(set, turn, true, Some(how)).await;
                let (engine, set) = (self.clone(), set.to_owned());
                tokio::spawn(async move {
                    tokio::time::sleep(lasts).await;
                    engine.settle(&set, turn, false, None).await;
                });
            }
        }
    }

    /// Makes the table so, unless something else has come about meanwhile.
    async fn settle(&self, set: &str, turn: u64, shown: bool, drain: Option<Drain>) {
        let id = {
            let mut table = lock(&self.table);
            if !self.shown.is_at(set, turn) {
                return;
            }
            self.flows.show(set, shown);
            let id = table.rib.set(set);
            table.rib.show(id, shown, drain);
            id
        };
        let flag = |name: &'static str, on: bool| {
            metrics::gauge!(name, "set" => set.to_owned()).set(f64::from(u8::from(on)));
        };
        flag("bgp_speaker_inject_set_shown", shown);
        flag("bgp_speaker_inject_set_draining", drain.is_some());
        let mut walk = Walk::default();
        while self.shown.is_at(set, turn) && lock(&self.table).rib.settle_set(id, &mut walk, SLOTS).is_continue() {
            tokio::task::yield_now().await;
        }
        self.wake();
    }

    /// The operator drains `set`, and holds it back until he says otherwise, over restarts too.
    pub(super) async fn drain(self: &Arc<Self>, set: &str, draining: Draining) -> Result<(), String> {
        let _under_way = lock(&self.under_way).clone();
        self.journal.append(record::encode_held(set, true)).await?;
        self.show(set, Why::Drained, false, Some(draining).filter(|draining| !draining.lasts.is_zero())).await;
        Ok(())
    }

    /// The operator does not hold `set` back any more.
    pub(super) async fn resume(self: &Arc<Self>, set: &str) -> Result<(), String> {
        let _under_way = lock(&self.under_way).clone();
        self.journal.append(record::encode_held(set, false)).await?;
        self.show(set, Why::Drained, true, None).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_shown_when_nobody_holds_it_back() {
        let shown = Shown::default();
        assert_eq!(shown.set("a", Why::Check, false), Some(1));
        assert_eq!(shown.set("a", Why::Drained, false), None);
        assert_eq!(shown.set("a", Why::Check, true), None);
        assert_eq!((shown.why("a"), shown.drained()), (vec![Why::Drained], vec!["a".to_owned()]));
        assert!(shown.is_at("a", 1));
        assert_eq!(shown.set("a", Why::Drained, true), Some(2));
        assert!(!shown.is_at("a", 1) && shown.why("a").is_empty());
        assert_eq!(shown.set("b", Why::Watchdog, true), None);
    }
}
