//! Messages of all sessions, as they came and went, written down as MRT (RFC 6396).
//!
//! One task writes; sessions hand it what they have and never wait. A file is whole up to its last write: it is named
//! when it is full or its time is over, and a name that is there is never written to again.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bgp_wire::{Asn, Framer};
use cloakway_runtime::Stop;
use cloakway_runtime::config::Invalid;
use mrt_wire::writer::{self, Direction, Ends, Style, Time};
use serde::Deserialize;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Records that wait for the disk; beyond, they are counted and lost.
const WAITING: usize = 16 * 1024;
/// How long what was written may wait to be on the disk.
const SYNC: Duration = Duration::from_secs(1);

/// How long the sessions may be silent before their last words, when everything ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where messages are written down.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that is being written; full ones have the time of their end behind it.
    pub updates: PathBuf,
    /// How long one file is.
    pub rotate: Duration,
    /// How many octets it has at most.
    pub max_octets: u64,
    /// What we send, too.
    pub sent: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawMrt {
    updates: PathBuf,
    #[serde(default = "quarter_of_an_hour")]
    rotate_s: u32,
    #[serde(default = "gigabyte")]
    max_megabytes: u32,
    #[serde(default)]
    sent: bool,
}

const fn quarter_of_an_hour() -> u32 {
    900
}

const fn gigabyte() -> u32 {
    1024
}

/// Holds the table to what can be.
pub(crate) fn settings(raw: RawMrt) -> Result<Settings, Invalid> {
    for (field, value) in [("rotate-s", raw.rotate_s), ("max-megabytes", raw.max_megabytes)] {
        if value == 0 {
            return Err(Invalid::at(format!("mrt.{field}"), "0 is not allowed: at least 1"));
        }
    }
    if raw.updates.file_name().is_none() {
        return Err(Invalid::at("mrt.updates", "that is no file: give its path"));
    }
    Ok(Settings {
        updates: raw.updates,
        rotate: Duration::from_secs(u64::from(raw.rotate_s)),
        max_octets: u64::from(raw.max_megabytes) << 20,
        sent: raw.sent,
    })
}

/// Where sessions hand in what is to be written down.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    records: mpsc::Sender<Vec<u8>>,
    sent: bool,
}

impl Recorder {
    /// Opens the file, in place of whatever a dead process left, and has it written until the stop. What was left is
    /// kept under another name.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn start(settings: Settings, tasks: &mut tokio::task::JoinSet<()>, stop: Stop) -> Result<Self, String> {
        let path = settings.updates.clone();
        let named = |error: std::io::Error| format!("mrt.updates: {}: {error}", path.display());
        if path.metadata().is_ok_and(|file| file.len() > 0) {
            std::fs::rename(&path, rotated(&path)).map_err(named)?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(named)?;
        let (records, queue) = mpsc::channel(WAITING);
        let sent = settings.sent;
        tasks.spawn(write(settings, File::from_std(file), queue, stop));
        Ok(Self { records, sent })
    }

    fn record(&self, record: Vec<u8>) {
        match self.records.try_send(record) {
            Ok(()) => metrics::counter!("bgp_speaker_mrt_records_total").increment(1),
            Err(_) => metrics::counter!("bgp_speaker_mrt_records_lost_total").increment(1),
        }
    }
}

/// What one connection hands in.
#[derive(Debug)]
pub(crate) struct Tape {
    recorder: Recorder,
    ends: Ends,
    received: Framer,
    sent: Framer,
}

impl Tape {
    pub(crate) fn new(recorder: &Recorder, peer: (IpAddr, Asn), local: (IpAddr, Asn)) -> Self {
        let ends = Ends { peer_asn: peer.1, local_asn: local.1, peer: peer.0, local: local.0 };
        let mut framer = Framer::default();
        framer.allow_extended_messages();
        Self { recorder: recorder.clone(), ends, received: framer.clone(), sent: framer }
    }

    /// Bytes as they came, or as they go. `style` is how the session's messages are written from now on.
    pub(crate) fn pass(&mut self, direction: Direction, bytes: &[u8], style: Style) {
        let framer = match direction {
            Direction::Received => &mut self.received,
            Direction::Sent if self.recorder.sent => &mut self.sent,
            Direction::Sent => return,
        };
        framer.push(bytes);
        // What is out of step ends the session, which says so itself.
        while let Ok(Some(message)) = framer.next_frame() {
            self.recorder.record(writer::message(now(), &self.ends, direction, style, message));
        }
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX), microseconds: since.subsec_micros() }
}

/// The name of a full file: that of the one being written, and when it ended.
fn rotated(path: &Path) -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{:06}", since.as_secs(), since.subsec_micros()));
    name.into()
}

async fn write(settings: Settings, mut file: File, mut queue: mpsc::Receiver<Vec<u8>>, stop: Stop) {
    let (mut written, mut until) = (0_u64, Instant::now() + settings.rotate);
    let mut unsynced: Option<Instant> = None;
    loop {
        let record = tokio::select! {
            biased;
            () = stop.told() => {
                // What the sessions say last is still to come: they hang up when they have ended.
                while let Ok(Some(record)) = tokio::time::timeout(LAST_WORDS, queue.recv()).await {
                    report(file.write_all(&record).await, "write");
                }
                report(file.sync_data().await, "write");
                return;
            }
            () = tokio::time::sleep_until(until) => None,
            () = tokio::time::sleep_until(unsynced.unwrap_or(until)), if unsynced.is_some() => {
                unsynced = None;
                report(file.sync_data().await, "write");
                continue;
            }
            record = queue.recv() => record,
        };
        if let Some(record) = &record {
            report(file.write_all(record).await, "write");
            written += record.len() as u64;
            unsynced.get_or_insert_with(|| Instant::now() + SYNC);
        }
        if written >= settings.max_octets || (record.is_none() && written > 0) {
            match rotate(&settings.updates, &mut file).await {
                Ok(fresh) => {
                    file = fresh;
                    written = 0;
                }
                Err(error) => report(Err(error), "rotate"),
            }
            unsynced = None;
        }
        if record.is_none() || written == 0 {
            until = Instant::now() + settings.rotate;
        }
    }
}

/// Ends `file` and gives it its name; a new one takes its place.
async fn rotate(path: &Path, file: &mut File) -> std::io::Result<File> {
    file.flush().await?;
    file.sync_all().await?;
    fs::rename(path, rotated(path)).await?;
    OpenOptions::new().create(true).append(true).open(path).await
}

fn report(done: std::io::Result<()>, what: &'static str) {
    if let Err(error) = done {
        metrics::counter!("bgp_speaker_mrt_errors_total").increment(1);
        tracing::error!(%error, what, "MRT: messages are not written down");
    }
}
