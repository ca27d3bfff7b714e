//! Reading the logs again beside their writer, from a place on: how others follow what changes.

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::frame::{self, Frames};
use crate::StoreError;

/// Behind so many records of a log. As text `LOG-RECORDS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The log's number.
    pub log: u64,
    /// Records of it that are before.
    pub records: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.log, self.records)
    }
}

/// A text that is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a place in a journal: 3-120 would be one")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
            text.parse().ok().filter(|_| plain).ok_or(PlaceError)
        };
        let (log, records) = text.split_once('-').ok_or(PlaceError)?;
        Ok(Self { log: number(log)?, records: number(records)? })
    }
}

/// Reads records from a place on.
pub struct Reader {
    folder: PathBuf,
    /// Behind what was handed on.
    place: Place,
    frames: Frames,
    /// Records of the log that were read.
    read: u64,
    waiting: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("place", &self.place).finish_non_exhaustive()
    }
}

/// A record and the place behind it.
pub type Placed = (Place, Vec<u8>);

impl Reader {
    pub(super) fn open(folder: &Path, place: Place) -> Result<Option<Self>, StoreError> {
        let frames = open(folder, place.log)?;
        Ok(frames.map(|frames| Self { folder: folder.to_owned(), place, frames, read: 0, waiting: VecDeque::new() }))
    }

    /// Behind what was handed on.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The next records up to `end`, which are on disk, and no more than `limit`; none when what comes next is not there any
    /// more, because a snapshot has taken its place.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn read(&mut self, end: Place, limit: usize) -> Result<Option<Vec<Placed>>, StoreError> {
        let failed = |error: std::io::Error| StoreError::Read(format!("the journal: {error}"));
        let (mut found, mut fresh) = (Vec::new(), false);
        while found.len() < limit && self.place < end {
            if let Some(record) = self.waiting.pop_front() {
                self.place.records += 1;
                found.push((self.place, record));
                continue;
            }
            let (place, read, waiting) = (self.place, &mut self.read, &mut self.waiting);
            if let Some(group) = self.frames.next().map_err(failed)? {
                for record in frame::records(&group).map_err(StoreError::Read)? {
                    *read += 1;
                    if *read > place.records {
                        waiting.push_back(record.to_vec());
                    }
                }
                fresh = false;
            } else if !fresh {
                self.frames.refresh().map_err(failed)?;
                fresh = true;
            } else if self.read < self.place.records || self.place.log == end.log {
                // A place that this log never had.
                return Ok(None);
            } else {
                // The log is over: the writer begins another one behind its last record.
                let log = self.place.log + 1;
                match open(&self.folder, log)? {
                    Some(frames) => (self.frames, self.read, self.place) = (frames, 0, Place { log, records: 0 }),
                    None if found.is_empty() => return Ok(None),
                    None => return Ok(Some(found)),
                }
                fresh = false;
            }
        }
        Ok(Some(found))
    }
}

fn open(folder: &Path, log: u64) -> Result<Option<Frames>, StoreError> {
    let path = folder.join(format!("log-{log}"));
    match Frames::open(&path) {
        Ok(Some(frames)) => Ok(Some(frames)),
        Ok(None) => Err(StoreError::Read(format!("{}: not a journal of this version", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Read(format!("{}: {error}", path.display()))),
    }
}
