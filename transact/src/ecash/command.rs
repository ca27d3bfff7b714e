//! `transaction-server ecash`: the audit, and holds that the operator ends.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::{admin, config, role};
use serde_json::Value;

use super::audit;
use crate::config::Config;

const NAME: &str = "transaction-server";

pub(crate) fn commands() -> Vec<Command> {
    let config = || {
        Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .default_value("/etc/cloakway/transaction-server.toml")
            .help("The configuration, which names the admin socket and the folder")
    };
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value instead of a table");
    let audit = Command::new("audit")
        .about("Prove the books: every stored movement of money again, from the first; works beside the running role and without it")
        .arg(config())
        .arg(json());
    let hold = Command::new("hold")
        .about("End a hold: the money arrived, or did not")
        .arg(config())
        .arg(json())
        .arg(Arg::new("hold").required(true).value_name("NUMBER").value_parser(value_parser!(u64)).help("Which"))
        .arg(Arg::new("outcome").required(true).value_parser(["done", "reversed"]).help("What became of it"));
    vec![
        Command::new("ecash")
            .about("Electronic cash: prove the books, end holds")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand(audit)
            .subcommand(hold),
    ]
}

pub(crate) fn command(matches: &ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    let config = match config::load::<Config>(&role::path(matches, "config")) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match name {
        "audit" => prove(&config),
        _ => {
            let hold = matches.get_one::<u64>("hold").copied().unwrap_or_default().to_string();
            let outcome = matches.get_one::<String>("outcome").cloned().unwrap_or_default();
            let arguments = [("hold".to_owned(), hold), ("outcome".to_owned(), outcome)].into();
            ask(&config, "ecash-hold", arguments)
        }
    };
    match done {
        Ok(value) => print(&value, matches.get_flag("json")),
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(config: &Config, topic: &str, arguments: std::collections::BTreeMap<String, String>) -> Result<Value, String> {
    let request = admin::Request { topic: topic.to_owned(), arguments };
    let working = |seconds: u64| {
        if seconds.is_multiple_of(5) {
            eprintln!("{NAME}: still at work after {seconds} s");
        }
    };
    role::block_on(async {
        Ok::<_, std::io::Error>(admin::ask_patiently(&config.admin_socket, &request, working).await)
    })
    .map_err(|error| error.to_string())?
}

/// The running role has the store open: it is asked. Without one the store itself is read.
fn prove(config: &Config) -> Result<Value, String> {
    if std::os::unix::net::UnixStream::connect(&config.admin_socket).is_ok() {
        return ask(config, "ecash-audit", std::collections::BTreeMap::new());
    }
    let ecash = config.ecash.as_ref().ok_or("electronic cash is off: there is no [ecash]")?;
    let path = config.data.join(super::FILE);
    if ecash.postgresql.is_none() && !path.exists() {
        return Err(format!("{}: there are no books", path.display()));
    }
    let store = ecash.open(&config.data).map_err(|error| error.to_string())?;
    audit::of_the_store(&store).map_err(|error| error.to_string())
}

fn print(value: &Value, json: bool) -> ExitCode {
    let text = if json { format!("{value}\n") } else { cloakway_runtime::text::render(value) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
