//! What RADIUS sessions have beside what their records say, with its disk (see [`toolbox_core::Carried`]).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::Timestamp;
use toolbox_core::{Carried, Completed, SessionKey};
use toolbox_wire::access::{Grant, Line};
use toolbox_wire::accounting::Block;
use toolbox_wire::http::Source;
use toolbox_wire::record::Record;

use super::service::Later;
use crate::bindings::BindingsError;

const TABLE: &str = "carried";
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// Where it is kept. Clones share it.
#[derive(Debug, Clone)]
pub struct Annex {
    carried: Arc<Mutex<Carried>>,
    store: Store,
}

impl Annex {
    /// Opens what is kept at `path`.
    ///
    /// # Errors
    /// [`BindingsError`].
    pub fn open(path: &Path) -> Result<Self, BindingsError> {
        let store = Store::open(path)?;
        let rows = store.scan(TABLE)?;
        let carried = Carried::restore(rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))?;
        Ok(Self { carried: Arc::new(Mutex::new(carried)), store })
    }

    fn carried(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was let in.
    pub(super) fn granted(&self, client: &str, grant: Grant) {
        self.carried().granted(client, grant, clock::wall());
    }

    /// What `record` comes to, and, where there is something to keep, when it is on disk.
    pub(super) fn complete(
        &self,
        source: Source,
        client: &str,
        record: Record,
        line: impl FnOnce() -> Line,
        blocks: &[Block],
        now: Timestamp,
    ) -> (Vec<Record>, Option<Later<Result<(), StoreError>>>) {
        // The commit is queued under the lock, so that the store sees the order of the changes.
        let mut carried = self.carried();
        let key = |session: &str, nas: &_| SessionKey {
            source,
            client: client.to_owned(),
            session: session.to_owned(),
            nas: Clone::clone(nas),
        };
        let Completed { records, rows } = carried.complete(key, record, line, blocks, now);
        let kept: Option<Later<_>> =
            if rows.is_empty() { None } else { Some(Box::pin(self.store.commit(batch(rows)))) };
        (records, kept)
    }

    /// Forgets what was not heard of for `age`, until the stop.
    ///
    /// # Errors
    /// [`StoreError`]: nothing more can be made durable.
    pub(super) async fn purge(&self, age: Duration, stop: &Stop) -> Result<(), StoreError> {
        loop {
            tokio::select! {
                () = stop.told() => return Ok(()),
                () = tokio::time::sleep(PURGE_INTERVAL) => {}
            }
            let durable = {
                let mut carried = self.carried();
                self.store.commit(batch(carried.forget(clock::wall(), age)))
            };
            durable.await?;
        }
    }
}

fn batch(rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in rows {
        match value {
            Some(value) => batch.put(TABLE, key, value),
            None => batch.delete(TABLE, key),
        };
    }
    batch
}
