//! `GET /v1/changes`: a stream of what changes (F2, F9), by the journal.
//!
//! A reader's place is one in the journal. What comes behind it is read again from the log, however slow the reader is: a
//! stream holds a few records and no queue. Each record becomes one event, which says what holds now of the places that
//! the record is about; so what is sent late is true when it is sent. Nothing leaves before it is on disk: after a crash a
//! reader finds all that it was told. A place that a snapshot has taken is gone; then all is said anew, with the reason.

pub mod command;
mod scope;
pub mod settings;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use cloakway_crypto::encode::hex;
use cloakway_crypto::{Randomness, System};
use cloakway_runtime::{Stop, clock};
use cloakway_store::{Journal, Place, Reader, StoreError};
use metrics::{counter, gauge};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use toolbox_core::{Cursor, DecodeError, Row};
use toolbox_wire::follow::{
    BINDINGS, Bindings as Data, CHANGED, END, End, EndReason, LISTED, RESET, Reset, ResetReason, alive, event,
};

use crate::bindings::Bindings;
use crate::callers::Caller;
use scope::Scope;
use settings::Settings;

/// Records that are read, and said, at once.
const CHUNK: usize = 64;
const IDENTITY_LENGTH: usize = 8;

/// The streams. Clones share them.
#[derive(Debug, Clone)]
pub struct Follow(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bindings: Bindings,
    /// Which journal this is: another one has the same places.
    identity: String,
    settings: Settings,
    stop: Stop,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: BTreeMap<u64, Shown>,
    cut: BTreeMap<String, u64>,
}

/// An open stream, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Whose.
    pub caller: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Behind what it was told.
    pub place: String,
    /// Events so far.
    pub events: u64,
    /// How often all was said anew.
    pub resets: u64,
}

/// All streams, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct Followers {
    /// Where the journal ends.
    pub end: String,
    /// Those that are open.
    pub streams: Vec<Shown>,
    /// How many were cut because nobody took what there was, by caller.
    pub cut: BTreeMap<String, u64>,
}

/// Why a stream ends.
enum Over {
    /// The reader has left.
    Left,
    Ends(EndReason),
}

impl From<StoreError> for Over {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a stream of changes cannot go on");
        Self::Ends(EndReason::Failed)
    }
}

impl From<DecodeError> for Over {
    fn from(error: DecodeError) -> Self {
        StoreError::Read(error.to_string()).into()
    }
}

impl Follow {
    /// Streams of what changes in `bindings`, whose folder is `data`.
    ///
    /// # Errors
    /// The identity of the journal cannot be read or written.
    pub fn open(bindings: Bindings, data: &Path, settings: Settings, stop: Stop) -> std::io::Result<Self> {
        let identity = identity(&data.join("changes.id"))?;
        Ok(Self(Arc::new(Shared { bindings, identity, settings, stop, streams: Mutex::default() })))
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, place: Place) -> String {
        format!("{}-{place}", self.0.identity)
    }

    /// What an id stands for, if it is one of ours.
    fn place(&self, id: &str) -> Option<Place> {
        id.strip_prefix(&self.0.identity)?.strip_prefix('-')?.parse().ok()
    }

    /// The streams that are open.
    #[must_use]
    pub fn shown(&self) -> Followers {
        let end = self.id(*self.0.bindings.journal().end().borrow());
        let streams = self.streams();
        Followers { end, streams: streams.open.values().cloned().collect(), cut: streams.cut.clone() }
    }

    /// A stream for `caller` from the place `from` on, if it may have one more.
    pub(crate) fn start(&self, caller: &Caller, from: Option<&str>) -> Option<Body> {
        let open = Open::new(self.clone(), &caller.name)?;
        let (chunks, mut taken) = mpsc::channel::<Bytes>(1);
        let last: Arc<OnceLock<Bytes>> = Arc::default();
        let ends = self.0.bindings.journal().end();
        let mut feed = Feed { open, scope: Scope::of(caller), chunks, ends, sent: clock::now(), told: String::new() };
        let (from, shared) = (from.map(str::to_owned), last.clone());
        tokio::spawn(async move {
            let over = match feed.follow(from).await {
                Ok(never) => match never {},
                Err(over) => over,
            };
            if let Over::Ends(reason) = over {
                // Behind what is on its way already; nobody else has set it.
                let _ = shared.set(event(END, None, &End { reason }).into());
            }
            feed.open.over(&over);
        });
        let mut last = Some(last);
        Some(Body::from_stream(futures_util::stream::poll_fn(move |context| {
            taken.poll_recv(context).map(|chunk| {
                let chunk = chunk.or_else(|| last.take().and_then(|last| last.get().cloned()));
                chunk.map(Ok::<_, Infallible>)
            })
        })))
    }
}

/// A place among the streams, until it is dropped.
struct Open {
    follow: Follow,
    number: u64,
    caller: String,
}

impl Open {
    fn new(follow: Follow, caller: &str) -> Option<Self> {
        let number = {
            let mut streams = follow.streams();
            let own = streams.open.values().filter(|of| of.caller == caller).count();
            if own >= follow.0.settings.per_caller {
                return None;
            }
            streams.next += 1;
            let since = clock::wall().to_string();
            let shown = Shown { caller: caller.to_owned(), since, place: String::new(), events: 0, resets: 0 };
            let number = streams.next;
            streams.open.insert(number, shown);
            number
        };
        gauge!("toolbox_changes_streams", "caller" => caller.to_owned()).increment(1.0);
        Some(Self { follow, number, caller: caller.to_owned() })
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        if let Some(shown) = self.follow.streams().open.get_mut(&self.number) {
            change(shown);
        }
    }

    fn over(&self, over: &Over) {
        let reason = match over {
            Over::Left => "left",
            Over::Ends(reason) => reason.as_str(),
        };
        if matches!(over, Over::Ends(EndReason::Slow)) {
            *self.follow.streams().cut.entry(self.caller.clone()).or_default() += 1;
            tracing::warn!(caller = self.caller, "a stream of changes is cut: nobody took what there was");
        }
        counter!("toolbox_changes_ended_total", "caller" => self.caller.clone(), "reason" => reason).increment(1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.follow.streams().open.remove(&self.number);
        gauge!("toolbox_changes_streams", "caller" => self.caller.clone()).decrement(1.0);
    }
}

/// What feeds one stream.
struct Feed {
    open: Open,
    scope: Scope,
    chunks: mpsc::Sender<Bytes>,
    ends: watch::Receiver<Place>,
    /// When something was sent the last time.
    sent: cloakway_types::Instant,
    /// The last id that the reader has.
    told: String,
}

impl Feed {
    fn journal(&self) -> &Journal {
        self.open.follow.0.bindings.journal()
    }

    async fn follow(&mut self, from: Option<String>) -> Result<Infallible, Over> {
        let mut place = match from {
            None => self.list(ResetReason::Begin).await?,
            Some(id) => match self.open.follow.place(&id) {
                Some(place) => {
                    self.told = id;
                    place
                }
                None => self.list(ResetReason::Gone).await?,
            },
        };
        loop {
            if let Some(reader) = self.journal().read_from(place)? {
                self.read(reader).await?;
            }
            place = self.list(ResetReason::Gone).await?;
        }
    }

    /// Says what there is, then what comes, until what comes next is gone.
    async fn read(&mut self, mut reader: Reader) -> Result<(), Over> {
        loop {
            let end = *self.ends.borrow_and_update();
            let (back, read) = tokio::task::spawn_blocking(move || {
                let read = reader.read(end, CHUNK);
                (reader, read)
            })
            .await
            .map_err(|_| Over::Ends(EndReason::Failed))?;
            reader = back;
            let Some(records) = read? else { return Ok(()) };
            let idle = records.is_empty();
            let mut chunk = Vec::new();
            let (mut events, mut told) = (0, None);
            for (place, record) in records {
                let known = self.known_around(&Row::decode(&record)?)?;
                if !known.is_empty() {
                    let id = self.open.follow.id(place);
                    chunk.extend(event(CHANGED, Some(&id), &Data { bindings: known }));
                    (events, told) = (events + 1, Some(id));
                }
            }
            let at = self.open.follow.id(reader.place());
            self.open.show(|shown| shown.place.clone_from(&at));
            if let Some(told) = told {
                self.send(chunk).await?;
                self.told = told;
                self.open.show(|shown| shown.events += events);
                counter!("toolbox_changes_events_total", "caller" => self.open.caller.clone()).increment(events);
            }
            self.live(idle, &at).await?;
        }
    }

    /// Waits for more, if there is none; a sign of life after a silence. What is nobody's business here moves the place too.
    async fn live(&mut self, idle: bool, at: &str) -> Result<(), Over> {
        let heartbeat = self.open.follow.0.settings.heartbeat;
        let silence = clock::now().since(self.sent);
        if silence >= heartbeat {
            self.send(alive(Some(at).filter(|at| *at != self.told))).await?;
            self.told = at.to_owned();
            return Ok(());
        }
        if idle {
            let stop = &self.open.follow.0.stop;
            tokio::select! {
                () = stop.told() => return Err(Over::Ends(EndReason::Stopping)),
                () = self.chunks.closed() => return Err(Over::Left),
                changed = self.ends.changed() => changed.map_err(|_| Over::Ends(EndReason::Failed))?,
                () = tokio::time::sleep(heartbeat - silence) => {}
            }
        }
        Ok(())
    }

    /// Says all that holds; the place from which on changes are to follow.
    async fn list(&mut self, reason: ResetReason) -> Result<Place, Over> {
        let place = *self.ends.borrow_and_update();
        let caller = self.open.caller.clone();
        counter!("toolbox_changes_resets_total", "caller" => caller, "reason" => reason.as_str()).increment(1);
        self.open.show(|shown| shown.resets += 1);
        // Who leaves in the midst of the list begins anew.
        self.send(event(RESET, Some(""), &Reset { reason })).await?;
        let mut cursor = Cursor::default();
        loop {
            let bindings = self.open.follow.0.bindings.clone();
            let rows = bindings.with_table(|table| table.list(&mut cursor, CHUNK));
            if rows.is_empty() {
                break;
            }
            let mut places = Vec::new();
            for row in &rows {
                places.extend(row.places()?);
            }
            let known = bindings.with_table(|table| table.known(&places, clock::wall()));
            let known = self.scope.of_theirs(known);
            if !known.is_empty() {
                self.send(event(BINDINGS, None, &Data { bindings: known })).await?;
            }
            tokio::task::yield_now().await;
        }
        let id = self.open.follow.id(place);
        self.send(event(LISTED, Some(&id), &serde_json::json!({}))).await?;
        self.told = id;
        Ok(place)
    }

    fn known_around(&self, row: &Row) -> Result<Vec<toolbox_wire::follow::Known>, DecodeError> {
        let places = row.places()?;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.open.follow.0.bindings.with_table(|table| table.known_around(&places, clock::wall()));
        Ok(self.scope.of_theirs(known))
    }

    /// Nothing leaves before it is on disk, and nobody is waited for longer than the configured time.
    async fn send(&mut self, chunk: Vec<u8>) -> Result<(), Over> {
        self.journal().append(Vec::new()).await?;
        let Settings { patience, .. } = self.open.follow.0.settings;
        let stop = &self.open.follow.0.stop;
        let sent = tokio::select! {
            () = stop.told() => return Err(Over::Ends(EndReason::Stopping)),
            sent = tokio::time::timeout(patience, self.chunks.send(chunk.into())) => sent,
        };
        self.sent = clock::now();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over::Left),
            Err(_) => Err(Over::Ends(EndReason::Slow)),
        }
    }
}

/// The identity of the journal, made at the first start.
fn identity(path: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.len() == 2 * IDENTITY_LENGTH && text.bytes().all(|octet| octet.is_ascii_hexdigit()) => {
            return Ok(text);
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
    let mut octets = [0; IDENTITY_LENGTH];
    System.fill(&mut octets);
    let identity = hex(&octets);
    // Written aside and renamed: a crash leaves a whole one or none.
    let aside = path.with_extension("new");
    std::fs::write(&aside, &identity)?;
    std::fs::File::open(&aside)?.sync_all()?;
    std::fs::rename(&aside, path)?;
    Ok(identity)
}

/// How long a caller with too many streams is told to wait.
pub(crate) const BUSY: Duration = Duration::from_secs(10);
