//! What events came to: for the metrics, the log, and `show alarms`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use cloakway_runtime::clock;
use metrics::{Counter, counter};
use serde::Serialize;
use toolbox_core::{Applied, Effect, Event, Ignored};
use toolbox_wire::record::Record;

use crate::say::Sparingly;

/// Alarms that are remembered.
const ALARMS: usize = 256;

/// The counts. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<Mutex<Counts>>, Arc<Sparingly>);

/// Why somebody will be unknown: an operator should look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// When it was raised the last time, RFC 3339.
    pub last: String,
    /// How often, without another one between.
    pub times: u64,
    /// `overlap`: a session of another subscriber has the address; `contradiction`: a session's records cannot be put in order.
    pub reason: &'static str,
    /// Who told.
    pub client: String,
    /// The session whose record raised it.
    pub session: String,
    /// What that record names.
    pub addresses: Vec<String>,
}

/// To name a counter anew for every event costs more than to count.
#[derive(Default)]
struct Counts {
    clients: HashMap<String, HashMap<&'static str, Counter>>,
    alarms: Option<[Counter; 2]>,
    raised: VecDeque<Alarm>,
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
        self.count_all(std::slice::from_ref(applied), std::slice::from_ref(event));
    }

    /// [`Effects::count`] of events that came together.
    pub(crate) fn count_all(&self, applied: &[Applied], events: &[Event]) {
        let pairs: Vec<(&Applied, &Event)> = applied.iter().zip(events).collect();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Most are like the one before.
        for run in pairs.chunk_by(|(one, a), (other, b)| one.effect == other.effect && a.client == b.client) {
            let [(first, event), ..] = run else { continue };
            let effect = name(first.effect);
            if !counts.clients.contains_key(&event.client) {
                counts.clients.insert(event.client.clone(), HashMap::new());
            }
            if let Some(of_client) = counts.clients.get_mut(&event.client) {
                let named = || counter!("toolbox_events_total", "client" => event.client.clone(), "effect" => effect);
                of_client.entry(effect).or_insert_with(named).increment(run.len() as u64);
            }
        }
        let [foreign, overlaps] = counts.alarms.get_or_insert_with(|| {
            [counter!("toolbox_foreign_addresses_total"), counter!("toolbox_overlap_alarms_total")]
        });
        foreign.increment(applied.iter().map(|applied| applied.foreign as u64).sum());
        overlaps.increment(applied.iter().map(|applied| applied.overlaps as u64).sum());
        drop(counts);
        for (applied, event) in pairs {
            if applied.overlaps > 0 {
                self.alarm("overlap", "sessions of different subscribers overlap", event);
            }
            if applied.effect == Effect::Doubted {
                self.alarm("contradiction", "a session's records cannot be put in order", event);
            }
        }
    }

    /// The alarms, the last one first.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).raised.iter().rev().cloned().collect()
    }

    fn alarm(&self, reason: &'static str, what: &str, event: &Event) {
        let (session, addresses) = match &event.record {
            Record::Session(record) => (record.session.clone(), record.addresses.as_slice()),
            Record::NasReset { .. } | Record::Other { .. } => (String::new(), [].as_slice()),
        };
        let named = addresses.iter().map(|address| match address.ports.is_all() {
            true => address.net.to_string(),
            false => format!("{} {}", address.net, address.ports),
        });
        let alarm = Alarm {
            last: event.arrival.to_string(),
            times: 1,
            reason,
            client: event.client.clone(),
            session,
            addresses: named.collect(),
        };
        {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let same =
                |of: &&mut Alarm| (of.reason, &of.client, &of.session) == (reason, &alarm.client, &alarm.session);
            match counts.raised.back_mut().filter(same) {
                Some(before) => *before = Alarm { times: before.times + 1, ..alarm },
                None => {
                    if counts.raised.len() >= ALARMS {
                        counts.raised.pop_front();
                    }
                    counts.raised.push_back(alarm);
                }
            }
        }
        if let Some(held_back) = self.1.may(reason, clock::now()) {
            tracing::warn!(client = event.client, held_back, "{what}: `show alarms` names them");
        }
    }
}
