//! The audit log (F9): every look-up, appended, synced before it is answered, chained by hashes.
//!
//! A file of JSON lines. Each holds an entry and SHA-256 over the hash before it and the entry, so that no
//! line can be changed, taken out or put in without a trace from there on. Cutting lines off the end leaves
//! a whole chain: compare `entries` and `head` with what `show status` said before.
//!
//! The question is in it as HMAC-SHA-256 under a key of its own, so that the log names no subscriber, yet
//! shows whether a certain question was asked.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cloakway_crypto::encode::{hex, unhex};
use cloakway_crypto::{Randomness, Secret, System, hash};
use cloakway_types::{SubscriberId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use toolbox_core::Question;
use toolbox_wire::http::VerifyRequest;

/// Requests whose look-ups may wait for the disk; over it callers are told to come again.
const WAITING: usize = 1024;
/// A line is shorter than this.
const LONGEST_LINE: u64 = 4096;
const KEY_LENGTH: usize = 32;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is no log yet.
    #[error("{path}: no audit log: nothing was looked up yet")]
    Missing {
        /// The file.
        path: String,
    },
    /// A line is not what was written.
    #[error("{path}:{line}: {reason}")]
    Broken {
        /// The file.
        path: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The key for hashing questions is not 32 bytes.
    #[error("{path}: not a key of 32 bytes in hexadecimal")]
    Key {
        /// The file.
        path: String,
    },
}

/// One look-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counted from 1.
    pub number: u64,
    /// When it was answered, RFC 3339.
    pub time: String,
    /// Who asked.
    pub caller: String,
    /// HMAC-SHA-256 of address, port and time where they were asked about, and subscriber, hexadecimal.
    pub question: String,
    /// `live`, or the reason for a no.
    pub answer: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    entry: Entry,
    hash: String,
}

/// Where the chain ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    /// How many entries there are.
    pub entries: u64,
    /// The hash of the last one; zeros when there is none.
    pub head: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { entries: 0, head: hex(&[0; 32]) }
    }
}

impl Head {
    fn append(&self, entry: &Entry) -> Option<String> {
        let bytes = serde_json::to_vec(entry).ok()?;
        Some(self.hash(&bytes))
    }

    fn hash(&self, entry: &[u8]) -> String {
        hex(&hash::sha256(&[self.head.as_bytes(), b"\n", entry]))
    }

    /// Writes the line of a look-up behind `text`, and goes on to it. As [`Line`] would be, without a copy of it.
    fn write(
        &mut self,
        (caller, time): (&str, &str),
        (question, answer): &Lookup,
        text: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let entry = Written { number: self.entries + 1, time, caller, question, answer };
        text.extend_from_slice(b"{\"entry\":");
        let from = text.len();
        serde_json::to_writer(&mut *text, &entry)?;
        let hash = self.hash(text.get(from..).unwrap_or_default());
        text.extend_from_slice(b",\"hash\":\"");
        text.extend_from_slice(hash.as_bytes());
        text.extend_from_slice(b"\"}\n");
        *self = Self { entries: entry.number, head: hash };
        Ok(())
    }
}

/// An [`Entry`] as it is written.
#[derive(Serialize)]
struct Written<'a> {
    number: u64,
    time: &'a str,
    caller: &'a str,
    question: &'a str,
    answer: &'a str,
}

/// The file of the log in `data`.
#[must_use]
pub fn file(data: &Path) -> PathBuf {
    data.join("audit.jsonl")
}

/// Checks every line of the log in `data`. A last line without its end was being written when the process
/// died; nobody was answered by it, and the next start takes it away.
///
/// # Errors
/// [`AuditError`], which names the first line that is wrong.
pub fn verify(data: &Path) -> Result<Head, AuditError> {
    let path = file(data);
    let name = || path.display().to_string();
    let log = match File::open(&path) {
        Ok(log) => log,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(AuditError::Missing { path: name() }),
        Err(source) => return Err(AuditError::File { path: name(), source }),
    };
    let mut log = BufReader::new(log);
    let mut head = Head::default();
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = (&mut log).take(LONGEST_LINE).read_until(b'\n', &mut text);
        read.map_err(|source| AuditError::File { path: name(), source })?;
        let Some(line) = text.strip_suffix(b"\n") else {
            let at_end = log.fill_buf().is_ok_and(<[u8]>::is_empty);
            return if at_end { Ok(head) } else { Err(broken(&path, head.entries + 1, "the line is too long")) };
        };
        head = next(&head, line).map_err(|reason| broken(&path, head.entries + 1, reason))?;
    }
}

fn broken(path: &Path, line: u64, reason: &'static str) -> AuditError {
    AuditError::Broken { path: path.display().to_string(), line, reason }
}

fn next(head: &Head, line: &[u8]) -> Result<Head, &'static str> {
    let Line { entry, hash } = serde_json::from_slice(line).map_err(|_| "not an entry of this log")?;
    if entry.number != head.entries + 1 {
        return Err("the number is not the next one: lines were taken out, put in or moved");
    }
    if head.append(&entry).as_deref() != Some(&hash) {
        return Err("the hash does not fit the line and the one before it: something was changed");
    }
    Ok(Head { entries: entry.number, head: hash })
}

/// Look-ups of one request.
struct Job {
    caller: String,
    lookups: Vec<Lookup>,
    time: Timestamp,
    done: oneshot::Sender<()>,
}

/// A question, as [`Entry`] has it, and its answer.
type Lookup = (String, &'static str);

/// The open log. Clones share it.
#[derive(Debug, Clone)]
pub struct Audit {
    jobs: mpsc::Sender<Job>,
    key: Arc<hash::Keyed>,
    head: Arc<Mutex<Head>>,
}

/// The look-up is not in the log, so it may not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log does not take the look-up")]
pub struct NotAudited;

impl Audit {
    /// Opens the log in `data`, made when it is not there, and goes on where it ends.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(data: &Path) -> Result<Self, AuditError> {
        let path = file(data);
        let failed = |source| AuditError::File { path: path.display().to_string(), source };
        let mut options = OpenOptions::new();
        let mut log = options.read(true).append(true).create(true).mode(0o640).open(&path).map_err(failed)?;
        let end = log.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut tail = vec![0; usize::try_from(end.min(2 * LONGEST_LINE)).unwrap_or(0)];
        let from = end - tail.len() as u64;
        log.read_exact_at(&mut tail, from).map_err(failed)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        log.set_len(from + whole as u64).map_err(failed)?;
        tail.truncate(whole);
        let head = match tail.strip_suffix(b"\n").and_then(|tail| tail.rsplit(|byte| *byte == b'\n').next()) {
            None => Head::default(),
            Some(last) => {
                let line: Line = serde_json::from_slice(last)
                    .map_err(|_| broken(&path, 0, "the last line is not an entry of this log: move the file away"))?;
                Head { entries: line.entry.number, head: line.hash }
            }
        };
        log.sync_all().map_err(failed)?;
        sync_folder(data).map_err(failed)?;
        let key = Arc::new(hash::Keyed::new(question_key(data)?.expose()));
        let (jobs, queue) = mpsc::channel(WAITING);
        let head = Arc::new(Mutex::new(head));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let shared = head.clone();
        thread.spawn(move || write_until_closed(&mut log, &shared, queue)).map_err(failed)?;
        Ok(Self { jobs, key, head })
    }

    /// Where the chain ends now.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a look-up down and returns when it is on disk.
    ///
    /// # Errors
    /// [`NotAudited`] when the disk fails or too many look-ups wait for it.
    pub async fn record(
        &self,
        caller: &str,
        request: &VerifyRequest,
        answer: &'static str,
        time: Timestamp,
    ) -> Result<(), NotAudited> {
        self.record_all(caller, [(request, answer)], time).await
    }

    /// Writes the look-ups of one request down, in their order.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub async fn record_all<'r>(
        &self,
        caller: &str,
        lookups: impl IntoIterator<Item = (&'r VerifyRequest, &'static str)>,
        time: Timestamp,
    ) -> Result<(), NotAudited> {
        let lookups = lookups.into_iter().map(|(request, answer)| {
            let question = Question::new(request.address, request.port);
            let text = text_of(question, request.at);
            (self.hash(&text, request.subscriber.as_str()), answer)
        });
        let lookups = lookups.collect();
        self.write(caller, lookups, time).await
    }

    /// Writes down that `caller` asked who is, or was at `at`, at an address; or whether it was `subscriber`.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub async fn record_question(
        &self,
        caller: &str,
        question: Question,
        at: Option<Timestamp>,
        subscriber: Option<&SubscriberId>,
        answer: &'static str,
        time: Timestamp,
    ) -> Result<(), NotAudited> {
        let subscriber = subscriber.map_or("", SubscriberId::as_str);
        self.record_text(caller, &text_of(question, at), subscriber, answer, time).await
    }

    /// Writes down what `caller` asked, in words that nobody else's question has.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub async fn record_text(
        &self,
        caller: &str,
        text: &str,
        subscriber: &str,
        answer: &'static str,
        time: Timestamp,
    ) -> Result<(), NotAudited> {
        self.write(caller, vec![(self.hash(text, subscriber), answer)], time).await
    }

    fn hash(&self, text: &str, subscriber: &str) -> String {
        hex(&self.key.of(&[text.as_bytes(), subscriber.as_bytes()]))
    }

    async fn write(&self, caller: &str, lookups: Vec<Lookup>, time: Timestamp) -> Result<(), NotAudited> {
        let (done, written) = oneshot::channel();
        let job = Job { caller: caller.to_owned(), lookups, time, done };
        self.jobs.try_send(job).map_err(|_| NotAudited)?;
        written.await.map_err(|_| NotAudited)
    }
}

fn text_of(question: Question, at: Option<Timestamp>) -> String {
    let mut text = question.address.to_string();
    if let Some(port) = question.port {
        text.push_str(&format!(" port {port}"));
    }
    if let Some(at) = at {
        text.push_str(&format!(" at {at}"));
    }
    text
}

/// The key for hashing questions, made at the first start.
fn question_key(data: &Path) -> Result<Secret<Vec<u8>>, AuditError> {
    let path = data.join("audit.key");
    let failed = |source| AuditError::File { path: path.display().to_string(), source };
    match std::fs::read_to_string(&path) {
        Ok(text) => match unhex(text.trim()) {
            Some(key) if key.len() == KEY_LENGTH => Ok(Secret::new(key)),
            _ => Err(AuditError::Key { path: path.display().to_string() }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = vec![0; KEY_LENGTH];
            System.fill(&mut key);
            // Written aside and renamed: a crash leaves a whole key or none.
            let aside = data.join("audit.key.new");
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside).map_err(failed)?;
            file.write_all(hex(&key).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            std::fs::rename(&aside, &path).and_then(|()| sync_folder(data)).map_err(failed)?;
            Ok(Secret::new(key))
        }
        Err(source) => Err(failed(source)),
    }
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Look-ups that wait together share one sync. An error of the disk is final: the queue closes.
fn write_until_closed(log: &mut File, head: &Mutex<Head>, mut queue: mpsc::Receiver<Job>) {
    let (mut jobs, mut text) = (Vec::new(), Vec::new());
    while queue.blocking_recv_many(&mut jobs, WAITING) > 0 {
        let mut end = head.lock().unwrap_or_else(PoisonError::into_inner).clone();
        text.clear();
        let mut time = (None, String::new());
        for job in &jobs {
            // Most are of the moment of the one before.
            if time.0 != Some(job.time) {
                time = (Some(job.time), job.time.to_string());
            }
            for lookup in &job.lookups {
                if end.write((&job.caller, &time.1), lookup, &mut text).is_err() {
                    return;
                }
            }
        }
        if let Err(error) = log.write_all(&text).and_then(|()| log.sync_data()) {
            tracing::error!(%error, "the audit log cannot be written: no look-up is answered any more");
            return;
        }
        *head.lock().unwrap_or_else(PoisonError::into_inner) = end;
        for job in jobs.drain(..) {
            let _ = job.done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subscriber: &str) -> VerifyRequest {
        VerifyRequest {
            address: [198, 51, 100, 70].into(),
            subscriber: subscriber.parse().unwrap(),
            port: None,
            at: None,
        }
    }

    async fn three(data: &Path) {
        let audit = Audit::open(data).unwrap();
        let at = Timestamp::from_secs(1_700_000_000);
        audit.record("shop", &request("alice"), "live", at).await.unwrap();
        // A list of two.
        let (bob, alice) = (request("bob"), request("alice"));
        audit.record_all("shop", [(&bob, "no-session"), (&alice, "ended")], at).await.unwrap();
    }

    fn lines(data: &Path) -> Vec<String> {
        std::fs::read_to_string(file(data)).unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn the_log_names_nobody_and_goes_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert!(matches!(verify(data), Err(AuditError::Missing { .. })));
        three(data).await;
        three(data).await;
        let audit = Audit::open(data).unwrap();
        assert_eq!(verify(data).unwrap(), audit.head());
        assert_eq!(audit.head().entries, 6);
        let lines = lines(data);
        let written = |n: usize| serde_json::to_string(&serde_json::from_str::<Line>(&lines[n]).unwrap()).unwrap();
        assert!((0..6).all(|n| written(n) == lines[n]), "a line is that of its entry and hash");
        let question = |n: usize| serde_json::from_str::<Line>(&lines[n]).unwrap().entry.question;
        assert_eq!(question(0), question(2), "the same question can be told");
        assert_ne!(question(0), question(1));
        assert!(lines.iter().all(|line| !line.contains("alice") && !line.contains("198.51")));
    }

    #[tokio::test]
    async fn a_changed_moved_or_missing_line_is_found_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        three(data).await;
        let lines = lines(data);
        let at = |text: String| {
            std::fs::write(file(data), text).unwrap();
            match verify(data) {
                Err(AuditError::Broken { line, .. }) => Some(line),
                Ok(_) => None,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(at(lines.join("\n").replace("no-session", "live") + "\n"), Some(2));
        assert_eq!(at(format!("{}\n{}\n", lines[0], lines[2])), Some(2));
        assert_eq!(at(format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2])), Some(1));
        assert_eq!(at(format!("{}\n{}\n{}\n", lines[0], "x".repeat(9000), lines[2])), Some(2));
        assert_eq!(at(format!("{}\n\n", lines[0])), Some(2));
        assert_eq!(at(lines.join("\n") + "\n"), None);
    }

    #[tokio::test]
    async fn a_line_that_a_crash_cut_is_taken_away_and_the_chain_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        three(data).await;
        let whole = std::fs::read_to_string(file(data)).unwrap();
        for cut in [1, 30] {
            std::fs::write(file(data), &whole[..whole.len() - cut]).unwrap();
            assert_eq!(verify(data).unwrap().entries, 2);
            let audit = Audit::open(data).unwrap();
            audit.record("shop", &request("carol"), "stale", Timestamp::from_secs(1_700_000_001)).await.unwrap();
            assert_eq!(verify(data).unwrap().entries, 3);
        }
    }
}
