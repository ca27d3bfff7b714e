//! Durable state behind one small interface: named tables of bytes, changed by atomic batches.
//!
//! A batch is on disk, synced, before [`Store::commit`] answers, so whatever a role acknowledges
//! after that survives `kill -9` and power loss. Batches that wait together share one sync (group
//! commit). There are three engines under the same tests: redb, a single file, copy-on-write B-trees, checksummed; for what
//! a role has in memory anyway and changes all the time, tables in memory with a [`Journal`] beside them, an append-only log
//! with the same promise and a snapshot now and then; and PostgreSQL (feature `postgresql`), for what outgrows one machine.
//!
//! An error of our own disk is final: every later commit fails too, and the role stops rather than
//! acknowledge what may not be stored.

mod engine;
mod journal;
mod memory;
#[cfg(feature = "postgresql")]
mod postgresql;

use std::path::Path;
use std::sync::Arc;

pub use journal::{Journal, Place, Placed, Reader, Records, Snapshot};
#[cfg(feature = "postgresql")]
pub use postgresql::{Postgresql, SettingsError, Tls};
use tokio::sync::oneshot;

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Put(Vec<u8>),
    Delete,
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch(Vec<(String, Vec<u8>, Change)>);

impl Batch {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` of `table` to `value`.
    pub fn put(&mut self, table: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push((table.to_owned(), key.into(), Change::Put(value.into())));
        self
    }

    /// Removes `key` of `table`, if it is there.
    pub fn delete(&mut self, table: &str, key: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push((table.to_owned(), key.into(), Change::Delete));
        self
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why the store cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened: missing folder, rights, another process holds it, or it is damaged.
    #[error("{path}: cannot open the store: {reason}")]
    Open {
        /// The file.
        path: String,
        /// What the engine says.
        reason: String,
    },
    /// A read failed.
    #[error("the store cannot be read: {0}")]
    Read(String),
    /// A commit failed; nothing of the batch is acknowledged, and later commits are refused.
    #[error("the store cannot be written, nothing more is accepted: {0}")]
    Write(String),
}

/// An open store. Clones share it; the file is closed with the last of them.
#[derive(Debug, Clone)]
pub struct Store(Arc<Engine>);

#[derive(Debug)]
enum Engine {
    Embedded(engine::Engine),
    Memory(memory::Engine),
    #[cfg(feature = "postgresql")]
    Postgresql(postgresql::Engine),
}

impl Store {
    /// Opens the store in `path`, made when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        engine::Engine::open(path, false).map(|engine| Self(Arc::new(Engine::Embedded(engine))))
    }

    /// [`Store::open`] of one that grows large and is written in large batches: a start after a crash reads only what it needs,
    /// and each commit costs a second sync. Otherwise a start after a crash reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn open_large(path: &Path) -> Result<Self, StoreError> {
        engine::Engine::open(path, true).map(|engine| Self(Arc::new(Engine::Embedded(engine))))
    }

    /// Opens the store in the folder `path`, made when it is not there: its tables are in memory, and every batch is appended
    /// to a journal. The fastest to commit to, for what fits in memory and is read whole at the start.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn open_journal(path: &Path) -> Result<Self, StoreError> {
        memory::Engine::open(path).map(|engine| Self(Arc::new(Engine::Memory(engine))))
    }

    /// Opens the store in a schema of a PostgreSQL server, made when it is not there. While the server cannot be reached, now or
    /// later, commits wait until it is back, and reads fail.
    ///
    /// # Errors
    /// [`StoreError::Open`]: it refuses us, is not who it should be, or another process has the schema open.
    #[cfg(feature = "postgresql")]
    pub fn open_postgresql(settings: &Postgresql) -> Result<Self, StoreError> {
        postgresql::Engine::open(settings).map(|engine| Self(Arc::new(Engine::Postgresql(engine))))
    }

    /// Whether this is a server that cannot be reached at the moment, so that commits wait.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match &*self.0 {
            Engine::Embedded(_) | Engine::Memory(_) => false,
            #[cfg(feature = "postgresql")]
            Engine::Postgresql(engine) => engine.is_away(),
        }
    }

    /// Makes `batch` durable and returns when it is.
    ///
    /// Batches are applied in the order of the calls, also when their futures are dropped: a commit
    /// that was started is carried out.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.enqueue(batch, done);
        async { wait.await.unwrap_or_else(|_| Err(StoreError::Write("the store was closed".to_owned()))) }
    }

    /// As [`Store::commit`], for who is no task.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_blocking(&self, batch: Batch) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        self.enqueue(batch, done);
        wait.blocking_recv().unwrap_or_else(|_| Err(StoreError::Write("the store was closed".to_owned())))
    }

    /// The value of `key` in `table`, as of the last commit.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match &*self.0 {
            Engine::Embedded(engine) => engine.get(table, key),
            Engine::Memory(engine) => Ok(engine.get(table, key)),
            #[cfg(feature = "postgresql")]
            Engine::Postgresql(engine) => engine.get(table, key),
        }
    }

    /// The first `limit` keys of `table` from `from` on and before `to`, with their values, by key, as of the last commit.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn range(&self, table: &str, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        if from >= to { Ok(Vec::new()) } else { self.read(table, Some((from, to)), limit) }
    }

    /// All keys and values of `table`, by key, as of the last commit.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn scan(&self, table: &str) -> Result<Vec<Row>, StoreError> {
        self.read(table, None, usize::MAX)
    }

    fn enqueue(&self, batch: Batch, done: oneshot::Sender<Result<(), StoreError>>) {
        match &*self.0 {
            Engine::Embedded(engine) => engine.enqueue(batch, done),
            Engine::Memory(engine) => engine.enqueue(batch, done),
            #[cfg(feature = "postgresql")]
            Engine::Postgresql(engine) => engine.enqueue(batch, done),
        }
    }

    fn read(&self, table: &str, between: Option<(&[u8], &[u8])>, limit: usize) -> Result<Vec<Row>, StoreError> {
        match &*self.0 {
            Engine::Embedded(engine) => engine.range(table, between, limit),
            Engine::Memory(engine) => Ok(engine.range(table, between, limit)),
            #[cfg(feature = "postgresql")]
            Engine::Postgresql(engine) => engine.range(table, between, limit),
        }
    }
}
