//! The table `inject` of the configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Drain, Keep, Patience, Policy, PrivateRoute, check_name};
use bgp_wire::LongLived;
use cloakway_runtime::config::{self, Invalid};
use ipnet::IpNet;
use serde::Deserialize;

use super::Settings;
use super::check::{Check, Target};
use super::process::Process;
use super::shown::Draining;
use crate::bfd::{self, Path};

/// The table `inject` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawInject {
    api_socket: Option<PathBuf>,
    journal: PathBuf,
    allow: Vec<IpNet>,
    #[serde(default = "two_million")]
    max_routes: usize,
    #[serde(default = "ten_thousand")]
    max_flow_rules: usize,
    #[serde(default)]
    flow_anywhere: bool,
    #[serde(default)]
    processes: Vec<RawProcess>,
    #[serde(default)]
    checks: Vec<RawCheck>,
    #[serde(default)]
    sets: Vec<RawSet>,
}

/// What is settled of a set, whether or not it is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSet {
    name: String,
    keep_s: Option<u32>,
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

const fn ten_thousand() -> usize {
    10_000
}

impl RawInject {
    /// What may be injected.
    pub(crate) fn allow(&self) -> &[IpNet] {
        &self.allow
    }
}

const fn two_million() -> usize {
    2_000_000
}

/// A check as written; exactly one of the things to look at is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawCheck {
    set: String,
    command: Option<Vec<String>>,
    tcp: Option<SocketAddr>,
    http: Option<String>,
    icmp: Option<IpAddr>,
    bfd: Option<RawPath>,
    forwarder: Option<IpNet>,
    #[serde(default = "second")]
    every_ms: u64,
    #[serde(default = "second")]
    timeout_ms: u64,
    rise: Option<u32>,
    fall: Option<u32>,
    #[serde(default)]
    hold_down_s: u32,
    #[serde(default)]
    drain_s: u32,
    #[serde(default)]
    drain_by: RawDrain,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPath {
    address: IpAddr,
    local_address: Option<IpAddr>,
    interval_ms: u32,
    #[serde(default = "three_packets")]
    multiplier: NonZeroU8,
}

const fn three_packets() -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(2)
}

/// How a set is told before it is taken back.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawDrain {
    #[default]
    GracefulShutdown,
    Med(u32),
    Prepend(u8),
}

impl From<RawDrain> for Drain {
    fn from(raw: RawDrain) -> Self {
        match raw {
            RawDrain::GracefulShutdown => Self::GracefulShutdown,
            RawDrain::Med(med) => Self::Med(med),
            RawDrain::Prepend(times) => Self::Prepend(times),
        }
    }
}

const fn second() -> u64 {
    1000
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
    let lifted = routes.iter().fold(Policy::new(&raw.allow, &private), |policy, route| match route.keep() {
        Keep::Guard(_) => policy,
        Keep::Nothing(unguarded) => policy.lift(route.prefix(), unguarded),
    });
    let policy = Arc::new(if raw.flow_anywhere { lifted.with_flow_anywhere() } else { lifted });
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
    let checks = checks(raw.checks, &private)?;
    let kept = kept(raw.sets)?;
    Ok(Settings {
        api_socket,
        journal: raw.journal,
        policy,
        max_routes: raw.max_routes,
        max_flow_rules: raw.max_flow_rules,
        processes,
        checks,
        kept,
    })
}

/// The sets to be kept, and for how many seconds each.
fn kept(raw: Vec<RawSet>) -> Result<BTreeMap<String, u32>, Invalid> {
    let (mut names, mut kept) = (BTreeSet::new(), BTreeMap::new());
    for (index, RawSet { name, keep_s }) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("inject.sets[{index}].{field}");
        check_name("set", &name).map_err(|error| Invalid::at(at("name"), error))?;
        if !names.insert(name.clone()) {
            return Err(Invalid::at(at("name"), format!("{name:?} is given twice: once is enough")));
        }
        let Some(wanted) = keep_s else { continue };
        keep_time(wanted).map_err(|reason| Invalid::at(at("keep-s"), reason))?;
        kept.insert(name, wanted);
    }
    Ok(kept)
}

/// A time for which routes are kept, as RFC 9494 §3.1 has room for.
pub(crate) fn keep_time(seconds: u32) -> Result<u32, String> {
    match seconds {
        1..=LongLived::LONGEST_S => Ok(seconds),
        _ => Err(format!("{seconds} s is not allowed: 1 to {}, or leave it out", LongLived::LONGEST_S)),
    }
}

/// Holds the checks to what can be.
fn checks(raw: Vec<RawCheck>, private: &[IpNet]) -> Result<Vec<Check>, Invalid> {
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
        for (field, zero) in [("rise", raw.rise == Some(0)), ("fall", raw.fall == Some(0))] {
            if zero {
                return Err(Invalid::at(at(field), "0 is not allowed: at least 1 look decides"));
            }
        }
        // What tells by itself is taken at its word, unless the file says otherwise.
        let tells = raw.bfd.is_some() || raw.forwarder.is_some();
        let targets = [
            raw.command.filter(|run| !run.is_empty()).map(Target::Command).map(Ok),
            raw.tcp.map(Target::Tcp).map(Ok),
            raw.http.map(|url| http(&url).map_err(|reason| Invalid::at(at("http"), reason))),
            raw.icmp.map(Target::Icmp).map(Ok),
            raw.bfd.map(|raw| path(&raw).map(Target::Bfd).map_err(|(field, reason)| Invalid::at(at(field), reason))),
            raw.forwarder.map(|prefix| match private.contains(&prefix) {
                true => Ok(Target::Forwarder(prefix)),
                false => Err(Invalid::at(at("forwarder"), format!("{prefix} is no prefix of [[private-routes]]"))),
            }),
        ];
        let mut targets = targets.into_iter().flatten();
        let (Some(target), None) = (targets.next(), targets.next()) else {
            let reason = "give one of command, tcp, http, icmp, bfd and forwarder with it";
            return Err(Invalid::at(at("set"), reason));
        };
        let draining = (raw.drain_s > 0)
            .then(|| Draining { how: raw.drain_by.into(), lasts: Duration::from_secs(u64::from(raw.drain_s)) });
        let hold_down = Duration::from_secs(u64::from(raw.hold_down_s));
        checks.push(Check {
            set: raw.set,
            target: target?,
            every: Duration::from_millis(raw.every_ms),
            timeout: Duration::from_millis(raw.timeout_ms),
            patience: Patience {
                rise: raw.rise.unwrap_or(if tells { 1 } else { 2 }),
                fall: raw.fall.unwrap_or(if tells { 1 } else { 3 }),
                hold_down,
            },
            draining,
        });
    }
    Ok(checks)
}

fn path(raw: &RawPath) -> Result<Path, (&'static str, String)> {
    if !(10..=60_000).contains(&raw.interval_ms) {
        return Err(("bfd.interval-ms", format!("{} ms is not allowed: 10 to 60000", raw.interval_ms)));
    }
    if raw.local_address.is_some_and(|local| local.is_ipv4() != raw.address.is_ipv4()) {
        return Err(("bfd.local-address", format!("not of the family of {}", raw.address)));
    }
    let interval = Duration::from_millis(u64::from(raw.interval_ms));
    let discriminator = bfd::discriminator(0);
    let settings = bfd_core::Settings { interval, multiplier: raw.multiplier, discriminator };
    Ok(Path { peer: raw.address, local: raw.local_address, settings })
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
