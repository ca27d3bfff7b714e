//! How a source tells the table.

use std::collections::HashSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use cloakway_runtime::clock;
use cloakway_store::StoreError;
use cloakway_types::{Instant, Timestamp};
use tokio::sync::mpsc;
use toolbox_core::{Effect, Event};
use toolbox_wire::record::{Address, Change, EventTime, Nas, Record, SessionRecord, User};

use super::status::Shared;
use crate::bindings::Bindings;

/// Records on their way to the disk.
const WAITING: usize = 4096;
/// How often it is written down that the source is watched.
const WATCHED: Duration = Duration::from_secs(1);

type Durable = Pin<Box<dyn Future<Output = Result<Effect, StoreError>> + Send>>;

/// Nothing can be made durable any more: the process ends.
#[derive(Debug, thiserror::Error)]
#[error("the store has failed")]
pub(crate) struct Gone;

/// The voice of one source.
pub(crate) struct Teller {
    bindings: Bindings,
    pub(super) status: Shared,
    client: String,
    /// The time of the record before.
    last: Timestamp,
    /// The sessions that have a record of that time.
    recent: HashSet<String>,
    /// The record before was about all sessions.
    after_reset: bool,
    waiting: Vec<Durable>,
    failed: mpsc::Sender<StoreError>,
    /// A file with the last moment that somebody watched.
    watched: PathBuf,
    written: Option<Instant>,
}

impl Teller {
    pub(super) fn new(bindings: Bindings, status: Shared, watched: PathBuf, failed: mpsc::Sender<StoreError>) -> Self {
        let client = status.get().name;
        let last = Timestamp::from_millis(0);
        Self {
            bindings,
            status,
            client,
            last,
            recent: HashSet::new(),
            after_reset: false,
            waiting: Vec::new(),
            failed,
            watched,
            written: None,
        }
    }

    /// How long the network may hold what this source is told.
    pub(super) fn max_delay(&self) -> Duration {
        self.bindings.max_delay()
    }

    /// Ends what was said by a process before this one: it was so until shortly before the last moment at which that process is
    /// known to have watched, and may have been until now.
    pub(super) async fn begin(&mut self) -> Result<(), Gone> {
        let text = std::fs::read_to_string(&self.watched).unwrap_or_default();
        match text.trim().parse().ok().map(Timestamp::from_millis) {
            Some(watched) => {
                // If the clock was set back meanwhile, what that process said last is not after this.
                if watched > clock::wall() {
                    self.last = watched + WATCHED * 5;
                }
                let at = self.next(None);
                let time = EventTime::reported(at, watched - self.max_delay(), clock::wall());
                self.tell(Record::NasReset { nas: Nas::default(), time }).await?;
            }
            None => self.reset().await?,
        }
        self.settle().await
    }

    /// Everything that the source said is over.
    pub(super) async fn reset(&mut self) -> Result<(), Gone> {
        let time = EventTime::ordered(self.next(None));
        self.tell(Record::NasReset { nas: Nas::default(), time }).await
    }

    /// A session begins; under a name that is there it replaces what was.
    pub(super) async fn start(
        &mut self,
        session: String,
        user: User,
        address: Address,
        until: Option<Timestamp>,
    ) -> Result<(), Gone> {
        self.session(Change::Start, session, user, vec![address], until).await
    }

    /// It goes on.
    pub(super) async fn go_on(
        &mut self,
        session: String,
        user: User,
        address: Address,
        until: Option<Timestamp>,
    ) -> Result<(), Gone> {
        self.session(Change::Interim, session, user, vec![address], until).await
    }

    /// It is over.
    pub(super) async fn stop(&mut self, session: String) -> Result<(), Gone> {
        self.session(Change::Stop, session, User::Unstated, Vec::new(), None).await
    }

    /// As [`Self::start`], told now of what began between these two moments.
    pub(super) async fn started(
        &mut self,
        session: String,
        user: User,
        address: Address,
        until: Option<Timestamp>,
        (earliest, latest): (Timestamp, Timestamp),
    ) -> Result<(), Gone> {
        let time = EventTime::reported(self.next(Some(&session)), earliest, latest);
        self.timed(Change::Start, session, user, vec![address], until, time).await
    }

    /// As [`Self::stop`], told now of what ended between these two moments.
    pub(super) async fn stopped(
        &mut self,
        session: String,
        (earliest, latest): (Timestamp, Timestamp),
    ) -> Result<(), Gone> {
        let time = EventTime::reported(self.next(Some(&session)), earliest, latest);
        self.timed(Change::Stop, session, User::Unstated, Vec::new(), None, time).await
    }

    async fn session(
        &mut self,
        change: Change,
        session: String,
        user: User,
        addresses: Vec<Address>,
        until: Option<Timestamp>,
    ) -> Result<(), Gone> {
        let time = EventTime::ordered(self.next(Some(&session)));
        self.timed(change, session, user, addresses, until, time).await
    }

    async fn timed(
        &mut self,
        change: Change,
        session: String,
        user: User,
        addresses: Vec<Address>,
        until: Option<Timestamp>,
        time: EventTime,
    ) -> Result<(), Gone> {
        let nas = Nas { identifier: Some(self.client.clone()), ..Nas::default() };
        self.tell(Record::Session(SessionRecord { change, session, user, nas, addresses, time, until })).await
    }

    async fn tell(&mut self, record: Record) -> Result<(), Gone> {
        let source = self.status.get().source;
        let event = Event { source, client: self.client.clone(), record, arrival: clock::wall() };
        self.waiting.push(Box::pin(self.bindings.apply(&event)));
        self.status.told();
        if self.waiting.len() >= WAITING { self.settle().await } else { Ok(()) }
    }

    /// Waits until all that was told is durable.
    pub(super) async fn settle(&mut self) -> Result<(), Gone> {
        for durable in std::mem::take(&mut self.waiting) {
            if let Err(error) = durable.await {
                drop(self.failed.try_send(error));
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// Writes down now and then that the source is watched. A machine that dies loses some of it: what was said after
    /// that ends when the next process begins.
    pub(super) fn watch(&mut self) {
        let now = clock::now();
        if self.written.is_none_or(|written| now.since(written) >= WATCHED) {
            self.written = Some(now);
            if let Err(error) = std::fs::write(&self.watched, clock::wall().as_millis().to_string()) {
                tracing::warn!(file = %self.watched.display(), %error, "cannot be written");
            }
        }
    }

    /// The time of a record about this session, or of one about all: later than that of the one before it of the same
    /// session. Others may have the same time, so that many records at once do not run ahead of the clock.
    fn next(&mut self, session: Option<&str>) -> Timestamp {
        let now = clock::wall();
        let taken = session.is_none_or(|session| self.recent.contains(session));
        if now > self.last {
            self.last = now;
            self.recent.clear();
        } else if taken || self.after_reset {
            self.last = self.last + Duration::from_millis(1);
            self.recent.clear();
        }
        self.after_reset = session.is_none();
        self.recent.extend(session.map(str::to_owned));
        self.last
    }
}
