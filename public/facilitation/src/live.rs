//! The BGP speaker's routes, asked while they live (A7): one connection, opened again when it is lost.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use look_up_wire::{Framer, Question, Verdict};
use metrics::{counter, gauge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// How long an order waits for an answer; then the dump decides.
const PATIENCE: Duration = Duration::from_millis(300);
/// After a failure nobody waits again for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// The way to the speaker.
#[derive(Debug)]
pub struct Live {
    socket: PathBuf,
    state: Mutex<State>,
    problem: std::sync::Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    next_id: u32,
    pause_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    framer: Framer,
}

impl Live {
    /// Connects when it is first asked.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), state: Mutex::default(), problem: std::sync::Mutex::default() }
    }

    /// What the speaker's routes say; `None` when it does not answer, or has not all routes yet.
    pub async fn ask(&self, address: IpAddr) -> Option<Verdict> {
        let mut state = self.state.lock().await;
        if state.pause_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let asked = tokio::time::timeout(PATIENCE, exchange(&self.socket, &mut state, address)).await;
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
                self.note(Some(format!("{}: {error}", self.socket.display())));
                None
            }
        }
    }

    /// Why the dump decides, while it does.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn note(&self, problem: Option<String>) {
        gauge!("cloakway_live_rib_up").set(if problem.is_none() { 1.0 } else { 0.0 });
        let mut known = self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *known != problem {
            match &problem {
                Some(reason) => tracing::warn!(%reason, "live routes are not used: the dump decides"),
                None => tracing::info!("live routes are used"),
            }
            *known = problem;
        }
    }
}

async fn exchange(socket: &Path, state: &mut State, address: IpAddr) -> Result<Verdict, String> {
    // A connection that the speaker closed since is tried once and then made anew.
    let fresh = state.connection.is_none();
    match once(socket, state, address).await {
        Err(_) if !fresh => {
            state.connection = None;
            once(socket, state, address).await
        }
        answer => answer,
    }
}

async fn once(socket: &Path, state: &mut State, address: IpAddr) -> Result<Verdict, String> {
    let connection = match &mut state.connection {
        Some(connection) => connection,
        none => {
            let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
            none.insert(Connection { stream, framer: Framer::default() })
        }
    };
    state.next_id = state.next_id.wrapping_add(1);
    let id = state.next_id;
    let mut question = Vec::new();
    Question { id, address }.encode(&mut question);
    connection.stream.write_all(&question).await.map_err(|error| error.to_string())?;
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
