//! The journal: what was accepted, on disk and synced before it is acknowledged.
//!
//! An append-only file of records, each with its length and a checksum. Records that wait together share one sync. A long
//! record is written in parts, between which others find their way; it is there when its last part is.
//! When the file has grown well beyond what it says, another is written beside it while this one goes on, given what was
//! appended meanwhile, and put in its place.
//!
//! Behind what is synced stands a seal, which says so. What can't be read is cut off if no seal stands behind it: a crash
//! left it so, and nobody was told that it was accepted. With a seal behind it the journal is damaged, and is not opened:
//! better to stop than to forget routes.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use bgp_core::record::{self, Record};
use cloakway_crypto::hash::sha256;
use tokio::sync::oneshot;

const MAGIC: &[u8] = b"cloakway bgp journal 1\n";
const CHECKSUM: usize = 8;
/// Records in one sync at most.
const GROUP: usize = 256;
/// The longest record that is written in one part, and the longest part.
const PART: usize = 256 * 1024;
/// So much of a long record is synced at a time: who comes meanwhile waits for no more.
const UNSYNCED: usize = 1 << 20;
/// What the bodies of parts begin with, unlike those of records; the number of the record follows.
const MORE: u8 = 0x50;
const LAST: u8 = 0x51;
/// What the body of a seal begins with; where it stands follows.
const SEAL: u8 = 0x52;
/// Octets of a seal.
const SEALED: usize = 4 + CHECKSUM + 1 + 8;

type Done = oneshot::Sender<Result<(), String>>;

enum Job {
    Append(Vec<u8>, Done),
    /// What is appended from now on is kept for the file that takes this one's place.
    Begin(Done),
    /// That file, and records for its end; none, when there is to be no such file after all.
    Finish(Option<(File, Vec<Vec<u8>>)>, Done),
}

/// An open journal; one process holds it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    jobs: Mutex<Sender<Job>>,
    length: Arc<AtomicU64>,
}

impl Journal {
    /// Opens the journal in `path`, made when it is not there, and replays it.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(crate) fn open(path: &Path, mut replay: impl FnMut(Record)) -> Result<Self, String> {
        let named = |error: io::Error| format!("{}: {error}", path.display());
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(named)?;
        file.try_lock().map_err(|_| format!("{}: another process has this journal open", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(named)?;
        let (mut parts, mut sealed) = (Parts::default(), true);
        let good = if bytes.is_empty() {
            file.write_all(MAGIC).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path)).map_err(named)?;
            MAGIC.len()
        } else if bytes.starts_with(MAGIC) {
            let mut at = MAGIC.len();
            while let Some((body, next)) = frame(&bytes, at) {
                sealed = body.first() == Some(&SEAL);
                // A whole record that can't be read is no crash's doing: better to stop than to forget routes.
                let mut read = |body: &[u8]| {
                    record::decode(body)
                        .map(&mut replay)
                        .map_err(|error| format!("{}: octet {at}: {error}", path.display()))
                };
                match part(body) {
                    _ if sealed => {}
                    Some(part) => parts.join(part).map_or(Ok(()), |whole| read(&whole))?,
                    None => read(body)?,
                }
                at = next;
            }
            if let Some(seal) = sealed_behind(&bytes, at) {
                return Err(format!(
                    "{}: damaged at octet {at}: what stands there was accepted, as octet {seal} says; restore the file, or \
                     move it away and ask for all routes again",
                    path.display()
                ));
            }
            at
        } else {
            return Err(format!("{}: this is no journal of a BGP speaker: give another path", path.display()));
        };
        if good < bytes.len() {
            tracing::warn!(journal = %path.display(), octets = bytes.len() - good, "dropped a record that was cut off");
            file.set_len(good as u64).map_err(named)?;
        }
        // What a process wrote before it was killed may not be on disk yet.
        file.sync_all().map_err(named)?;
        file.seek(SeekFrom::Start(good as u64)).map_err(named)?;
        let (jobs, queue) = channel();
        let length = Arc::new(AtomicU64::new(good as u64));
        let long = VecDeque::new();
        let (place, number) = (path.to_owned(), parts.next);
        let mut writer = Writer { path: place, file, length: length.clone(), long, number, tail: None, broken: None };
        if !sealed {
            writer.seal().map_err(named)?;
        }
        let spawned = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&queue));
        spawned.map_err(|error| format!("cannot start the journal: {error}"))?;
        Ok(Self { path: path.to_owned(), jobs: Mutex::new(jobs), length })
    }

    /// Octets in the file.
    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Returns when `body` is on disk.
    pub(crate) async fn append(&self, body: Vec<u8>) -> Result<(), String> {
        self.order(|done| Job::Append(body, done)).await
    }

    /// Begins to write the journal anew: what is appended from now on, and what [`Journal::draft`] is given, will be in
    /// it.
    pub(crate) async fn begin(&self) -> Result<(), String> {
        self.order(Job::Begin).await
    }

    /// A journal of `bodies` beside this one, on disk.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(crate) fn draft(&self, bodies: &[Vec<u8>]) -> Result<File, String> {
        let path = beside(&self.path);
        let write = || {
            let mut out = MAGIC.to_vec();
            bodies.iter().try_for_each(|body| framed(body, &mut out))?;
            let mut file = File::create(&path)?;
            file.try_lock().map_err(|error| io::Error::other(error.to_string()))?;
            file.write_all(&out)?;
            file.sync_all()?;
            Ok(file)
        };
        write().map_err(|error: io::Error| format!("{}: {error}", path.display()))
    }

    /// Puts the draft in this one's place, with what was appended since [`Journal::begin`] and then `bodies`; without a
    /// draft all stays as it is.
    pub(crate) async fn finish(&self, draft: Option<File>, bodies: Vec<Vec<u8>>) -> Result<(), String> {
        self.order(|done| Job::Finish(draft.map(|draft| (draft, bodies)), done)).await
    }

    async fn order(&self, job: impl FnOnce(Done) -> Job) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        // A writer that is gone drops `done`, and that reads as a failure.
        let _ = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job(done));
        wait.await.unwrap_or_else(|_| Err("the journal was closed".to_owned()))
    }
}

/// The body of the record at `at`, and where the next begins.
fn frame(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let header = bytes.get(at..)?.first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*header)).ok()?;
    let start = at + header.len() + CHECKSUM;
    let end = start.checked_add(length)?;
    let (checksum, body) = (bytes.get(at + header.len()..start)?, bytes.get(start..end)?);
    sha256(&[body]).starts_with(checksum).then_some((body, end))
}

/// A seal for the place `at`.
fn seal(at: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(SEALED);
    framed(&[&[SEAL][..], &at.to_be_bytes()].concat(), &mut out)?;
    Ok(out)
}

/// Where behind `at` the first seal stands: it names its place, so that nothing else is taken for one.
fn sealed_behind(bytes: &[u8], at: usize) -> Option<usize> {
    let head = u32::try_from(SEALED - 4 - CHECKSUM).unwrap_or(u32::MAX).to_be_bytes();
    let stands = |(offset, window): (usize, &[u8])| {
        // Most octets are none, and a bulk that was cut off has many.
        let place = at + offset;
        let is_seal = window.starts_with(&head) && window.get(SEALED - 9) == Some(&SEAL);
        (is_seal && window.ends_with(&(place as u64).to_be_bytes()) && frame(bytes, place).is_some()).then_some(place)
    };
    bytes.get(at..)?.windows(SEALED).enumerate().find_map(stands)
}

/// A part of a long record.
struct Part<'a> {
    number: u64,
    last: bool,
    bytes: &'a [u8],
}

/// The part that `body` is, if it is no record of its own.
fn part(body: &[u8]) -> Option<Part<'_>> {
    let (kind, rest) = body.split_first()?;
    let (number, bytes) = rest.split_first_chunk::<8>()?;
    let last = match *kind {
        MORE => false,
        LAST => true,
        _ => return None,
    };
    Some(Part { number: u64::from_be_bytes(*number), last, bytes })
}

/// Long records that are not whole yet: what a crash left so never will be.
#[derive(Default)]
struct Parts {
    begun: HashMap<u64, Vec<u8>>,
    next: u64,
}

impl Parts {
    /// The record, when `part` makes it whole.
    fn join(&mut self, part: Part<'_>) -> Option<Vec<u8>> {
        self.next = self.next.max(part.number.saturating_add(1));
        self.begun.entry(part.number).or_default().extend_from_slice(part.bytes);
        if part.last { self.begun.remove(&part.number) } else { None }
    }
}

fn framed(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a record exceeds 4 GiB"))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(sha256(&[body]).get(..CHECKSUM).unwrap_or_default());
    out.extend_from_slice(body);
    Ok(())
}

/// Where the journal is written anew.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".new");
    PathBuf::from(name)
}

/// A new name in a folder is on disk when the folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A record that is being written in parts.
struct Long {
    number: u64,
    body: Vec<u8>,
    at: usize,
    done: Done,
}

struct Writer {
    path: PathBuf,
    file: File,
    length: Arc<AtomicU64>,
    long: VecDeque<Long>,
    /// Of the next long record.
    number: u64,
    /// What was appended since it was begun to write the journal anew.
    tail: Option<Vec<u8>>,
    /// What went wrong: nothing is accepted after it.
    broken: Option<String>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            // While a long record is under way nothing is waited for.
            let first = match (self.long.is_empty(), queue.try_recv()) {
                (_, Ok(job)) => Some(job),
                (false, Err(_)) => None,
                (true, Err(_)) => match queue.recv() {
                    Ok(job) => Some(job),
                    Err(_) => return,
                },
            };
            let (mut out, mut done) = (Vec::new(), Vec::new());
            for job in first.into_iter().chain(queue.try_iter().take(GROUP - 1)) {
                match job {
                    Job::Append(body, answer) if body.len() > PART => {
                        self.long.push_back(Long { number: self.number, body, at: 0, done: answer });
                        self.number += 1;
                    }
                    Job::Append(body, answer) => {
                        if let Err(error) = framed(&body, &mut out) {
                            let _ = answer.send(Err(error.to_string()));
                        } else {
                            done.push(answer);
                        }
                    }
                    Job::Begin(answer) => {
                        // A long record that is under way is whole in this file, or in the next.
                        self.append(&std::mem::take(&mut out), std::mem::take(&mut done));
                        while !self.long.is_empty() {
                            let (mut out, mut done) = (Vec::new(), Vec::new());
                            self.parts(&mut out, &mut done);
                            self.append(&out, done);
                        }
                        self.tail = Some(Vec::new());
                        let _ = answer.send(self.broken.clone().map_or(Ok(()), Err));
                    }
                    Job::Finish(draft, answer) => {
                        self.append(&std::mem::take(&mut out), std::mem::take(&mut done));
                        let tail = self.tail.take().unwrap_or_default();
                        let result = draft.map_or(Ok(()), |(file, bodies)| {
                            self.attempt(|writer| writer.replace(file, &tail, &bodies))
                        });
                        let _ = answer.send(result);
                    }
                }
            }
            self.parts(&mut out, &mut done);
            self.append(&out, done);
        }
    }

    /// Goes on with the long record that came first.
    fn parts(&mut self, out: &mut Vec<u8>, done: &mut Vec<Done>) {
        let end = out.len() + UNSYNCED;
        while out.len() < end
            && let Some(long) = self.long.front_mut()
        {
            let to = long.body.len().min(long.at + PART);
            let last = to == long.body.len();
            let bytes = long.body.get(long.at..to).unwrap_or_default();
            let kind = if last { LAST } else { MORE };
            let framed = framed(&[&[kind][..], &long.number.to_be_bytes(), bytes].concat(), out);
            long.at = to;
            match (framed, last) {
                (Ok(()), false) => {}
                (Ok(()), true) => done.extend(self.long.pop_front().map(|long| long.done)),
                (Err(error), _) => {
                    if let Some(long) = self.long.pop_front() {
                        let _ = long.done.send(Err(error.to_string()));
                    }
                }
            }
        }
    }

    fn append(&mut self, out: &[u8], done: Vec<Done>) {
        if out.is_empty() {
            return;
        }
        let result = self.write(out);
        if let Err(error) = &result {
            for long in self.long.drain(..) {
                let _ = long.done.send(Err(error.clone()));
            }
        }
        for answer in done {
            let _ = answer.send(result.clone());
        }
        if result.is_ok() {
            // For the next opening, nobody waits for it: it is on disk with what comes next, or when the kernel likes.
            let _ = self.attempt(Self::seal);
        }
    }

    /// Puts `out` behind what is there, and on disk.
    fn write(&mut self, out: &[u8]) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let length = self.length.load(Ordering::Relaxed);
        if let Err(error) = self.file.write_all(out) {
            // What is half there must not be found by the next opening: it was refused.
            let undone = self.file.set_len(length).and_then(|()| self.file.seek(SeekFrom::Start(length)));
            let text = format!("{}: {error}: nothing of it is accepted", self.path.display());
            tracing::error!(%text, "the journal takes nothing");
            return match undone.and_then(|_| self.file.sync_all()) {
                Ok(()) => Err(text),
                Err(error) => self.attempt(|_| Err(error)),
            };
        }
        self.attempt(|writer| {
            if let Err(error) = writer.file.sync_data() {
                // Whatever is on disk now, it was refused.
                let _ = writer.file.set_len(length);
                return Err(error);
            }
            // Somebody may have removed it, or put another in its place.
            if writer.file.metadata()?.nlink() == 0 {
                return Err(io::Error::other("the journal was removed while the speaker runs: start it again"));
            }
            writer.length.fetch_add(out.len() as u64, Ordering::Relaxed);
            if let Some(tail) = &mut writer.tail {
                tail.extend_from_slice(out);
            }
            Ok(())
        })
    }

    /// Says that everything up to here is on disk.
    fn seal(&mut self) -> io::Result<()> {
        let seal = seal(self.length.load(Ordering::Relaxed))?;
        // Without room for it, it is left out, and so is what there was room for.
        if self.file.write_all(&seal).is_ok() {
            self.length.fetch_add(seal.len() as u64, Ordering::Relaxed);
            return Ok(());
        }
        let length = self.length.load(Ordering::Relaxed);
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length)).map(drop)
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        work(self).map_err(|error| {
            let text = format!("{}: {error}: nothing more is accepted", self.path.display());
            tracing::error!(%text, "the journal failed");
            self.broken = Some(text.clone());
            text
        })
    }

    fn replace(&mut self, mut file: File, tail: &[u8], bodies: &[Vec<u8>]) -> io::Result<()> {
        let mut out = tail.to_vec();
        bodies.iter().try_for_each(|body| framed(body, &mut out))?;
        file.write_all(&out)?;
        file.sync_all()?;
        std::fs::rename(beside(&self.path), &self.path)?;
        sync_folder(&self.path)?;
        let length = file.stream_position()?;
        self.file = file;
        self.length.store(length, Ordering::Relaxed);
        self.seal()
    }
}

#[cfg(test)]
mod tests;
