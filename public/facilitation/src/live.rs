//! The BGP speaker's routes, asked while they live (A7): one connection, opened again when it is lost.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakway_runtime::tls::{self, ClientConfig};
use look_up_wire::{Framer, Question, Verdict};
use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// How long an order waits for an answer; then the dump decides.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a connection may take to stand; no order waits for it that long.
const CONNECT: Duration = Duration::from_secs(5);
/// After a failure nobody waits again for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the speaker is asked.
#[derive(Debug, Clone)]
pub enum Place {
    /// On this host.
    Unix(PathBuf),
    /// By TCP; under TLS with the name in its certificate, unless it is on this host.
    Tcp(SocketAddr, Option<(String, Arc<ClientConfig>)>),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address, _) => write!(f, "{address}"),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Stream for S {}

impl Place {
    async fn connect(self) -> Result<Box<dyn Stream>, String> {
        let text = |error: std::io::Error| error.to_string();
        let connecting = async {
            Ok::<Box<dyn Stream>, String>(match self {
                Self::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(text)?),
                Self::Tcp(address, tls) => {
                    let stream = TcpStream::connect(address).await.map_err(text)?;
                    stream.set_nodelay(true).map_err(text)?;
                    match tls {
                        None => Box::new(stream),
                        Some((name, config)) => {
                            let protocol = look_up_wire::PROTOCOL;
                            Box::new(tls::connect(&config, &name, protocol, stream).await.map_err(text)?)
                        }
                    }
                }
            })
        };
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err("no connection in time".to_owned()))
    }
}

/// The way to the speaker.
#[derive(Debug)]
pub struct Live {
    place: Place,
    state: Mutex<State>,
    /// What is wrong, and since when.
    problem: std::sync::Mutex<Option<(String, Instant)>>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Goes on while nobody waits for it.
    connecting: Option<JoinHandle<Result<Box<dyn Stream>, String>>>,
    next_id: u32,
    pause_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: Box<dyn Stream>,
    framer: Framer,
}

impl Live {
    /// By a socket of this host; connects when it is first asked.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self::at(Place::Unix(socket.to_owned()))
    }

    /// Connects when it is first asked.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self { place, state: Mutex::default(), problem: std::sync::Mutex::default() }
    }

    /// What the speaker's routes say; `None` when it does not answer, or has not all routes yet.
    pub async fn ask(&self, address: IpAddr) -> Option<Verdict> {
        let mut state = self.state.lock().await;
        if state.pause_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let asked = tokio::time::timeout(PATIENCE, exchange(&self.place, &mut state, address)).await;
        let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {} ms", PATIENCE.as_millis())));
        match answer {
            Ok(Verdict::NotReady) => {
                self.note(Some("the speaker has no peer that has told all of its routes".to_owned()));
                None
            }
            Ok(verdict) => {
                self.note(None);
                Some(verdict)
            }
            Err(error) => {
                // What may still come on it would be taken for another answer.
                state.connection = None;
                state.pause_until = Some(Instant::now() + PAUSE);
                counter!("cloakway_live_look_up_failures_total").increment(1);
                self.note(Some(format!("{}: {error}", self.place)));
                None
            }
        }
    }

    /// Why the dump decides, while it does.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        problem.as_ref().map(|(problem, _)| problem.clone())
    }

    /// For how long the live routes are stale: nobody has said since what they are.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        let problem = self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        problem.as_ref().map(|(_, since)| since.elapsed())
    }

    fn note(&self, problem: Option<String>) {
        gauge!("cloakway_live_rib_up").set(if problem.is_none() { 1.0 } else { 0.0 });
        let mut known = self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.as_ref().map(|(problem, _)| problem) == problem.as_ref() {
            return;
        }
        match &problem {
            Some(reason) => tracing::warn!(%reason, "live routes are not used: the dump decides"),
            None => tracing::info!("live routes are used"),
        }
        let since = known.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        *known = problem.map(|problem| (problem, since));
    }
}

async fn exchange(place: &Place, state: &mut State, address: IpAddr) -> Result<Verdict, String> {
    // A connection that the speaker closed since is tried once and then made anew.
    let fresh = state.connection.is_none();
    match once(place, state, address).await {
        Err(_) if !fresh => {
            state.connection = None;
            once(place, state, address).await
        }
        answer => answer,
    }
}

async fn once(place: &Place, state: &mut State, address: IpAddr) -> Result<Verdict, String> {
    let connection = match &mut state.connection {
        Some(connection) => connection,
        none => {
            let connecting = state.connecting.get_or_insert_with(|| tokio::spawn(place.clone().connect()));
            let connected = connecting.await;
            state.connecting = None;
            let stream = connected.map_err(|error| error.to_string())??;
            none.insert(Connection { stream, framer: Framer::default() })
        }
    };
    state.next_id = state.next_id.wrapping_add(1);
    let id = state.next_id;
    let mut question = Vec::new();
    Question { id, address }.encode(&mut question);
    connection.stream.write_all(&question).await.map_err(|error| error.to_string())?;
    connection.stream.flush().await.map_err(|error| error.to_string())?;
    let mut buffer = [0; look_up_wire::ANSWER];
    loop {
        if let Some(answer) = connection.framer.next_answer().map_err(|error| error.to_string())? {
            return if answer.id == id { Ok(answer.verdict) } else { Err("an answer to another question".to_owned()) };
        }
        match connection.stream.read(&mut buffer).await {
            Ok(0) => return Err("the speaker hung up".to_owned()),
            Ok(count) => connection.framer.push(buffer.get(..count).unwrap_or_default()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use look_up_wire::Answer;
    use tokio::net::UnixListener;

    /// Answers as many questions as there are verdicts, then hangs up.
    async fn speaker(listener: &UnixListener, verdicts: Vec<Verdict>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        for verdict in verdicts {
            let mut question = [0; look_up_wire::QUESTION];
            stream.read_exact(&mut question).await.unwrap();
            let id = Question::decode(&question).unwrap().id;
            let mut answer = Vec::new();
            Answer { id, verdict }.encode(&mut answer);
            stream.write_all(&answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_speaker_that_comes_and_goes_is_asked_again_and_its_absence_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("look-up");
        let live = Live::new(&path);
        let client = "10.0.0.1".parse().unwrap();
        assert_eq!(live.ask(client).await, None);
        assert!(live.problem().unwrap().contains("look-up"), "{:?}", live.problem());
        live.state.lock().await.pause_until = None;
        let listener = UnixListener::bind(&path).unwrap();
        let origin = Verdict::Origin { prefix: "10.0.0.0/8".parse().unwrap(), asn: 64500 };
        let (asked, ()) = tokio::join!(live.ask(client), speaker(&listener, vec![origin]));
        assert_eq!((asked, live.problem()), (Some(origin), None));
        // It hung up behind that answer, and is connected to anew.
        let (asked, ()) = tokio::join!(live.ask(client), speaker(&listener, vec![Verdict::NoRoute]));
        assert_eq!(asked, Some(Verdict::NoRoute));
        drop(listener);
    }

    #[tokio::test]
    async fn a_speaker_that_is_not_ready_does_not_decide() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("look-up");
        let listener = UnixListener::bind(&path).unwrap();
        let live = Live::new(&path);
        let (asked, ()) = tokio::join!(live.ask([10, 0, 0, 1].into()), speaker(&listener, vec![Verdict::NotReady]));
        assert_eq!(asked, None);
        assert!(live.problem().unwrap().contains("told all"));
    }
}
