//! What a wallet keeps, on disk: every record sealed by AES-256-GCM under a key made from the passphrase by Argon2id, and
//! stored under a name that says nothing. A step's records are there together, synced, or not at all.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use cloakway_crypto::hash::keyed;
use cloakway_crypto::passphrase::{Cost, verifier};
use cloakway_crypto::{Randomness, Secret, System, aead};
use cloakway_store::{Batch, Store, StoreError};
use ecash_wire::client::{Record, RecordKey, Write};
use ecash_wire::value::Bytes;
use serde::{Deserialize, Serialize};

const FILE: &str = "wallet.redb";
const RECORDS: &str = "records";
const META: &str = "meta";
const SEAL: &[u8] = b"seal";
const SETTINGS: &[u8] = b"settings";

/// Why a wallet cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is one already.
    #[error("{0}: there is a wallet here already")]
    Exists(String),
    /// There is none.
    #[error("{0}: there is no wallet here: make one with `payer wallet new`")]
    Missing(String),
    /// The passphrase does not open it.
    #[error("the passphrase is wrong, or the wallet is damaged")]
    Passphrase,
    /// A record was changed, or is another's.
    #[error("the wallet is damaged: {0}")]
    Damaged(String),
    /// The folder.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How the key is made, and by what a right one is known.
#[derive(Debug, Serialize, Deserialize)]
struct Seal {
    salt: Bytes,
    memory_kib: u32,
    passes: u32,
    proof: Bytes,
}

/// Where the server is. Sealed as everything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `https://` and the private network address.
    pub server: String,
    /// The file with the authorities that may have certified it.
    pub ca: std::path::PathBuf,
}

/// An open wallet's records. One process has it open.
#[derive(Debug)]
pub struct Vault {
    store: Store,
    key: Secret<Vec<u8>>,
    names: Secret<Vec<u8>>,
}

/// The key of the records, and the key of their names.
type Keys = (Secret<Vec<u8>>, Secret<Vec<u8>>);

fn derive(passphrase: &Secret<String>, salt: &[u8], cost: Cost) -> Option<Keys> {
    let salt = salt.try_into().ok()?;
    let master = Secret::new(verifier(passphrase.expose().as_bytes(), salt, cost)?.to_vec());
    let part = |label: &[u8]| Secret::new(keyed(master.expose(), &[label]).to_vec());
    Some((part(b"wallet records"), part(b"wallet names")))
}

fn name_of(key: &RecordKey) -> (u8, Vec<u8>) {
    let place = |session: u64, index: u16| [&session.to_be_bytes()[..], &index.to_be_bytes()].concat();
    match key {
        RecordKey::Identity => (1, Vec::new()),
        RecordKey::Container(currency) => (2, currency.code().as_bytes().to_vec()),
        RecordKey::Binding(number) => (3, number.to_be_bytes().to_vec()),
        RecordKey::Session(id) => (4, id.0.to_be_bytes().to_vec()),
        RecordKey::Request(number) => (5, number.to_be_bytes().to_vec()),
        RecordKey::Offer(offer) => (6, format!("{} {}", offer.payee.as_str(), offer.order.as_str()).into_bytes()),
        RecordKey::Sent(session, index) => (7, place(session.0, *index)),
        RecordKey::Order(id) => (8, id.as_str().as_bytes().to_vec()),
        RecordKey::Row(session, index) => (9, place(session.0, *index)),
        RecordKey::Batch(session, index) => (10, place(session.0, *index)),
        RecordKey::Response(number) => (11, number.to_be_bytes().to_vec()),
    }
}

impl Vault {
    /// Makes a wallet in `folder`, which is made for its owner alone.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn create(
        folder: &Path,
        passphrase: &Secret<String>,
        cost: Cost,
        settings: &Settings,
    ) -> Result<Self, VaultError> {
        let named = |source| VaultError::Folder { path: folder.display().to_string(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(named)?;
        let path = folder.join(FILE);
        let exists = || VaultError::Exists(folder.display().to_string());
        let store = Store::open(&path)?;
        if store.get(META, SEAL)?.is_some() {
            return Err(exists());
        }
        let mut salt = [0; 16];
        System.fill(&mut salt);
        let (key, names) = derive(passphrase, &salt, cost).ok_or(VaultError::Passphrase)?;
        let vault = Self { store, key, names };
        let proof = Bytes(vault.seal(SEAL, b"")?);
        let seal = Seal { salt: Bytes(salt.to_vec()), memory_kib: cost.memory_kib, passes: cost.passes, proof };
        let mut batch = Batch::new();
        batch.put(META, SEAL, json(&seal)?);
        batch.put(META, SETTINGS, vault.seal(SETTINGS, &json(settings)?)?);
        vault.store.commit(batch).await?;
        Ok(vault)
    }

    /// Opens the wallet in `folder`: its records, in no order.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(folder: &Path, passphrase: &Secret<String>) -> Result<(Self, Settings, Vec<Record>), VaultError> {
        let path = folder.join(FILE);
        let missing = || VaultError::Missing(folder.display().to_string());
        if !path.exists() {
            return Err(missing());
        }
        let store = Store::open(&path)?;
        let seal = store.get(META, SEAL)?.ok_or_else(missing)?;
        let seal: Seal = serde_json::from_slice(&seal).map_err(|error| VaultError::Damaged(error.to_string()))?;
        let cost = Cost { memory_kib: seal.memory_kib, passes: seal.passes };
        let (key, names) = derive(passphrase, &seal.salt.0, cost).ok_or(VaultError::Passphrase)?;
        let vault = Self { store, key, names };
        vault.unseal(SEAL, &seal.proof.0).map_err(|_| VaultError::Passphrase)?;
        let settings = vault.store.get(META, SETTINGS)?.ok_or_else(missing)?;
        let settings = vault.unseal(SETTINGS, &settings)?;
        let settings = serde_json::from_slice(&settings).map_err(|error| VaultError::Damaged(error.to_string()))?;
        let mut records = Vec::new();
        for (name, sealed) in vault.store.scan(RECORDS)? {
            let plain = vault.unseal(&name, &sealed)?;
            let record: Record =
                serde_json::from_slice(&plain).map_err(|error| VaultError::Damaged(error.to_string()))?;
            records.push(record);
        }
        Ok((vault, settings, records))
    }

    /// Makes the writes of a step durable together, and returns when they are.
    ///
    /// # Errors
    /// [`VaultError`]; then nothing may be sent.
    pub async fn write(&self, writes: &[Write]) -> Result<(), VaultError> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for write in writes {
            match write {
                Write::Put(record) => {
                    let name = self.name(&record.key());
                    let plain = cloakway_crypto::Zeroizing::new(json(record)?);
                    let sealed = self.seal(&name, &plain)?;
                    batch.put(RECORDS, name, sealed);
                }
                Write::Delete(key) => drop(batch.delete(RECORDS, self.name(key))),
            }
        }
        Ok(self.store.commit(batch).await?)
    }

    fn name(&self, key: &RecordKey) -> Vec<u8> {
        let (kind, name) = name_of(key);
        keyed(self.names.expose(), &[&[kind], &name]).to_vec()
    }

    fn key(&self) -> [u8; 32] {
        self.key.expose().as_slice().try_into().unwrap_or([0; 32])
    }

    fn seal(&self, name: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; aead::NONCE_LENGTH];
        System.fill(&mut nonce);
        aead::seal(&self.key(), nonce, name, plain).map_err(|error| VaultError::Damaged(error.to_string()))
    }

    fn unseal(&self, name: &[u8], sealed: &[u8]) -> Result<cloakway_crypto::Zeroizing<Vec<u8>>, VaultError> {
        aead::open(&self.key(), name, sealed).map_err(|error| VaultError::Damaged(error.to_string()))
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, VaultError> {
    serde_json::to_vec(value).map_err(|error| VaultError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecash_wire::client::Response;
    use ecash_wire::message::Kind;

    const CHEAP: Cost = Cost { memory_kib: 32, passes: 1 };

    fn settings() -> Settings {
        Settings { server: "https://203.0.113.200".to_owned(), ca: "ca.pem".into() }
    }

    fn response(number: u64) -> Record {
        Record::Response(Response {
            number,
            kind: Kind::OS1,
            transaction: 7,
            at: cloakway_types::Timestamp::from_secs(1),
            problem: None,
            message: Some("a tell-tale word".to_owned()),
        })
    }

    #[tokio::test]
    async fn what_is_written_comes_back_by_the_passphrase_alone_and_is_nowhere_in_clear() {
        let folder = tempfile::tempdir().unwrap();
        let right = Secret::from("correct horse");
        let vault = Vault::create(folder.path(), &right, CHEAP, &settings()).await.unwrap();
        vault.write(&[Write::Put(response(1)), Write::Put(response(2))]).await.unwrap();
        vault.write(&[Write::Delete(RecordKey::Response(1))]).await.unwrap();
        drop(vault);
        assert!(matches!(Vault::open(folder.path(), &Secret::from("wrong")), Err(VaultError::Passphrase)));
        let (vault, found, records) = Vault::open(folder.path(), &right).unwrap();
        assert_eq!((found, records.len()), (settings(), 1));
        assert_eq!(records[0].key(), RecordKey::Response(2));
        drop(vault);
        let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        for word in ["tell-tale", "203.0.113.200", "open-session"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
        let again = Vault::create(folder.path(), &right, CHEAP, &settings()).await;
        assert!(matches!(again, Err(VaultError::Exists(_))));
        let none = tempfile::tempdir().unwrap();
        assert!(matches!(Vault::open(none.path(), &right), Err(VaultError::Missing(_))));
    }

    #[tokio::test]
    async fn a_record_in_the_place_of_another_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let right = Secret::from("correct horse");
        let vault = Vault::create(folder.path(), &right, CHEAP, &settings()).await.unwrap();
        vault.write(&[Write::Put(response(1)), Write::Put(response(2))]).await.unwrap();
        let rows = vault.store.scan(RECORDS).unwrap();
        let mut batch = Batch::new();
        batch.put(RECORDS, rows[0].0.clone(), rows[1].1.clone());
        vault.store.commit(batch).await.unwrap();
        drop(vault);
        assert!(matches!(Vault::open(folder.path(), &right), Err(VaultError::Damaged(_))));
    }
}
