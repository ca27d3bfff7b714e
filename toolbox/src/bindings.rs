//! The binding table with its disk: an event is acknowledged once its rows are in the journal.
//!
//! What came to an end goes into the history a moment later, in large batches; until it is there it is kept in memory, and
//! the log that has it is not given up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Journal, Records, Store, StoreError};
use cloakway_types::{SubscriberId, Timestamp};
use metrics::{counter, gauge};
use toolbox_core::{
    Answer, Applied, Binding, Cursor, DecodeError, Effect, Event, Glances, Interval, Live, Loading, Moment, Past,
    Question, RestoreError, Row, Rows, SessionKey, Settings, Sight, Table,
};
use toolbox_wire::http::Reason;

use crate::effects::{Alarm, Effects};
use crate::history::spool::Spool;
use crate::history::{self, History, HistoryError};

const PURGE_INTERVAL: Duration = Duration::from_secs(60);
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// How long the history may take for the last of it when the process stops.
const LAST_FLUSH: Duration = Duration::from_secs(5);
/// Intervals that go into the history at once.
const FLUSH: usize = 4096;
/// Rows that are written to a snapshot while the table waits.
const SNAPSHOT_ROWS: usize = 1024;
/// Octets of log below which no snapshot pays.
const SMALL_LOG: u64 = 64 << 20;
/// Threads that make the table anew at a start; more of them wait for memory.
const THREADS: usize = 8;
/// A log may be this part of its snapshot: reading both has to end soon after a crash.
const LOG_PART: u64 = 4;

/// Why the bindings cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindingsError {
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it cannot be read.
    #[error(transparent)]
    Rows(#[from] RestoreError),
    /// So with the history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The store of an earlier version cannot be put aside.
    #[error("{path}: {source}")]
    Old {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The table and its disk. Clones share them.
#[derive(Debug, Clone)]
pub struct Bindings {
    table: Arc<Mutex<Table>>,
    glances: Option<Glances>,
    settings: Settings,
    journal: Journal,
    store: Store,
    history: History,
    spool: Spool,
    ended: Ended,
    effects: Effects,
    /// Octets of the last snapshot.
    snapshot: Arc<AtomicU64>,
}

/// Intervals that are not in the history yet.
#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<BTreeMap<u64, Interval>>>);

impl Ended {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Interval>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, row: &Row) -> Result<(), DecodeError> {
        if let (Rows::History, Some(value)) = (row.table, &row.value) {
            self.put(Interval::decode(value)?);
        }
        Ok(())
    }

    fn put(&self, interval: Interval) {
        let mut all = self.all();
        let number = all.last_key_value().map_or(0, |(last, _)| last + 1);
        all.insert(number, interval);
    }
}

/// All that is known of the past.
struct Whole<'b> {
    bindings: &'b Bindings,
    now: Timestamp,
}

impl Past for Whole<'_> {
    type Error = HistoryError;

    fn intervals(&self, address: IpAddr, at: Timestamp) -> Result<Vec<Interval>, HistoryError> {
        self.intervals_of(address.into(), at)
    }

    fn intervals_of(&self, question: Question, at: Timestamp) -> Result<Vec<Interval>, HistoryError> {
        let address = question.address;
        // In the order in which an interval goes on: what moves meanwhile is seen twice, and never not at all.
        let mut intervals = self.bindings.table().intervals(question, self.now);
        let here = |interval: &&Interval| interval.net.contains(&address) && interval.may_hold(at);
        intervals.extend(self.bindings.ended.all().values().filter(here).cloned());
        intervals.extend(self.bindings.history.at(self.now).intervals(address, at)?);
        Ok(intervals)
    }

    fn horizon(&self) -> Timestamp {
        self.bindings.history.at(self.now).horizon()
    }
}

/// Where the store of an earlier version was, with rows of JSON.
const OLD: &str = "bindings.redb";

impl Bindings {
    /// Rebuilds the table from what is kept in the folder `data`; of history `retention` is kept.
    ///
    /// # Errors
    /// [`BindingsError`].
    pub fn open(data: &Path, settings: Settings, retention: Duration) -> Result<Self, BindingsError> {
        Self::open_with(data, settings, &history::settings::Settings::embedded(retention))
    }

    /// As [`Bindings::open`], with the history where it is configured to be. What a history in the folder has is taken over by
    /// another one.
    ///
    /// # Errors
    /// [`BindingsError`].
    pub fn open_with(
        data: &Path,
        settings: Settings,
        history: &history::settings::Settings,
    ) -> Result<Self, BindingsError> {
        let file = data.join("history.redb");
        let store = match &history.postgresql {
            None => Store::open_large(&file)?,
            Some(postgresql) => Store::open_postgresql(postgresql)?,
        };
        let spool = Spool::new(history.postgresql.is_some().then(|| file.clone()), history.waiting);
        let history = History::open(store.clone(), history.retention)?;
        spool.begin(&store, &history)?;
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS));
        let (loading, mut parts) = Loading::new(settings.clone(), threads);
        let journal = Journal::open_by_parts(&data.join("bindings"), &mut parts, |part, first, rows| {
            part.take(first, rows).map_err(|error| error.to_string())
        })?;
        let (mut table, intervals) = loading.finish(parts)?;
        let ended = Ended::default();
        intervals.into_iter().for_each(|interval| ended.put(interval));
        let old = data.join(OLD);
        if old.exists() {
            import(&old, &mut table, &journal)?;
        }
        let glances = table.glances();
        let table = Arc::new(Mutex::new(table));
        let snapshot = Arc::new(AtomicU64::new(0));
        let effects = Effects::default();
        Ok(Self { table, glances, settings, journal, store, history, spool, ended, effects, snapshot })
    }

    /// How long the network may hold a record.
    pub(crate) fn max_delay(&self) -> Duration {
        self.settings.max_delay
    }

    /// What was made durable, in order.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Looks at the table, which waits meanwhile.
    pub(crate) fn with_table<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event; the future ends when it, and all before it, are durable.
    ///
    /// An event that changes nothing waits too: what made it superfluous has to survive first.
    pub fn apply(&self, event: &Event) -> impl Future<Output = Result<Effect, StoreError>> + Send + use<> {
        // The rows are queued under the lock, so that the journal has the order of the table.
        let (applied, durable) = {
            let mut table = self.table();
            let applied = table.apply(event);
            let durable = self.keep(&mut applied.rows.iter());
            (applied, durable)
        };
        self.effects.count(&applied, event);
        let effect = applied.effect;
        async move { durable.await.map(|()| effect) }
    }

    /// Takes events in their order, as [`Bindings::apply`] does each; the future ends when all are durable.
    pub fn apply_all(&self, events: &[Event]) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (applied, durable) = {
            let mut table = self.table();
            let applied: Vec<Applied> = events.iter().map(|event| table.apply(event)).collect();
            let durable = self.keep(&mut applied.iter().flat_map(|applied| &applied.rows));
            (applied, durable)
        };
        self.effects.count_all(&applied, events);
        durable
    }

    /// Called with the table locked.
    fn keep(
        &self,
        rows: &mut dyn Iterator<Item = &Row>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let mut records = Records::default();
        for row in rows {
            // What the table has written reads back.
            if let Err(error) = self.ended.add(row) {
                tracing::error!(%error, "an interval of the history is lost");
            }
            records.push_with(|octets| row.encode_to(octets));
        }
        self.journal.append_all(records)
    }

    /// Is `subscriber` live there now?
    ///
    /// # Errors
    /// The [`Reason`] for a no.
    pub fn verify(&self, subscriber: &SubscriberId, question: impl Into<Question>) -> Result<Live, Reason> {
        let (question, now) = (question.into(), clock::wall());
        // A plain yes needs no lock; about everything else the table is asked.
        let seen = self.glances.as_ref().and_then(|glances| {
            glances.find(question, now, |sight| match sight {
                Sight::Bound(seen) if seen.is(subscriber.as_str()) => seen.live(),
                Sight::Bound(_) | Sight::Nobody | Sight::Ask => None,
            })
        });
        seen.map_or_else(|| self.table().verify(subscriber, question, now), Ok)
    }

    /// The session by which `subscriber` is there now.
    #[must_use]
    pub fn session(&self, subscriber: &SubscriberId, question: impl Into<Question>) -> Option<SessionKey> {
        match self.table().lookup(question, clock::wall()) {
            Answer::Bound { subscriber: bound, session, .. } if bound == *subscriber => Some(session),
            Answer::Bound { .. } | Answer::NotOurs | Answer::Unknown(_) => None,
        }
    }

    /// Was `subscriber` there at `at`?
    ///
    /// # Errors
    /// The history cannot be read; within it, the [`Reason`] for a no.
    pub fn verify_at(
        &self,
        subscriber: &SubscriberId,
        question: impl Into<Question>,
        at: Timestamp,
    ) -> Result<Result<Live, Reason>, HistoryError> {
        let now = clock::wall();
        let past = &Whole { bindings: self, now };
        Moment { settings: &self.settings, at, now, past }.verify(subscriber, question)
    }

    /// Who is there, or was at `at`?
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn lookup(&self, question: Question, at: Option<Timestamp>) -> Result<Answer, HistoryError> {
        let now = clock::wall();
        let past = &Whole { bindings: self, now };
        match at {
            None => Ok(self.table().lookup(question, now)),
            Some(at) => Moment { settings: &self.settings, at, now, past }.lookup(question),
        }
    }

    /// Who claims an address, for the operator.
    #[must_use]
    pub fn claims(&self, question: Question) -> Vec<Binding> {
        self.table().claims(question, clock::wall())
    }

    /// All bindings, for the operator.
    #[must_use]
    pub fn list(&self) -> Vec<Binding> {
        self.table().bindings(clock::wall()).collect()
    }

    /// What made or may make somebody unknown, for the operator.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        self.effects.alarms()
    }

    /// How many sessions are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.table().open_sessions()
    }

    /// Keeps house until the stop: intervals go into the history, what is long over is forgotten, logs become snapshots.
    ///
    /// # Errors
    /// [`StoreError`]: nothing more can be made durable.
    pub async fn keep_house(&self, stop: &Stop) -> Result<(), StoreError> {
        tokio::select! {
            // What is not in the history by then is in the journal.
            () = stop.told() => tokio::time::timeout(LAST_FLUSH, self.flush(false)).await.unwrap_or(Ok(())),
            kept = self.keep_on() => kept,
        }
    }

    async fn keep_on(&self) -> Result<(), StoreError> {
        let mut purged = clock::now();
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush(false).await?;
            self.spool.empty(&self.store, &self.history).await?;
            if clock::now().since(purged) >= PURGE_INTERVAL {
                purged = clock::now();
                self.purge().await?;
            }
            if self.journal.logged() > SMALL_LOG.max(self.snapshot.load(Ordering::Relaxed) / LOG_PART) {
                self.write_snapshot().await?;
            }
        }
    }

    async fn purge(&self) -> Result<(), StoreError> {
        let mut cursor = Cursor::default();
        loop {
            let durable = {
                let mut table = self.table();
                gauge!("toolbox_open_sessions").set(table.open_sessions() as f64);
                let Some(rows) = table.forget_some(clock::wall(), &mut cursor, SNAPSHOT_ROWS) else { break };
                self.keep(&mut rows.iter())
            };
            durable.await?;
        }
        let deleted = match self.history.purge(clock::wall()).await {
            Err(error) if self.spool.is_used() => {
                tracing::warn!(%error, "what is too old stays until the server of the history is back");
                return Ok(());
            }
            deleted => deleted?,
        };
        counter!("toolbox_history_purged_total").increment(deleted as u64);
        Ok(())
    }

    /// Puts what came to an end so far into the history; what its server cannot take waits in memory, if it is little and need not
    /// be `all`, else in the spool.
    async fn flush(&self, all: bool) -> Result<(), StoreError> {
        loop {
            let some: Vec<(u64, Vec<u8>, Vec<u8>)> = {
                let all = self.ended.all();
                gauge!("toolbox_history_waiting").set(all.len() as f64);
                all.iter().take(FLUSH).map(|(number, of)| (*number, of.key(), of.encode())).collect()
            };
            let at_once = all || self.spool.wants(self.ended.all().len());
            if some.is_empty() || (self.store.is_away() && !at_once) {
                return Ok(());
            }
            // Not before the event is durable that ended it.
            self.journal.append(Vec::new()).await?;
            let mut batch = Batch::new();
            let mut numbers = Vec::with_capacity(some.len());
            for (number, key, value) in some {
                self.history.put(&mut batch, key, value);
                numbers.push(number);
            }
            counter!("toolbox_history_intervals_total").increment(numbers.len() as u64);
            if !self.spool.keep(&self.store, &self.history, batch, at_once).await? {
                return Ok(());
            }
            let mut ended = self.ended.all();
            numbers.iter().for_each(|number| drop(ended.remove(number)));
        }
    }

    /// Puts a snapshot of the table in the place of the log, while changes go on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write_snapshot(&self) -> Result<(), StoreError> {
        let mut snapshot = self.journal.rotate().await?;
        let (mut cursor, mut octets) = (Cursor::default(), 0);
        loop {
            let rows = self.table().list(&mut cursor, SNAPSHOT_ROWS);
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let row = row.encode();
                octets += row.len() as u64;
                snapshot.push(&row)?;
            }
            tokio::task::yield_now().await;
        }
        // The log that is given up has intervals which may be nowhere else.
        self.flush(true).await?;
        snapshot.finish().await?;
        self.snapshot.store(octets, Ordering::Relaxed);
        tracing::info!(octets, "a snapshot of the bindings took the place of the log");
        Ok(())
    }
}

/// Takes the rows of a store of an earlier version over, and puts it aside. Nothing else happens before: after a crash
/// in the midst of it all of them are taken over again.
fn import(old: &Path, table: &mut Table, journal: &Journal) -> Result<(), BindingsError> {
    let store = Store::open(old)?;
    for (name, which) in [("sessions", Rows::Sessions), ("resets", Rows::Resets)] {
        for (key, value) in store.scan(name)? {
            table.replay(which, &key, Some(&value))?;
        }
    }
    let (mut cursor, mut taken) = (Cursor::default(), 0);
    loop {
        let rows = table.list(&mut cursor, SNAPSHOT_ROWS);
        if rows.is_empty() {
            break;
        }
        taken += rows.len();
        journal.append_blocking(rows.iter().map(Row::encode).collect())?;
    }
    tracing::info!(rows = taken, from = %old.display(), "bindings of an earlier version are taken over");
    put_aside(old)
}

pub(crate) fn put_aside(old: &Path) -> Result<(), BindingsError> {
    let aside = old.with_extension("redb.old");
    std::fs::rename(old, &aside).map_err(|source| BindingsError::Old { path: old.display().to_string(), source })
}
