//! `toolbox whois`: who is, or was, at an address, and how we know.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::{config, role};
use cloakway_types::Timestamp;
use serde::Serialize;
use serde_json::Value;
use toolbox_core::{Answer, Binding, Question};

use crate::config::Config;

/// The topic of the admin socket.
pub const TOPIC: &str = "whois";

/// What is asked, as an operator writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Who is there?
    pub question: Question,
    /// When; none: now.
    pub at: Option<Timestamp>,
}

impl Asked {
    /// Reads `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`, and a time of RFC 3339.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn read(place: &str, at: Option<&str>) -> Result<Self, String> {
        let question = match (place.parse::<IpAddr>(), place.parse::<SocketAddr>()) {
            (Ok(address), _) => Question::new(address, None),
            (_, Ok(place)) => Question::new(place.ip(), Some(place.port())),
            _ => return Err(format!("{place:?} is not ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")),
        };
        let at = at.map(|at| at.parse().map_err(|error| format!("--at {at:?}: {error}"))).transpose()?;
        Ok(Self { question, at })
    }

    /// What the admin socket was asked.
    ///
    /// # Errors
    /// As [`Asked::read`].
    pub fn of(request: &Request) -> Result<Self, String> {
        Self::read(request.argument("address").unwrap_or_default(), request.argument("at"))
    }
}

/// The answer, for an operator.
#[derive(Debug, Serialize)]
pub struct Said {
    address: IpAddr,
    port: Option<u16>,
    /// The moment that it is about.
    at: String,
    /// `bound`, `not-ours` or `unknown`.
    answer: &'static str,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(flatten)]
    bound: Option<Bound>,
    /// Who claims the address now.
    claims: Vec<Binding>,
}

#[derive(Debug, Serialize)]
struct Bound {
    subscriber: String,
    session: String,
    client: String,
    source: Value,
    since: String,
    proved_at: String,
    /// The internal address, where a translation leads there.
    #[serde(skip_serializing_if = "Option::is_none")]
    through: Option<IpAddr>,
}

impl Said {
    /// What is said to `question` about `at`.
    #[must_use]
    pub fn new(question: Question, at: Timestamp, answer: Answer, claims: Vec<Binding>) -> Self {
        let said = |answer, reason, bound| Self {
            address: question.address,
            port: question.port,
            at: at.to_string(),
            answer,
            reason,
            bound,
            claims,
        };
        match answer {
            Answer::NotOurs => said("not-ours", None, None),
            Answer::Unknown(why) => said("unknown", Some(why.as_str()), None),
            Answer::Bound { subscriber, session, span, through } => {
                let bound = Bound {
                    subscriber: subscriber.to_string(),
                    session: session.session,
                    client: session.client,
                    source: serde_json::to_value(session.source).unwrap_or(Value::Null),
                    since: span.since.to_string(),
                    proved_at: span.proof.to_string(),
                    through,
                };
                said("bound", None, Some(bound))
            }
        }
    }

    /// The word for the audit log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.reason.unwrap_or(self.answer)
    }
}

/// The command.
#[must_use]
pub fn command() -> Command {
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("whois")
        .about("Who is, or was, at an address, and how we know; the look-up is in the audit log")
        .arg(Arg::new("address").value_name("ADDRESS[:PORT]").required(true).help("[ADDRESS]:PORT for IPv6"))
        .arg(Arg::new("at").long("at").value_name("TIME").help("When, RFC 3339: 2026-11-22T08:00:00Z; now if left out"))
        .arg(
            path("config", "The configuration, which names the admin socket")
                .short('c')
                .default_value("/etc/cloakway/toolbox.toml"),
        )
        .arg(path("socket", "The admin socket itself"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value"))
}

/// Asks the running toolbox. Exit code 0: somebody is there; 3: nobody, or it is not known.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let refuse = |error: String, code: u8| {
        eprintln!("toolbox: {error}");
        ExitCode::from(code)
    };
    let address = matches.get_one::<String>("address").cloned().unwrap_or_default();
    let at = matches.get_one::<String>("at").cloned();
    if let Err(error) = Asked::read(&address, at.as_deref()) {
        return refuse(error, 2);
    }
    let socket = match matches.get_one::<PathBuf>("socket") {
        Some(socket) => socket.clone(),
        None => match config::load::<Config>(&role::path(matches, "config")) {
            Ok(config) => config.admin_socket,
            Err(error) => return refuse(error.to_string(), 2),
        },
    };
    let mut request = Request { topic: TOPIC.to_owned(), arguments: [("address".to_owned(), address)].into() };
    request.arguments.extend(at.map(|at| ("at".to_owned(), at)));
    let answer = role::block_on(async { Ok::<_, std::io::Error>(admin::ask_for(&socket, &request).await) });
    let said = match answer {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => return refuse(error, 1),
        Err(error) => return refuse(error.to_string(), 1),
    };
    let text = if matches.get_flag("json") { said.to_string() } else { sentence(&said) };
    // A reader that has gone away is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes());
    ExitCode::from(if said.get("answer").and_then(Value::as_str) == Some("bound") { 0 } else { 3 })
}

fn sentence(said: &Value) -> String {
    let text = |field: &str| said.get(field).and_then(Value::as_str).unwrap_or_default();
    match text("answer") {
        "bound" => {
            let through = match text("through") {
                "" => String::new(),
                inside => format!(", through {inside}"),
            };
            format!(
                "{}: session {} of {} ({}), since {}, proved at {}{through}",
                text("subscriber"),
                text("session"),
                text("client"),
                text("source"),
                text("since"),
                text("proved_at"),
            )
        }
        "unknown" => format!("unknown: {}", text("reason")),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_with_or_without_a_port() {
        let read = |place: &str| Asked::read(place, None).map(|asked| asked.question);
        let v4 = IpAddr::from([198, 51, 100, 70]);
        assert_eq!(read("198.51.100.70"), Ok(Question::new(v4, None)));
        assert_eq!(read("198.51.100.70:40000"), Ok(Question::new(v4, Some(40_000))));
        assert_eq!(read("[2001:db8::1]:443"), Ok(Question::new("2001:db8::1".parse().unwrap(), Some(443))));
        assert_eq!(read("2001:db8::1"), Ok(Question::new("2001:db8::1".parse().unwrap(), None)));
        for wrong in ["", "198.51.100", "198.51.100.70:", "198.51.100.70:65536", "alice"] {
            assert!(read(wrong).unwrap_err().contains("ADDRESS:PORT"), "{wrong}");
        }
        assert!(Asked::read("198.51.100.70", Some("yesterday")).unwrap_err().contains("RFC 3339"));
    }
}
