//! `bgp-speaker refresh`: a peer is asked for everything again (RFC 2918).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::role::block_on;
use serde_json::{Value, json};

use crate::events::cli::socket;
use crate::neighbours::Neighbours;

/// What the admin socket is asked by `refresh`.
pub(crate) const TOPIC: &str = "refresh";

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new(TOPIC)
        .about("Ask a peer for all its routes again (RFC 2918)")
        .arg(socket())
        .arg(Arg::new("peer").value_name("PEER").required(true).help("Its name, as in `show sessions`"))
}

/// Carries out `refresh`.
pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let socket = matches.get_one::<PathBuf>("socket").cloned().unwrap_or_default();
    let peer = matches.get_one::<String>("peer").cloned().unwrap_or_default();
    let request = Request { topic: TOPIC.to_owned(), arguments: BTreeMap::from([("peer".to_owned(), peer)]) };
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

/// Asks the peer that the request names.
pub(crate) async fn answer(neighbours: &Neighbours, request: &Request) -> Result<Value, String> {
    let name = request.argument("peer").ok_or("peer is missing: which one?")?;
    let found = neighbours.list().await.into_iter().find(|asked| asked.peer.name == name);
    let asked = found.ok_or_else(|| format!("no peer is called {name:?}"))?;
    let families = asked.ask_again().await.map_err(|why| format!("{name}: {why}"))?;
    let families: Vec<String> = families.iter().map(ToString::to_string).collect();
    Ok(json!({ "peer": name, "asked": families }))
}
