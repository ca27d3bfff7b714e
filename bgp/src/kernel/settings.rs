//! The table `kernel` of the configuration file.

use cloakway_runtime::config::Invalid;
use serde::Deserialize;

/// What of the kernel's routes is ours, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The table.
    pub table: u32,
    /// The protocol number that our routes carry.
    pub protocol: u8,
    /// Their metric.
    pub metric: u32,
    /// They stay when we stop.
    pub keep: bool,
    /// Routes that touch a private prefix are installed too.
    pub private: bool,
    /// Packets are spread over so many next hops of routes that are equally good.
    pub paths: usize,
}

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawKernel {
    table: u32,
    #[serde(default = "protocol")]
    protocol: u8,
    #[serde(default = "metric")]
    metric: u32,
    #[serde(default)]
    at_stop: RawAtStop,
    #[serde(default)]
    private: bool,
    #[serde(default = "one")]
    paths: usize,
}

const fn one() -> usize {
    1
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAtStop {
    #[default]
    Remove,
    Keep,
}

const fn protocol() -> u8 {
    203
}

const fn metric() -> u32 {
    20
}

/// The forwarder's routes carry it (`forwarder`): they are not ours.
const FORWARDER: u8 = 143;
/// The kernel keeps its own addresses there.
const TABLE_LOCAL: u32 = 255;

/// More ways than a router has links.
const MOST_PATHS: usize = 64;

/// Holds the table to what can be.
pub(crate) fn settings(raw: &RawKernel) -> Result<Settings, Invalid> {
    if raw.table == 0 || raw.table == TABLE_LOCAL {
        let reason = format!("{} is no table for routes: 254 is the main one, 1 to 252 are free", raw.table);
        return Err(Invalid::at("kernel.table", reason));
    }
    // Up to 4 are the kernel's and the administrator's (linux/rtnetlink.h).
    if raw.protocol <= 4 || raw.protocol == FORWARDER {
        let reason = format!("{} is the mark of others: give a number that nobody else on this host has", raw.protocol);
        return Err(Invalid::at("kernel.protocol", reason));
    }
    if raw.metric == 0 {
        return Err(Invalid::at("kernel.metric", "0 is the metric of connected networks: at least 1"));
    }
    if !(1..=MOST_PATHS).contains(&raw.paths) {
        return Err(Invalid::at("kernel.paths", format!("{} is not allowed: 1 to {MOST_PATHS}", raw.paths)));
    }
    Ok(Settings {
        table: raw.table,
        protocol: raw.protocol,
        metric: raw.metric,
        keep: matches!(raw.at_stop, RawAtStop::Keep),
        private: raw.private,
        paths: raw.paths,
    })
}
