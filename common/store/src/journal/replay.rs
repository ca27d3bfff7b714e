//! Handing on the records of a file at a start, while what follows is read and checked.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::failed;
use super::frame::{self, Frames, Tail};
use crate::StoreError;

/// Groups that are read and checked before they are taken.
const AHEAD: usize = 16;

/// A file that was read.
#[derive(Debug)]
pub(super) struct Read {
    /// How it ends.
    pub(super) tail: Tail,
    pub(super) frames: u64,
    pub(super) records: u64,
}

/// A group, and the number of its first record.
type Group = (u64, Vec<u8>);

/// Reads a file and hands its groups on until nobody takes them.
fn each_group(path: &Path, mut first: u64, mut hand: impl FnMut(Group) -> bool) -> Result<Read, StoreError> {
    let named = |error: std::io::Error| failed(path, error);
    let snapshot = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot"));
    let mut frames = Frames::open(path).map_err(named)?.ok_or_else(|| failed(path, "not a journal of this version"))?;
    let (mut ended, mut records) = (false, 0);
    while let Some(group) = frames.next().map_err(named)? {
        ended = group.is_empty();
        let count = frame::count(&group);
        if !hand((first, group)) {
            break;
        }
        first += count;
        records += count;
    }
    let tail = frames.tail().map_err(named)?;
    // Without an end it would be whole wherever it breaks off.
    let tail = if snapshot && !ended { Tail::Damaged(frames.at()) } else { tail };
    Ok(Read { tail, frames: frames.count(), records })
}

/// Hands the records of a file to `replay`, one by one.
pub(super) fn in_turn(path: &Path, replay: &mut impl FnMut(&[u8]) -> Result<(), String>) -> Result<Read, StoreError> {
    let (to, groups) = sync_channel::<Group>(AHEAD);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || each_group(path, 0, |group| to.send(group).is_ok()));
        for (_, group) in &groups {
            let records = frame::records(&group).map_err(|reason| failed(path, reason))?;
            records.into_iter().try_for_each(&mut *replay).map_err(|reason| failed(path, reason))?;
        }
        reader.join().map_err(|_| failed(path, "it could not be read"))?
    })
}

/// Hands the groups of a file to `parts`, each on a thread of its own.
pub(super) fn by_parts<P: Send>(
    path: &Path,
    parts: &mut [P],
    first: u64,
    take: &(impl Fn(&mut P, u64, &[&[u8]]) -> Result<(), String> + Sync),
) -> Result<Read, StoreError> {
    let (to, groups) = sync_channel::<Group>(AHEAD);
    let groups = Mutex::new(Some(groups));
    let refused = Mutex::new(None);
    let work = |part: &mut P| {
        let groups = Shared(&groups);
        while let Some((first, group)) = groups.next() {
            let taken = frame::records(&group).and_then(|records| take(part, first, &records));
            if let Err(reason) = taken {
                refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
                break;
            }
        }
    };
    let read = std::thread::scope(|scope| {
        let work = &work;
        for part in parts {
            scope.spawn(move || work(part));
        }
        let read = each_group(path, first, |group| to.send(group).is_ok());
        drop(to);
        read
    });
    match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(reason) => Err(failed(path, reason)),
        None => read,
    }
}

/// Groups that are taken by whoever is ready. When one takes no more, they are all taken or one was refused: then nobody has to.
struct Shared<'g>(&'g Mutex<Option<Receiver<Group>>>);

impl Shared<'_> {
    fn next(&self) -> Option<Group> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.recv().ok()
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
