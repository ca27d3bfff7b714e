//! Where the past waits for a server that is away: a file in the data folder, which is moved to the server when it is back.
//!
//! While anything is in the file nothing of the past is answered: what is missing might be what is asked about.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloakway_store::{Batch, Store, StoreError};

use super::History;
use crate::bindings::{BindingsError, put_aside};

/// How long a server may take for a batch before what is in it waits in the file as well.
const SLOW: Duration = Duration::from_secs(10);
/// How often it is looked whether the server is there.
const LOOK: Duration = Duration::from_millis(100);

/// The file, if the history is at a server.
#[derive(Debug, Clone)]
pub(crate) struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    /// Intervals that wait in memory.
    waiting: usize,
    store: Mutex<Option<Store>>,
}

impl Spool {
    /// One in `file`, or none; `waiting` intervals wait in memory.
    pub(crate) fn new(file: Option<PathBuf>, waiting: usize) -> Self {
        Self(Arc::new(Inner { file, waiting, store: Mutex::default() }))
    }

    /// Whether the history is at a server.
    pub(crate) fn is_used(&self) -> bool {
        self.0.file.is_some()
    }

    /// Whether so many are too many for memory.
    pub(crate) fn wants(&self, waiting: usize) -> bool {
        waiting > self.0.waiting
    }

    /// Takes over what is in the file from before, now or when the server is there.
    pub(crate) fn begin(&self, store: &Store, history: &History) -> Result<(), BindingsError> {
        let Some(file) = self.0.file.as_ref().filter(|file| file.exists()) else { return Ok(()) };
        let old = Store::open_large(file)?;
        if store.is_away() {
            history.set_partial(true);
            self.set(Some(old));
            return Ok(());
        }
        let intervals = history.take_over(&old)?;
        drop(old);
        tracing::info!(intervals, from = %file.display(), "the history in the folder is taken over");
        put_aside(file)
    }

    /// Makes `batch` durable: at the server, or in the file if that is away; whether it is. When it must be, `at_once`, or there
    /// are too many, it does not wait for the server.
    pub(crate) async fn keep(
        &self,
        store: &Store,
        history: &History,
        batch: Batch,
        at_once: bool,
    ) -> Result<bool, StoreError> {
        if !self.is_used() {
            return store.commit(batch).await.map(|()| true);
        }
        if !store.is_away() {
            let away = async {
                while !store.is_away() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            // It may be carried out nevertheless: again it changes nothing.
            tokio::select! {
                done = store.commit(batch.clone()) => return done.map(|()| true),
                () = away => {}
                () = tokio::time::sleep(SLOW) => {}
            }
            if !at_once {
                return Ok(false);
            }
        }
        let spool = self.open()?;
        history.set_partial(true);
        spool.commit(batch).await.map(|()| true)
    }

    /// Moves what is in the file to the server, if it is there.
    pub(crate) async fn empty(&self, store: &Store, history: &History) -> Result<(), StoreError> {
        let Some(spool) = self.get() else { return Ok(()) };
        let mut moved = 0;
        while !store.is_away() {
            let some = tokio::select! {
                some = history.move_some(&spool) => some?,
                () = tokio::time::sleep(SLOW) => return Ok(()),
            };
            moved += some;
            if some == 0 {
                self.set(None);
                drop(spool);
                if let Some(file) = &self.0.file {
                    std::fs::remove_file(file).map_err(|error| StoreError::Write(error.to_string()))?;
                }
                history.set_partial(false);
                tracing::info!(intervals = moved, "what waited for the server of the history is there");
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<Store, StoreError> {
        if let Some(spool) = self.get() {
            return Ok(spool);
        }
        let file = self.0.file.as_ref().ok_or_else(|| StoreError::Write("there is no spool".to_owned()))?;
        // One that a crash left half made is no file of ours.
        let new = file.with_extension("redb.new");
        let io = |error: std::io::Error| StoreError::Write(format!("{}: {error}", new.display()));
        if new.exists() {
            std::fs::remove_file(&new).map_err(io)?;
        }
        drop(Store::open_large(&new)?);
        std::fs::rename(&new, file).map_err(io)?;
        let spool = Store::open_large(file)?;
        self.set(Some(spool.clone()));
        Ok(spool)
    }

    fn get(&self) -> Option<Store> {
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, store: Option<Store>) {
        *self.0.store.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }
}
