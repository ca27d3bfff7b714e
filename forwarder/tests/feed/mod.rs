//! A feed of live subscriber prefixes as a test wants it, at an admin socket of its own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cloakway_runtime::admin::Request;
use forwarder_wire::prefixes::{Answer, Question};
use ipnet::IpNet;

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// These, as a feed does that keeps to what it is asked.
    Prefixes(Vec<IpNet>),
    /// This, whatever it is asked.
    Raw(String),
    /// Nothing, with the connection open.
    Silence,
    /// It is not there.
    Gone,
}

impl Says {
    pub(crate) fn prefixes(texts: &[&str]) -> Self {
        Self::Prefixes(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    /// As one that does not look at what it is asked.
    pub(crate) fn prefixes_anyhow(texts: &[&str]) -> Self {
        let found: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let answer = serde_json::to_string(&Answer::new(&Question::default(), &found)).unwrap();
        Self::Raw(format!("{{\"ok\":{answer}}}\n"))
    }
}

pub(crate) struct Feed {
    folder: tempfile::TempDir,
    says: Arc<Mutex<Says>>,
}

impl Feed {
    pub(crate) fn new(says: Says) -> Self {
        let feed = Self { folder: tempfile::tempdir().unwrap(), says: Arc::new(Mutex::new(says.clone())) };
        feed.open(says);
        feed
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("feed.sock")
    }

    pub(crate) fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Ends it.
    pub(crate) fn close(&self) {
        self.say(Says::Gone);
        std::fs::remove_file(self.socket()).unwrap();
    }

    /// Begins to answer.
    pub(crate) fn open(&self, says: Says) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        self.say(says);
        let says = self.says.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let now = says.lock().unwrap().clone();
                if matches!(now, Says::Gone) {
                    return;
                }
                thread::spawn(move || answer(stream, &now));
            }
        });
    }
}

fn answer(mut stream: UnixStream, says: &Says) {
    let mut line = String::new();
    let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
    let Ok(request) = serde_json::from_str::<Request>(&line) else { return };
    assert_eq!(request.topic, "prefixes");
    let arguments: BTreeMap<_, _> = request.arguments;
    let text = match says {
        Says::Raw(text) => text.clone(),
        Says::Silence => return thread::sleep(Duration::from_secs(10)),
        Says::Gone => return,
        Says::Prefixes(prefixes) => {
            // It leaves to the forwarder what is outside of what it asks for.
            let question = Question::read(|name| arguments.get(name).map(String::as_str)).unwrap();
            format!("{{\"ok\":{}}}\n", serde_json::to_string(&Answer::new(&question, prefixes)).unwrap())
        }
    };
    let _ = stream.write_all(text.as_bytes());
}
