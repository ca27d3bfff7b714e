//! `forwarder guard`: the blackholes and the nftables table, which outlive the process.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use cloakway_runtime::{config, role};
use forwarder_core::{MAIN_TABLE, Route, Rule, meter, ruleset};
use forwarder_dataplane::{DataplaneError, FastPath, FastPathError, Kernel};

use crate::config::Config;
use crate::live;

/// The command tree.
#[must_use]
pub fn command() -> Command {
    let file = Arg::new("config")
        .long("config")
        .short('c')
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .default_value("/etc/cloakway/forwarder.toml")
        .help("The configuration");
    Command::new("guard")
        .about("The blackholes and the nftables table, which outlive the process")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("show").about("Compare the guard in the kernel with the configuration").arg(file.clone()),
        )
        .subcommand(
            Command::new("remove")
                .about("Take the guard away: private prefixes then follow the default route. Stop the forwarder first")
                .arg(file),
        )
}

/// Carries out one of its commands.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    let config: Config = match config::load(&role::path(matches, "config")) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("forwarder: {error}");
            return ExitCode::from(2);
        }
    };
    let done: Result<ExitCode, DataplaneError> = role::block_on(async {
        let kernel = Kernel::open()?;
        if name == "remove" { remove(&kernel, &config).await } else { show(&kernel, &config).await }
    });
    done.unwrap_or_else(|error| {
        eprintln!("forwarder: {error}");
        ExitCode::FAILURE
    })
}

async fn show(kernel: &Kernel, config: &Config) -> Result<ExitCode, DataplaneError> {
    let found = kernel.guard().await?;
    let policy = live::policy_now(config).await;
    let mut out = String::new();
    let mut whole = true;
    let standing = |there: bool| if there { "in place" } else { "missing" };
    for Route { table, prefix, .. } in policy.blackholes() {
        let there = found.blackholes.contains(&(table, prefix));
        whole &= there;
        let of = if table == MAIN_TABLE { String::new() } else { format!(" in table {table}") };
        out.push_str(&format!("blackhole {prefix}{of}: {}\n", standing(there)));
    }
    for rule in policy.rules() {
        let there = found.rules.contains(&rule);
        whole &= there;
        let Rule { v4, priority, table } = rule;
        let version = if v4 { 4 } else { 6 };
        out.push_str(&format!("rule {priority} of IPv{version} to table {table}: {}\n", standing(there)));
    }
    let table = match &found.table {
        None => "missing",
        Some(text) if ruleset::is_wanted(text, &policy) => "in place",
        Some(_) => "not what the configuration says",
    };
    whole &= table == "in place";
    out.push_str(&format!("nftables table {} {}: {table}\n", ruleset::FAMILY, ruleset::TABLE));
    let wanted = meter::ruleset::is_wanted(found.meter.as_deref().unwrap_or_default(), &policy);
    whole &= wanted;
    if found.meter.is_some() || !wanted {
        let meter = if wanted { "in place" } else { "not what the configuration says" };
        out.push_str(&format!("nftables table {} {}: {meter}\n", ruleset::FAMILY, meter::ruleset::TABLE));
    }
    // A reader that has gone away is no error.
    let _ = std::io::stdout().write_all(out.as_bytes());
    Ok(ExitCode::from(if whole { 0 } else { 3 }))
}

async fn remove(kernel: &Kernel, config: &Config) -> Result<ExitCode, DataplaneError> {
    if std::os::unix::net::UnixStream::connect(&config.fixed.admin_socket).is_ok() {
        eprintln!("forwarder: {} is answered: stop the forwarder first", config.fixed.admin_socket.display());
        return Ok(ExitCode::FAILURE);
    }
    // It would go on by itself: what it hands over then meets no guard.
    match FastPath::remove(&config.data_plane.pin_directory) {
        Ok(()) | Err(FastPathError::NoBpfFs(_)) => {}
        Err(error) => {
            eprintln!("forwarder: the fast path is still there: {error}");
            return Ok(ExitCode::FAILURE);
        }
    }
    kernel.remove_guard().await?;
    eprintln!("forwarder: guard removed: private prefixes now follow the default route");
    Ok(ExitCode::SUCCESS)
}
