//! Server keys on a schedule: made before the last one ends, stored sealed, erased once nothing fresh can be sealed to
//! them.

use std::time::Duration;

use cloakway_crypto::hash::keyed;
use cloakway_crypto::{Randomness, Secret, System, aead};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transact_ecash::ServerKeys;
use transact_ecash::wire::suite::{ServerPrivateKey, Suite};
use transact_ecash::wire::value::Bytes;

const TABLE: &str = "ecash-keys";

/// A server key as it is stored: its private half is sealed under the server's secret.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: String,
    suite: Suite,
    sealed: Bytes,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// When keys are made and erased.
#[derive(Debug)]
pub(super) struct Schedule {
    seal: [u8; 32],
    suites: Vec<Suite>,
    /// How long a key serves, and how long before its end the next one is there.
    serves: (Duration, Duration),
    /// How long after its end a key is erased.
    grace: Duration,
}

impl Schedule {
    pub(super) fn new(
        secret: &Secret<Vec<u8>>,
        suites: Vec<Suite>,
        serves: (Duration, Duration),
        grace: Duration,
    ) -> Self {
        Self { seal: keyed(secret.expose(), &[b"server keys at rest"]), suites, serves, grace }
    }

    /// The keys that are stored.
    pub(super) fn load(&self, store: &Store) -> Result<ServerKeys, StoreError> {
        let damaged = |reason: String| StoreError::Read(format!("{TABLE}: {reason}"));
        let mut keys = ServerKeys::new(&mut System).map_err(|error| damaged(error.to_string()))?;
        for (_, row) in store.scan(TABLE)? {
            let kept: Kept = serde_json::from_slice(&row).map_err(|error| damaged(error.to_string()))?;
            let other = |_| damaged(format!("{}: not sealed under this ecash.secret-file", kept.id));
            let secret = aead::open(&self.seal, kept.id.as_bytes(), &kept.sealed.0).map_err(other)?;
            let key = ServerPrivateKey::from_secret(&kept.id, kept.suite, &secret);
            let key = key.map_err(|error| damaged(format!("{}: {error}", kept.id)))?;
            keys.add(key, kept.not_before, kept.not_after);
        }
        Ok(keys)
    }

    /// Makes what is wanted soon and erases what is over.
    pub(super) fn turn(&self, keys: &mut ServerKeys, batch: &mut Batch, now: Timestamp) -> Result<(), StoreError> {
        for suite in &self.suites {
            if keys.serves_until(*suite).is_some_and(|until| until >= now + self.serves.1) {
                continue;
            }
            let failed = |reason: String| StoreError::Write(format!("no key of {}: {reason}", suite.name()));
            let (mut tail, mut nonce) = ([0; 4], [0; aead::NONCE_LENGTH]);
            System.fill(&mut tail);
            System.fill(&mut nonce);
            let (year, month, day, ..) = now.civil();
            let id = format!("E{year:04}{month:02}{day:02}{}", cloakway_crypto::encode::hex(&tail));
            let key = ServerPrivateKey::generate(&id, *suite, &mut System).map_err(|e| failed(e.to_string()))?;
            let sealed = aead::seal(&self.seal, nonce, id.as_bytes(), key.secret().expose());
            let sealed = Bytes(sealed.map_err(|error| failed(error.to_string()))?);
            let kept = Kept { id: id.clone(), suite: *suite, sealed, not_before: now, not_after: now + self.serves.0 };
            batch.put(TABLE, id.as_bytes(), serde_json::to_vec(&kept).map_err(|e| failed(e.to_string()))?);
            keys.add(key, now, kept.not_after);
            tracing::info!(key = id, suite = suite.name(), until = %kept.not_after, "e-cash: new server key");
        }
        for id in keys.erase(self.grace, now) {
            batch.delete(TABLE, id.as_bytes());
            tracing::info!(key = id, "e-cash: server key erased");
        }
        Ok(())
    }
}

/// The public halves that serve now, for clients. The last of a suite to be made comes first.
pub(super) fn public(keys: &ServerKeys, now: Timestamp) -> Value {
    let rows = keys.public(now).into_iter().map(|key| {
        json!({
            "id": key.id, "suite": key.suite.name(), "protocol": key.suite.protocol(),
            "key": cloakway_crypto::encode::base64(&key.as_bytes()),
            "until": keys.ends(&key.id).map(|until| until.to_string()),
        })
    });
    json!({"keys": rows.collect::<Vec<_>>(), "now": now.to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    async fn turned(schedule: &Schedule, keys: &mut ServerKeys, store: &Store, now: Timestamp) {
        let mut batch = Batch::new();
        schedule.turn(keys, &mut batch, now).unwrap();
        store.commit(batch).await.unwrap();
    }

    fn ids(keys: &ServerKeys, now: Timestamp) -> Vec<String> {
        keys.public(now).into_iter().map(|key| key.id).collect()
    }

    #[tokio::test]
    async fn a_key_has_a_successor_before_it_ends_and_is_erased_after_the_freshness_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s")).unwrap();
        let secret = Secret::new(vec![3; 32]);
        let schedule = Schedule::new(&secret, vec![Suite::Modern1], (DAY * 30, DAY * 7), DAY);
        let mut keys = schedule.load(&store).unwrap();
        let start = Timestamp::from_secs(1_700_000_000);
        turned(&schedule, &mut keys, &store, start).await;
        let first = ids(&keys, start);
        assert_eq!(first.len(), 1);
        turned(&schedule, &mut keys, &store, start + DAY * 23).await;
        assert_eq!(ids(&keys, start + DAY * 23), first, "seven days are left");
        turned(&schedule, &mut keys, &store, start + DAY * 24).await;
        let both = ids(&keys, start + DAY * 24);
        assert!(both.len() == 2 && both[1] == first[0], "the new one is what clients take");
        let mut again = schedule.load(&store).unwrap();
        assert_eq!(ids(&again, start + DAY * 24), both, "a restart changes nothing");
        let over = start + DAY * 31 + Duration::from_millis(1);
        turned(&schedule, &mut again, &store, over).await;
        assert_eq!(ids(&again, over), both[..1]);
        assert_eq!(store.scan(TABLE).unwrap().len(), 1, "what was erased is not stored");
        let row = String::from_utf8(store.scan(TABLE).unwrap().remove(0).1).unwrap();
        let other = Schedule::new(&Secret::new(vec![4; 32]), vec![Suite::Modern1], (DAY * 30, DAY * 7), DAY);
        let error = other.load(&store).unwrap_err().to_string();
        assert!(error.contains("not sealed under this ecash.secret-file"), "{error} {row}");
    }
}
