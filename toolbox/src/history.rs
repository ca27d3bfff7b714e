//! Who was where: closed intervals on disk, found by address and time, forgotten after a while.

pub mod settings;
pub(crate) mod spool;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_core::{DecodeError, Interval, Past, place};

const INTERVALS: &str = "history";
/// The keys of intervals by their end, for the purge.
const ENDS: &str = "history-ends";
/// Which lengths of prefixes there are: only these are looked for.
const LENGTHS: &str = "history-lengths";
/// What is deleted or read at once.
const CHUNK: usize = 4096;

/// Why the past cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it cannot be read.
    #[error("the history does not read back: {0}")]
    Decode(#[from] DecodeError),
}

/// The history in its store. Clones share it.
#[derive(Debug, Clone)]
pub struct History {
    store: Store,
    retention: Duration,
    lengths: Arc<RwLock<Lengths>>,
    /// Whether some of it is elsewhere still.
    partial: Arc<AtomicBool>,
}

/// Family and length of prefixes that there are.
#[derive(Debug, Default)]
struct Lengths {
    all: BTreeSet<(u8, u8)>,
    /// Whether those of the store are among them.
    whole: bool,
}

impl History {
    /// The history that `store` holds, of which `retention` is kept.
    ///
    /// # Errors
    /// [`HistoryError`]; a server that is away is none.
    pub fn open(store: Store, retention: Duration) -> Result<Self, HistoryError> {
        let history = Self { store, retention, lengths: Arc::default(), partial: Arc::default() };
        match history.load() {
            Err(_) if history.store.is_away() => Ok(history),
            loaded => loaded.map(|()| history),
        }
    }

    fn lengths(&self) -> RwLockWriteGuard<'_, Lengths> {
        self.lengths.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns which lengths there are, if that is not known yet.
    fn load(&self) -> Result<(), HistoryError> {
        if self.lengths.read().unwrap_or_else(PoisonError::into_inner).whole {
            return Ok(());
        }
        let stored = self.store.scan(LENGTHS)?;
        let mut lengths = self.lengths();
        lengths.all.extend(stored.into_iter().filter_map(|(key, _)| match *key {
            [family, length] => Some((family, length)),
            _ => None,
        }));
        lengths.whole = true;
        Ok(())
    }

    /// Says whether some of it is elsewhere still: then nothing of the past is answered.
    pub fn set_partial(&self, partial: bool) {
        self.partial.store(partial, Ordering::Relaxed);
    }

    /// Takes all over that `old` holds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn take_over(&self, old: &Store) -> Result<usize, StoreError> {
        let (mut taken, mut from) = (0, Vec::new());
        while let Some((batch, last, count)) = self.some_of(old, &from)? {
            self.store.commit_blocking(batch)?;
            (taken, from) = (taken + count, [last.as_slice(), &[0]].concat());
        }
        Ok(taken)
    }

    /// Takes some over that `old` holds, and takes it from there; how much that was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn move_some(&self, old: &Store) -> Result<usize, StoreError> {
        let Some((batch, _, count)) = self.some_of(old, &[])? else { return Ok(0) };
        let mut gone = Batch::new();
        for (key, _) in old.range(INTERVALS, &[], &[u8::MAX], CHUNK)? {
            let end = end_of(&key).unwrap_or_default();
            gone.delete(ENDS, [&end, key.as_slice()].concat()).delete(INTERVALS, key);
        }
        self.store.commit(batch).await?;
        old.commit(gone).await?;
        Ok(count)
    }

    /// What puts the next ones of `old` here, the last of their keys, and how many they are.
    fn some_of(&self, old: &Store, from: &[u8]) -> Result<Option<(Batch, Vec<u8>, usize)>, StoreError> {
        let some = old.range(INTERVALS, from, &[u8::MAX], CHUNK)?;
        let Some((last, _)) = some.last() else { return Ok(None) };
        let (last, count, mut batch) = (last.clone(), some.len(), Batch::new());
        for (key, value) in some {
            // Which lengths there are may be said in the old one alone.
            if let Some([family, length]) = key.first_chunk() {
                batch.put(LENGTHS, [*family, *length], []);
            }
            self.put(&mut batch, key, value);
        }
        Ok(Some((batch, last, count)))
    }

    /// Adds an interval, as [`Interval::key`] and [`Interval::encode`] give it, to what is to be committed.
    pub fn put(&self, batch: &mut Batch, key: Vec<u8>, value: Vec<u8>) {
        let (Some([family, length]), Some(end)) = (key.first_chunk(), end_of(&key)) else { return };
        let length = (*family, *length);
        let is_known = |lengths: &Lengths| lengths.whole && lengths.all.contains(&length);
        if !is_known(&self.lengths.read().unwrap_or_else(PoisonError::into_inner)) {
            self.lengths().all.insert(length);
            batch.put(LENGTHS, [length.0, length.1], []);
        }
        batch.put(ENDS, [&end, key.as_slice()].concat(), []);
        batch.put(INTERVALS, key, value);
    }

    /// Deletes what ended before the retention.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purge(&self, now: Timestamp) -> Result<usize, StoreError> {
        let horizon = (now - self.retention).as_millis().to_be_bytes();
        let mut deleted = 0;
        loop {
            let old = self.store.range(ENDS, &[], &horizon, CHUNK)?;
            let mut batch = Batch::new();
            for (end, _) in &old {
                batch.delete(INTERVALS, end.get(8..).unwrap_or_default()).delete(ENDS, end.as_slice());
            }
            if old.is_empty() {
                return Ok(deleted);
            }
            deleted += old.len();
            self.store.commit(batch).await?;
        }
    }

    /// As of now.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> AsOf<'_> {
        AsOf { history: self, horizon: now - self.retention }
    }

    fn places(&self, address: IpAddr) -> Vec<Vec<u8>> {
        let family = if address.is_ipv4() { 4 } else { 6 };
        let lengths = self.lengths.read().unwrap_or_else(PoisonError::into_inner);
        let nets = lengths
            .all
            .iter()
            .filter(|(of, _)| *of == family)
            .filter_map(|(_, length)| IpNet::new(address, *length).ok().map(|net| place(net.trunc())));
        nets.collect()
    }
}

/// Behind the place stands the end.
fn end_of(key: &[u8]) -> Option<[u8; 8]> {
    let at = match key.first()? {
        4 => 2 + 4,
        _ => 2 + 16,
    };
    key.get(at..at + 8)?.try_into().ok()
}

/// The history as a certain moment sees it.
#[derive(Debug, Clone, Copy)]
pub struct AsOf<'h> {
    history: &'h History,
    horizon: Timestamp,
}

impl Past for AsOf<'_> {
    type Error = HistoryError;

    fn intervals(&self, address: IpAddr, at: Timestamp) -> Result<Vec<Interval>, HistoryError> {
        if self.history.partial.load(Ordering::Relaxed) {
            return Err(StoreError::Read("what ended while it was away is not there yet".to_owned()).into());
        }
        self.history.load()?;
        let mut found = Vec::new();
        for place in self.history.places(address) {
            let mut from = [place.as_slice(), &at.as_millis().to_be_bytes()].concat();
            let to = [place.as_slice(), &[u8::MAX; 17]].concat();
            loop {
                let rows = self.history.store.range(INTERVALS, &from, &to, CHUNK)?;
                for (_, value) in &rows {
                    let interval = Interval::decode(value)?;
                    if interval.may_hold(at) {
                        found.push(interval);
                    }
                }
                match rows.last() {
                    Some((last, _)) if rows.len() == CHUNK => from = [last.as_slice(), &[0]].concat(),
                    _ => break,
                }
            }
        }
        Ok(found)
    }

    fn horizon(&self) -> Timestamp {
        self.horizon
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox_core::SessionKey;
    use toolbox_wire::http::Source;
    use toolbox_wire::record::{Nas, Ports, User};

    fn interval(net: &str, from_s: u64, to_s: u64) -> Interval {
        let at = Timestamp::from_secs;
        Interval {
            net: net.parse().unwrap(),
            ports: Ports::ALL,
            user: User::Named(format!("user{from_s}").parse().unwrap()),
            session: SessionKey {
                source: Source::Radius,
                client: "edge".into(),
                session: "s".into(),
                nas: Nas::default(),
            },
            begun: at(from_s),
            from: at(from_s),
            to: at(to_s),
            gone: at(to_s),
            doubtful: false,
        }
    }

    #[tokio::test]
    async fn intervals_are_found_by_address_and_time_and_purged_after_the_retention() {
        let folder = tempfile::tempdir().unwrap();
        let old = Store::open(&folder.path().join("store")).unwrap();
        found_and_purged(old.clone()).await;
        if let Some(server) = cloakway_testing::postgresql::Postgresql::start() {
            let (connection, schema) = (server.connection(), "toolbox".to_owned());
            let settings = cloakway_store::Postgresql { connection, password: None, schema, tls: None };
            let store = Store::open_postgresql(&settings).unwrap();
            found_and_purged(store.clone()).await;
            let history = History::open(store.clone(), Duration::from_secs(1000)).unwrap();
            let taken = tokio::task::spawn_blocking(move || history.take_over(&old)).await.unwrap().unwrap();
            assert_eq!((taken, store.scan(INTERVALS).unwrap().len()), (8, 8), "it had the same already");
        }
    }

    async fn found_and_purged(store: Store) {
        let history = History::open(store.clone(), Duration::from_secs(1000)).unwrap();
        let mut batch = Batch::new();
        let nets = ["198.51.100.70/32", "198.51.100.64/28", "198.51.100.71/32", "2001:db8::/56"];
        for net in nets {
            for from in [100, 200, 300] {
                let interval = interval(net, from, from + 100);
                // Told twice, kept once.
                history.put(&mut batch, interval.key(), interval.encode());
                history.put(&mut batch, interval.key(), interval.encode());
            }
        }
        store.commit(batch).await.unwrap();
        let history = History::open(store, Duration::from_secs(1000)).unwrap();
        let found = |address: &str, s: u64, now: u64| {
            let past = history.at(Timestamp::from_secs(now));
            let found = past.intervals(address.parse().unwrap(), Timestamp::from_secs(s)).unwrap();
            found.iter().map(|of| (of.net.to_string(), of.from.as_secs())).collect::<Vec<_>>()
        };
        let both = |from| vec![("198.51.100.64/28".to_owned(), from), ("198.51.100.70/32".to_owned(), from)];
        assert_eq!(found("198.51.100.70", 150, 500), both(100));
        assert_eq!(found("198.51.100.70", 399, 500), both(300));
        assert_eq!(found("198.51.100.70", 300, 500).len(), 4, "one ends where the next begins");
        assert_eq!(found("198.51.100.70", 99, 500), []);
        assert_eq!(found("198.51.100.70", 401, 500), []);
        assert_eq!(found("2001:db8:0:ff::1", 250, 500).len(), 1);
        assert_eq!(found("2001:db8:0:100::1", 250, 500), []);
        assert_eq!(history.purge(Timestamp::from_secs(1200)).await.unwrap(), 0);
        assert_eq!(history.purge(Timestamp::from_secs(1201)).await.unwrap(), 4, "what ended at 200");
        assert_eq!(found("198.51.100.70", 150, 500), []);
        assert_eq!(found("198.51.100.70", 250, 500), both(200));
        assert_eq!(history.at(Timestamp::from_secs(1201)).horizon(), Timestamp::from_secs(201));
    }
}
