//! The table `bmp`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bgp_bmp::{Action, Limits, Overlap, Private, Release};
use bgp_core::PrivateRoute;
use bgp_wire::Asn;
use cloakway_runtime::config::Invalid;
use ipnet::IpNet;
use serde::Deserialize;

/// The station and the leak watch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where routers may connect.
    pub listen: Vec<SocketAddr>,
    /// From where they may, beside those that have a name.
    pub allow: Vec<IpNet>,
    /// Connections at a time.
    pub max_routers: usize,
    /// What one of them may take of us.
    pub limits: Limits,
    /// Routers that should tell.
    pub routers: Vec<MonitoredRouter>,
    /// What the watch does.
    pub watch: bgp_bmp::Settings,
    /// What it watches.
    pub private: Vec<Private>,
}

/// A router that should tell.
#[derive(Debug, Clone)]
pub struct MonitoredRouter {
    /// For logs, metrics and `show`.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// Where we connect, if it waits for us to.
    pub port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawBmp {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    allow: Vec<IpNet>,
    #[serde(default = "sixteen")]
    max_routers: usize,
    #[serde(default = "thousand")]
    max_peers: usize,
    #[serde(default)]
    routers: Vec<RawRouter>,
    #[serde(default)]
    internal_as: Vec<u32>,
    #[serde(default)]
    overlap: RawOverlap,
    #[serde(default)]
    on_leak: RawAction,
    #[serde(default)]
    on_heard: RawAction,
    #[serde(default)]
    on_blind: RawAction,
    #[serde(default = "thirty")]
    blind_after_s: u32,
    #[serde(default = "five_minutes")]
    hold_down_s: u32,
    #[serde(default)]
    release: RawRelease,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRouter {
    name: String,
    address: IpAddr,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAction {
    #[default]
    Alarm,
    Withdraw,
}

impl From<RawAction> for Action {
    fn from(raw: RawAction) -> Self {
        match raw {
            RawAction::Alarm => Self::Alarm,
            RawAction::Withdraw => Self::Withdraw,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawOverlap {
    #[default]
    Inside,
    Any,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawRelease {
    #[default]
    HoldDown,
    Acknowledge,
}

const fn sixteen() -> usize {
    16
}

const fn thousand() -> usize {
    1000
}

const fn thirty() -> u32 {
    30
}

const fn five_minutes() -> u32 {
    300
}

/// What the watch needs to know of the rest of the file.
pub(crate) struct Own<'a> {
    pub(crate) local_as: Asn,
    /// Of peers that are told private routes.
    pub(crate) told: BTreeSet<Asn>,
    pub(crate) routes: &'a [PrivateRoute],
}

/// The prefixes to watch.
pub(crate) fn private(routes: &[PrivateRoute]) -> Vec<Private> {
    // What the operator lets out is no leak.
    let watched = routes.iter().filter_map(|route| Some((route.prefix(), route.keep().guard()?)));
    watched.map(|(prefix, guard)| Private { prefix, guard: guard.community() }).collect()
}

/// Holds the table to what can be.
pub(crate) fn settings(raw: RawBmp, own: &Own<'_>) -> Result<Settings, Invalid> {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut routers = Vec::new();
    for (index, router) in raw.routers.into_iter().enumerate() {
        let at = |field: &str| format!("bmp.routers[{index}].{field}");
        if router.name.is_empty() || router.name.len() > 64 || !names.insert(router.name.clone()) {
            let reason = format!("{:?} is empty, taken or longer than 64 octets: each router has its own", router.name);
            return Err(Invalid::at(at("name"), reason));
        }
        let address = router.address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Err(Invalid::at(at("address"), format!("{address} is no router: give its address")));
        }
        if !addresses.insert(address) {
            return Err(Invalid::at(at("address"), format!("{address} is given twice: once is enough")));
        }
        if router.port == Some(0) {
            return Err(Invalid::at(at("port"), "0 is no port: leave it out for a router that connects to us"));
        }
        if router.port.is_none() && raw.listen.is_empty() {
            return Err(Invalid::at(at("port"), "the router has nowhere to connect: give bmp.listen, or its port"));
        }
        routers.push(MonitoredRouter { name: router.name, address, port: router.port });
    }
    if raw.listen.is_empty() && routers.is_empty() {
        return Err(Invalid::at("bmp.listen", "nobody could be monitored: give it, or routers with a port"));
    }
    if let Some(at) = raw.allow.iter().position(|prefix| *prefix != prefix.trunc()) {
        return Err(Invalid::at(format!("bmp.allow[{at}]"), "the prefix has host bits set"));
    }
    if raw.max_routers < routers.len().max(1) {
        let reason = format!("{} is less than the routers named: give at least {}", raw.max_routers, routers.len());
        return Err(Invalid::at("bmp.max-routers", reason));
    }
    if raw.max_peers == 0 {
        return Err(Invalid::at("bmp.max-peers", "0 is not allowed: at least 1"));
    }
    if own.routes.is_empty() {
        return Err(Invalid::at("bmp", "there is nothing to watch: it takes [[private-routes]]"));
    }
    let mut internal = own.told.clone();
    internal.insert(own.local_as);
    internal.extend(raw.internal_as.into_iter().map(Asn));
    let private = private(own.routes);
    Ok(Settings {
        listen: raw.listen,
        allow: raw.allow,
        max_routers: raw.max_routers,
        limits: Limits { peers: raw.max_peers },
        watch: bgp_bmp::Settings {
            local_as: own.local_as,
            internal,
            overlap: match raw.overlap {
                RawOverlap::Inside => Overlap::Inside,
                RawOverlap::Any => Overlap::Any,
            },
            on_leak: raw.on_leak.into(),
            on_heard: raw.on_heard.into(),
            on_blind: raw.on_blind.into(),
            blind_after: Duration::from_secs(u64::from(raw.blind_after_s)),
            hold_down: Duration::from_secs(u64::from(raw.hold_down_s)),
            release: match raw.release {
                RawRelease::HoldDown => Release::HoldDown,
                RawRelease::Acknowledge => Release::Acknowledge,
            },
            expected: routers.iter().map(|router| router.name.clone()).collect(),
            private: private.iter().map(|private| private.prefix).collect(),
        },
        routers,
        private,
    })
}

/// What `check` warns of.
pub(crate) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.watch.on_heard == Action::Withdraw {
        warnings.push(
            "warning: bmp.on-heard = \"withdraw\": whoever announces a private prefix to a monitored router takes it \
             away from your subscribers"
                .to_owned(),
        );
    }
    if settings.watch.on_blind == Action::Withdraw {
        warnings.push(
            "warning: bmp.on-blind = \"withdraw\": private routes go when a monitored router restarts its BMP"
                .to_owned(),
        );
    }
    if settings.routers.is_empty() {
        warnings.push("warning: bmp: no router is named: nobody is told when the watch sees nothing at all".to_owned());
    }
    warnings
}
