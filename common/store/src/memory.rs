//! Tables in memory with a journal beside them: for state that a role reads whole at its start and changes all the time.
//! A commit costs one append, and many commits one sync.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::{Batch, Change, Journal, Row, Snapshot, StoreError};

/// Batches in one append at most; bounds how long the first of them waits.
const GROUP_LIMIT: usize = 1024;
/// Octets that the log has at least before a snapshot takes its place.
const LOG: u64 = 64 << 20;
/// Rows that a snapshot takes at a time; changes wait for no more.
const ROWS: usize = 256;

const PUT: u8 = 1;
const DELETE: u8 = 2;

type Table = BTreeMap<Vec<u8>, Vec<u8>>;
type Job = (Batch, oneshot::Sender<Result<(), StoreError>>);

#[derive(Debug, Default)]
struct Tables(BTreeMap<String, Table>);

#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Tables>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    tables: Shared,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let tables = Shared::default();
        let journal = Journal::open(folder, |record| tables.lock().replay(record))?;
        let failed =
            |error: std::io::Error| StoreError::Open { path: folder.display().to_string(), reason: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
        let (jobs, queue) = channel();
        let writer = Writer { journal, tables: tables.clone(), runtime, compaction: None, compact_at: LOG };
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.write_until_closed(&queue))
            .map_err(failed)?;
        Ok(Self { tables, jobs: Some(jobs), writer: Some(writer) })
    }

    pub(crate) fn enqueue(&self, batch: Batch, done: oneshot::Sender<Result<(), StoreError>>) {
        // A closed queue drops `done`, and the waiting side reads that as a failed commit.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((batch, done));
        }
    }

    pub(crate) fn get(&self, table: &str, key: &[u8]) -> Option<Vec<u8>> {
        self.tables.lock().0.get(table)?.get(key).cloned()
    }

    /// At most `limit` rows, all of them or those from one key to before another.
    pub(crate) fn range(&self, table: &str, between: Option<(&[u8], &[u8])>, limit: usize) -> Vec<Row> {
        let tables = self.tables.lock();
        let Some(table) = tables.0.get(table) else { return Vec::new() };
        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        match between {
            Some((from, to)) => table.range(from.to_vec()..to.to_vec()).take(limit).map(row).collect(),
            None => table.iter().take(limit).map(row).collect(),
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

struct Writer {
    journal: Journal,
    tables: Shared,
    runtime: tokio::runtime::Runtime,
    compaction: Option<JoinHandle<Result<u64, StoreError>>>,
    /// As long as the log may get.
    compact_at: u64,
}

impl Writer {
    fn write_until_closed(mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let (mut batches, mut waiting) = (Vec::new(), Vec::new());
            for (batch, done) in std::iter::once(first).chain(queue.try_iter().take(GROUP_LIMIT - 1)) {
                batches.push(batch);
                waiting.push(done);
            }
            // The journal refuses everything after its first error.
            let written = self.journal.append_blocking(batches.iter().map(record).collect());
            if written.is_ok() {
                let mut tables = self.tables.lock();
                batches.into_iter().for_each(|batch| tables.apply(batch));
            }
            for done in waiting {
                let _ = done.send(written.clone());
            }
            self.compact();
        }
        if let Some(compaction) = self.compaction.take() {
            let _ = compaction.join();
        }
    }

    /// Begins a snapshot when the log is long. All that is in the log before it is in the tables by now.
    fn compact(&mut self) {
        if let Some(ended) = self.compaction.take_if(|compaction| compaction.is_finished()) {
            match ended.join().unwrap_or_else(|_| Err(StoreError::Write("the snapshot panicked".to_owned()))) {
                Ok(octets) => self.compact_at = LOG.max(2 * octets),
                Err(error) => {
                    tracing::error!(%error, "no snapshot: the log goes on");
                    self.compact_at = self.journal.logged() + LOG;
                }
            }
        }
        if self.compaction.is_some() || self.journal.logged() < self.compact_at {
            return;
        }
        let tables = self.tables.clone();
        match self.runtime.block_on(self.journal.rotate()) {
            Ok(snapshot) => self.compaction = Some(std::thread::spawn(move || write_snapshot(&tables, snapshot))),
            Err(error) => {
                tracing::error!(%error, "no new log: the log goes on");
                self.compact_at = self.journal.logged() + LOG;
            }
        }
    }
}

/// Gives how many octets it has.
fn write_snapshot(tables: &Shared, mut snapshot: Snapshot) -> Result<u64, StoreError> {
    let names: Vec<String> = tables.lock().0.keys().cloned().collect();
    let mut octets = 0;
    for name in names {
        let mut from = Vec::new();
        loop {
            let rows: Vec<Row> = {
                let tables = tables.lock();
                let Some(table) = tables.0.get(&name) else { break };
                table.range(from.clone()..).take(ROWS).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            let Some((last, _)) = rows.last() else { break };
            // The first key behind it.
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in rows {
                let record = record(Batch::new().put(&name, key, value));
                octets += record.len() as u64;
                snapshot.push(&record)?;
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| StoreError::Write(error.to_string()))?;
    runtime.block_on(snapshot.finish())?;
    Ok(octets)
}

/// All changes of a batch: what is done, then the lengths of table, key and value, four octets each, and they themselves.
fn record(batch: &Batch) -> Vec<u8> {
    let mut record = Vec::new();
    for (table, key, change) in &batch.0 {
        let (done, value): (_, &[u8]) = match change {
            Change::Put(value) => (PUT, value),
            Change::Delete => (DELETE, &[]),
        };
        record.push(done);
        for part in [table.as_bytes(), key, value] {
            record.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
        for part in [table.as_bytes(), key, value] {
            record.extend_from_slice(part);
        }
    }
    record
}

fn changes(mut record: &[u8]) -> Option<Batch> {
    let mut batch = Batch::new();
    while let Some((done, rest)) = record.split_first() {
        let (lengths, mut rest) = rest.split_first_chunk::<12>()?;
        let mut part = |at: usize| {
            let length = u32::from_be_bytes(*lengths.get(at..)?.first_chunk()?);
            let (part, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = behind;
            Some(part)
        };
        let (table, key, value) = (part(0)?, part(4)?, part(8)?);
        let table = std::str::from_utf8(table).ok()?;
        match *done {
            PUT => batch.put(table, key, value),
            DELETE => batch.delete(table, key),
            _ => return None,
        };
        record = rest;
    }
    Some(batch)
}

impl Tables {
    fn apply(&mut self, batch: Batch) {
        for (name, key, change) in batch.0 {
            let table = match self.0.get_mut(&name) {
                Some(table) => table,
                None => self.0.entry(name).or_default(),
            };
            match change {
                Change::Put(value) => drop(table.insert(key, value)),
                Change::Delete => drop(table.remove(&key)),
            }
        }
    }

    fn replay(&mut self, record: &[u8]) -> Result<(), String> {
        self.apply(changes(record).ok_or("a record is not understood")?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back_and_octets_never_panic(
            rows in proptest::collection::vec(("[a-z]{0,5}", any::<Vec<u8>>(), proptest::option::of(any::<Vec<u8>>())), 0..8),
            octets in any::<Vec<u8>>(),
        ) {
            let mut batch = Batch::new();
            for (table, key, value) in rows {
                match value {
                    Some(value) => batch.put(&table, key, value),
                    None => batch.delete(&table, key),
                };
            }
            let record = record(&batch);
            prop_assert_eq!(changes(&record), Some(batch));
            let _ = changes(&octets);
            for length in 0..record.len().min(40) {
                let _ = changes(&record[..length]);
            }
        }
    }

    #[test]
    fn a_long_log_is_replaced_while_changes_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let commit = |engine: &Engine, batch: &Batch| {
            let (done, wait) = oneshot::channel();
            engine.enqueue(batch.clone(), done);
            wait.blocking_recv().unwrap().unwrap();
        };
        let engine = Engine::open(folder.path()).unwrap();
        let logs = || {
            let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("snapshot-")).count()
        };
        let mut round = 0_u32;
        while logs() == 0 {
            round += 1;
            let mut batch = Batch::new();
            for row in 0..64_u32 {
                batch.put("t", row.to_be_bytes(), vec![round as u8; 20_000]);
            }
            batch.put("t", b"round", round.to_be_bytes()).delete("t", (row_of(round)).to_be_bytes());
            commit(&engine, &batch);
            assert!(round < 10_000, "no snapshot after {} MiB", (u64::from(round) * 64 * 20_000) >> 20);
        }
        let rows = engine.range("t", None, usize::MAX);
        assert_eq!(rows.len(), 64);
        drop(engine);
        let engine = Engine::open(folder.path()).unwrap();
        assert_eq!(engine.range("t", None, usize::MAX), rows);
        assert_eq!(engine.get("t", b"round"), Some(round.to_be_bytes().to_vec()));
        assert_eq!(engine.get("t", &row_of(round).to_be_bytes()), None);
    }

    fn row_of(round: u32) -> u32 {
        round % 64
    }
}
