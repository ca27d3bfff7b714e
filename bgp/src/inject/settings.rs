//! The table `inject` of the configuration file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Patience, Policy, PrivateRoute};
use cloakway_runtime::config::{self, Invalid};
use ipnet::IpNet;
use serde::Deserialize;

use super::Settings;
use super::check::{Check, Target};
use super::process::Process;

/// The table `inject` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawInject {
    api_socket: Option<PathBuf>,
    journal: PathBuf,
    allow: Vec<IpNet>,
    #[serde(default = "two_million")]
    max_routes: usize,
    #[serde(default)]
    processes: Vec<RawProcess>,
    #[serde(default)]
    checks: Vec<RawCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawProcess {
    name: String,
    run: Vec<String>,
    #[serde(default = "yes")]
    acknowledge: bool,
}

const fn yes() -> bool {
    true
}

const fn two_million() -> usize {
    2_000_000
}

/// A check as written; exactly one of command, tcp and http is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawCheck {
    set: String,
    command: Option<Vec<String>>,
    tcp: Option<SocketAddr>,
    http: Option<String>,
    #[serde(default = "second")]
    every_ms: u64,
    #[serde(default = "second")]
    timeout_ms: u64,
    #[serde(default = "two")]
    rise: u32,
    #[serde(default = "three")]
    fall: u32,
    #[serde(default)]
    hold_down_s: u32,
}

const fn second() -> u64 {
    1000
}

const fn two() -> u32 {
    2
}

const fn three() -> u32 {
    3
}

/// Holds the table to what can be; `taken` are the paths of other sockets.
pub(crate) fn settings(
    raw: RawInject,
    routes: &[PrivateRoute],
    taken: &[Option<&PathBuf>],
) -> Result<Settings, Invalid> {
    let api_socket = raw.api_socket.unwrap_or_else(|| config::default_socket("bgp-speaker-api"));
    if taken.contains(&Some(&api_socket)) {
        return Err(Invalid::at("inject.api-socket", "another socket has this path: give it one of its own"));
    }
    if raw.allow.is_empty() {
        return Err(Invalid::at("inject.allow", "nothing could be injected: give the prefixes that may be"));
    }
    if let Some(at) = raw.allow.iter().position(|prefix| *prefix != prefix.trunc()) {
        return Err(Invalid::at(format!("inject.allow[{at}]"), "the prefix has host bits set"));
    }
    let private: Vec<IpNet> = routes.iter().map(PrivateRoute::prefix).collect();
    let policy = Arc::new(Policy::new(&raw.allow, &private));
    let (mut names, mut processes) = (BTreeSet::new(), Vec::new());
    for (index, RawProcess { name, run, acknowledge }) in raw.processes.into_iter().enumerate() {
        if name.is_empty() || name.len() > 64 || name.contains('/') || !names.insert(name.clone()) {
            let reason =
                format!("{name:?} is empty, taken, longer than 64 octets or has a slash: each program has its own");
            return Err(Invalid::at(format!("inject.processes[{index}].name"), reason));
        }
        if run.is_empty() {
            let reason = "no program: give it with its arguments, such as [\"/usr/bin/python3\", \"script.py\"]";
            return Err(Invalid::at(format!("inject.processes[{index}].run"), reason));
        }
        processes.push(Process { name, run, acknowledge });
    }
    let checks = checks(raw.checks)?;
    Ok(Settings { api_socket, journal: raw.journal, policy, max_routes: raw.max_routes, processes, checks })
}

/// Holds the checks to what can be.
fn checks(raw: Vec<RawCheck>) -> Result<Vec<Check>, Invalid> {
    let mut checks: Vec<Check> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("inject.checks[{index}].{field}");
        if checks.iter().any(|check| check.set == raw.set) || raw.set.is_empty() {
            return Err(Invalid::at(at("set"), format!("{:?} is empty or checked already: one check a set", raw.set)));
        }
        for (field, zero) in [("every-ms", raw.every_ms == 0), ("timeout-ms", raw.timeout_ms == 0)] {
            if zero {
                return Err(Invalid::at(at(field), "0 is not allowed: at least 1"));
            }
        }
        for (field, zero) in [("rise", raw.rise == 0), ("fall", raw.fall == 0)] {
            if zero {
                return Err(Invalid::at(at(field), "0 is not allowed: at least 1 look decides"));
            }
        }
        let target = match (raw.command, raw.tcp, raw.http) {
            (Some(run), None, None) if !run.is_empty() => Target::Command(run),
            (None, Some(address), None) => Target::Tcp(address),
            (None, None, Some(url)) => http(&url).map_err(|reason| Invalid::at(at("http"), reason))?,
            _ => return Err(Invalid::at(at("set"), "give one of command, tcp and http with it")),
        };
        let hold_down = Duration::from_secs(u64::from(raw.hold_down_s));
        checks.push(Check {
            set: raw.set,
            target,
            every: Duration::from_millis(raw.every_ms),
            timeout: Duration::from_millis(raw.timeout_ms),
            patience: Patience { rise: raw.rise, fall: raw.fall, hold_down },
        });
    }
    Ok(checks)
}

/// `http://192.0.2.1:8080/health`: an address, so that no name server can take routes away.
fn http(url: &str) -> Result<Target, String> {
    let wrong = || format!("{url:?} is not understood: write it as http://192.0.2.1:8080/health");
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong());
    }
    let address = host.parse().or_else(|_| format!("{host}:80").parse()).map_err(|_| wrong())?;
    Ok(Target::Http(address, format!("/{path}")))
}
