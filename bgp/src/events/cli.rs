//! `bgp-speaker events`: what has happened, and with `--follow` what happens.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::role::block_on;
use serde_json::Value;

/// The subcommand `events`.
pub(crate) fn command() -> Command {
    Command::new("events")
        .about("Tell what has happened: sessions, private routes, leaks, requests, checks, caches")
        .after_help("Example:\n  bgp-speaker events --follow --json --from 100\n")
        .arg(socket())
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON object a line"))
        .arg(Arg::new("follow").long("follow").short('f').action(ArgAction::SetTrue).help("Go on as it happens"))
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("NUMBER")
                .value_parser(value_parser!(u64))
                .help("The first number wanted; the oldest that is kept unless given"),
        )
}

/// The admin socket, for subcommands that need no configuration.
pub(crate) fn socket() -> Arg {
    Arg::new("socket")
        .long("socket")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .default_value("/run/cloakway/bgp-speaker.sock")
        .help("The admin socket: admin-socket in the configuration")
}

/// Carries out `events`.
pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let socket = matches.get_one::<PathBuf>("socket").cloned().unwrap_or_default();
    let (json, follow) = (matches.get_flag("json"), matches.get_flag("follow"));
    let from = matches.get_one::<u64>("from").copied();
    match block_on::<_, Box<dyn std::error::Error>>(async { Ok(read(&socket, from, json, follow).await?) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bgp-speaker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn read(socket: &Path, mut from: Option<u64>, json: bool, follow: bool) -> Result<(), String> {
    let mut life = None;
    loop {
        let mut arguments = BTreeMap::new();
        arguments.extend(from.map(|from| ("from".to_owned(), from.to_string())));
        if follow {
            arguments.insert("wait-ms".to_owned(), "5000".to_owned());
        }
        let answer = admin::ask_for(socket, &Request { topic: "events".to_owned(), arguments }).await?;
        let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
        let mut lines: Vec<Value> = Vec::new();
        if life.replace(number("life")).is_some_and(|life| life != number("life")) {
            lines.push(serde_json::json!({ "event": "restarted" }));
            // Its numbers begin anew.
            from = Some(1);
        } else {
            if number("missed") > 0 {
                lines.push(serde_json::json!({ "event": "missed", "count": number("missed") }));
            }
            lines.extend(answer.get("events").and_then(Value::as_array).into_iter().flatten().cloned());
            from = Some(number("next"));
        }
        let mut out = std::io::stdout().lock();
        for line in &lines {
            let text = if json { line.to_string() } else { for_people(line) };
            // A reader that has gone away is no error.
            if writeln!(out, "{text}").is_err() {
                return Ok(());
            }
        }
        if out.flush().is_err() || (!follow && lines.is_empty()) {
            return Ok(());
        }
    }
}

fn for_people(line: &Value) -> String {
    let word = |name: &str| line.get(name).map(cell).unwrap_or_default();
    let fields = line.as_object().into_iter().flatten();
    let rest = fields.filter(|(name, value)| !["seq", "time", "event"].contains(&name.as_str()) && !value.is_null());
    let rest: Vec<String> = rest.map(|(name, value)| format!("{name}={}", cell(value))).collect();
    format!("{:>6} {:24} {:18} {}", word("seq"), word("time"), word("event"), rest.join(" ")).trim_end().to_owned()
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains(' ') => format!("{text:?}"),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
