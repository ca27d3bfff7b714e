//! Files that others write: whether they have changed, and what is in them, unpacked.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BZIP2: [u8; 3] = *b"BZh";
/// What one read takes at most.
const READ: usize = 1 << 20;

/// A file that is looked at now and then.
#[derive(Debug, Clone)]
pub struct Watched {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

impl Watched {
    /// Not looked at yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Since when it is as it was seen last.
    #[must_use]
    pub fn written(&self) -> Option<SystemTime> {
        self.seen.map(|(written, _)| written)
    }

    /// Whether it is another than at the last look, or this is the first.
    ///
    /// # Errors
    /// When there is none.
    pub fn has_changed(&mut self) -> Result<bool> {
        let found = std::fs::metadata(&self.path)?;
        let now = Some((found.modified()?, found.len()));
        Ok(std::mem::replace(&mut self.seen, now) != now)
    }
}

/// Hands `take` all that is in `reader`, in pieces: as it stands, or out of gzip or bzip2, told apart by their first
/// octets.
///
/// # Errors
/// A text for people, and what `take` says is wrong.
pub fn unpack<E: std::fmt::Display>(
    reader: impl Read,
    mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), String> {
    let mut reader = BufReader::with_capacity(READ, reader);
    let start = reader.fill_buf().map_err(|error| error.to_string())?;
    let mut unpacked: Box<dyn Read + '_> = if start.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else if start.starts_with(&BZIP2) {
        Box::new(bzip2::bufread::MultiBzDecoder::new(reader))
    } else {
        Box::new(reader)
    };
    let mut buffer = vec![0; READ];
    loop {
        match unpacked.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(buffer.get(..count).unwrap_or_default()).map_err(|error| error.to_string())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot be unpacked: {error}")),
        }
    }
}

/// Writes a file whole or not at all: beside its place first, packed with gzip where its name ends in `.gz`.
///
/// # Errors
/// Of the file system; nothing is left behind then, and what was there before stays.
pub fn replace<T>(path: &Path, fill: impl FnOnce(&mut dyn std::io::Write) -> Result<T>) -> Result<T> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = fill_beside(path, &beside, fill).and_then(|done| std::fs::rename(&beside, path).map(|()| done));
    if written.is_err() {
        // What could not be made need not be there.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn fill_beside<T>(path: &Path, beside: &Path, fill: impl FnOnce(&mut dyn std::io::Write) -> Result<T>) -> Result<T> {
    let file = std::io::BufWriter::with_capacity(READ, std::fs::File::create(beside)?);
    let (done, file) = if path.extension().is_some_and(|end| end == "gz") {
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        (fill(&mut packer)?, packer.finish()?)
    } else {
        let mut file = file;
        (fill(&mut file)?, file)
    };
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write as _};

    fn unpacked(bytes: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
        let mut all = Vec::new();
        unpack(Cursor::new(bytes), |piece| {
            all.extend_from_slice(piece);
            Ok::<(), String>(())
        })?;
        Ok(all)
    }

    #[test]
    fn what_is_packed_comes_out_in_whole_or_is_refused() {
        let text = b"whose is this address?".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).unwrap();
        let bzip2 = bzip2.finish().unwrap();
        // Packed in parts, as some archives are.
        for packed in [gzip, bzip2] {
            assert_eq!(unpacked(packed.clone()), Ok(text.clone()));
            assert_eq!(unpacked([&packed[..], &packed].concat()), Ok([&text[..], &text].concat()));
            for cut in [5, packed.len() - 3] {
                assert!(unpacked(packed[..cut].to_vec()).is_err(), "cut off at {cut}");
            }
        }
        assert_eq!(unpacked(text.clone()), Ok(text));
        assert!(unpacked([&GZIP[..], b"and no more of it"].concat()).is_err());
        assert_eq!(unpack(Cursor::new(b"x"), |_| Err("not that")), Err("not that".to_owned()));
    }

    #[test]
    fn a_file_is_replaced_whole_and_its_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.gz");
        let mut watched = Watched::new(&path);
        assert!(watched.has_changed().is_err());
        replace(&path, |out| out.write_all(b"first")).unwrap();
        assert_eq!(unpacked(std::fs::read(&path).unwrap()), Ok(b"first".to_vec()));
        assert!(watched.has_changed().unwrap() && !watched.has_changed().unwrap());
        replace(&path, |out| out.write_all(b"the second is longer")).unwrap();
        assert!(watched.has_changed().unwrap());
        let failed = replace(&path, |out| {
            out.write_all(b"third")?;
            Err::<(), _>(Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().contains("no more"));
        assert_eq!(unpacked(std::fs::read(&path).unwrap()), Ok(b"the second is longer".to_vec()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        assert!(replace(&folder.path().join("none/x"), |out| out.write_all(b"x")).is_err());
    }
}
