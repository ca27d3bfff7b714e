//! `bgp-speaker leak clear`: the operator is done with a leak.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::role::block_on;

use crate::events::cli::socket;

/// What the admin socket is asked by `leak clear`.
pub(crate) const CLEAR: &str = "leak-clear";

/// The subcommand `leak` with all below it.
pub(crate) fn command() -> Command {
    Command::new("leak")
        .about("Deal with leaks that the watch has found; `show leaks` lists them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("clear")
                .about("Be done with leaks that are over: their private prefixes are announced again at once")
                .after_help("Example:\n  bgp-speaker leak clear 203.0.113.200/32\n")
                .arg(socket())
                .arg(Arg::new("prefix").value_name("PREFIX").help("The private prefix; all unless given")),
        )
}

/// Carries out `leak …`.
pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let Some((_, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    let socket = matches.get_one::<PathBuf>("socket").cloned().unwrap_or_default();
    let prefix = matches.get_one::<String>("prefix").cloned();
    let arguments: BTreeMap<String, String> = prefix.into_iter().map(|text| ("prefix".to_owned(), text)).collect();
    let request = Request { topic: CLEAR.to_owned(), arguments };
    match block_on::<_, Box<dyn std::error::Error>>(async { Ok(admin::ask_for(&socket, &request).await?) }) {
        // A reader that has gone away is no error.
        Ok(answer) => {
            let _ = writeln!(std::io::stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bgp-speaker: {error}");
            ExitCode::FAILURE
        }
    }
}
