//! A journal beside a table in memory: records are appended, synced in groups, and replayed at the next start.
//!
//! The folder holds a snapshot `snapshot-N`, absent at first, and the logs `log-N`, `log-N+1`, …: the snapshot's records
//! and then those of the logs, in order, are the state. Each file is a line that names the format, and frames; a frame has
//! a length, a number one higher than that of the frame before it, and a checksum, and holds a group of records.
//!
//! **Durable.** A group is one frame, written and synced before any of its records is acknowledged, and before the next
//! group is begun. So a crash can leave only the last frame broken, and nobody was told that it was accepted: it is cut off.
//! A broken frame with a good one behind it is damage, and the journal is not opened: better to stop than to forget.
//!
//! **Compaction.** [`Journal::rotate`] begins a new log. A snapshot of the state is then written beside it, row by row
//! while changes go on: as each record says all that holds of its key, the log from there on sets right what a later or
//! an earlier row of the snapshot said. It counts once it is whole, synced and under its name; then what is older is deleted.

mod frame;
mod reader;
mod records;
mod replay;
mod writer;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use crate::StoreError;
use frame::{MAGIC, Tail};
pub use reader::{Place, Placed, Reader};
pub use records::Records;
use replay::Read;
use writer::{Job, Writer};

/// Octets of records in one frame of a snapshot.
const FRAME: usize = 256 * 1024;

/// An open journal; one process holds it. Clones share it.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    jobs: Mutex<Option<Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Octets in the logs that a new snapshot would make superfluous.
    length: Arc<AtomicU64>,
    /// Behind the last record that is on disk.
    end: watch::Receiver<Place>,
    /// Held for as long as the journal is open.
    _lock: File,
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

fn failed(path: &Path, reason: impl ToString) -> StoreError {
    StoreError::Open { path: path.display().to_string(), reason: reason.to_string() }
}

/// Syncs a folder, so that names made or removed in it are on disk.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn numbered(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

impl Journal {
    /// Opens the journal in `folder`, made when it is not there, and hands its records to `replay` in order.
    ///
    /// # Errors
    /// [`StoreError::Open`]: another process holds it, it cannot be read, it is damaged, or `replay` refuses a record.
    pub fn open(folder: &Path, mut replay: impl FnMut(&[u8]) -> Result<(), String>) -> Result<Self, StoreError> {
        Self::open_by(folder, &mut |path| replay::in_turn(path, &mut replay))
    }

    /// [`Journal::open`], by as many threads as there are `parts`: each is handed some groups of records, in their order, with the
    /// number that the first of a group has among all.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_by_parts<P: Send>(
        folder: &Path,
        parts: &mut [P],
        take: impl Fn(&mut P, u64, &[&[u8]]) -> Result<(), String> + Sync,
    ) -> Result<Self, StoreError> {
        let mut first = 0;
        Self::open_by(folder, &mut |path| {
            let read = replay::by_parts(path, parts, first, &take)?;
            first += read.records;
            Ok(read)
        })
    }

    fn open_by(folder: &Path, read: &mut dyn FnMut(&Path) -> Result<Read, StoreError>) -> Result<Self, StoreError> {
        let named = |error: std::io::Error| failed(folder, error);
        std::fs::create_dir_all(folder).map_err(named)?;
        let lock = File::create(folder.join("lock")).map_err(named)?;
        lock.try_lock().map_err(|_| failed(folder, "another process has this journal open"))?;
        let (mut snapshots, mut logs) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(folder).map_err(named)? {
            let name = entry.map_err(named)?.file_name().to_string_lossy().into_owned();
            snapshots.extend(numbered(&name, "snapshot-"));
            logs.extend(numbered(&name, "log-"));
        }
        let first = snapshots.iter().max().copied().unwrap_or(0);
        logs.retain(|number| *number >= first);
        logs.sort_unstable();
        // The log is there before its snapshot is: a gap means that somebody took a file away.
        let expected = (first..).take(logs.len());
        if !logs.iter().copied().eq(expected) || (logs.is_empty() && !snapshots.is_empty()) {
            return Err(failed(folder, format!("a log is missing: there are {logs:?}, from {first} on are expected")));
        }
        if !snapshots.is_empty() {
            let path = folder.join(format!("snapshot-{first}"));
            if !matches!(read(&path)?.tail, Tail::Whole) {
                return Err(failed(&path, "the snapshot is damaged"));
            }
        }
        let (mut length, mut next, mut records) = (0, 1, 0);
        for (index, number) in logs.iter().enumerate() {
            let path = folder.join(format!("log-{number}"));
            let read = read(&path)?;
            records = read.records;
            length += std::fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
            next = read.frames + 1;
            match read.tail {
                Tail::Whole => {}
                // A log that was rotated away is whole.
                Tail::Torn(good) if index + 1 == logs.len() => {
                    cut(&path, good).map_err(|error| failed(&path, error))?
                }
                Tail::Torn(at) | Tail::Damaged(at) => {
                    return Err(failed(&path, format!("the log is damaged at octet {at}")));
                }
            }
        }
        let number = logs.last().copied().unwrap_or(0);
        let length = Arc::new(AtomicU64::new(length));
        let (end, ends) = watch::channel(Place { log: number, records });
        let writer = Writer::open(folder, next, length.clone(), end).map_err(named)?;
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let writer = thread.spawn(move || writer.run(&queue)).map_err(named)?;
        let journal = Self(Arc::new(Shared {
            folder: folder.to_owned(),
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            length,
            end: ends,
            _lock: lock,
        }));
        journal.clear(first).map_err(named)?;
        Ok(journal)
    }

    fn job(&self, job: Job) {
        // A closed queue drops the job, and who waits for it reads that as a failure.
        if let Some(jobs) = &*self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.send(job);
        }
    }

    /// Appends `records` and returns when they are on disk, all of them or none.
    ///
    /// They are in the order of the calls, also when their futures are dropped. Without any, it is on disk then what was
    /// appended before.
    ///
    /// # Errors
    /// [`StoreError::Write`]; then nothing more can be appended.
    pub fn append(&self, records: Vec<Vec<u8>>) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.append_all(records.into())
    }

    /// [`Journal::append`] of records that are in one piece.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append_all(&self, records: Records) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.job(Job::Append(records, done));
        async { wait.await.unwrap_or_else(|_| Err(StoreError::Write("the journal was closed".to_owned()))) }
    }

    /// As [`Journal::append`], for who is no task.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append_blocking(&self, records: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        self.job(Job::Append(records.into(), done));
        wait.blocking_recv().unwrap_or_else(|_| Err(StoreError::Write("the journal was closed".to_owned())))
    }

    /// Octets that were logged since the last snapshot.
    #[must_use]
    pub fn logged(&self) -> u64 {
        self.0.length.load(Ordering::Relaxed)
    }

    /// Behind the last record that is on disk; who waits for a change of it hears of more.
    #[must_use]
    pub fn end(&self) -> watch::Receiver<Place> {
        self.0.end.clone()
    }

    /// Reads the log again from `place` on, beside the writer; none when it is not there any more, or never was.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn read_from(&self, place: Place) -> Result<Option<Reader>, StoreError> {
        if place > *self.0.end.borrow() { Ok(None) } else { Reader::open(&self.0.folder, place) }
    }

    /// Begins a new log, for a snapshot of what the logs before it say.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn rotate(&self) -> impl Future<Output = Result<Snapshot, StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.job(Job::Rotate(done));
        let journal = self.clone();
        async move {
            let number = wait.await.unwrap_or_else(|_| Err(StoreError::Write("the journal was closed".to_owned())))?;
            Snapshot::create(journal, number).map_err(|error| StoreError::Write(error.to_string()))
        }
    }

    /// Deletes what the snapshot `first` stands for, and what a crash left of an unfinished one.
    fn clear(&self, first: u64) -> std::io::Result<()> {
        let folder = &self.0.folder;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let old = |prefix| numbered(&name, prefix).is_some_and(|number| number < first);
            if old("snapshot-") || old("log-") || name == UNFINISHED {
                std::fs::remove_file(entry.path())?;
            }
        }
        sync_folder(folder)
    }
}

const UNFINISHED: &str = "snapshot.new";

/// A snapshot that is being written.
#[derive(Debug)]
pub struct Snapshot {
    journal: Journal,
    number: u64,
    file: File,
    group: Vec<u8>,
    frames: u64,
}

impl Snapshot {
    fn create(journal: Journal, number: u64) -> std::io::Result<Self> {
        let mut file = File::create(journal.0.folder.join(UNFINISHED))?;
        file.write_all(MAGIC)?;
        Ok(Self { journal, number, file, group: Vec::with_capacity(FRAME + 4096), frames: 0 })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`StoreError::Write`]; the journal goes on with the snapshot before.
    pub fn push(&mut self, record: &[u8]) -> Result<(), StoreError> {
        frame::put_record(&mut self.group, record);
        if self.group.len() >= FRAME { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.frames += 1;
        let head = frame::head(self.frames, &self.group);
        let written = self.file.write_all(&head).and_then(|()| self.file.write_all(&self.group));
        self.group.clear();
        written.map_err(|error| StoreError::Write(error.to_string()))
    }

    /// Puts the snapshot in the place of what is older, once all is on disk that was appended before this call.
    ///
    /// # Errors
    /// [`StoreError::Write`]; the journal goes on with the snapshot before.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        if !self.group.is_empty() {
            self.write()?;
        }
        // Without an end it would be whole wherever it breaks off.
        self.write()?;
        // A row may be younger than the log is on disk: no half of a change may be there after a crash.
        self.journal.append(Vec::new()).await?;
        let (journal, number) = (self.journal, self.number);
        let folder = journal.0.folder.clone();
        let place = move || {
            self.file.sync_all()?;
            std::fs::rename(folder.join(UNFINISHED), folder.join(format!("snapshot-{number}")))?;
            sync_folder(&folder)
        };
        let placed = tokio::task::spawn_blocking(place).await;
        let placed = placed.map_err(|error| error.to_string()).and_then(|placed| placed.map_err(|e| e.to_string()));
        placed.map_err(StoreError::Write)?;
        let logs = (number..).map(|number| journal.0.folder.join(format!("log-{number}")));
        let left: u64 = logs.map_while(|path| std::fs::metadata(path).ok()).map(|log| log.len()).sum();
        journal.0.length.store(left, Ordering::Relaxed);
        journal.clear(number).map_err(|error| StoreError::Write(error.to_string()))
    }
}

fn cut(path: &Path, length: u64) -> std::io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}
