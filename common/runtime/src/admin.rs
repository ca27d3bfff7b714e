//! The admin socket: how `show` asks a running role.
//!
//! A Unix stream socket, readable by its owner and group. One JSON request a line, one JSON answer a
//! line: `{"topic":"sessions"}` gets `{"ok":…}` or `{"error":"…"}`; what a topic takes beside its name is in
//! `"arguments":{"name":"value"}`. A request line holds at most 4 KiB.
//!
//! An answer takes 10 s at most, unless the request has `"waits":true`: then a line `{"working":SECONDS}` comes every second
//! until the answer, however long that takes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

use crate::stop::Stop;

const REQUEST_LIMIT: u64 = 4096;
const CLIENT_LIMIT: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two words to whoever waits.
const WORD_INTERVAL: Duration = Duration::from_secs(1);

/// A request as it stands on its line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    topic: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    arguments: BTreeMap<String, String>,
    /// Whether the client waits for as long as it takes.
    #[serde(default)]
    waits: bool,
}

/// What a client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// One of the role's topics.
    pub topic: String,
    /// What of it, where the topic takes that: by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, String>,
}

impl Request {
    /// The argument of this name.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.get(name).map(String::as_str)
    }
}

/// What it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The topic's state.
    Ok(Value),
    /// Why there is none.
    Error(String),
}

/// A line to whoever waits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ok(Value),
    Error(String),
    /// Nothing yet, after so many seconds.
    Working(u64),
}

fn silent() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

/// Opens a Unix socket at `path` for its owner and group, in place of one that a dead process left.
///
/// # Errors
/// When the folder is missing, or a living process listens there.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            format!("{}: another process is listening there", path.display()),
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(named(path, &error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| named(path, &error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn named(path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Answers requests on `path` with `handler` until the stop.
///
/// # Errors
/// When the socket cannot be opened.
pub fn serve<H, F>(path: &Path, stop: Stop, handler: H) -> std::io::Result<()>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Value, String>> + Send + 'static,
{
    let listener = bind(path)?;
    let handler = Arc::new(handler);
    let clients = Arc::new(tokio::sync::Semaphore::new(CLIENT_LIMIT));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            let (Ok((stream, _)), Ok(place)) = (accepted, clients.clone().try_acquire_owned()) else { continue };
            let handler = handler.clone();
            tokio::spawn(async move {
                let _ = answer(stream, &*handler).await;
                drop(place);
            });
        }
    });
    Ok(())
}

async fn answer<H, F>(stream: UnixStream, handler: &H) -> std::io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Value, String>>,
{
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(read.take(REQUEST_LIMIT)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(Line { topic, arguments, waits }) => {
            worked_on(handler(Request { topic, arguments }), waits, &mut write).await?
        }
        Err(error) => Answer::Error(format!("the request is not understood: {error}")),
    };
    tell(&mut write, &answer).await
}

/// What comes of `work`. Who waits for it is told that it goes on; when there is nobody left to tell, it does not.
async fn worked_on(
    work: impl Future<Output = Result<Value, String>>,
    waits: bool,
    write: &mut OwnedWriteHalf,
) -> std::io::Result<Answer> {
    let mut work = std::pin::pin!(work);
    let begun = Instant::now();
    loop {
        match timeout(if waits { WORD_INTERVAL } else { PATIENCE }, &mut work).await {
            Ok(done) => return Ok(done.map_or_else(Answer::Error, Answer::Ok)),
            Err(_) if waits => tell(write, &Word::Working(begun.elapsed().as_secs())).await?,
            Err(_) => return Ok(Answer::Error(silent())),
        }
    }
}

async fn tell(write: &mut OwnedWriteHalf, answer: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    timeout(PATIENCE, write.write_all(&text)).await?
}

/// Asks the role that listens on `path`.
///
/// # Errors
/// A text for the operator: nobody listens, no answer in time, or the role's own refusal.
pub async fn ask(path: &Path, topic: &str) -> Result<Value, String> {
    ask_for(path, &Request { topic: topic.to_owned(), arguments: BTreeMap::new() }).await
}

/// Asks the role that listens on `path` with arguments.
///
/// # Errors
/// A text for the operator: nobody listens, no answer in time, or the role's own refusal.
pub async fn ask_for(path: &Path, request: &Request) -> Result<Value, String> {
    let asking = async {
        let mut stream = connected(path).await?;
        send(&mut stream, request, false).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|e| e.to_string())?;
        match understood(&text)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(reason) => Err(reason),
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(silent()))
}

/// Asks the role that listens on `path`, and waits for as long as that works on it; `working` hears every second for how
/// many it has.
///
/// # Errors
/// A text for the operator: nobody listens, nothing is heard any more, or the role's own refusal.
pub async fn ask_patiently(path: &Path, request: &Request, working: impl Fn(u64)) -> Result<Value, String> {
    let mut stream = connected(path).await?;
    send(&mut stream, request, true).await?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.map_err(|_| silent())?.map_err(|e| e.to_string())?;
        match understood(&line.ok_or("the role ended without an answer")?)? {
            Word::Ok(value) => return Ok(value),
            Word::Error(reason) => return Err(reason),
            Word::Working(seconds) => working(seconds),
        }
    }
}

async fn connected(path: &Path) -> Result<UnixStream, String> {
    let connecting = UnixStream::connect(path).await;
    connecting.map_err(|error| format!("{}: {error}: is the role running?", path.display()))
}

async fn send(stream: &mut UnixStream, request: &Request, waits: bool) -> Result<(), String> {
    let Request { topic, arguments } = request.clone();
    let mut line = serde_json::to_string(&Line { topic, arguments, waits }).map_err(|e| e.to_string())?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await.map_err(|e| e.to_string())
}

fn understood<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| format!("the answer is not understood: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_is_answered_and_an_unknown_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let stop = Stop::new();
        serve(&path, stop.clone(), |request| async move {
            if request.topic == "links" { Ok(serde_json::json!([1])) } else { Err("no such topic".to_owned()) }
        })
        .unwrap();
        assert_eq!(ask(&path, "links").await, Ok(serde_json::json!([1])));
        assert_eq!(ask(&path, "x").await, Err("no such topic".to_owned()));
        assert!(bind(&path).is_err(), "a living listener is not replaced");
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"garbage\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("not understood"), "{text}");
        stop.tell();
    }

    #[tokio::test]
    async fn who_waits_is_told_that_the_work_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let stop = Stop::new();
        let heard = Arc::new(tokio::sync::Notify::new());
        let ending = heard.clone();
        serve(&path, stop.clone(), move |_| {
            let ending = ending.clone();
            async move {
                // Until somebody has heard of it.
                ending.notified().await;
                Ok(serde_json::json!("done"))
            }
        })
        .unwrap();
        let request = Request { topic: "reload".to_owned(), arguments: BTreeMap::new() };
        let answer = ask_patiently(&path, &request, |seconds| {
            assert!(seconds > 0);
            heard.notify_one();
        });
        assert_eq!(answer.await, Ok(serde_json::json!("done")));
        let none = ask_patiently(&folder.path().join("none"), &request, |_| {}).await;
        assert!(none.unwrap_err().contains("is the role running?"));
        stop.tell();
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(bind(&path).unwrap());
        assert!(bind(&path).is_ok());
        assert!(ask(&folder.path().join("none"), "x").await.unwrap_err().contains("is the role running?"));
    }
}
