//! Following the lease file of a DHCP server.

use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use cloakway_types::Instant;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use toolbox_leases::{Book, Record};

use super::audit::{self, Said, Suspects};
use super::leases::LeaseTeller;
use super::settings::LeaseFile;
use super::teller::{Gone, Teller};

/// How often a file is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a file may be missing while its server puts another one in its place.
const GRACE: Duration = Duration::from_secs(1);

/// How often a file with a record that cannot be read is read again.
const AGAIN: Duration = Duration::from_secs(5);

/// Why a file cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Problem(pub(super) String);

/// What a look at a file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// All that is new has been given.
    Followed,
    /// It is another file: everything has to be read.
    Anew,
}

/// The lease file, or files, of one server.
pub(super) trait Leases: Send + 'static {
    /// Reads everything there is.
    fn read_all(&mut self) -> Result<Vec<Record>, Problem>;
    /// Reads what is new.
    fn look(&mut self, each: &mut dyn FnMut(Record)) -> Result<Look, Problem>;
}

/// Starts a thread that follows; ends when everything has been read and told once, or cannot be read.
pub(super) async fn start(files: impl Leases, settings: &LeaseFile, teller: Teller, stop: Stop) {
    let (ready, read) = oneshot::channel();
    let handle = Handle::current();
    let mut follower = Follower {
        files,
        book: Book::new(),
        teller: LeaseTeller::new(teller, settings.naming.clone()),
        state: State::Unread { since: None },
        audit: None,
        suspects: Suspects::default(),
    };
    if let Some(audit) = &settings.audit {
        match audit::start(audit, stop.clone()) {
            Ok(said) => follower.audit = Some(said),
            Err(error) => tracing::error!(%error, "no thread for an audit"),
        }
    }
    let named = thread::Builder::new().name("leases".into());
    let spawned = named.spawn(move || {
        let mut follower = follower;
        let mut ready = Some(ready);
        loop {
            if handle.block_on(follower.step()).is_err() {
                return;
            }
            if let Some(ready) = ready.take() {
                let _ = ready.send(());
            }
            let told = handle.block_on(async {
                tokio::select! {
                    () = stop.told() => true,
                    () = tokio::time::sleep(INTERVAL) => false,
                }
            });
            if told {
                return;
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for a lease file");
        return;
    }
    // An error means that the store has failed: the role is told by another way.
    let _ = read.await;
}

enum State {
    /// Nothing is known, or what is known is being read anew: since when it cannot be.
    Unread {
        since: Option<Instant>,
    },
    Followed,
    /// Something was said that cannot be read: when everything is read again.
    Doubtful {
        again: Instant,
    },
}

struct Follower<F> {
    files: F,
    book: Book,
    teller: LeaseTeller,
    state: State,
    audit: Option<Receiver<Said>>,
    suspects: Suspects,
}

impl<F: Leases> Follower<F> {
    async fn step(&mut self) -> Result<(), Gone> {
        self.teller.teller.watch();
        if matches!(self.state, State::Followed) {
            let mut records = Vec::new();
            let looked = self.files.look(&mut |record| records.push(record));
            if !matches!(looked, Ok(Look::Followed)) {
                self.state = State::Unread { since: None };
            }
            // What was read before another file came is true too, and is told first.
            self.take(&records).await?;
        }
        if let State::Doubtful { again } = self.state
            && clock::now() >= again
        {
            self.state = State::Unread { since: None };
        }
        if let State::Unread { since } = self.state {
            match self.files.read_all() {
                Ok(records) => self.read(&records).await?,
                Err(problem) => {
                    let now = clock::now();
                    let since = since.unwrap_or(now);
                    self.state = State::Unread { since: Some(since) };
                    if self.book.is_empty() || now.since(since) >= GRACE {
                        self.fail(&problem).await?;
                    }
                }
            }
        }
        self.compare().await
    }

    /// Holds what was read against what the server itself says, when it has said it.
    async fn compare(&mut self) -> Result<(), Gone> {
        let Some(said) = self.audit.as_ref().and_then(|audit| audit.try_recv().ok()) else { return Ok(()) };
        let status = &self.teller.teller.status;
        match said {
            Err(problem) => status.alarm("audit", &format!("the server cannot be asked: {problem}")),
            Ok(said) if matches!(self.state, State::Followed) => {
                status.audited();
                let mut changes = Vec::new();
                for net in self.suspects.compare(&self.book, said, clock::wall()) {
                    status.alarm("audit", &format!("the server says something else of {net} than its file"));
                    changes.extend(self.book.doubt(net));
                }
                self.teller.changes(changes, &self.book).await?;
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Everything was read: what differs is told.
    async fn read(&mut self, records: &[Record]) -> Result<(), Gone> {
        let mut fresh = Book::new();
        for record in records {
            self.note(record);
            fresh.take(record);
        }
        if fresh.is_doubtful() {
            return self.doubt().await;
        }
        self.suspects.dispute(&mut fresh);
        let changes = self.book.become_as(fresh);
        self.state = State::Followed;
        self.teller.teller.status.up();
        self.teller.changes(changes, &self.book).await?;
        self.teller.teller.status.known(self.book.len());
        Ok(())
    }

    async fn take(&mut self, records: &[Record]) -> Result<(), Gone> {
        let mut changes = Vec::new();
        for record in records {
            self.note(record);
            changes.extend(self.book.take(record));
        }
        if self.book.is_doubtful() { self.doubt().await } else { self.teller.changes(changes, &self.book).await }
    }

    fn note(&self, record: &Record) {
        if let Record::Damaged(damage) = record {
            self.teller.teller.status.damaged();
            self.teller.teller.status.alarm("damaged", "a record cannot be read");
            tracing::warn!(%damage, "a record of a lease file cannot be read");
        }
    }

    /// A record may have been about anybody: nothing is certain until the server has written its file anew.
    async fn doubt(&mut self) -> Result<(), Gone> {
        let status = &self.teller.teller.status;
        status.alarm("damaged", "a record that cannot be read may be about any address");
        status.down("a record that cannot be read may be about any address, until the server writes the file anew");
        status.known(0);
        self.book = Book::new();
        self.state = State::Doubtful { again: clock::now() + AGAIN };
        self.teller.reset().await
    }

    async fn fail(&mut self, problem: &Problem) -> Result<(), Gone> {
        if !matches!(self.state, State::Unread { .. }) {
            self.state = State::Unread { since: Some(clock::now()) };
        }
        self.teller.teller.status.down(&problem.0);
        self.teller.teller.status.known(0);
        if !self.book.is_empty() {
            self.book = Book::new();
            self.teller.teller.status.alarm("unreadable", &problem.0);
            self.teller.reset().await?;
        }
        Ok(())
    }
}
