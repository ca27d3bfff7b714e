//! The binding table with its disk: an event is acknowledged once its rows are durable.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::SubscriberId;
use metrics::{counter, gauge};
use toolbox_core::{
    Answer, Applied, Binding, Effect, Event, Ignored, Live, Question, RestoreError, Row, Rows, SessionKey, Settings,
    Table,
};
use toolbox_wire::http::Reason;

const SESSIONS: &str = "sessions";
const RESETS: &str = "resets";
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// Why the bindings cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindingsError {
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it cannot be read.
    #[error(transparent)]
    Rows(#[from] RestoreError),
}

/// The table and its store. Clones share them.
#[derive(Debug, Clone)]
pub struct Bindings {
    table: Arc<Mutex<Table>>,
    store: Store,
}

impl Bindings {
    /// Rebuilds the table from the store at `path`.
    ///
    /// # Errors
    /// [`BindingsError`].
    pub fn open(path: &Path, settings: Settings) -> Result<Self, BindingsError> {
        let store = Store::open(path)?;
        let (sessions, resets) = (store.scan(SESSIONS)?, store.scan(RESETS)?);
        let sessions = sessions.iter().map(|(key, value)| (Rows::Sessions, key.as_slice(), value.as_slice()));
        let resets = resets.iter().map(|(key, value)| (Rows::Resets, key.as_slice(), value.as_slice()));
        let table = Table::restore(settings, sessions.chain(resets))?;
        Ok(Self { table: Arc::new(Mutex::new(table)), store })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event; the future ends when it, and all before it, are durable.
    ///
    /// An event that changes nothing waits too: what made it superfluous has to survive first.
    pub fn apply(&self, event: &Event) -> impl Future<Output = Result<Effect, StoreError>> + Send + use<> {
        // The commit is queued under the lock, so that the store sees the order of the table.
        let (effect, durable) = {
            let mut table = self.table();
            let applied = table.apply(event);
            count(&applied, event);
            (applied.effect, self.store.commit(batch(applied.rows)))
        };
        async move { durable.await.map(|()| effect) }
    }

    /// Is `subscriber` live there now?
    ///
    /// # Errors
    /// The [`Reason`] for a no.
    pub fn verify(&self, subscriber: &SubscriberId, question: impl Into<Question>) -> Result<Live, Reason> {
        self.table().verify(subscriber, question, clock::wall())
    }

    /// The session by which `subscriber` is there now.
    #[must_use]
    pub fn session(&self, subscriber: &SubscriberId, question: impl Into<Question>) -> Option<SessionKey> {
        match self.table().lookup(question, clock::wall()) {
            Answer::Bound { subscriber: bound, session, .. } if bound == *subscriber => Some(session),
            Answer::Bound { .. } | Answer::NotOurs | Answer::Unknown(_) => None,
        }
    }

    /// All bindings, for the operator.
    #[must_use]
    pub fn list(&self) -> Vec<Binding> {
        self.table().bindings(clock::wall()).collect()
    }

    /// How many sessions are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.table().open_sessions()
    }

    /// Forgets what is long over, until the stop.
    ///
    /// # Errors
    /// [`StoreError`]: nothing more can be made durable.
    pub async fn purge(&self, stop: &Stop) -> Result<(), StoreError> {
        loop {
            tokio::select! {
                () = stop.told() => return Ok(()),
                () = tokio::time::sleep(PURGE_INTERVAL) => {}
            }
            let (durable, open) = {
                let mut table = self.table();
                let rows = table.forget(clock::wall());
                (self.store.commit(batch(rows)), table.open_sessions())
            };
            gauge!("toolbox_open_sessions").set(open as f64);
            durable.await?;
        }
    }
}

fn batch(rows: Vec<Row>) -> Batch {
    let mut batch = Batch::new();
    for Row { table, key, value } in rows {
        let table = match table {
            Rows::Sessions => SESSIONS,
            Rows::Resets => RESETS,
        };
        match value {
            Some(value) => batch.put(table, key, value),
            None => batch.delete(table, key),
        };
    }
    batch
}

fn count(applied: &Applied, event: &Event) {
    let effect = match applied.effect {
        Effect::Opened => "opened",
        Effect::Refreshed => "refreshed",
        Effect::Doubted => "doubted",
        Effect::Closed(_) => "closed",
        Effect::Ignored(Ignored::Older) => "ignored-older",
        Effect::Ignored(Ignored::Ended) => "ignored-ended",
        Effect::Ignored(Ignored::BeforeReset) => "ignored-before-reset",
        Effect::Ignored(Ignored::Copy) => "ignored-copy",
        Effect::Ignored(Ignored::Other) => "ignored-other",
    };
    counter!("toolbox_events_total", "client" => event.client.clone(), "effect" => effect).increment(1);
    counter!("toolbox_foreign_addresses_total").increment(applied.foreign as u64);
    counter!("toolbox_overlap_alarms_total").increment(applied.overlaps as u64);
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
