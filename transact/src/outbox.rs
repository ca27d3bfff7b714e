//! Results that are durable and not acknowledged yet (A14), in the order in which they were decided.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cloakway_crypto::sign::SigningKey;
use cloakway_runtime::clock;
use tokio::sync::Notify;
use transact_wire::result::{Pending, PurchaseResult, ResultError, SignedResult};

use crate::result_secrets::ResultSecrets;

/// Results in one answer at most.
const PAGE: usize = 100;

#[derive(Debug)]
pub(crate) struct Outbox {
    key: SigningKey,
    secrets: ResultSecrets,
    entries: Mutex<Entries>,
    more: Notify,
}

#[derive(Debug)]
struct Entries {
    by_sequence: BTreeMap<u64, (String, PurchaseResult)>,
    by_id: BTreeMap<String, u64>,
    last: u64,
}

impl Outbox {
    pub(crate) fn new(key: SigningKey) -> Self {
        // A cursor from before a restart is below every number given after it.
        let last = clock::wall().as_millis() << 16;
        let entries = Entries { by_sequence: BTreeMap::new(), by_id: BTreeMap::new(), last };
        Self { key, secrets: ResultSecrets::new(), entries: Mutex::new(entries), more: Notify::new() }
    }

    /// Results of these vendors are signed by their secrets too.
    pub(crate) fn with_secrets(self, secrets: ResultSecrets) -> Self {
        Self { secrets, ..self }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, id: String, result: PurchaseResult) {
        let mut entries = self.entries();
        if !entries.by_id.contains_key(&id) {
            entries.last += 1;
            let sequence = entries.last;
            entries.by_id.insert(id.clone(), sequence);
            entries.by_sequence.insert(sequence, (id, result));
        }
        drop(entries);
        self.more.notify_waiters();
    }

    pub(crate) fn retract(&self, id: &str) {
        let mut entries = self.entries();
        if let Some(sequence) = entries.by_id.remove(id) {
            entries.by_sequence.remove(&sequence);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries().by_id.len()
    }

    /// Results after `cursor`, signed now; waits up to `wait` for the first.
    pub(crate) async fn pull(&self, cursor: u64, wait: Duration) -> Result<Pending, ResultError> {
        let more = self.more.notified();
        tokio::pin!(more);
        // Listen before looking, so that a result between the two is not missed.
        more.as_mut().enable();
        let first = self.after(cursor)?;
        if !first.results.is_empty() || wait.is_zero() {
            return Ok(first);
        }
        let _ = tokio::time::timeout(wait, more).await;
        self.after(cursor)
    }

    /// A result as it is delivered now.
    pub(crate) fn sign(&self, id: &str, result: &PurchaseResult) -> Result<SignedResult, ResultError> {
        let signed = SignedResult::sign(id, result, &self.key, clock::wall())?;
        let secrets = self.secrets.get(&result.vendor).into_iter().flatten();
        Ok(secrets.fold(signed, SignedResult::and_by))
    }

    fn after(&self, cursor: u64) -> Result<Pending, ResultError> {
        let entries = self.entries();
        let range = entries.by_sequence.range(cursor.saturating_add(1)..).take(PAGE);
        let mut pending = Pending { cursor, results: Vec::new() };
        for (sequence, (id, result)) in range {
            pending.results.push(self.sign(id, result)?);
            pending.cursor = *sequence;
        }
        Ok(pending)
    }
}
