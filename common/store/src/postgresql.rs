//! PostgreSQL behind the same interface, where one machine is not enough: one table of rows in a schema of its own.
//!
//! One session writes and holds an advisory lock on the schema: nobody else writes there. What waits together shares one
//! transaction. When the server cannot be reached, also at the start, commits wait until it is back: a batch says what holds of
//! its keys, so that carrying it out again changes nothing. Reads fail meanwhile.

mod tls;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Socket};

pub use self::tls::Tls;
use crate::{Batch, Change, Row, StoreError};

/// Batches in one transaction at most.
const GROUP_LIMIT: usize = 1024;
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection may be silent that should not be.
const SILENT: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(500);
/// How often a schema is tried that another process has: the server hears in a moment that one was killed.
const TRIES: u32 = 50;
/// Longer than the server lets a question take.
const ANSWER: Duration = Duration::from_secs(30);

/// Where the server is, and what is ours there.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgresql {
    /// As libpq has it: `host=/run/postgresql dbname=toolbox user=toolbox`.
    pub connection: String,
    /// The password, where the server wants one.
    pub password: Option<String>,
    /// The schema, made when it is not there.
    pub schema: String,
    /// How connections are secured; none: they are not.
    pub tls: Option<Tls>,
}

impl fmt::Debug for Postgresql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgresql").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The schema is no plain name.
    #[error("{0:?} is no name of a schema: 1 to 48 of small letters, digits and _, a letter first")]
    Schema(String),
    /// The connection is not understood.
    #[error("{0}: host=/run/postgresql dbname=toolbox user=toolbox would be one")]
    Connection(String),
    /// A socket of this machine under TLS.
    #[error("{0} is a socket of this machine, and has no TLS: leave it out, or name a host")]
    TlsOfSocket(String),
}

impl Postgresql {
    /// Whether the settings can be used; and the hosts that are not this one and are spoken to in the clear.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(&self) -> Result<Vec<String>, SettingsError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let first = self.schema.starts_with(|c: char| c.is_ascii_lowercase());
        if !first || self.schema.len() > 48 || !self.schema.chars().all(plain) {
            return Err(SettingsError::Schema(self.schema.clone()));
        }
        let hosts = self.config()?;
        let mut far = Vec::new();
        for host in hosts.get_hosts() {
            match host {
                Host::Unix(path) if self.tls.is_some() => {
                    return Err(SettingsError::TlsOfSocket(path.display().to_string()));
                }
                Host::Tcp(host) if self.tls.is_none() && host != "localhost" => {
                    let local = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
                    far.extend((!local).then(|| host.clone()));
                }
                Host::Unix(_) | Host::Tcp(_) => {}
            }
        }
        Ok(far)
    }

    /// The TCP ports that are connected to.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let Ok(config) = self.config() else { return Vec::new() };
        let ports = config.get_ports();
        let tcp = config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
        match (tcp, ports.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec![5432],
            (true, false) => ports.to_vec(),
        }
    }

    fn config(&self) -> Result<Config, SettingsError> {
        let wrong = |error: tokio_postgres::Error| SettingsError::Connection(chain(&error));
        let mut config: Config = self.connection.parse().map_err(wrong)?;
        if config.get_hosts().is_empty() {
            return Err(SettingsError::Connection("no host is given".to_owned()));
        }
        if let Some(password) = &self.password {
            config.password(password);
        }
        config.connect_timeout(CONNECT).application_name("cloakway").keepalives_idle(SILENT).tcp_user_timeout(SILENT);
        config.ssl_mode(if self.tls.is_some() { SslMode::Require } else { SslMode::Disable });
        Ok(config)
    }

    fn open_error(&self, reason: impl ToString) -> StoreError {
        StoreError::Open { path: format!("PostgreSQL, schema {}", self.schema), reason: reason.to_string() }
    }
}

/// Why there is no session.
enum Failed {
    /// The server cannot be reached; it may be back.
    Away(String),
    /// It will not have us.
    Refused(String),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = chain(&error);
        let away = match error.as_db_error() {
            // It starts, or ends.
            Some(said) => [
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::TOO_MANY_CONNECTIONS,
            ]
            .contains(said.code()),
            None => error.is_closed() || io_kind(&error).is_some_and(|kind| kind != io::ErrorKind::InvalidData),
        };
        if away { Self::Away(text) } else { Self::Refused(text) }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Away(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

/// What kind of an error of a socket caused this one; a certificate that is not believed is [`io::ErrorKind::InvalidData`].
fn io_kind(error: &tokio_postgres::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = inner.source();
    }
    // The time that a connection may take has no source.
    error.to_string().contains("timed out").then_some(io::ErrorKind::TimedOut)
}

/// An error with everything that caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

type Commit = (Batch, oneshot::Sender<Result<(), StoreError>>);

/// What is read: of a table, all or from one key to before another, at most so many.
struct Question {
    name: String,
    between: Option<(Vec<u8>, Vec<u8>)>,
    limit: usize,
    answer: SyncSender<Result<Vec<Row>, StoreError>>,
}

#[derive(Debug)]
pub(crate) struct Engine {
    commits: Option<mpsc::UnboundedSender<Commit>>,
    questions: Option<mpsc::UnboundedSender<Question>>,
    closing: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn open(settings: &Postgresql) -> Result<Self, StoreError> {
        settings.check().map_err(|error| settings.open_error(error))?;
        let (commits, queue) = mpsc::unbounded_channel();
        let (questions, asked) = mpsc::unbounded_channel();
        let (closing, away) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let writer = {
            let (settings, flags) = (settings.clone(), Flags { closing: closing.clone(), away: away.clone() });
            thread("store-writer", settings.clone(), move |opened| write_until_closed(settings, queue, flags, opened))?
        };
        let mut engine = Self { commits: Some(commits), questions: None, closing, away, threads: vec![writer] };
        let reader = {
            let settings = settings.clone();
            thread("store-reader", settings.clone(), move |opened| read_until_closed(settings, asked, opened))?
        };
        engine.questions = Some(questions);
        engine.threads.push(reader);
        Ok(engine)
    }

    pub(crate) fn enqueue(&self, batch: Batch, done: oneshot::Sender<Result<(), StoreError>>) {
        // A closed queue drops `done`, and the waiting side reads that as a failed commit.
        if let Some(commits) = &self.commits {
            let _ = commits.send((batch, done));
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let behind = [key, &[0]].concat();
        let rows = self.range(name, Some((key, &behind)), 1)?;
        Ok(rows.into_iter().next().map(|(_, value)| value))
    }

    pub(crate) fn range(
        &self,
        name: &str,
        between: Option<(&[u8], &[u8])>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let (answer, answered) = sync_channel(1);
        let between = between.map(|(from, to)| (from.to_vec(), to.to_vec()));
        let question = Question { name: name.to_owned(), between, limit, answer };
        if let Some(questions) = &self.questions {
            let _ = questions.send(question);
        }
        let silent = |_| Err(StoreError::Read("PostgreSQL does not answer".to_owned()));
        answered.recv_timeout(ANSWER).unwrap_or_else(silent)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        (self.commits, self.questions) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Tells once how opening ended.
type Opened = Sender<Result<(), StoreError>>;

/// What the writer is told, and says.
struct Flags {
    closing: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
}

/// A thread with an event loop of its own, once it says that it works.
fn thread<F: Future<Output = ()>>(
    name: &str,
    settings: Postgresql,
    work: impl FnOnce(Opened) -> F + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let failed = |error: io::Error| settings.open_error(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (opened, told) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(move || runtime.block_on(work(opened))).map_err(failed)?;
    told.recv().unwrap_or_else(|_| Err(settings.open_error("its thread has ended")))?;
    Ok(thread)
}

async fn connect(settings: &Postgresql) -> Result<Client, Failed> {
    let config = settings.config().map_err(|error| Failed::Refused(error.to_string()))?;
    match &settings.tls {
        None => connect_by(&config, NoTls).await,
        Some(tls) => connect_by(&config, tls.clone()).await,
    }
}

async fn connect_by<T>(config: &Config, tls: T) -> Result<Client, Failed>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(error = chain(&error), "a connection to PostgreSQL has ended");
        }
    });
    Ok(client)
}

/// A session that may write: the only one in its schema, whose commits are on disk when they are answered.
async fn writer(settings: &Postgresql) -> Result<Client, Failed> {
    let schema = &settings.schema;
    let client = connect(settings).await?;
    let asked = async {
        client.batch_execute("SET synchronous_commit = on; SET client_min_messages = warning").await?;
        let lock = "SELECT pg_try_advisory_lock(hashtext('cloakway'), hashtext($1))";
        let mut locked = false;
        for _ in 0..TRIES {
            locked = client.query_one(lock, &[schema]).await?.try_get(0)?;
            if locked {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let there = "SELECT to_regclass($1) IS NOT NULL";
        let there: bool = client.query_one(there, &[&format!("{schema}.rows")]).await?.try_get(0)?;
        if locked && !there {
            // The schema is a plain name: `check` has seen it.
            let create = format!(
                "CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE IF NOT EXISTS {schema}.rows \
                 (name text NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (name, key))"
            );
            client.batch_execute(&create).await?;
        }
        Ok::<_, tokio_postgres::Error>(locked)
    };
    match asked.await? {
        true => Ok(client),
        false => Err(Failed::Refused("another process has this schema open".to_owned())),
    }
}

/// The session that opening found, or none while the server is away; nothing when it refuses us.
fn found(settings: &Postgresql, first: Result<Client, Failed>, opened: &Opened) -> Option<Option<Client>> {
    let (client, told) = match first {
        Ok(client) => (Some(Some(client)), Ok(())),
        Err(Failed::Away(error)) => {
            tracing::error!(error, "PostgreSQL cannot be reached: what is to be kept waits");
            (Some(None), Ok(()))
        }
        Err(Failed::Refused(reason)) => (None, Err(settings.open_error(reason))),
    };
    let _ = opened.send(told);
    client
}

async fn write_until_closed(
    settings: Postgresql,
    mut queue: mpsc::UnboundedReceiver<Commit>,
    flags: Flags,
    opened: Opened,
) {
    let first = writer(&settings).await;
    flags.away.store(first.is_err(), Ordering::Relaxed);
    let Some(mut client) = found(&settings, first, &opened) else { return };
    loop {
        flags.away.store(client.is_none(), Ordering::Relaxed);
        // The schema is taken as soon as the server is there, and not only when there is something to write.
        let first = tokio::select! {
            first = queue.recv() => first,
            () = tokio::time::sleep(AGAIN), if client.is_none() => {
                client = again(&settings).await;
                continue;
            }
        };
        let Some(first) = first else { return };
        let mut group = vec![first];
        while group.len() < GROUP_LIMIT
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let result = loop {
            let failed = match &mut client {
                None => "it cannot be reached".to_owned(),
                Some(session) => match write(session, &settings.schema, &group).await {
                    Ok(()) => break Ok(()),
                    Err(error) => chain(&error),
                },
            };
            flags.away.store(true, Ordering::Relaxed);
            tracing::error!(error = failed, "PostgreSQL does not take what is to be kept: again soon");
            if flags.closing.load(Ordering::Relaxed) {
                break Err(StoreError::Write(failed));
            }
            tokio::time::sleep(AGAIN).await;
            // What was sent may have been carried out or not: it is sent again.
            client = again(&settings).await;
        };
        // Before anybody hears of it: who was answered is not told that the server is away.
        flags.away.store(result.is_err(), Ordering::Relaxed);
        for (_, done) in group {
            let _ = done.send(result.clone());
        }
    }
}

async fn again(settings: &Postgresql) -> Option<Client> {
    let client = writer(settings).await;
    client.map_err(|error| tracing::error!(%error, "PostgreSQL cannot be written")).ok()
}

/// All batches in one transaction: of each key what the last of them says.
async fn write(client: &mut Client, schema: &str, group: &[Commit]) -> Result<(), tokio_postgres::Error> {
    let mut last: BTreeMap<(&str, &[u8]), &Change> = BTreeMap::new();
    for (name, key, change) in group.iter().flat_map(|(batch, _)| &batch.0) {
        last.insert((name, key), change);
    }
    let (mut names, mut keys, mut values): (Vec<&str>, Vec<&[u8]>, Vec<&[u8]>) = Default::default();
    let (mut gone, mut gone_keys): (Vec<&str>, Vec<&[u8]>) = Default::default();
    for ((name, key), change) in last {
        match change {
            Change::Put(value) => {
                names.push(name);
                keys.push(key);
                values.push(value);
            }
            Change::Delete => {
                gone.push(name);
                gone_keys.push(key);
            }
        }
    }
    let transaction = client.transaction().await?;
    if !names.is_empty() {
        let put = format!(
            "INSERT INTO {schema}.rows (name, key, value) SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) \
             ON CONFLICT (name, key) DO UPDATE SET value = excluded.value"
        );
        transaction.execute(&put, &[&names, &keys, &values]).await?;
    }
    if !gone.is_empty() {
        let delete = format!(
            "DELETE FROM {schema}.rows USING unnest($1::text[], $2::bytea[]) AS gone (name, key) \
             WHERE rows.name = gone.name AND rows.key = gone.key"
        );
        transaction.execute(&delete, &[&gone, &gone_keys]).await?;
    }
    transaction.commit().await
}

async fn reader(settings: &Postgresql) -> Result<Client, Failed> {
    let client = connect(settings).await?;
    client.batch_execute("SET statement_timeout = '20s'; SET default_transaction_read_only = on").await?;
    Ok(client)
}

async fn read_until_closed(settings: Postgresql, mut asked: mpsc::UnboundedReceiver<Question>, opened: Opened) {
    let Some(mut client) = found(&settings, reader(&settings).await, &opened) else { return };
    while let Some(question) = asked.recv().await {
        let mut answer = Err("PostgreSQL cannot be reached".to_owned());
        for _ in 0..2 {
            if client.as_ref().is_none_or(Client::is_closed) {
                client = match reader(&settings).await {
                    Ok(client) => Some(client),
                    Err(error) => {
                        answer = Err(error.to_string());
                        break;
                    }
                };
            }
            let Some(session) = &client else { break };
            answer = read(session, &settings.schema, &question).await.map_err(|error| chain(&error));
            if answer.is_ok() || !session.is_closed() {
                break;
            }
        }
        let _ = question.answer.send(answer.map_err(StoreError::Read));
    }
}

async fn read(client: &Client, schema: &str, question: &Question) -> Result<Vec<Row>, tokio_postgres::Error> {
    let limit = i64::try_from(question.limit).unwrap_or(i64::MAX);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&question.name, &limit];
    let mut between = "";
    if let Some((from, to)) = &question.between {
        between = "AND key >= $3 AND key < $4";
        parameters.extend([from as &(dyn ToSql + Sync), to]);
    }
    let select = format!("SELECT key, value FROM {schema}.rows WHERE name = $1 {between} ORDER BY key LIMIT $2");
    let rows = client.query(&select, &parameters).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
