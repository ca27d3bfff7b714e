//! Payer pages at rest (A10, A15).
//!
//! A page's URL holds a token that only the page key can make; the store holds the token's hash and
//! the page sealed under a key made of the token. Who reads the store finds no password, and who
//! guesses a URL finds nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloakway_crypto::encode::{base64url, unbase64url};
use cloakway_crypto::hash::{keyed, sha256};
use cloakway_crypto::sign::{KeyError, SigningKey};
use cloakway_crypto::{Randomness, Secret, System, aead};
use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::{Timestamp, TransactionId, VendorId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use transact_wire::payment::Page;

const TABLE: &str = "pages";
/// As long as a page sealed: what is opened where there is none.
const DECOY: usize = 512;

/// Why a page cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the page cannot be sealed")]
    Seal,
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What goes straight to the client, without the vendor between (A10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direct {
    /// The page's URL.
    Url,
    /// The page itself, signed.
    Page,
}

/// A claim at rest: who may come for which page.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    client: IpAddr,
    direct: Direct,
    page_token: String,
}

/// What a claim is answered with.
pub(crate) enum Handed {
    /// The token of the page's URL.
    Url(Secret<String>),
    /// The page.
    Page(Box<Page>),
}

/// The hash of a token: the name of a page in the store.
type Name = [u8; 32];

/// All pages.
#[derive(Debug)]
pub(crate) struct Pages {
    store: Store,
    key: Secret<Vec<u8>>,
    signing: SigningKey,
    expiry: Mutex<BTreeMap<Name, Timestamp>>,
}

impl Pages {
    pub(crate) fn load(store: Store, key: Secret<Vec<u8>>, now: Timestamp) -> Result<Self, PageError> {
        let signing = signing_key(&key)?;
        let mut expiry = BTreeMap::new();
        for (name, row) in store.scan(TABLE)? {
            if let (Ok(name), Some((expires_at, _))) = (Name::try_from(name.as_slice()), split(&row)) {
                expiry.insert(name, expires_at);
            }
        }
        tracing::info!(pages = expiry.len(), %now, "pages loaded");
        Ok(Self { store, key, signing, expiry: Mutex::new(expiry) })
    }

    fn token(&self, vendor: &VendorId, transaction: &TransactionId) -> [u8; 32] {
        keyed(self.key.expose(), &[b"page", vendor.as_str().as_bytes(), transaction.as_str().as_bytes()])
    }

    /// Signs pages.
    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// Stores the page and gives the token for its URL; the same transaction gets the same token.
    /// A page that was spent stays spent.
    pub(crate) async fn keep(&self, page: &Page) -> Result<Secret<String>, PageError> {
        let token = self.token(&page.vendor, &page.transaction_id);
        self.seal(token, page, page.expires_at).await
    }

    /// Stores who may come for a page, and gives the token of the claim; the same gets the same.
    pub(crate) async fn keep_claim(
        &self,
        page: &Page,
        page_token: Secret<String>,
        client: IpAddr,
        direct: Direct,
    ) -> Result<Secret<String>, PageError> {
        let how: &[u8] = match direct {
            Direct::Url => b"claim url",
            Direct::Page => b"claim page",
        };
        let parts = [how, page.vendor.as_str().as_bytes(), page.transaction_id.as_str().as_bytes()];
        let token = keyed(self.key.expose(), &parts);
        let claim = Claim { client: client.to_canonical(), direct, page_token: page_token.expose().clone() };
        self.seal(token, &claim, page.expires_at).await
    }

    /// Seals `value` under a key of `token`'s, if nothing is there yet.
    async fn seal(
        &self,
        token: [u8; 32],
        value: &impl Serialize,
        expires_at: Timestamp,
    ) -> Result<Secret<String>, PageError> {
        let name = sha256(&[&token]);
        if self.store.get(TABLE, &name)?.is_none() {
            let plain = Secret::new(serde_json::to_vec(value).map_err(|_| PageError::Seal)?);
            let mut nonce = [0; aead::NONCE_LENGTH];
            System.fill(&mut nonce);
            let sealed = aead::seal(&sealing_key(&token), nonce, &name, plain.expose()).map_err(|_| PageError::Seal)?;
            self.put(name, expires_at, &sealed).await?;
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
        self.unseal(token, now)
    }

    /// What `client` gets for a claim; `None` for everybody else, and when the page cannot be used any more.
    pub(crate) fn claimed(&self, token: &str, client: IpAddr, now: Timestamp) -> Result<Option<Handed>, StoreError> {
        let claim = self.unseal::<Claim>(token, now)?;
        let page_token = claim.as_ref().map_or("", |claim| claim.page_token.as_str());
        let page = self.open(page_token, now)?;
        Ok(claim.filter(|claim| claim.client == client.to_canonical()).zip(page).map(|(claim, page)| {
            match claim.direct {
                Direct::Url => Handed::Url(Secret::new(claim.page_token)),
                Direct::Page => Handed::Page(Box::new(page)),
            }
        }))
    }

    /// Every token costs the same work, whether something is behind it, was once, or never: one look into the store and
    /// one seal.
    fn unseal<T: DeserializeOwned>(&self, token: &str, now: Timestamp) -> Result<Option<T>, StoreError> {
        let known = unbase64url(token).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let token = known.unwrap_or_default();
        let name = sha256(&[&token]);
        let row = self.store.get(TABLE, &name)?;
        let usable =
            row.as_deref().and_then(split).filter(|(expires_at, sealed)| now < *expires_at && !sealed.is_empty());
        let sealed = usable.map_or(&[0; DECOY][..], |(_, sealed)| sealed);
        let plain = aead::open(&sealing_key(&token), &name, sealed).ok().filter(|_| known.is_some());
        Ok(plain.and_then(|plain| serde_json::from_slice(&plain).ok()))
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

/// Signs pages: its public half is shown, so that a payer's program can be told.
pub(crate) fn signing_key(page_key: &Secret<Vec<u8>>) -> Result<SigningKey, KeyError> {
    SigningKey::from_seed(&keyed(page_key.expose(), &[b"sign pages"]))
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
    async fn a_claim_is_answered_to_its_client_alone_and_ends_with_its_page() {
        let folder = tempfile::tempdir().unwrap();
        let pages = open(&folder);
        let (now, client) = (Timestamp::from_secs(1), "198.51.100.70".parse().unwrap());
        let token = pages.keep(&page()).await.unwrap();
        let url = pages.keep_claim(&page(), token.clone(), client, Direct::Url).await.unwrap();
        let whole = pages.keep_claim(&page(), token.clone(), client, Direct::Page).await.unwrap();
        assert_eq!(pages.keep_claim(&page(), token.clone(), client, Direct::Url).await.unwrap(), url);
        let mapped = "::ffff:198.51.100.70".parse().unwrap();
        for from in [client, mapped] {
            let handed = pages.claimed(url.expose(), from, now).unwrap();
            assert!(matches!(handed, Some(Handed::Url(found)) if found == token));
            let handed = pages.claimed(whole.expose(), from, now).unwrap();
            assert!(matches!(handed, Some(Handed::Page(found)) if found.password == page().password));
        }
        let other = "198.51.100.71".parse().unwrap();
        assert!(pages.claimed(url.expose(), other, now).unwrap().is_none());
        // A claim is no page, and a page no claim.
        assert!(pages.open(url.expose(), now).unwrap().is_none());
        assert!(pages.claimed(token.expose(), client, now).unwrap().is_none());
        pages.spend(&page().vendor, &page().transaction_id).await.unwrap();
        assert!(pages.claimed(url.expose(), client, now).unwrap().is_none());
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
