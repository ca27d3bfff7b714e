//! What events came to: for the metrics and the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, counter};
use toolbox_core::{Applied, Effect, Event, Ignored};

/// The counts. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<Mutex<Counts>>);

/// To name a counter anew for every event costs more than to count.
#[derive(Default)]
struct Counts {
    clients: HashMap<String, HashMap<&'static str, Counter>>,
    alarms: Option<[Counter; 2]>,
}

impl std::fmt::Debug for Effects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Effects").finish_non_exhaustive()
    }
}

const fn name(effect: Effect) -> &'static str {
    match effect {
        Effect::Opened => "opened",
        Effect::Refreshed => "refreshed",
        Effect::Doubted => "doubted",
        Effect::Closed(_) => "closed",
        Effect::Ignored(Ignored::Older) => "ignored-older",
        Effect::Ignored(Ignored::Ended) => "ignored-ended",
        Effect::Ignored(Ignored::BeforeReset) => "ignored-before-reset",
        Effect::Ignored(Ignored::Copy) => "ignored-copy",
        Effect::Ignored(Ignored::Other) => "ignored-other",
    }
}

impl Effects {
    /// Counts what `event` came to, and says what an operator has to know.
    pub(crate) fn count(&self, applied: &Applied, event: &Event) {
        let effect = name(applied.effect);
        {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = &mut *counts;
            if !counts.clients.contains_key(&event.client) {
                counts.clients.insert(event.client.clone(), HashMap::new());
            }
            if let Some(of_client) = counts.clients.get_mut(&event.client) {
                let named = || counter!("toolbox_events_total", "client" => event.client.clone(), "effect" => effect);
                of_client.entry(effect).or_insert_with(named).increment(1);
            }
            let [foreign, overlaps] = counts.alarms.get_or_insert_with(|| {
                [counter!("toolbox_foreign_addresses_total"), counter!("toolbox_overlap_alarms_total")]
            });
            foreign.increment(applied.foreign as u64);
            overlaps.increment(applied.overlaps as u64);
        }
        if applied.overlaps > 0 {
            tracing::warn!(
                client = event.client,
                addresses = applied.overlaps,
                "sessions of different subscribers overlap"
            );
        }
        if applied.effect == Effect::Doubted {
            tracing::warn!(client = event.client, "a session's records cannot be put in order");
        }
    }
}
