//! The thread that writes: what waits together shares one sync.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use tokio::sync::{oneshot, watch};

use super::Place;
use super::frame::{self, MAGIC};
use super::{Records, sync_folder};
use crate::StoreError;

/// Octets in one sync, about: bounds how long the first of a group waits.
const GROUP: usize = 4 << 20;

pub(super) enum Job {
    Append(Records, oneshot::Sender<Result<(), StoreError>>),
    Rotate(oneshot::Sender<Result<u64, StoreError>>),
}

pub(super) struct Writer {
    folder: PathBuf,
    file: File,
    next: u64,
    length: Arc<AtomicU64>,
    end: watch::Sender<Place>,
    broken: Option<StoreError>,
}

impl Writer {
    /// Goes on with the log that `end` is in, whose next frame is `next`.
    pub(super) fn open(
        folder: &Path,
        next: u64,
        length: Arc<AtomicU64>,
        end: watch::Sender<Place>,
    ) -> std::io::Result<Self> {
        let number = end.borrow().log;
        let mut file = File::options().append(true).create(true).open(folder.join(format!("log-{number}")))?;
        // A crash may have left a part of its first line.
        if file.metadata()?.len() < MAGIC.len() as u64 {
            file.set_len(0)?;
            file.write_all(MAGIC)?;
        }
        file.sync_all()?;
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), file, next, length, end, broken: None })
    }

    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        // The frame's head goes in front when all is there.
        let (mut group, mut waiting, mut count) = (vec![0; frame::HEAD], Vec::new(), 0);
        let mut kept = None;
        while let Some(job) = kept.take().or_else(|| queue.recv().ok()) {
            match job {
                Job::Append(records, done) => {
                    let mut add = |records: Records, done| {
                        count += records.count();
                        group.extend_from_slice(records.octets());
                        waiting.push(done);
                        group.len() < GROUP
                    };
                    let mut room = add(records, done);
                    while room && let Ok(job) = queue.try_recv() {
                        match job {
                            Job::Append(records, done) => room = add(records, done),
                            rotate @ Job::Rotate(_) => {
                                kept = Some(rotate);
                                break;
                            }
                        }
                    }
                    let result = self.attempt(|writer| writer.write(&mut group, std::mem::take(&mut count)));
                    waiting.drain(..).for_each(|done| drop(done.send(result.clone())));
                    group.truncate(frame::HEAD);
                }
                Job::Rotate(done) => {
                    let result = self.attempt(Self::rotate);
                    let _ = done.send(result.map(|()| self.end.borrow().log));
                }
            }
        }
    }

    /// An error of the disk is final.
    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> std::io::Result<()>) -> Result<(), StoreError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        work(self).map_err(|error| {
            tracing::error!(%error, "journal failed");
            let error = StoreError::Write(error.to_string());
            self.broken = Some(error.clone());
            error
        })
    }

    fn write(&mut self, framed: &mut [u8], records: u64) -> std::io::Result<()> {
        let Some((head, group)) = framed.split_first_chunk_mut::<{ frame::HEAD }>() else { return Ok(()) };
        if group.is_empty() {
            return Ok(());
        }
        if group.len() > frame::LONGEST {
            return Err(std::io::Error::other("more records at once than can be read back"));
        }
        *head = frame::head(self.next, group);
        self.file.write_all(framed)?;
        self.file.sync_data()?;
        self.next += 1;
        self.length.fetch_add(framed.len() as u64, Ordering::Relaxed);
        self.end.send_modify(|end| end.records += records);
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let number = self.end.borrow().log + 1;
        let mut file = File::options().append(true).create_new(true).open(self.folder.join(format!("log-{number}")))?;
        file.write_all(MAGIC)?;
        file.sync_all()?;
        sync_folder(&self.folder)?;
        self.length.fetch_add(MAGIC.len() as u64, Ordering::Relaxed);
        (self.file, self.next) = (file, 1);
        self.end.send_replace(Place { log: number, records: 0 });
        Ok(())
    }
}
