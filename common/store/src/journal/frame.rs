//! Frames: groups of records with a length, a number and a checksum.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

pub(super) const MAGIC: &[u8] = b"cloakway journal 1\n";
/// Length, number, checksum.
pub(super) const HEAD: usize = 4 + 8 + 4;
/// The longest group that is read.
pub(super) const LONGEST: usize = 64 << 20;

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Behind its last frame.
    Whole,
    /// In the midst of a frame, which begins here; nothing good follows.
    Torn(u64),
    /// A frame that begins here is broken, and a good one follows.
    Damaged(u64),
}

fn checksum(number: u64, group: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(&(group.len() as u64).to_le_bytes());
    sum.update(group);
    sum.finalize()
}

pub(super) fn head(number: u64, group: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let length = u32::try_from(group.len()).unwrap_or(u32::MAX);
    let parts = length.to_le_bytes().into_iter().chain(number.to_le_bytes());
    let parts = parts.chain(checksum(number, group).to_le_bytes());
    head.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    head
}

fn read_head(head: &[u8]) -> Option<(usize, u64, u32)> {
    let (length, rest) = head.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let sum = rest.first_chunk::<4>()?;
    Some((u32::from_le_bytes(*length) as usize, u64::from_le_bytes(*number), u32::from_le_bytes(*sum)))
}

pub(super) fn put_record(group: &mut Vec<u8>, record: &[u8]) {
    put_record_with(group, |group| group.extend_from_slice(record));
}

/// Adds the record that `write` puts behind the group.
pub(super) fn put_record_with(group: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = group.len();
    group.extend_from_slice(&[0; 4]);
    write(group);
    let length = u32::try_from(group.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(place) = group.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// How many records a group has.
pub(super) fn count(mut group: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((length, rest)) = group.split_first_chunk::<4>() {
        count += 1;
        group = rest.get(u32::from_le_bytes(*length) as usize..).unwrap_or_default();
    }
    count
}

/// The records of a group.
pub(super) fn records(mut group: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut records = Vec::new();
    while let Some((length, rest)) = group.split_first_chunk::<4>() {
        let Some((record, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return Err("a record is longer than its group".to_owned());
        };
        records.push(record);
        group = rest;
    }
    if group.is_empty() { Ok(records) } else { Err("a group ends within a record".to_owned()) }
}

/// The frames of a file, up to the first that is broken.
pub(super) struct Frames {
    file: BufReader<File>,
    length: u64,
    at: u64,
    count: u64,
}

impl Frames {
    /// `None`: the file is none of ours. An empty file, or a part of its first line, is one that a crash left.
    pub(super) fn open(path: &Path) -> std::io::Result<Option<Self>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut magic = Vec::new();
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if !MAGIC.starts_with(&magic) {
            return Ok(None);
        }
        Ok(Some(Self { file, length, at: magic.len() as u64, count: 0 }))
    }

    /// The next group.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut head = [0; HEAD];
        let left = self.length.saturating_sub(self.at);
        if left < HEAD as u64 {
            return Ok(None);
        }
        self.file.read_exact(&mut head)?;
        let Some((length, number, sum)) = read_head(&head) else { return Ok(None) };
        if number != self.count + 1 || length > LONGEST || (HEAD + length) as u64 > left {
            return Ok(None);
        }
        let mut group = vec![0; length];
        self.file.read_exact(&mut group)?;
        if checksum(number, &group) != sum {
            return Ok(None);
        }
        self.count = number;
        self.at += (HEAD + length) as u64;
        Ok(Some(group))
    }

    /// Goes on behind the last good frame: the writer may have added some since the end was met.
    pub(super) fn refresh(&mut self) -> std::io::Result<()> {
        self.length = self.file.get_ref().metadata()?.len();
        self.file.seek(SeekFrom::Start(self.at)).map(|_| ())
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What stands behind the last good frame.
    pub(super) fn tail(&mut self) -> std::io::Result<Tail> {
        if self.at == self.length && self.at >= MAGIC.len() as u64 {
            return Ok(Tail::Whole);
        }
        let mut rest = Vec::new();
        self.file.seek(SeekFrom::Start(self.at))?;
        self.file.read_to_end(&mut rest)?;
        let good = |from: usize| {
            let (head, behind) = rest.get(from..)?.split_at_checked(HEAD)?;
            let (length, number, sum) = read_head(head)?;
            let group = behind.get(..length)?;
            // Numbers that are far off are no frame's: they are not worth a checksum.
            let near = number.wrapping_sub(self.count) <= 1 << 32 && number > self.count;
            (near && checksum(number, group) == sum).then_some(())
        };
        let damaged = (1..rest.len()).any(|from| good(from).is_some());
        Ok(if damaged { Tail::Damaged(self.at) } else { Tail::Torn(self.at) })
    }
}
