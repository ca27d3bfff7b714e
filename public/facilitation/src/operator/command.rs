//! `facilitation-server vendor …`: the same changes by the command line, through the admin socket. Who may write to that is
//! an operator.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::{clock, config, role, text};
use serde_json::{Value, json};

use crate::config::Config;
use crate::registry::{Change, OVERLAP, Registry, RegistryError};

/// Topics of the admin socket that change vendors begin so.
const TOPIC: &str = "vendor-";
/// What an answer begins with that a vendor or key is not there.
const NOT_THERE: &str = "not there: ";

/// `vendor` and what is below it.
pub(crate) fn commands() -> Vec<Command> {
    let name = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).required(true).help(help)
    };
    let id = || Arg::new("id").value_name("VENDOR").required(true).help("The vendor's id");
    let described = || {
        [
            name("name", "NAME", "The name that payers read"),
            name("results-url", "URL", "Where results are posted: https://…"),
        ]
    };
    let below = [
        Command::new("register").about("Register a vendor and print its first key, once").arg(id()).args(described()),
        Command::new("describe").about("Change a vendor's name and results URL").arg(id()).args(described()),
        Command::new("rotate").about("Make a new key and print it, once").arg(id()).arg(
            Arg::new("overlap-s")
                .long("overlap-s")
                .value_name("SECONDS")
                .value_parser(value_parser!(u64))
                .help("How long the keys before it stay good; a day unless given"),
        ),
        Command::new("revoke").about("End a key at once").arg(id()).arg(name(
            "key",
            "KEY",
            "The key's id, as show vendors has it",
        )),
        Command::new("suspend").about("Take no more orders of a vendor; its results are still delivered").arg(id()),
        Command::new("resume").about("Take orders of a vendor again").arg(id()),
    ];
    let asks = below.map(|command| {
        command
            .arg(
                Arg::new("config")
                    .long("config")
                    .short('c')
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .default_value("/etc/cloakway/facilitation-server.toml")
                    .help("The configuration, which names the admin socket"),
            )
            .arg(
                Arg::new("socket")
                    .long("socket")
                    .value_name("PATH")
                    .value_parser(value_parser!(PathBuf))
                    .help("The admin socket itself"),
            )
            .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value instead of a table"))
    });
    vec![
        Command::new("vendor")
            .about("Register vendors and look after their keys; every change is in the audit log")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommands(asks),
    ]
}

/// Carries out one of them: 0 done, 1 refused, 2 wrong configuration, 3 no such vendor or key.
pub(crate) fn command(matches: &ArgMatches) -> ExitCode {
    let Some((what, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    let socket = match matches.get_one::<PathBuf>("socket") {
        Some(socket) => socket.clone(),
        None => match config::load::<Config>(&role::path(matches, "config")) {
            Ok(config) => config.admin_socket,
            Err(error) => {
                eprintln!("facilitation-server: {error}");
                return ExitCode::from(2);
            }
        },
    };
    let mut arguments = BTreeMap::from([("by".to_owned(), user())]);
    for name in ["id", "name", "results-url", "key"] {
        if let Ok(Some(value)) = matches.try_get_one::<String>(name) {
            arguments.insert(name.to_owned(), value.clone());
        }
    }
    if let Ok(Some(overlap)) = matches.try_get_one::<u64>("overlap-s") {
        arguments.insert("overlap-s".to_owned(), overlap.to_string());
    }
    let request = Request { topic: format!("{TOPIC}{what}"), arguments };
    let asked: Result<Value, Box<dyn std::error::Error>> =
        role::block_on(async { Ok(admin::ask_for(&socket, &request).await?) });
    match asked {
        Ok(value) => {
            let out = if matches.get_flag("json") { format!("{value}\n") } else { text::render(&value) };
            match std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            let error = error.to_string();
            eprintln!("facilitation-server: {error}");
            if error.contains(NOT_THERE) { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

/// For the audit log. Who may write to the socket could say anything: it is a note and no proof.
fn user() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    name.unwrap_or_else(|| "somebody".to_owned())
}

/// What the running server answers; `None` if the topic is none of these.
pub(crate) async fn answer(registry: &Registry, request: &Request) -> Option<Result<Value, String>> {
    let what = request.topic.strip_prefix(TOPIC)?;
    let change = match change(what, request) {
        Ok(change) => change,
        Err(error) => return Some(Err(error)),
    };
    let by: String =
        request.argument("by").unwrap_or("somebody").chars().filter(|c| !c.is_control()).take(40).collect();
    let done = registry.change(change, &format!("{by}, command line"), clock::wall()).await;
    Some(done.map_or_else(
        |error| match error {
            RegistryError::Unknown(_) | RegistryError::UnknownKey(..) => Err(format!("{NOT_THERE}{error}")),
            error => Err(error.to_string()),
        },
        |done| {
            let mut shown = json!({"vendor": done.vendor.id, "name": done.vendor.name,
                                   "results_url": done.vendor.results_url, "suspended": done.vendor.suspended});
            if let (Some(key), Some(fields)) = (&done.key, shown.as_object_mut()) {
                fields.insert("key".to_owned(), key.expose().as_str().into());
            }
            Ok(shown)
        },
    ))
}

fn change(what: &str, request: &Request) -> Result<Change, String> {
    let text = |name: &str| request.argument(name).map(str::to_owned).ok_or_else(|| format!("{name} is missing"));
    let id = text("id")?;
    Ok(match what {
        "register" => Change::Register { id, name: text("name")?, results_url: text("results-url")? },
        "describe" => Change::Describe { id, name: text("name")?, results_url: text("results-url")? },
        "rotate" => {
            let overlap = request.argument("overlap-s").map(str::parse).transpose();
            let overlap = overlap.map_err(|_| "overlap-s is no number of seconds".to_owned())?;
            Change::Rotate { id, overlap: overlap.map_or(OVERLAP, Duration::from_secs) }
        }
        "revoke" => Change::Revoke { id, key: text("key")? },
        "suspend" => Change::Suspend { id },
        "resume" => Change::Resume { id },
        other => return Err(format!("a vendor cannot be told to {other}")),
    })
}
