//! A file that grows, and is replaced.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What makes a file the same file under any name, as long as it is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// Which file is at `path`.
pub(super) fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(Identity { device: metadata.dev(), inode: metadata.ino() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that is read as it grows.
#[derive(Debug)]
pub(super) struct Growing {
    file: File,
    at: u64,
    pub(super) identity: Identity,
}

impl Growing {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, at: 0, identity: Identity { device: metadata.dev(), inode: metadata.ino() } })
    }

    /// The next octets, if there are any yet. A file that has become shorter was written over.
    pub(super) fn next<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        if self.file.metadata()?.len() < self.at {
            return Err(io::Error::other("it has become shorter"));
        }
        let length = self.file.read(buffer)?;
        self.at += length as u64;
        Ok(buffer.get(..length).unwrap_or_default())
    }
}
