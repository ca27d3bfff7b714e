//! `toolbox follow`: reads the stream of changes of a toolbox, goes on where a connection broke, and prints it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::config::read_secret;
use cloakway_runtime::http::Client;
use cloakway_runtime::{role, tls};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use toolbox_wire::follow::{BINDINGS, Bindings, CHANGED, Event, Known, Reader, State};

const CONNECT: Duration = Duration::from_secs(30);
/// The toolbox says something at least every half minute.
const SILENCE: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_secs(1);

/// The command.
#[must_use]
pub fn command() -> Command {
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("follow")
        .about("Read what changes as it changes, and go on where the connection broke")
        .arg(Arg::new("url").value_name("URL").required(true).help("The toolbox: https://198.51.100.2:8444"))
        .arg(path("ca", "The certificate, or its authority's").required(true))
        .arg(path("key-file", "A file with the caller's key on one line").required(true))
        .arg(path("place", "A file that remembers the place, so that the next run goes on there"))
        .arg(Arg::new("server-name").long("server-name").value_name("NAME").help("The name in the certificate"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value a line"))
}

/// Why reading ends.
enum Stopped {
    /// Nobody reads what is printed.
    Closed,
    /// It will not get better.
    Refused(String),
    /// It may.
    Broken(String),
}

struct Follower {
    client: Client,
    url: String,
    key: HeaderValue,
    place: Option<PathBuf>,
    json: bool,
    last: String,
}

/// Reads until nobody wants it, or the toolbox refuses.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let fail = |error: String, code: u8| {
        eprintln!("toolbox: {error}");
        ExitCode::from(code)
    };
    let mut follower = match follower(matches) {
        Ok(follower) => follower,
        Err(error) => return fail(error, 2),
    };
    let ended = role::block_on(async {
        loop {
            match follower.read().await {
                Stopped::Broken(why) => {
                    eprintln!("toolbox: {why}: again in a second");
                    tokio::time::sleep(AGAIN).await;
                }
                other => return Ok::<_, std::io::Error>(other),
            }
        }
    });
    match ended {
        Ok(Stopped::Refused(why) | Stopped::Broken(why)) => fail(why, 1),
        Ok(Stopped::Closed) => ExitCode::SUCCESS,
        Err(error) => fail(error.to_string(), 1),
    }
}

fn follower(matches: &ArgMatches) -> Result<Follower, String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let tls = tls::client(&role::path(matches, "ca"), None).map_err(|error| error.to_string())?;
    let client = Client::new(tls, text("server-name").as_deref()).map_err(|error| error.to_string())?;
    let file = role::path(matches, "key-file");
    let key = read_secret(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut key = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        .map_err(|_| format!("{}: the key has characters that a header cannot have", file.display()))?;
    key.set_sensitive(true);
    let place = matches.get_one::<PathBuf>("place").cloned();
    let last = match &place {
        None => String::new(),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        },
    };
    let url = text("url").unwrap_or_default();
    let url = format!("{}/v1/changes", url.trim_end_matches('/'));
    Ok(Follower { client, url, key, place, json: matches.get_flag("json"), last })
}

impl Follower {
    async fn read(&mut self) -> Stopped {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.key.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if !self.last.is_empty() {
            match HeaderValue::try_from(&self.last) {
                Ok(last) => drop(headers.insert("last-event-id", last)),
                Err(_) => return Stopped::Refused(format!("{:?} is no place", self.last)),
            }
        }
        let answer = match self.client.open(Method::GET, &self.url, headers, CONNECT).await {
            Ok(answer) => answer,
            Err(error) => return Stopped::Broken(error.to_string()),
        };
        let status = answer.status();
        if status != StatusCode::OK {
            let why = format!("{}: {status}", self.url);
            let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return if again { Stopped::Broken(why) } else { Stopped::Refused(why) };
        }
        let mut pieces = answer.into_body().into_data_stream();
        let mut reader = Reader::new(self.last.clone());
        loop {
            let piece = match tokio::time::timeout(SILENCE, pieces.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Stopped::Broken(error.to_string()),
                Ok(None) => return Stopped::Broken("the stream ended".to_owned()),
                Err(_) => return Stopped::Broken("nothing was heard any more".to_owned()),
            };
            let mut events = Vec::new();
            if let Err(error) = reader.push(&piece, |event| events.push(event)) {
                return Stopped::Broken(error.to_string());
            }
            let mut lines = String::new();
            for event in &events {
                match self.lines(event) {
                    Ok(text) => lines.push_str(&text),
                    Err(error) => return Stopped::Refused(format!("an event is not understood: {error}")),
                }
            }
            let mut out = std::io::stdout();
            if out.write_all(lines.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Stopped::Closed;
            }
            if let Err(error) = self.remember(reader.last()) {
                return Stopped::Refused(error);
            }
        }
    }

    /// What was printed is not asked for again.
    fn remember(&mut self, last: &str) -> Result<(), String> {
        if self.last == last {
            return Ok(());
        }
        last.clone_into(&mut self.last);
        let Some(path) = &self.place else { return Ok(()) };
        let written = |aside: &Path| std::fs::write(aside, last).and_then(|()| std::fs::rename(aside, path));
        written(&path.with_extension("new")).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn lines(&self, event: &Event) -> Result<String, serde_json::Error> {
        if self.json {
            let mut line: Value = serde_json::from_str(&event.data)?;
            if let Some(fields) = line.as_object_mut() {
                fields.insert("event".to_owned(), json!(event.name));
                fields.insert("id".to_owned(), json!(event.id));
            }
            return Ok(format!("{line}\n"));
        }
        if event.name == BINDINGS || event.name == CHANGED {
            let data: Bindings = serde_json::from_str(&event.data)?;
            return Ok(data.bindings.iter().map(sentence).collect());
        }
        Ok(format!("{} {}\n", event.name, event.data))
    }
}

fn sentence(known: &Known) -> String {
    let place = match known.ports {
        Some(ports) => format!("{}:{ports}", known.prefix.addr()),
        None => known.prefix.to_string(),
    };
    let said = match known.state {
        State::Bound => known.subscriber.as_ref().map_or_else(|| "bound".to_owned(), ToString::to_string),
        State::Translated => known.behind.map_or_else(|| "translated".to_owned(), |inside| format!("behind {inside}")),
        State::Unknown => format!("unknown: {}", known.reason.as_deref().unwrap_or_default()),
        State::Gone => "gone".to_owned(),
    };
    let until = known.until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
    format!("{place} {said}{until}\n")
}
