//! Vendors (A6): those of the configuration file, and those that an operator has registered while the server runs.
//!
//! A registered vendor has keys, of which several are good while one follows another. Every change is written together
//! with a line of the audit log that says who made it; each line holds the hash of the one before, so that none can be
//! changed or left out unnoticed.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use cloakway_crypto::encode::{base64url, hex};
use cloakway_crypto::hash::sha256;
use cloakway_crypto::{Randomness, Secret, System};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::{Timestamp, VendorId};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::audit::{self, Audit, Line};
use crate::config::{Vendor, https};

const TABLE: &str = "vendors";
/// Vendors that can be registered.
const VENDORS: usize = 10_000;
/// Keys of one vendor that are good at a time.
const KEYS: usize = 8;
/// The longest time that an old key stays good beside a new one.
pub(crate) const LONGEST_OVERLAP: Duration = Duration::from_secs(90 * 86_400);
/// The time that it stays good unless something else is said.
pub(crate) const OVERLAP: Duration = Duration::from_secs(86_400);

/// A vendor as the rest of the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: VendorId,
    pub(crate) name: String,
}

/// A registered vendor, as it is stored and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub(crate) id: VendorId,
    pub(crate) name: String,
    pub(crate) results_url: String,
    pub(crate) registered_at: Timestamp,
    pub(crate) suspended: bool,
    pub(crate) keys: Vec<Key>,
}

/// One key: its hash is kept, and it itself is shown once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) id: String,
    sha256: String,
    pub(crate) made_at: Timestamp,
    /// Until when it is good, if not for good.
    pub(crate) until: Option<Timestamp>,
}

impl Key {
    pub(crate) fn is_good(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What an operator does.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Register { id: String, name: String, results_url: String },
    Describe { id: String, name: String, results_url: String },
    Rotate { id: String, overlap: Duration },
    Revoke { id: String, key: String },
    Suspend { id: String },
    Resume { id: String },
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) vendor: Registered,
    /// The new key, where one was made: it is not kept.
    pub(crate) key: Option<Secret<String>>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("vendor id: {0}")]
    Id(String),
    #[error("{0} is registered already")]
    Exists(VendorId),
    #[error("{0} is in the configuration file: change it there")]
    Configured(VendorId),
    #[error("{0} is not registered")]
    Unknown(String),
    #[error("{0} has no key {1} that is good")]
    UnknownKey(VendorId, String),
    #[error("the name has {0} characters: 1 to 80 without control characters are needed, as payers read it")]
    Name(usize),
    #[error("{0}")]
    Url(String),
    #[error("{0} has {KEYS} good keys: revoke one")]
    Keys(VendorId),
    #[error("{VENDORS} vendors are registered: no more are taken")]
    Full,
    #[error("the old key can stay good for {} days at most", LONGEST_OVERLAP.as_secs() / 86_400)]
    Overlap,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A vendor as it is then, its new key, and what the audit log says: what was done, and more about it.
type Decided = (Registered, Option<Secret<String>>, &'static str, String);

#[derive(Debug, Default)]
struct Book {
    vendors: BTreeMap<VendorId, Registered>,
    /// Whose a hash of a key is. That a look-up takes a time of its own tells nothing: who does not have the key cannot
    /// choose its hash.
    keys: BTreeMap<String, VendorId>,
}

/// All vendors.
#[derive(Debug)]
pub(crate) struct Registry {
    configured: Vec<Vendor>,
    store: Store,
    book: RwLock<Book>,
    /// One change at a time, and the place of the audit log.
    audit: Mutex<Audit>,
}

impl Registry {
    pub(crate) fn load(store: Store, configured: Vec<Vendor>) -> Result<Self, StoreError> {
        let mut book = Book::default();
        for (key, row) in store.scan(TABLE)? {
            let vendor: Registered = serde_json::from_slice(&row)
                .map_err(|error| StoreError::Read(format!("vendor {}: {error}", String::from_utf8_lossy(&key))))?;
            if configured.iter().any(|known| known.id == vendor.id) {
                tracing::warn!(vendor = %vendor.id, "registered, and in the configuration file too: the file counts");
                continue;
            }
            book.put(vendor);
        }
        let audit = Audit::load(&store)?;
        Ok(Self { configured, store, book: RwLock::new(book), audit: Mutex::new(audit) })
    }

    fn book(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vendor that a key is of.
    pub(crate) fn authenticate(&self, key: &str, now: Timestamp) -> Option<Known> {
        let digest = sha256(&[key.as_bytes()]);
        let configured = self.configured.iter().fold(None, |found, vendor| {
            if cloakway_crypto::ct_eq(&vendor.key_sha256, &digest) { Some(vendor) } else { found }
        });
        if let Some(vendor) = configured {
            return Some(Known { id: vendor.id.clone(), name: vendor.name.clone() });
        }
        let (book, digest) = (self.book(), hex(&digest));
        let vendor = book.vendors.get(book.keys.get(&digest)?)?;
        let good = vendor.keys.iter().any(|key| key.sha256 == digest && key.is_good(now));
        (good && !vendor.suspended).then(|| Known { id: vendor.id.clone(), name: vendor.name.clone() })
    }

    /// Where a vendor's results are posted. One who is suspended is still told how its orders ended.
    pub(crate) fn results_url(&self, vendor: &VendorId) -> Option<String> {
        let configured =
            self.configured.iter().find(|known| known.id == *vendor).map(|known| known.results_url.clone());
        configured.or_else(|| self.book().vendors.get(vendor).map(|known| known.results_url.clone()))
    }

    /// Those of the configuration file.
    pub(crate) fn configured(&self) -> &[Vendor] {
        &self.configured
    }

    /// Those who are registered.
    pub(crate) fn registered(&self) -> Vec<Registered> {
        self.book().vendors.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Registered> {
        self.book().vendors.get(&id.parse().ok()?).cloned()
    }

    /// The latest lines of the audit log, the newest first.
    pub(crate) fn audited(&self, count: usize) -> Result<Vec<Line>, StoreError> {
        audit::latest(&self.store, count)
    }

    /// Whether the audit log is whole; else what is wrong with it.
    pub(crate) async fn audit_problem(&self) -> Option<String> {
        self.audit.lock().await.problem().map(str::to_owned)
    }

    /// Writes a line about something that changes no vendor: a sign-in.
    pub(crate) async fn note(&self, who: &str, what: &str, about: &str, now: Timestamp) -> Result<(), StoreError> {
        let mut audit = self.audit.lock().await;
        let mut batch = Batch::new();
        let next = audit.write(&mut batch, who, what, None, about, now)?;
        self.store.commit(batch).await?;
        *audit = next;
        Ok(())
    }

    /// Makes a change for `who`; it and its line in the audit log are on disk when it is answered.
    pub(crate) async fn change(&self, change: Change, who: &str, now: Timestamp) -> Result<Done, RegistryError> {
        let mut audit = self.audit.lock().await;
        let (vendor, key, what, about) = self.decide(change, now)?;
        let mut batch = Batch::new();
        let row = serde_json::to_vec(&vendor).map_err(|error| StoreError::Write(error.to_string()))?;
        batch.put(TABLE, vendor.id.as_str().as_bytes(), row);
        let next = audit.write(&mut batch, who, what, Some(&vendor.id), &about, now)?;
        self.store.commit(batch).await?;
        *audit = next;
        self.book.write().unwrap_or_else(PoisonError::into_inner).put(vendor.clone());
        tracing::info!(vendor = %vendor.id, who, what, "vendor changed");
        Ok(Done { vendor, key })
    }

    fn decide(&self, change: Change, now: Timestamp) -> Result<Decided, RegistryError> {
        let book = self.book();
        let known = |id: &str| {
            let id = id.parse::<VendorId>().map_err(|error| RegistryError::Id(error.to_string()))?;
            if self.configured.iter().any(|vendor| vendor.id == id) {
                return Err(RegistryError::Configured(id));
            }
            book.vendors.get(&id).cloned().ok_or_else(|| RegistryError::Unknown(id.to_string()))
        };
        Ok(match change {
            Change::Register { id, name, results_url } => {
                match known(&id) {
                    Ok(vendor) => return Err(RegistryError::Exists(vendor.id)),
                    Err(RegistryError::Unknown(_)) if book.vendors.len() < VENDORS => {}
                    Err(RegistryError::Unknown(_)) => return Err(RegistryError::Full),
                    Err(error) => return Err(error),
                }
                let id = id.parse::<VendorId>().map_err(|error| RegistryError::Id(error.to_string()))?;
                let (name, results_url) = described(name, &results_url)?;
                let (secret, key) = new_key(now);
                let about = format!("{name}, results to {results_url}, key {}", key.id);
                let vendor =
                    Registered { id, name, results_url, registered_at: now, suspended: false, keys: vec![key] };
                (vendor, Some(secret), "registered", about)
            }
            Change::Describe { id, name, results_url } => {
                let mut vendor = known(&id)?;
                (vendor.name, vendor.results_url) = described(name, &results_url)?;
                let about = format!("{}, results to {}", vendor.name, vendor.results_url);
                (vendor, None, "described", about)
            }
            Change::Rotate { id, overlap } => {
                let mut vendor = known(&id)?;
                if overlap > LONGEST_OVERLAP {
                    return Err(RegistryError::Overlap);
                }
                vendor.keys.retain(|key| key.is_good(now));
                if vendor.keys.len() >= KEYS {
                    return Err(RegistryError::Keys(vendor.id));
                }
                let end = now + overlap;
                for key in &mut vendor.keys {
                    key.until = Some(key.until.map_or(end, |until| until.min(end)));
                }
                let (secret, key) = new_key(now);
                let about = format!("key {}; the ones before are good for {} s more", key.id, overlap.as_secs());
                vendor.keys.push(key);
                (vendor, Some(secret), "key made", about)
            }
            Change::Revoke { id, key } => {
                let mut vendor = known(&id)?;
                let found = vendor.keys.iter_mut().find(|known| known.id == key && known.is_good(now));
                match found {
                    Some(found) => found.until = Some(now),
                    None => return Err(RegistryError::UnknownKey(vendor.id, key)),
                }
                (vendor, None, "key revoked", format!("key {key}"))
            }
            Change::Suspend { id } => {
                let vendor = Registered { suspended: true, ..known(&id)? };
                (vendor, None, "suspended", String::new())
            }
            Change::Resume { id } => {
                let vendor = Registered { suspended: false, ..known(&id)? };
                (vendor, None, "resumed", String::new())
            }
        })
    }
}

impl Book {
    fn put(&mut self, vendor: Registered) {
        for key in self.vendors.get(&vendor.id).map(|before| before.keys.as_slice()).unwrap_or_default() {
            self.keys.remove(&key.sha256);
        }
        self.keys.extend(vendor.keys.iter().map(|key| (key.sha256.clone(), vendor.id.clone())));
        self.vendors.insert(vendor.id.clone(), vendor);
    }
}

fn described(name: String, results_url: &str) -> Result<(String, String), RegistryError> {
    let name = name.trim().to_owned();
    let length = name.chars().count();
    if !(1..=80).contains(&length) || name.chars().any(char::is_control) {
        return Err(RegistryError::Name(length));
    }
    let url = https("results-url", results_url).map_err(|error| RegistryError::Url(error.to_string()))?;
    Ok((name, url))
}

/// 256 random bits, and what is kept of them.
fn new_key(now: Timestamp) -> (Secret<String>, Key) {
    let (mut random, mut id) = ([0; 32], [0; 4]);
    System.fill(&mut random);
    System.fill(&mut id);
    let secret = Secret::new(format!("cwk_{}", base64url(&random)));
    let sha256 = hex(&sha256(&[secret.expose().as_bytes()]));
    (secret, Key { id: format!("k-{}", hex(&id)), sha256, made_at: now, until: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn open(folder: &tempfile::TempDir) -> Registry {
        let store = Store::open(&folder.path().join("vendors")).unwrap();
        let configured = Vendor {
            id: "fixed".parse().unwrap(),
            name: "Fixed".to_owned(),
            key_sha256: sha256(&[b"fixed key"]).to_vec(),
            results_url: "https://fixed.example/r".to_owned(),
        };
        Registry::load(store, vec![configured]).unwrap()
    }

    fn register(id: &str) -> Change {
        Change::Register { id: id.to_owned(), name: "A Shop".to_owned(), results_url: "https://a.example/r".to_owned() }
    }

    #[tokio::test]
    async fn a_vendor_is_known_by_its_keys_which_follow_each_other_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(&folder);
        let first = registry.change(register("shop"), "alice", T0).await.unwrap();
        let old = first.key.unwrap();
        assert_eq!(registry.authenticate(old.expose(), T0).unwrap().name, "A Shop");
        assert_eq!(registry.authenticate("fixed key", T0).unwrap().id.as_str(), "fixed");
        assert_eq!(registry.authenticate("guess", T0), None);
        let overlap = Duration::from_secs(100);
        let rotate = Change::Rotate { id: "shop".to_owned(), overlap };
        let new = registry.change(rotate, "alice", T0).await.unwrap().key.unwrap();
        let just_before = T0 + Duration::from_millis(99_999);
        for (key, at, good) in [(&old, just_before, true), (&old, T0 + overlap, false), (&new, T0 + overlap, true)] {
            assert_eq!(registry.authenticate(key.expose(), at).is_some(), good);
        }
        drop(registry);
        let registry = open(&folder);
        let key = registry.get("shop").unwrap().keys.last().unwrap().id.clone();
        assert!(registry.authenticate(new.expose(), T0).is_some(), "a restart forgets nothing");
        registry.change(Change::Revoke { id: "shop".to_owned(), key: key.clone() }, "bob", T0).await.unwrap();
        assert_eq!(registry.authenticate(new.expose(), T0), None);
        let again = registry.change(Change::Revoke { id: "shop".to_owned(), key }, "bob", T0).await;
        assert!(matches!(again, Err(RegistryError::UnknownKey(..))));
        registry.change(Change::Suspend { id: "shop".to_owned() }, "bob", T0).await.unwrap();
        assert_eq!(registry.authenticate(old.expose(), T0), None);
        assert_eq!(registry.results_url(&"shop".parse().unwrap()).as_deref(), Some("https://a.example/r"));
        registry.change(Change::Resume { id: "shop".to_owned() }, "bob", T0).await.unwrap();
        assert!(registry.authenticate(old.expose(), T0).is_some());
        let lines: Vec<_> = registry.audited(10).unwrap().into_iter().map(|line| (line.who, line.what)).collect();
        let expected = ["resumed", "suspended", "key revoked", "key made", "registered"];
        let who = ["bob", "bob", "bob", "alice", "alice"];
        assert_eq!(lines, who.map(str::to_owned).into_iter().zip(expected.map(str::to_owned)).collect::<Vec<_>>());
        assert_eq!(registry.audit_problem().await, None);
    }

    #[tokio::test]
    async fn what_is_not_right_is_refused_and_leaves_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(&folder);
        registry.change(register("shop"), "alice", T0).await.unwrap();
        let with = |name: &str, url: &str| Change::Register {
            id: "new".to_owned(),
            name: name.to_owned(),
            results_url: url.to_owned(),
        };
        for (change, says) in [
            (register("shop"), "shop is registered already"),
            (register("fixed"), "fixed is in the configuration file"),
            (register("a b"), "vendor id: "),
            (with(" ", "https://a.example"), "the name has 0 characters"),
            (with("a\u{7}", "https://a.example"), "control characters"),
            (with(&"x".repeat(81), "https://a.example"), "the name has 81"),
            (with("x", "http://a.example"), "results-url: "),
            (Change::Rotate { id: "none".to_owned(), overlap: OVERLAP }, "none is not registered"),
            (Change::Rotate { id: "shop".to_owned(), overlap: LONGEST_OVERLAP * 2 }, "90 days at most"),
            (Change::Revoke { id: "shop".to_owned(), key: "k-1".to_owned() }, "shop has no key k-1"),
        ] {
            let error = registry.change(change, "alice", T0).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for at in 1..=KEYS {
            let rotate = Change::Rotate { id: "shop".to_owned(), overlap: OVERLAP };
            assert_eq!(registry.change(rotate, "alice", T0).await.is_ok(), at < KEYS, "{at}");
        }
        assert_eq!(registry.audited(100).unwrap().len(), KEYS);
    }

    #[tokio::test]
    async fn the_store_has_no_key_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(&folder);
        let key = registry.change(register("shop"), "alice", T0).await.unwrap().key.unwrap();
        drop(registry);
        let bytes = std::fs::read(folder.path().join("vendors")).unwrap();
        assert!(!bytes.windows(20).any(|window| key.expose().as_bytes().starts_with(window)));
    }
}
