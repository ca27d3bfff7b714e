//! `bgp-speaker dump`: the routes of peers, written down as MRT.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::role::block_on;
use serde_json::Value;

use super::table_dump::DUMP;
use crate::events::cli::socket;

/// The subcommand `dump`.
pub(crate) fn command() -> Command {
    Command::new("dump")
        .about("Have the running speaker write the routes of its peers to a file (MRT, TABLE_DUMP_V2)")
        .after_help("Example:\n  bgp-speaker dump --rib /var/lib/cloakway/rib.mrt.gz")
        .arg(socket())
        .arg(
            Arg::new("rib")
                .long("rib")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .required(true)
                .help("The file, which the speaker's own user has to be able to write; packed if it ends in .gz"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value"))
}

/// Carries out `dump`.
pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let path = |name| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    let (socket, file) = (path("socket"), path("rib"));
    match block_on::<_, Box<dyn std::error::Error>>(async { Ok(dump(&socket, &file).await?) }) {
        Ok(written) => {
            let number = |name: &str| written.get(name).and_then(Value::as_u64).unwrap_or_default();
            let text = match matches.get_flag("json") {
                true => written.to_string(),
                false => format!(
                    "{} prefixes, {} routes of {} peers: {}",
                    number("prefixes"),
                    number("routes"),
                    number("peers"),
                    file.display()
                ),
            };
            // A reader that has gone away is no error.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bgp-speaker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn dump(socket: &Path, file: &Path) -> Result<Value, String> {
    let file = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut argument = ("file".to_owned(), file.display().to_string());
    loop {
        let request = Request { topic: DUMP.to_owned(), arguments: [argument].into() };
        let answer = admin::ask_for(socket, &request).await?;
        if let Some(written) = answer.get("written") {
            return Ok(written.clone());
        }
        let number = answer.get("number").and_then(Value::as_u64).ok_or("the answer is not understood")?;
        argument = ("number".to_owned(), number.to_string());
    }
}
