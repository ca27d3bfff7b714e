//! The embedded engine: redb, with one writer thread that gives all waiting batches one sync.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::oneshot;

use crate::{Batch, Change, Row, StoreError};

/// Batches in one sync at most; bounds how long the first of them waits.
const GROUP_LIMIT: usize = 1024;

type Job = (Batch, oneshot::Sender<Result<(), StoreError>>);

#[derive(Debug)]
pub(crate) struct Engine {
    database: std::sync::Arc<Database>,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

impl Engine {
    /// `large`: a start after a crash must not have to read all of it.
    pub(crate) fn open(path: &Path, large: bool) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open { path: path.display().to_string(), reason };
        let database = std::sync::Arc::new(Database::create(path).map_err(|e| failed(e.to_string()))?);
        let (jobs, queue) = channel();
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let database = database.clone();
                move || write_until_closed(&database, large, &queue)
            })
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self { database, jobs: Some(jobs), writer: Some(writer) })
    }

    pub(crate) fn enqueue(&self, batch: Batch, done: oneshot::Sender<Result<(), StoreError>>) {
        // A closed queue drops `done`, and the waiting side reads that as a failed commit.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((batch, done));
        }
    }

    pub(crate) fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(|e| StoreError::Read(e.to_string()))?;
        match read.open_table(table(name)) {
            Ok(table) => {
                let value = table.get(key).map_err(|e| StoreError::Read(e.to_string()))?;
                Ok(value.map(|value| value.value().to_vec()))
            }
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(StoreError::Read(error.to_string())),
        }
    }

    /// At most `limit` rows, all of them or those from one key to before another.
    pub(crate) fn range(
        &self,
        name: &str,
        between: Option<(&[u8], &[u8])>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let failed = |e: redb::StorageError| StoreError::Read(e.to_string());
        let read = self.database.begin_read().map_err(|e| StoreError::Read(e.to_string()))?;
        match read.open_table(table(name)) {
            Ok(table) => match between {
                Some((from, to)) => table.range(from..to),
                None => table.iter(),
            }
            .map_err(failed)?
            .take(limit)
            .map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).map_err(failed))
            .collect(),
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            Err(error) => Err(StoreError::Read(error.to_string())),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_until_closed(database: &Database, large: bool, queue: &Receiver<Job>) {
    let mut broken = None;
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        group.extend(queue.try_iter().take(GROUP_LIMIT - 1));
        let result = match &broken {
            Some(error) => Err(StoreError::clone(error)),
            None => write(database, large, &group).map_err(|error| StoreError::Write(error.to_string())),
        };
        if let Err(error) = &result
            && broken.is_none()
        {
            tracing::error!(%error, "store failed");
            broken = Some(error.clone());
        }
        for (_, done) in group {
            let _ = done.send(result.clone());
        }
    }
}

fn write(database: &Database, large: bool, group: &[Job]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(large);
    for (batch, _) in group {
        for (name, key, change) in &batch.0 {
            let mut table = transaction.open_table(table(name))?;
            match change {
                Change::Put(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                Change::Delete => drop(table.remove(key.as_slice())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}
