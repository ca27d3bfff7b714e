//! Payer pages at rest (A10, A15).
//!
//! A page's URL holds a token that only the page key can make; the store holds the token's hash and
//! the page sealed under a key made of the token. Who reads the store finds no password, and who
//! guesses a URL finds nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloakway_crypto::encode::{base64url, unbase64url};
use cloakway_crypto::hash::{keyed, sha256};
use cloakway_crypto::{Randomness, Secret, System, aead};
use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::{Timestamp, TransactionId, VendorId};
use transact_wire::payment::Page;

const TABLE: &str = "pages";

/// Why a page cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the page cannot be sealed")]
    Seal,
}

/// The hash of a token: the name of a page in the store.
type Name = [u8; 32];

/// All pages.
#[derive(Debug)]
pub(crate) struct Pages {
    store: Store,
    key: Secret<Vec<u8>>,
    expiry: Mutex<BTreeMap<Name, Timestamp>>,
}

impl Pages {
    pub(crate) fn load(store: Store, key: Secret<Vec<u8>>, now: Timestamp) -> Result<Self, StoreError> {
        let mut expiry = BTreeMap::new();
        for (name, row) in store.scan(TABLE)? {
            if let (Ok(name), Some((expires_at, _))) = (Name::try_from(name.as_slice()), split(&row)) {
                expiry.insert(name, expires_at);
            }
        }
        tracing::info!(pages = expiry.len(), %now, "pages loaded");
        Ok(Self { store, key, expiry: Mutex::new(expiry) })
    }

    fn token(&self, vendor: &VendorId, transaction: &TransactionId) -> [u8; 32] {
        keyed(self.key.expose(), &[b"page", vendor.as_str().as_bytes(), transaction.as_str().as_bytes()])
    }

    /// Stores the page and gives the token for its URL; the same transaction gets the same token.
    /// A page that was spent stays spent.
    pub(crate) async fn keep(&self, page: &Page) -> Result<Secret<String>, PageError> {
        let token = self.token(&page.vendor, &page.transaction_id);
        let name = sha256(&[&token]);
        if self.store.get(TABLE, &name)?.is_none() {
            let plain = Secret::new(serde_json::to_vec(page).map_err(|_| PageError::Seal)?);
            let mut nonce = [0; aead::NONCE_LENGTH];
            System.fill(&mut nonce);
            let sealed = aead::seal(&sealing_key(&token), nonce, &name, plain.expose()).map_err(|_| PageError::Seal)?;
            self.put(name, page.expires_at, &sealed).await?;
        }
        Ok(Secret::new(base64url(&token)))
    }

    /// Makes the page of a decided transaction unusable.
    pub(crate) async fn spend(&self, vendor: &VendorId, transaction: &TransactionId) -> Result<(), StoreError> {
        let name = sha256(&[&self.token(vendor, transaction)]);
        let known = self.expiry.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        match known {
            Some(expires_at) => self.put(name, expires_at, &[]).await,
            None => Ok(()),
        }
    }

    /// The page of a token; `None` when it was never there, is spent or has expired.
    pub(crate) fn open(&self, token: &str, now: Timestamp) -> Result<Option<Page>, StoreError> {
        let Some(token) = unbase64url(token).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) else {
            return Ok(None);
        };
        let name = sha256(&[&token]);
        let Some(row) = self.store.get(TABLE, &name)? else { return Ok(None) };
        let page = split(&row)
            .filter(|(expires_at, sealed)| now < *expires_at && !sealed.is_empty())
            .and_then(|(_, sealed)| aead::open(&sealing_key(&token), &name, sealed).ok())
            .and_then(|plain| serde_json::from_slice(&plain).ok());
        Ok(page)
    }

    /// How many pages are kept, spent ones too.
    pub(crate) fn count(&self) -> usize {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn put(&self, name: Name, expires_at: Timestamp, sealed: &[u8]) -> Result<(), StoreError> {
        let mut row = expires_at.as_millis().to_be_bytes().to_vec();
        row.extend_from_slice(sealed);
        let mut batch = Batch::new();
        batch.put(TABLE, name, row);
        self.store.commit(batch).await?;
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner).insert(name, expires_at);
        Ok(())
    }

    /// Removes what has expired.
    async fn forget_expired(&self, now: Timestamp) -> Result<usize, StoreError> {
        let old: Vec<Name> = {
            let expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
            expiry.iter().filter(|(_, expires_at)| **expires_at <= now).map(|(name, _)| *name).collect()
        };
        if old.is_empty() {
            return Ok(0);
        }
        let mut batch = Batch::new();
        for name in &old {
            batch.delete(TABLE, *name);
        }
        self.store.commit(batch).await?;
        let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &old {
            expiry.remove(name);
        }
        Ok(old.len())
    }
}

fn sealing_key(token: &[u8; 32]) -> [u8; 32] {
    keyed(token, &[b"seal"])
}

fn split(row: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (expires_at, sealed) = row.split_first_chunk::<8>()?;
    Some((Timestamp::from_millis(u64::from_be_bytes(*expires_at)), sealed))
}

/// Removes expired pages once a minute.
pub(crate) fn sweep(pages: Arc<Pages>, stop: Stop) {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(Duration::from_secs(60)) => {}
            }
            if let Err(error) = pages.forget_expired(clock::wall()).await {
                tracing::error!(%error, "expired pages not removed");
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakway_types::Money;

    fn page() -> Page {
        Page {
            vendor: "shop".parse().unwrap(),
            payee: "Example Shop".to_owned(),
            description: "A book".to_owned(),
            amount: Money::new(1250, "EUR".parse().unwrap()).unwrap(),
            amount_text: "12.50 EUR".to_owned(),
            transaction_id: "o-1".parse().unwrap(),
            password: "one-time-password".into(),
            private_origin: "https://203.0.113.200".to_owned(),
            expires_at: Timestamp::from_secs(1000),
        }
    }

    fn open(folder: &tempfile::TempDir) -> Pages {
        let store = Store::open(&folder.path().join("pages")).unwrap();
        Pages::load(store, Secret::new(vec![1; 32]), Timestamp::from_secs(0)).unwrap()
    }

    #[tokio::test]
    async fn a_page_is_found_by_its_token_until_it_expires_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let pages = open(&folder);
        let token = pages.keep(&page()).await.unwrap();
        assert_eq!(pages.keep(&page()).await.unwrap(), token);
        drop(pages);
        let pages = open(&folder);
        let found = pages.open(token.expose(), Timestamp::from_millis(999_999)).unwrap().unwrap();
        assert_eq!(found.password, page().password);
        assert!(pages.open(token.expose(), Timestamp::from_secs(1000)).unwrap().is_none());
        assert_eq!(pages.forget_expired(Timestamp::from_secs(1000)).await.unwrap(), 1);
        assert_eq!(pages.count(), 0);
    }

    #[tokio::test]
    async fn spent_and_guessed_pages_are_not_there_and_a_repeated_order_revives_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let pages = open(&folder);
        let now = Timestamp::from_secs(1);
        let token = pages.keep(&page()).await.unwrap();
        for guess in ["", "x", "AAAA", &base64url(&[0; 32]), "../../etc/passwd"] {
            assert!(pages.open(guess, now).unwrap().is_none(), "{guess}");
        }
        pages.spend(&page().vendor, &page().transaction_id).await.unwrap();
        assert!(pages.open(token.expose(), now).unwrap().is_none());
        pages.keep(&page()).await.unwrap();
        assert!(pages.open(token.expose(), now).unwrap().is_none());
    }

    #[tokio::test]
    async fn the_store_shows_no_password_and_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let pages = open(&folder);
        let token = pages.keep(&page()).await.unwrap();
        drop(pages);
        let bytes = std::fs::read(folder.path().join("pages")).unwrap();
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(
            !holds(b"one-time-password")
                && !holds(token.expose().as_bytes())
                && !holds(&unbase64url(token.expose()).unwrap())
        );
    }
}
